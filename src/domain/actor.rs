//! Who asks, and what they may do: the one table of roles and permissions.

use super::channel::text_enum;
use super::ids::{ApiKeyId, TenantId, UserId};

text_enum! {
    /// What somebody is in a tenant. Each role may all that the ones before it may.
    Role {
        /// Looks.
        Viewer = "viewer",
        /// Works with contacts, templates and campaigns.
        Sender = "sender",
        /// Sets up: registration, credentials, members, keys.
        Admin = "admin",
        /// Owns the tenant. A key never has this role.
        Owner = "owner",
    }
}

text_enum! {
    /// One thing that may be allowed or not.
    Permission {
        /// See contacts and imports.
        ReadContacts = "read_contacts",
        /// Change contacts and lists.
        WriteContacts = "write_contacts",
        /// Import contacts.
        ImportContacts = "import_contacts",
        /// See templates, and preview them.
        ReadTemplates = "read_templates",
        /// Make templates and versions.
        WriteTemplates = "write_templates",
        /// See campaigns and their numbers.
        ReadCampaigns = "read_campaigns",
        /// Make campaigns.
        WriteCampaigns = "write_campaigns",
        /// Start, pause and go on sending.
        SendCampaigns = "send_campaigns",
        /// Lift suppressions.
        LiftSuppressions = "lift_suppressions",
        /// Send single messages.
        SendMessages = "send_messages",
        /// See single messages.
        ReadMessages = "read_messages",
        /// Decide over messages of which nobody knows whether they were sent.
        DecideMessages = "decide_messages",
        /// See where messages come from.
        ReadSenders = "read_senders",
        /// Add, change and retire senders, and lift their halts.
        ManageSenders = "manage_senders",
        /// See, make and revoke keys.
        ManageKeys = "manage_keys",
        /// See who belongs to the tenant.
        ReadMembers = "read_members",
        /// Invite and remove members, and change their roles.
        ManageMembers = "manage_members",
        /// See the tenant's settings.
        ReadTenant = "read_tenant",
        /// Change the tenant's name and settings.
        ManageTenant = "manage_tenant",
        /// See who changed what.
        ReadAudit = "read_audit",
    }
}

/// The lowest role that may, per permission.
pub const LOWEST_ROLES: &[(Permission, Role)] = &[
    (Permission::ReadContacts, Role::Viewer),
    (Permission::WriteContacts, Role::Sender),
    (Permission::ImportContacts, Role::Sender),
    (Permission::ReadTemplates, Role::Viewer),
    (Permission::WriteTemplates, Role::Sender),
    (Permission::ReadCampaigns, Role::Viewer),
    (Permission::WriteCampaigns, Role::Sender),
    (Permission::SendCampaigns, Role::Sender),
    (Permission::LiftSuppressions, Role::Admin),
    (Permission::SendMessages, Role::Sender),
    (Permission::ReadMessages, Role::Viewer),
    (Permission::DecideMessages, Role::Sender),
    (Permission::ReadSenders, Role::Viewer),
    (Permission::ManageSenders, Role::Admin),
    (Permission::ManageKeys, Role::Admin),
    (Permission::ReadMembers, Role::Viewer),
    (Permission::ManageMembers, Role::Admin),
    (Permission::ReadTenant, Role::Viewer),
    (Permission::ManageTenant, Role::Admin),
    (Permission::ReadAudit, Role::Admin),
];

/// A person or a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Signed in by email and password.
    User(UserId),
    /// A program with a key.
    ApiKey(ApiKeyId),
}

/// Who makes a request, in which tenant, as what. The tenant never comes from the request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// Whose data the request is about.
    pub tenant_id: TenantId,
    /// Person or program.
    pub who: Who,
    /// What they are in the tenant.
    pub role: Role,
}

/// Somebody who runs the platform: above every tenant, and in none by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// The person.
    pub user_id: UserId,
}

/// The role does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{permission} needs the role {lowest}")]
pub struct Forbidden {
    /// What was asked for.
    pub permission: Permission,
    /// The lowest role that may.
    pub lowest: Role,
}

impl Actor {
    /// Goes on only when the role allows it.
    ///
    /// # Errors
    /// [`Forbidden`], with the role that would do.
    pub fn require(&self, permission: Permission) -> Result<(), Forbidden> {
        let lowest = permission.lowest_role();
        if self.role >= lowest {
            Ok(())
        } else {
            Err(Forbidden { permission, lowest })
        }
    }

    /// The person, for "made by" columns; a program has none.
    pub fn user_id(&self) -> Option<UserId> {
        match self.who {
            Who::User(id) => Some(id),
            Who::ApiKey(_) => None,
        }
    }
}

impl Permission {
    /// The lowest role that may; one that the table forgot is the owner's alone.
    pub fn lowest_role(self) -> Role {
        LOWEST_ROLES
            .iter()
            .find(|(permission, _)| *permission == self)
            .map_or(Role::Owner, |(_, role)| *role)
    }
}

/// An email as it is compared: people sign in however they capitalise.
pub fn normalized_login(email: &str) -> String {
    email.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn actor(role: Role) -> Actor {
        Actor {
            tenant_id: TenantId(Uuid::nil()),
            who: Who::User(UserId(Uuid::nil())),
            role,
        }
    }

    #[test]
    fn every_permission_has_a_row() {
        for permission in Permission::ALL {
            let rows = LOWEST_ROLES.iter().filter(|(p, _)| p == permission).count();
            assert_eq!(rows, 1, "{permission}");
        }
    }

    #[test]
    fn each_role_may_all_that_the_ones_before_it_may() {
        for (permission, lowest) in LOWEST_ROLES {
            for role in Role::ALL {
                assert_eq!(
                    actor(*role).require(*permission).is_ok(),
                    role >= lowest,
                    "{role} {permission}"
                );
            }
        }
    }
}
