//! Inviting somebody, the same for every door: the token is drawn here, kept hashed, and told once.

use chrono::TimeDelta;
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::clock::Clock;
use crate::crypto::password::{random_token, token_hash};
use crate::domain::actor::Role;
use crate::domain::audit::AuditEntry;
use crate::domain::email::EmailAddress;
use crate::domain::ids::{InvitationId, TenantId, UserId};
use crate::store::control::invitations::{Invitation, NewInvitation, insert_invitation};
use crate::store::control::memberships;
use crate::store::{ControlTx, StoreError};

/// How long an invitation works.
const DAYS: i64 = 7;

/// Somebody to invite.
#[derive(Debug)]
pub struct Guest<'a> {
    /// To which tenant.
    pub tenant_id: TenantId,
    /// Their address.
    pub email: &'a EmailAddress,
    /// As what.
    pub role: Role,
    /// Who invites; a program has no name here.
    pub invited_by: Option<UserId>,
}

/// An invitation that was made.
#[derive(Debug)]
pub struct Invited {
    /// As it is kept.
    pub invitation: Invitation,
    /// What opens it. Kept hashed, so that nobody can tell it again.
    pub token: SecretString,
}

/// Why nobody was invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// They are in.
    #[error("somebody with this email is a member already")]
    AlreadyMember,
    /// They have an invitation that works.
    #[error("this email has an open invitation")]
    AlreadyInvited,
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Invites somebody in the caller's transaction. It works once, for a week.
pub async fn invite(
    tx: &mut ControlTx,
    guest: &Guest<'_>,
    clock: &Clock,
) -> Result<Invited, InviteError> {
    let email = guest.email.normalized();
    if memberships::is_member(tx, guest.tenant_id, email).await? {
        return Err(InviteError::AlreadyMember);
    }
    let token = random_token();
    let new = NewInvitation {
        tenant_id: guest.tenant_id,
        id: InvitationId(Uuid::now_v7()),
        email,
        role: guest.role,
        token_hash: &token_hash(&token),
        invited_by: guest.invited_by,
        expires_at: clock.now() + TimeDelta::days(DAYS),
    };
    let made = insert_invitation(tx, &new).await;
    let invitation = made.map_err(|error| match error.constraint() {
        Some("invitations_open_key") => InviteError::AlreadyInvited,
        _ => error.into(),
    })?;
    Ok(Invited {
        invitation,
        token: token.into(),
    })
}

/// The record of it, without the email: the record is kept when the person is forgotten.
pub fn invited_entry(invitation: &Invitation) -> AuditEntry {
    AuditEntry::new("create_invitation", "invitation", &invitation.id)
        .after(json!({ "role": invitation.role, "expires_at": invitation.expires_at }))
}
