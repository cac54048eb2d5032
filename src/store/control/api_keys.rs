//! Keys of tenants' programs. A key is shown once; what is stored is its hash and the first characters.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};

use crate::domain::actor::Role;
use crate::domain::ids::{ApiKeyId, TenantId, UserId};
use crate::domain::tenant::TenantStatus;
use crate::store::{ControlTx, StoreError, StoreResult};

/// A key to keep.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: ApiKeyId,
    /// What people call it.
    pub name: &'a str,
    /// The first characters, by which people recognise it.
    pub prefix: &'a str,
    /// SHA-256 of the whole key.
    pub key_hash: &'a [u8],
    /// What it may do. A key never owns a tenant.
    pub role: Role,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as lists show it.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// What people call it.
    pub name: String,
    /// The first characters.
    pub prefix: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When somebody ended it.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key that counts, as a request needs it.
#[derive(Debug, Clone)]
pub struct LiveApiKey {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: ApiKeyId,
    /// What it may do.
    pub role: Role,
    /// Whether the tenant is active.
    pub tenant_status: TenantStatus,
    /// Its last use was noted longer ago than a minute.
    pub is_use_stale: bool,
}

struct ApiKeyRow {
    id: ApiKeyId,
    name: String,
    prefix: String,
    role: String,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: ApiKeyRow) -> StoreResult<Self> {
        Ok(Self {
            id: row.id,
            name: row.name,
            prefix: row.prefix,
            role: row.role.parse()?,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// Adds a key and shows it as lists do.
pub async fn insert_key(tx: &mut ControlTx, key: &NewApiKey<'_>) -> StoreResult<ApiKey> {
    let row = query_as!(
        ApiKeyRow,
        r#"
        INSERT INTO api_keys (tenant_id, id, name, prefix, key_hash, role, created_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        RETURNING id AS "id: ApiKeyId", name, prefix, role, created_at, last_used_at, expires_at, revoked_at
        "#,
        key.tenant_id.0,
        key.id.0,
        key.name,
        key.prefix,
        key.key_hash,
        key.role.as_str(),
        key.created_by.map(|id| id.0),
        key.expires_at,
    )
    .fetch_one(tx.conn())
    .await?;
    row.try_into()
}

/// The key with this hash, unless it is revoked or over.
pub async fn find_live_key(tx: &mut ControlTx, key_hash: &[u8]) -> StoreResult<Option<LiveApiKey>> {
    let found = query!(
        r#"
        SELECT k.tenant_id AS "tenant_id: TenantId", k.id AS "id: ApiKeyId", k.role, d.status AS tenant_status,
               COALESCE(k.last_used_at < app_now() - INTERVAL '1 minute', true) AS "is_use_stale!"
        FROM api_keys k
        JOIN tenant_directory d ON d.tenant_id = k.tenant_id
        WHERE k.key_hash = $1
          AND k.revoked_at IS NULL
          AND (k.expires_at IS NULL OR k.expires_at > app_now())
        "#,
        key_hash,
    )
    .fetch_optional(tx.conn())
    .await?;
    found
        .map(|row| {
            Ok(LiveApiKey {
                tenant_id: row.tenant_id,
                id: row.id,
                role: row.role.parse()?,
                tenant_status: row.tenant_status.parse()?,
                is_use_stale: row.is_use_stale,
            })
        })
        .transpose()
}

/// Notes that a key is used.
pub async fn mark_used(tx: &mut ControlTx, tenant_id: TenantId, id: ApiKeyId) -> StoreResult<()> {
    query!(
        r#"
        UPDATE api_keys
        SET last_used_at = app_now()
        WHERE tenant_id = $1 AND id = $2
          -- Another request may have noted it meanwhile; it would only wait for the row.
          AND (last_used_at IS NULL OR last_used_at < app_now() - INTERVAL '1 minute')
        "#,
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A tenant's keys, the newest first, those that ended too, from below `before`.
pub async fn list_keys(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    before: Option<ApiKeyId>,
    limit: i64,
) -> StoreResult<Vec<ApiKey>> {
    let rows = query_as!(
        ApiKeyRow,
        r#"
        SELECT id AS "id: ApiKeyId", name, prefix, role, created_at, last_used_at, expires_at, revoked_at
        FROM api_keys
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        tenant_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(ApiKey::try_from).collect()
}

/// Ends a key at once; a key that ended before keeps its time.
pub async fn mark_revoked(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    id: ApiKeyId,
) -> StoreResult<()> {
    let done = query_scalar!(
        r#"
        UPDATE api_keys
        SET revoked_at = COALESCE(revoked_at, app_now())
        WHERE tenant_id = $1 AND id = $2
        RETURNING id
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    done.map(|_| ()).ok_or(StoreError::NotFound { what: "key" })
}
