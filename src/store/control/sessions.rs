//! Sessions of browsers. The token is never stored, only its hash.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};

use crate::domain::actor::Role;
use crate::domain::ids::{TenantId, UserId};
use crate::store::{ControlTx, StoreResult};

/// A session that begins.
#[derive(Debug, Clone)]
pub struct NewSession<'a> {
    /// SHA-256 of the cookie's value.
    pub token_hash: &'a [u8],
    /// Who signed in.
    pub user_id: UserId,
    /// The tenant that is open.
    pub tenant_id: TenantId,
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
    /// Who signed in.
    pub user_id: UserId,
    /// The tenant that is open.
    pub tenant_id: TenantId,
    /// Whether it is active, by its stored word.
    pub tenant_status: String,
    /// What they are there.
    pub role: Role,
    /// Its last use was noted longer ago than a minute.
    pub is_use_stale: bool,
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
        INSERT INTO sessions (token_hash, user_id, tenant_id, csrf_secret, ip, user_agent, expires_at)
        VALUES ($1, $2, $3, $4, $5::text::inet, $6, $7)
        "#,
        session.token_hash,
        session.user_id.0,
        session.tenant_id.0,
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
        SELECT s.user_id AS "user_id: UserId", m.tenant_id AS "tenant_id: TenantId", m.role, d.status AS tenant_status,
               s.last_seen_at < app_now() - INTERVAL '1 minute' AS "is_use_stale!"
        FROM sessions s
        JOIN users u ON u.id = s.user_id AND NOT u.is_disabled
        JOIN memberships m ON m.tenant_id = s.tenant_id AND m.user_id = s.user_id
        JOIN tenant_directory d ON d.tenant_id = m.tenant_id
        WHERE s.token_hash = $1 AND s.expires_at > app_now()
        "#,
        token_hash,
    )
    .fetch_optional(tx.conn())
    .await?;
    found
        .map(|row| {
            Ok(Session {
                user_id: row.user_id,
                tenant_id: row.tenant_id,
                tenant_status: row.tenant_status,
                role: row.role.parse()?,
                is_use_stale: row.is_use_stale,
            })
        })
        .transpose()
}

/// The platform admin whose session this is, while it lasts; no tenant is needed for it.
pub async fn find_operator(tx: &mut ControlTx, token_hash: &[u8]) -> StoreResult<Option<Operator>> {
    let found = query_as!(
        Operator,
        r#"
        SELECT u.id AS "user_id: UserId", u.is_platform_admin
        FROM sessions s
        JOIN users u ON u.id = s.user_id AND NOT u.is_disabled
        WHERE s.token_hash = $1 AND s.expires_at > app_now()
        "#,
        token_hash,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found)
}

/// Who is signed in, without regard to a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Operator {
    /// The person.
    pub user_id: UserId,
    /// Whether they run the platform.
    pub is_platform_admin: bool,
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

/// Ends a session; one that has ended already is nothing to complain about.
pub async fn delete_session(tx: &mut ControlTx, token_hash: &[u8]) -> StoreResult<()> {
    query!("DELETE FROM sessions WHERE token_hash = $1", token_hash)
        .execute(tx.conn())
        .await?;
    Ok(())
}
