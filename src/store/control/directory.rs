//! Which tenants there are and which cell each lives in.

use sqlx::{query, query_as, query_scalar};

use crate::domain::ids::TenantId;
use crate::domain::tenant::TenantStatus;
use crate::store::{ControlTx, StoreError, StoreResult};

/// The one cell of today's installations.
pub const DEFAULT_CELL: &str = "default";

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
}

/// A tenant as pages show it.
#[derive(Debug, Clone)]
pub struct DirectoryEntry {
    /// What people call it.
    pub name: String,
    /// Its word in addresses.
    pub slug: String,
    /// Whether it is active.
    pub status: TenantStatus,
    /// Whether its messages are simulated.
    pub is_demo: bool,
}

struct DirectoryRow {
    name: String,
    slug: String,
    status: String,
    is_demo: bool,
}

impl TryFrom<DirectoryRow> for DirectoryEntry {
    type Error = StoreError;

    fn try_from(row: DirectoryRow) -> StoreResult<Self> {
        Ok(Self {
            name: row.name,
            slug: row.slug,
            status: row.status.parse()?,
            is_demo: row.is_demo,
        })
    }
}

/// Adds a tenant, in the default cell. A tenant that is there already stays as it is.
///
/// The cell's own row is written afterwards, by `store::tenants`, in a transaction of its own.
pub async fn insert_tenant(tx: &mut ControlTx, tenant: &NewTenant<'_>) -> StoreResult<()> {
    query!(
        "INSERT INTO cells (name) VALUES ($1) ON CONFLICT (name) DO NOTHING",
        DEFAULT_CELL
    )
    .execute(tx.conn())
    .await?;
    query!(
        r#"
        INSERT INTO tenant_directory (tenant_id, cell, name, slug, is_demo)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (tenant_id) DO NOTHING
        "#,
        tenant.id.0,
        DEFAULT_CELL,
        tenant.name,
        tenant.slug,
        tenant.is_demo,
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
    query_as!(
        DirectoryRow,
        "SELECT name, slug, status, is_demo FROM tenant_directory WHERE tenant_id = $1",
        id.0
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "tenant" })?
    .try_into()
}

/// Whether `control` answers at all.
pub async fn ping(tx: &mut ControlTx) -> StoreResult<()> {
    query_scalar!(r#"SELECT 1 AS "one!""#)
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}
