//! The cell's own row of a tenant.

use serde_json::Value;
use sqlx::{PgConnection, query, query_as, query_scalar};

use super::control::directory::DirectoryEntry;
use super::{StoreError, StoreResult, SystemTx, TenantTx, affected};
use crate::domain::ids::TenantId;
use crate::domain::rate::plan::Plan;

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
    /// When it sends, where that is less than the law allows.
    pub sending_window: Option<Value>,
    /// Whether its messages are simulated.
    pub is_demo: bool,
    /// Whether what a provider took and then failed is sent once more by itself.
    pub has_late_retries: bool,
}

/// The tenant of this transaction.
pub async fn load_tenant(tx: &mut TenantTx, id: TenantId) -> StoreResult<TenantRow> {
    query_as!(
        TenantRow,
        r#"
        SELECT name, default_country, timezone, consent_policy, sending_window, is_demo,
               late_retries > 0 AS "has_late_retries!"
        FROM tenants
        WHERE id = $1
        "#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "tenant" })
}

/// The same, held until the transaction ends.
pub async fn load_for_update(tx: &mut TenantTx, id: TenantId) -> StoreResult<TenantRow> {
    query_as!(
        TenantRow,
        r#"
        SELECT name, default_country, timezone, consent_policy, sending_window, is_demo,
               late_retries > 0 AS "has_late_retries!"
        FROM tenants
        WHERE id = $1
        FOR UPDATE
        "#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "tenant" })
}

/// Replaces what is the tenant's own to decide; the name follows the directory.
pub async fn save_settings(tx: &mut TenantTx, id: TenantId, row: &TenantRow) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE tenants
        SET default_country = $2, timezone = $3, consent_policy = $4, sending_window = $5,
            late_retries = $6::boolean::int, updated_at = app_now()
        WHERE id = $1
        "#,
        id.0,
        row.default_country,
        row.timezone,
        row.consent_policy,
        row.sending_window,
        row.has_late_retries,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "tenant")
}

/// What the tenant pays for.
pub async fn load_plan(tx: &mut SystemTx, id: TenantId) -> StoreResult<Plan> {
    query_as!(
        Plan,
        "SELECT plan_segments_per_sec::float8 AS segments_per_sec, weight FROM tenants WHERE id = $1",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "tenant" })
}

/// Replaces what the tenant pays for, and answers what it was. The leader reads it at its next tick; the turn's weight, at the
/// next wake of one of the tenant's lanes.
pub async fn save_plan(tx: &mut SystemTx, id: TenantId, plan: &Plan) -> StoreResult<Plan> {
    query_as!(
        Plan,
        r#"
        WITH before AS MATERIALIZED (
            SELECT id, plan_segments_per_sec, weight FROM tenants WHERE id = $1 FOR NO KEY UPDATE
        )
        UPDATE tenants t
        SET plan_segments_per_sec = $2::float8, weight = $3, updated_at = app_now()
        FROM before b
        WHERE t.id = b.id
        RETURNING b.plan_segments_per_sec::float8 AS segments_per_sec, b.weight
        "#,
        id.0,
        plan.segments_per_sec,
        plan.weight,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "tenant" })
}

/// Waits until every begin of the tenant that is under way has committed, and lets no other start before this transaction
/// ends.
pub async fn lock_out_begins(tx: &mut SystemTx, id: TenantId) -> StoreResult<()> {
    query!("SELECT pg_advisory_xact_lock(tenant_lock_key($1))", id.0)
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Makes the tenant's row as the directory says, unless it follows a newer version already. Says whether it changed.
///
/// A tenant that is closed is not made again: its row may have been deleted.
pub async fn follow(tx: &mut SystemTx, entry: &DirectoryEntry) -> StoreResult<bool> {
    let done = query!(
        r#"
        UPDATE tenants
        SET name = $2, status = $3, directory_version = $4, updated_at = app_now()
        WHERE id = $1 AND directory_version < $4
        "#,
        entry.id.0,
        entry.name,
        entry.status.as_str(),
        entry.version,
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() > 0 {
        return Ok(true);
    }
    let beginning = &entry.beginning;
    let done = query!(
        r#"
        INSERT INTO tenants (id, name, status, directory_version, is_demo, demo_created_at, default_country, timezone,
                             consent_policy)
        SELECT $1, $2, $3, $4, $5, CASE WHEN $5 THEN app_now() END, $6, $7, CASE WHEN $8 THEN 'attested' ELSE 'required' END
        WHERE $3 <> 'closed'
        ON CONFLICT (id) DO NOTHING
        "#,
        entry.id.0,
        entry.name,
        entry.status.as_str(),
        entry.version,
        entry.is_demo,
        beginning.default_country,
        beginning.timezone,
        beginning.is_consent_attested,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Holds a demo tenant's row until the transaction ends, and says whether it was filled for this version of the directory,
/// or for a later one.
pub async fn hold_filled(conn: &mut PgConnection, id: TenantId, version: i64) -> StoreResult<bool> {
    let is_filled = query_scalar!(
        r#"SELECT demo_filled_version >= $2 AS "is_filled!" FROM tenants WHERE id = $1 FOR NO KEY UPDATE"#,
        id.0,
        version,
    )
    .fetch_optional(conn)
    .await?;
    is_filled.ok_or(StoreError::NotFound { what: "tenant" })
}

/// Notes for which version of the directory a demo tenant was filled.
pub async fn mark_filled(tx: &mut TenantTx, id: TenantId, version: i64) -> StoreResult<()> {
    let done = query!(
        "UPDATE tenants SET demo_filled_version = $2 WHERE id = $1 AND is_demo",
        id.0,
        version,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "demo tenant")
}

/// Whether calls of a tenant are under way.
pub async fn has_live_calls(tx: &mut SystemTx, id: TenantId) -> StoreResult<bool> {
    let has_calls = query_scalar!(
        r#"SELECT EXISTS (SELECT FROM live_calls WHERE tenant_id = $1) AS "has_calls!""#,
        id.0
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(has_calls)
}

/// Deletes up to `limit` rows of a demo tenant at rest, but of the tables in `kept`; 0 when none is left.
pub async fn delete_rows(
    tx: &mut SystemTx,
    id: TenantId,
    kept: &[&str],
    limit: i64,
) -> StoreResult<i64> {
    let deleted = query_scalar!(
        r#"SELECT clear_tenant($1, $2::text[], $3) AS "deleted!""#,
        id.0,
        kept as &[&str],
        limit,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(deleted)
}

/// Forgets a tenant of which nothing else is left, and the account it was simulated by.
pub async fn delete_tenant(tx: &mut SystemTx, id: TenantId, account_ref: &str) -> StoreResult<()> {
    query!("DELETE FROM tenants WHERE id = $1 AND is_demo", id.0)
        .execute(tx.conn())
        .await?;
    query!(
        "DELETE FROM provider_accounts WHERE account_ref = $1 AND provider = 'demo'",
        account_ref
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether the cell knows the tenant.
pub async fn is_known(tx: &mut SystemTx, id: TenantId) -> StoreResult<bool> {
    let is_known = query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenants WHERE id = $1) AS "is_known!""#,
        id.0
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(is_known)
}
