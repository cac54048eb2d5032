//! Lists of contacts.

use uuid::Uuid;

use sqlx::query;

use super::{StoreResult, TenantTx};
use crate::domain::ids::{ContactId, ListId, TenantId};

/// Adds an empty list. Its name must be new to the tenant.
pub async fn insert_list(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ListId,
    name: &str,
) -> StoreResult<()> {
    query!(
        "INSERT INTO contact_lists (tenant_id, id, name) VALUES ($1, $2, $3)",
        tenant_id.0,
        id.0,
        name,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Puts contacts on a list; those that are on it stay.
pub async fn insert_members(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    list_id: ListId,
    contact_ids: &[ContactId],
) -> StoreResult<()> {
    let mut ids: Vec<Uuid> = ContactId::column(contact_ids);
    // One order for every writer of many rows, so that two of them never deadlock.
    ids.sort_unstable();
    query!(
        r#"
        WITH clock AS MATERIALIZED (SELECT app_now() AS at)
        INSERT INTO contact_list_members (tenant_id, list_id, contact_id, added_at)
        SELECT $1, $2, u.contact_id, clock.at
        FROM clock, unnest($3::uuid[]) AS u (contact_id)
        ON CONFLICT (tenant_id, list_id, contact_id) DO NOTHING
        "#,
        tenant_id.0,
        list_id.0,
        &ids,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
