//! Who may give which role to whom, and who may leave.

use super::actor::Role;
use super::channel::text_enum;

text_enum! {
    /// What became of an invitation.
    InvitationState {
        /// It works.
        Open = "open",
        /// Somebody came in by it.
        Accepted = "accepted",
        /// Somebody took it back.
        Revoked = "revoked",
        /// Its time is over.
        Expired = "expired",
    }
}

/// Why a membership stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberRefusal {
    /// A role above one's own is not one's to give.
    #[error("the role {0} is above your own")]
    GrantsAbove(Role),
    /// Somebody above oneself is not one's to change.
    #[error("an {0} stands above you")]
    TouchesAbove(Role),
    /// A tenant has an owner.
    #[error("the last owner cannot go")]
    LastOwner,
}

/// A member whose role shall change, among all owners of the tenant.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// What the member is.
    pub role: Role,
    /// How many owners there are.
    pub owners: i64,
}

/// Whether somebody with the role `own` may invite somebody as `role`.
pub fn may_grant(own: Role, role: Role) -> Result<(), MemberRefusal> {
    if role > own {
        return Err(MemberRefusal::GrantsAbove(role));
    }
    Ok(())
}

impl Standing {
    /// Whether somebody with the role `own` may make the member `role`.
    pub fn may_become(self, own: Role, role: Role) -> Result<(), MemberRefusal> {
        self.may_be_touched(own)?;
        may_grant(own, role)?;
        if role == Role::Owner {
            return Ok(());
        }
        self.may_leave()
    }

    /// Whether somebody with the role `own` may remove the member.
    pub fn may_be_removed(self, own: Role) -> Result<(), MemberRefusal> {
        self.may_be_touched(own)?;
        self.may_leave()
    }

    /// Whether the member may go.
    pub fn may_leave(self) -> Result<(), MemberRefusal> {
        if self.role == Role::Owner && self.owners <= 1 {
            return Err(MemberRefusal::LastOwner);
        }
        Ok(())
    }

    fn may_be_touched(self, own: Role) -> Result<(), MemberRefusal> {
        if self.role > own {
            return Err(MemberRefusal::TouchesAbove(self.role));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::MemberRefusal::{GrantsAbove, LastOwner, TouchesAbove};
    use super::Role::{Admin, Owner, Sender, Viewer};
    use super::*;

    #[test]
    fn nobody_gives_more_than_they_have_or_touches_who_stands_above() {
        let cases = [
            (Admin, Viewer, 1, Admin, Ok(())),
            (Admin, Admin, 1, Viewer, Ok(())),
            (Admin, Sender, 1, Owner, Err(GrantsAbove(Owner))),
            (Admin, Owner, 2, Viewer, Err(TouchesAbove(Owner))),
            (Owner, Admin, 1, Owner, Ok(())),
            (Owner, Owner, 2, Admin, Ok(())),
            (Owner, Owner, 1, Admin, Err(LastOwner)),
            (Owner, Owner, 1, Owner, Ok(())),
        ];
        for (own, role, owners, wanted, answer) in cases {
            let standing = Standing { role, owners };
            let told = format!("{own} makes {role} of {owners} owners {wanted}");
            assert_eq!(standing.may_become(own, wanted), answer, "{told}");
        }
    }

    #[test]
    fn the_last_owner_stays() {
        let cases = [
            (Admin, Admin, 1, Ok(())),
            (Admin, Owner, 2, Err(TouchesAbove(Owner))),
            (Owner, Owner, 2, Ok(())),
            (Owner, Owner, 1, Err(LastOwner)),
        ];
        for (own, role, owners, answer) in cases {
            let standing = Standing { role, owners };
            assert_eq!(standing.may_be_removed(own), answer, "{own} removes {role}");
        }
        let last = Standing {
            role: Owner,
            owners: 1,
        };
        assert_eq!(last.may_leave(), Err(LastOwner));
    }
}
