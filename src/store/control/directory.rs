//! Which tenants there are and which cell each lives in.
//!
//! What the cell has to follow has a version, which grows with each change; the cell's answer is kept beside it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{query, query_as, query_scalar};

use crate::domain::ids::TenantId;
use crate::domain::tenant::{Clearing, TenantStatus};
use crate::store::{ControlTx, StoreError, StoreResult};

/// The one cell of today's installations.
pub const DEFAULT_CELL: &str = "default";

/// The version of a tenant that was just made.
pub const FIRST_VERSION: i64 = 1;

/// A tenant as the directory knows it.
#[derive(Debug, Clone)]
pub struct NewTenant<'a> {
    /// Its id, in every schema.
    pub id: TenantId,
    /// What people call it.
    pub name: &'a str,
    /// Its word in addresses; unique.
    pub slug: &'a str,
    /// Whether its messages are simulated.
    pub is_demo: bool,
    /// What the cell's row begins with.
    pub beginning: Beginning,
}

/// What a tenant begins with in its cell; afterwards it is the tenant's to change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beginning {
    /// Two letters; national numbers are read as this country's.
    pub default_country: String,
    /// Its zone, where people are shown times.
    pub timezone: String,
    /// Whether bulk messages rest on the tenant's attestation of consent.
    pub is_consent_attested: bool,
}

impl Default for Beginning {
    fn default() -> Self {
        Self {
            default_country: "US".into(),
            timezone: "America/New_York".into(),
            is_consent_attested: false,
        }
    }
}

/// A tenant as pages show it.
#[derive(Debug, Clone)]
pub struct DirectoryEntry {
    /// Which one.
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// Its word in addresses.
    pub slug: String,
    /// Whether it is active.
    pub status: TenantStatus,
    /// Whether its messages are simulated.
    pub is_demo: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Whether its rows are being deleted.
    pub clearing: Option<Clearing>,
    /// Counts what the cell has to follow.
    pub version: i64,
    /// Whether the cell has all of it.
    pub is_synced: bool,
    /// What the cell's row begins with.
    pub beginning: Beginning,
}

struct DirectoryRow {
    id: TenantId,
    name: String,
    slug: String,
    status: String,
    is_demo: bool,
    created_at: DateTime<Utc>,
    clearing: Option<String>,
    version: i64,
    is_synced: bool,
    begins_with: Option<serde_json::Value>,
}

impl TryFrom<DirectoryRow> for DirectoryEntry {
    type Error = StoreError;

    fn try_from(row: DirectoryRow) -> StoreResult<Self> {
        let beginning = match row.begins_with {
            Some(value) => serde_json::from_value(value)
                .map_err(|error| StoreError::Unreadable(error.to_string()))?,
            None => Beginning::default(),
        };
        Ok(Self {
            id: row.id,
            name: row.name,
            slug: row.slug,
            status: row.status.parse()?,
            is_demo: row.is_demo,
            created_at: row.created_at,
            clearing: row.clearing.map(|word| word.parse()).transpose()?,
            version: row.version,
            is_synced: row.is_synced,
            beginning,
        })
    }
}

/// Adds a tenant, in the default cell. A tenant that is there already stays as it is.
///
/// The cell's own row is written afterwards, by `delivery::tenants`, in a transaction of its own.
///
/// # Errors
/// A constraint error on `tenant_directory_slug_key` when another tenant has the slug.
pub async fn insert_tenant(tx: &mut ControlTx, tenant: &NewTenant<'_>) -> StoreResult<()> {
    query!(
        "INSERT INTO cells (name) VALUES ($1) ON CONFLICT (name) DO NOTHING",
        DEFAULT_CELL
    )
    .execute(tx.conn())
    .await?;
    query!(
        r#"
        INSERT INTO tenant_directory (tenant_id, cell, name, slug, is_demo, begins_with)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (tenant_id) DO NOTHING
        "#,
        tenant.id.0,
        DEFAULT_CELL,
        tenant.name,
        tenant.slug,
        tenant.is_demo,
        serde_json::to_value(&tenant.beginning).unwrap_or_default(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The tenant with this word in its addresses.
pub async fn find_by_slug(tx: &mut ControlTx, slug: &str) -> StoreResult<Option<TenantId>> {
    let id = query_scalar!(
        r#"
        SELECT tenant_id AS "id: TenantId"
        FROM tenant_directory
        WHERE slug = $1
        "#,
        slug
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(id)
}

/// A tenant, by id.
pub async fn load_tenant(tx: &mut ControlTx, id: TenantId) -> StoreResult<DirectoryEntry> {
    let found = list_tenants(tx, Some(id), None, 1).await?;
    found
        .into_iter()
        .next()
        .ok_or(StoreError::NotFound { what: "tenant" })
}

/// A tenant, held until the transaction ends.
pub async fn load_for_update(tx: &mut ControlTx, id: TenantId) -> StoreResult<DirectoryEntry> {
    query!(
        "SELECT tenant_id FROM tenant_directory WHERE tenant_id = $1 FOR UPDATE",
        id.0
    )
    .fetch_optional(tx.conn())
    .await?;
    load_tenant(tx, id).await
}

/// All tenants, the newest first, from below `before`; only one of them when `only` names it.
pub async fn list_tenants(
    tx: &mut ControlTx,
    only: Option<TenantId>,
    before: Option<TenantId>,
    limit: i64,
) -> StoreResult<Vec<DirectoryEntry>> {
    let rows = query_as!(
        DirectoryRow,
        r#"
        SELECT tenant_id AS "id: TenantId", name, slug, status, is_demo, created_at, clearing, version,
               synced_version >= version AS "is_synced!", begins_with
        FROM tenant_directory
        WHERE ($1::uuid IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR tenant_id < $2)
        ORDER BY tenant_id DESC
        LIMIT $3
        "#,
        only.map(|id| id.0),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(DirectoryEntry::try_from).collect()
}

/// Tenants that the cell has not followed, or whose rows are being deleted, at most `limit`, from behind `after`.
pub async fn list_unsettled(
    tx: &mut ControlTx,
    after: Option<TenantId>,
    limit: i64,
) -> StoreResult<Vec<TenantId>> {
    let ids = query_scalar!(
        r#"
        SELECT tenant_id AS "id: TenantId"
        FROM tenant_directory
        WHERE (synced_version < version OR clearing IS NOT NULL) AND ($1::uuid IS NULL OR tenant_id > $1)
        ORDER BY tenant_id
        LIMIT $2
        "#,
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids)
}

/// Gives a tenant another name.
pub async fn save_name(tx: &mut ControlTx, id: TenantId, name: &str) -> StoreResult<()> {
    query!(
        r#"
        UPDATE tenant_directory
        SET name = $2, version = version + 1, updated_at = app_now()
        WHERE tenant_id = $1
        "#,
        id.0,
        name,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Gives a tenant another status, and says what is to become of its rows.
pub async fn save_status(
    tx: &mut ControlTx,
    id: TenantId,
    status: TenantStatus,
    clearing: Option<Clearing>,
) -> StoreResult<()> {
    query!(
        r#"
        UPDATE tenant_directory
        SET status = $2, clearing = $3, version = version + 1, updated_at = app_now()
        WHERE tenant_id = $1
        "#,
        id.0,
        status.as_str(),
        clearing.map(Clearing::as_str),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Notes that the cell has this version.
pub async fn mark_synced(tx: &mut ControlTx, id: TenantId, version: i64) -> StoreResult<()> {
    query!(
        // Another process may have told of a newer one.
        "UPDATE tenant_directory SET synced_version = $2 WHERE tenant_id = $1 AND synced_version < $2",
        id.0,
        version,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Forgets a tenant whose rows are gone: its members, keys and invitations, too.
pub async fn delete_tenant(tx: &mut ControlTx, id: TenantId) -> StoreResult<()> {
    query!("DELETE FROM invitations WHERE tenant_id = $1", id.0)
        .execute(tx.conn())
        .await?;
    query!("DELETE FROM api_keys WHERE tenant_id = $1", id.0)
        .execute(tx.conn())
        .await?;
    query!("DELETE FROM memberships WHERE tenant_id = $1", id.0)
        .execute(tx.conn())
        .await?;
    query!(
        "DELETE FROM tenant_directory WHERE tenant_id = $1 AND clearing = 'remove'",
        id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether `control` answers at all.
pub async fn ping(tx: &mut ControlTx) -> StoreResult<()> {
    query_scalar!(r#"SELECT 1 AS "one!""#)
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}
