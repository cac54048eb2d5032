//! Invitations to a tenant. The token is shown once and kept hashed; it works once, for a week.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};

use crate::domain::actor::Role;
use crate::domain::ids::{InvitationId, TenantId, UserId};
use crate::domain::members::InvitationState;
use crate::domain::tenant::TenantStatus;
use crate::store::{ControlTx, StoreError, StoreResult, affected};

/// An invitation to keep.
#[derive(Debug, Clone)]
pub struct NewInvitation<'a> {
    /// To which tenant.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: InvitationId,
    /// Who is invited, in small letters.
    pub email: &'a str,
    /// As what.
    pub role: Role,
    /// SHA-256 of the token.
    pub token_hash: &'a [u8],
    /// Who invites; a program has no name here.
    pub invited_by: Option<UserId>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
}

/// An invitation as lists show it.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// Who is invited.
    pub email: String,
    /// As what.
    pub role: Role,
    /// Whether it still works.
    pub state: InvitationState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
}

/// An invitation as its token finds it.
#[derive(Debug, Clone)]
pub struct FoundInvitation {
    /// To which tenant.
    pub tenant_id: TenantId,
    /// What people call the tenant.
    pub tenant_name: String,
    /// Its word in addresses.
    pub tenant_slug: String,
    /// Whether the tenant is active.
    pub tenant_status: TenantStatus,
    /// The invitation.
    pub invitation: Invitation,
}

struct InvitationRow {
    id: InvitationId,
    email: String,
    role: String,
    state: String,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl TryFrom<InvitationRow> for Invitation {
    type Error = StoreError;

    fn try_from(row: InvitationRow) -> StoreResult<Self> {
        Ok(Self {
            id: row.id,
            email: row.email,
            role: row.role.parse()?,
            state: row.state.parse()?,
            created_at: row.created_at,
            expires_at: row.expires_at,
        })
    }
}

/// Adds an invitation. One of the same person that has run out makes room for it.
///
/// # Errors
/// A constraint error on `invitations_open_key` when the person has an open one.
pub async fn insert_invitation(
    tx: &mut ControlTx,
    new: &NewInvitation<'_>,
) -> StoreResult<Invitation> {
    query!(
        r#"
        UPDATE invitations
        SET revoked_at = expires_at
        WHERE tenant_id = $1 AND email_normalized = $2 AND accepted_at IS NULL AND revoked_at IS NULL
          AND expires_at <= app_now()
        "#,
        new.tenant_id.0,
        new.email,
    )
    .execute(tx.conn())
    .await?;
    query!(
        r#"
        INSERT INTO invitations (tenant_id, id, email_normalized, role, token_hash, invited_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        "#,
        new.tenant_id.0,
        new.id.0,
        new.email,
        new.role.as_str(),
        new.token_hash,
        new.invited_by.map(|id| id.0),
        new.expires_at,
    )
    .execute(tx.conn())
    .await?;
    let made = list_invitations(tx, new.tenant_id, Some(new.id), None, 1).await?;
    made.into_iter()
        .next()
        .ok_or(StoreError::NotFound { what: "invitation" })
}

/// A tenant's invitations, the newest first, from below `before`; only one of them when `only` names it.
pub async fn list_invitations(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    only: Option<InvitationId>,
    before: Option<InvitationId>,
    limit: i64,
) -> StoreResult<Vec<Invitation>> {
    let rows = query_as!(
        InvitationRow,
        r#"
        SELECT id AS "id: InvitationId", email_normalized AS email, role, created_at, expires_at,
               CASE WHEN accepted_at IS NOT NULL THEN 'accepted'
                    WHEN revoked_at < expires_at THEN 'revoked'
                    WHEN expires_at <= app_now() THEN 'expired'
                    ELSE 'open' END AS "state!"
        FROM invitations
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id = $2) AND ($3::uuid IS NULL OR id < $3)
        ORDER BY id DESC
        LIMIT $4
        "#,
        tenant_id.0,
        only.map(|id| id.0),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(Invitation::try_from).collect()
}

/// Ends an open invitation; one that has ended already stays as it is, and so does one that was accepted.
pub async fn mark_revoked(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    id: InvitationId,
) -> StoreResult<Invitation> {
    query!(
        r#"
        UPDATE invitations
        SET revoked_at = app_now()
        WHERE tenant_id = $1 AND id = $2 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > app_now()
        "#,
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    let found = list_invitations(tx, tenant_id, Some(id), None, 1).await?;
    found
        .into_iter()
        .next()
        .ok_or(StoreError::NotFound { what: "invitation" })
}

/// The invitation with this token, whatever became of it.
pub async fn find_by_token(
    tx: &mut ControlTx,
    token_hash: &[u8],
) -> StoreResult<Option<FoundInvitation>> {
    let row = query!(
        r#"
        SELECT i.tenant_id AS "tenant_id: TenantId", i.id AS "id: InvitationId", d.name, d.slug, d.status
        FROM invitations i
        JOIN tenant_directory d ON d.tenant_id = i.tenant_id
        WHERE i.token_hash = $1
        "#,
        token_hash,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let invitation = list_invitations(tx, row.tenant_id, Some(row.id), None, 1).await?;
    let invitation = invitation.into_iter().next();
    let tenant_status = row.status.parse()?;
    Ok(invitation.map(|invitation| FoundInvitation {
        tenant_id: row.tenant_id,
        tenant_name: row.name,
        tenant_slug: row.slug,
        tenant_status,
        invitation,
    }))
}

/// Uses an invitation up.
///
/// # Errors
/// [`StoreError::Moved`] when it was used, revoked or over meanwhile.
pub async fn mark_accepted(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    id: InvitationId,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE invitations
        SET accepted_at = app_now()
        WHERE tenant_id = $1 AND id = $2 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > app_now()
        "#,
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "invitation")
}
