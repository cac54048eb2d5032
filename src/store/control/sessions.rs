//! Sessions of browsers. The token is never stored, only its hash.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};

use crate::domain::actor::Role;
use crate::domain::ids::{SessionId, TenantId, UserId};
use crate::domain::tenant::TenantStatus;
use crate::store::{ControlTx, StoreError, StoreResult, affected};

/// A session that begins.
#[derive(Debug, Clone)]
pub struct NewSession<'a> {
    /// Names it in lists.
    pub id: SessionId,
    /// SHA-256 of the cookie's value.
    pub token_hash: &'a [u8],
    /// Who signed in.
    pub user_id: UserId,
    /// The tenant that is open; whoever runs the platform may belong to none.
    pub tenant_id: Option<TenantId>,
    /// 32 random bytes.
    pub csrf_secret: &'a [u8],
    /// Where it came from.
    pub ip: Option<IpAddr>,
    /// The browser, as it calls itself.
    pub user_agent: Option<&'a str>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// A session in use.
#[derive(Debug, Clone)]
pub struct Session {
    /// Names it in lists.
    pub id: SessionId,
    /// Who signed in.
    pub user_id: UserId,
    /// Whether they run the platform.
    pub is_platform_admin: bool,
    /// The tenant that is open.
    pub tenant: Option<OpenTenant>,
    /// Its last use was noted longer ago than a minute.
    pub is_use_stale: bool,
}

/// The tenant that is open in a session.
#[derive(Debug, Clone)]
pub struct OpenTenant {
    /// Which one.
    pub id: TenantId,
    /// Whether it is active.
    pub status: TenantStatus,
    /// What the person is there.
    pub role: Role,
}

/// A session as lists show it.
#[derive(Debug, Clone)]
pub struct ListedSession {
    /// Names it.
    pub id: SessionId,
    /// Where it came from.
    pub ip: Option<String>,
    /// The browser, as it calls itself.
    pub user_agent: Option<String>,
    /// When somebody signed in.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
}

/// Begins a session. Ended ones of the same person go away.
pub async fn insert_session(tx: &mut ControlTx, session: &NewSession<'_>) -> StoreResult<()> {
    query!(
        "DELETE FROM sessions WHERE user_id = $1 AND expires_at <= app_now()",
        session.user_id.0
    )
    .execute(tx.conn())
    .await?;
    query!(
        r#"
        INSERT INTO sessions (id, token_hash, user_id, tenant_id, csrf_secret, ip, user_agent, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6::text::inet, $7, $8)
        "#,
        session.id.0,
        session.token_hash,
        session.user_id.0,
        session.tenant_id.map(|id| id.0),
        session.csrf_secret,
        session.ip.map(|ip| ip.to_string()),
        session.user_agent,
        session.expires_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The session with this token, while it lasts, of a person who may still sign in.
pub async fn find_session(tx: &mut ControlTx, token_hash: &[u8]) -> StoreResult<Option<Session>> {
    let found = query!(
        r#"
        SELECT s.id AS "id: SessionId", s.user_id AS "user_id: UserId", u.is_platform_admin,
               m.tenant_id AS "tenant_id?: TenantId", m.role AS "role?", d.status AS "tenant_status?",
               s.last_seen_at < app_now() - INTERVAL '1 minute' AS "is_use_stale!"
        FROM sessions s
        JOIN users u ON u.id = s.user_id AND NOT u.is_disabled
        LEFT JOIN memberships m ON m.tenant_id = s.tenant_id AND m.user_id = s.user_id
        LEFT JOIN tenant_directory d ON d.tenant_id = m.tenant_id
        WHERE s.token_hash = $1 AND s.expires_at > app_now()
        "#,
        token_hash,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = found else { return Ok(None) };
    let tenant = match (row.tenant_id, row.role, row.tenant_status) {
        (Some(id), Some(role), Some(status)) => Some(OpenTenant {
            id,
            status: status.parse()?,
            role: role.parse()?,
        }),
        _ => None,
    };
    Ok(Some(Session {
        id: row.id,
        user_id: row.user_id,
        is_platform_admin: row.is_platform_admin,
        tenant,
        is_use_stale: row.is_use_stale,
    }))
}

/// Notes that a session is used.
pub async fn mark_seen(tx: &mut ControlTx, token_hash: &[u8]) -> StoreResult<()> {
    query!(
        r#"
        UPDATE sessions
        SET last_seen_at = app_now()
        WHERE token_hash = $1
          -- Another request may have noted it meanwhile; it would only wait for the row.
          AND last_seen_at < app_now() - INTERVAL '1 minute'
        "#,
        token_hash,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Opens another tenant in a session.
///
/// # Errors
/// [`StoreError::Moved`] when the session has ended meanwhile; a constraint error when the person is no member.
pub async fn save_tenant(
    tx: &mut ControlTx,
    token_hash: &[u8],
    tenant_id: TenantId,
) -> StoreResult<()> {
    let done = query!(
        "UPDATE sessions SET tenant_id = $2 WHERE token_hash = $1",
        token_hash,
        tenant_id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "session")
}

/// A person's sessions, the newest first, from below `before`.
pub async fn list_sessions(
    tx: &mut ControlTx,
    user_id: UserId,
    before: Option<SessionId>,
    limit: i64,
) -> StoreResult<Vec<ListedSession>> {
    let rows = query_as!(
        ListedSession,
        r#"
        SELECT id AS "id: SessionId", host(ip) AS ip, user_agent, created_at, last_seen_at, expires_at
        FROM sessions
        WHERE user_id = $1 AND expires_at > app_now() AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        user_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}

/// Ends one of a person's sessions.
pub async fn delete_own_session(
    tx: &mut ControlTx,
    user_id: UserId,
    id: SessionId,
) -> StoreResult<()> {
    query_scalar!(
        "DELETE FROM sessions WHERE user_id = $1 AND id = $2 RETURNING id",
        user_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .map(|_| ())
    .ok_or(StoreError::NotFound { what: "session" })
}

/// Ends all of a person's sessions but one.
pub async fn delete_others(
    tx: &mut ControlTx,
    user_id: UserId,
    kept: Option<SessionId>,
) -> StoreResult<u64> {
    let done = query!(
        "DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2",
        user_id.0,
        kept.map(|id| id.0),
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Ends a session; one that has ended already is nothing to complain about.
pub async fn delete_session(tx: &mut ControlTx, token_hash: &[u8]) -> StoreResult<()> {
    query!("DELETE FROM sessions WHERE token_hash = $1", token_hash)
        .execute(tx.conn())
        .await?;
    Ok(())
}
