//! The cell's own row of a tenant.

use sqlx::{query, query_as};

use super::{StoreError, StoreResult, TenantTx};
use crate::domain::ids::TenantId;

/// A tenant that begins in this cell.
#[derive(Debug, Clone)]
pub struct NewTenant<'a> {
    /// Its id, the same as in the directory.
    pub id: TenantId,
    /// What people call it.
    pub name: &'a str,
    /// Two letters; national numbers in imports are read as this country's.
    pub default_country: &'a str,
    /// Whether its messages are simulated.
    pub is_demo: bool,
    /// Whether bulk messages rest on the tenant's attestation of consent.
    pub is_consent_attested: bool,
}

/// What the cell knows of a tenant.
#[derive(Debug, Clone)]
pub struct TenantRow {
    /// What people call it.
    pub name: String,
    /// Two letters; national numbers are read as this country's.
    pub default_country: String,
    /// Its zone, where people are shown times.
    pub timezone: String,
    /// Whether bulk needs consent per person, by the stored word.
    pub consent_policy: String,
    /// Whether its messages are simulated.
    pub is_demo: bool,
}

/// Adds a tenant to the cell. One that is there already stays as it is: this is the second half of making a
/// tenant, and may run again.
pub async fn insert_tenant(tx: &mut TenantTx, tenant: &NewTenant<'_>) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO tenants (id, name, default_country, is_demo, demo_created_at, consent_policy)
        VALUES ($1, $2, $3, $4, CASE WHEN $4 THEN app_now() END, $5)
        ON CONFLICT (id) DO NOTHING
        "#,
        tenant.id.0,
        tenant.name,
        tenant.default_country,
        tenant.is_demo,
        if tenant.is_consent_attested {
            "attested"
        } else {
            "required"
        },
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The tenant of this transaction.
pub async fn load_tenant(tx: &mut TenantTx, id: TenantId) -> StoreResult<TenantRow> {
    query_as!(
        TenantRow,
        r#"
        SELECT name, default_country, timezone, consent_policy, is_demo
        FROM tenants
        WHERE id = $1
        "#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "tenant" })
}
