//! Lists of contacts, and who stands on them.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::contacts::{Attributes, Contact};
use super::{StoreError, StoreResult, TenantTx, affected};
use crate::domain::contact::normalize_name;
use crate::domain::ids::{ContactId, ListId, TenantId};

const LIST: &str = "list";

/// A list with the number of those who stand on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Which one.
    pub id: ListId,
    /// What people call it; unique within the tenant.
    pub name: String,
    /// Contacts on it.
    pub members: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was renamed last.
    pub updated_at: DateTime<Utc>,
}

/// What still needs a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListUse {
    /// A campaign of this name is scheduled, or has started and not read its audience yet.
    Campaign(String),
    /// An import of this file puts people on it.
    Import(String),
}

/// Adds an empty list. Its name must be new to the tenant.
pub async fn insert_list(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ListId,
    name: &str,
) -> StoreResult<()> {
    query!(
        "INSERT INTO contact_lists (tenant_id, id, name, name_normalized) VALUES ($1, $2, $3, $4)",
        tenant_id.0,
        id.0,
        name,
        normalize_name(Some(name), None),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A list.
pub async fn load_list(tx: &mut TenantTx, tenant_id: TenantId, id: ListId) -> StoreResult<List> {
    let mut found = list(tx, tenant_id, Some(id), None, 1).await?;
    found.pop().ok_or(StoreError::NotFound { what: LIST })
}

/// A list, held until the transaction ends.
pub async fn load_for_update(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ListId,
) -> StoreResult<List> {
    query_scalar!(
        "SELECT id FROM contact_lists WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: LIST })?;
    load_list(tx, tenant_id, id).await
}

/// Lists of a tenant, newest first, before `before`.
pub async fn list_lists(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    before: Option<ListId>,
    limit: i64,
) -> StoreResult<Vec<List>> {
    list(tx, tenant_id, None, before, limit).await
}

async fn list(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    only: Option<ListId>,
    before: Option<ListId>,
    limit: i64,
) -> StoreResult<Vec<List>> {
    let lists = query_as!(
        List,
        r#"
        SELECT l.id, l.name, l.created_at, l.updated_at,
               (SELECT count(*) FROM contact_list_members m WHERE m.tenant_id = $1 AND m.list_id = l.id) AS "members!"
        FROM contact_lists l
        WHERE l.tenant_id = $1 AND ($2::uuid IS NULL OR l.id = $2) AND ($3::uuid IS NULL OR l.id < $3)
        ORDER BY l.id DESC
        LIMIT $4
        "#,
        tenant_id.0,
        only.map(|id| id.0),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(lists)
}

/// Gives a list another name, which must be new to the tenant.
pub async fn save_name(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ListId,
    name: &str,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE contact_lists
        SET name = $3, name_normalized = $4, updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2
        "#,
        tenant_id.0,
        id.0,
        name,
        normalize_name(Some(name), None),
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, LIST)
}

/// Of these lists, those that are there. They stay until the transaction ends.
pub async fn hold_lists(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    ids: &[ListId],
) -> StoreResult<Vec<ListId>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = query_scalar!(
        r#"
        SELECT id AS "id: ListId"
        FROM contact_lists
        WHERE tenant_id = $1 AND id = ANY($2)
        ORDER BY id
        FOR KEY SHARE
        "#,
        tenant_id.0,
        &ListId::column(ids),
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found)
}

/// What needs a list that the caller holds: whoever would begin to need it waits for the caller.
pub async fn find_use(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ListId,
) -> StoreResult<Option<ListUse>> {
    let row = query!(
        r#"
        SELECT c.name AS "name!", true AS "is_campaign!"
        FROM campaigns c
        WHERE c.tenant_id = $1 AND c.status IN ('scheduled', 'sending', 'paused')
          -- Once it is frozen it needs the list no more.
          AND NOT EXISTS (SELECT FROM campaign_expansion e WHERE e.tenant_id = $1 AND e.campaign_id = c.id)
          AND (c.audience -> 'list_ids' ? ($2::uuid)::text
               OR c.audience ->> 'import_id' IN (
                   SELECT i.id::text FROM imports i WHERE i.tenant_id = $1 AND i.list_id = $2))
        UNION ALL
        SELECT i.file_name, false
        FROM imports i
        WHERE i.tenant_id = $1 AND i.list_id = $2 AND i.status IN ('queued', 'running')
        LIMIT 1
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| {
        if row.is_campaign {
            ListUse::Campaign(row.name)
        } else {
            ListUse::Import(row.name)
        }
    }))
}

/// Removes a list. Those who stood on it stay contacts; the import that made it forgets it.
pub async fn delete_list(tx: &mut TenantTx, tenant_id: TenantId, id: ListId) -> StoreResult<()> {
    query!(
        "UPDATE imports SET list_id = NULL WHERE tenant_id = $1 AND list_id = $2",
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    let done = query!(
        "DELETE FROM contact_lists WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, LIST)
}

/// Puts contacts on a list and returns how many are new on it; those that are on it stay.
pub async fn insert_members(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    list_id: ListId,
    contact_ids: &[ContactId],
) -> StoreResult<u64> {
    let mut ids: Vec<Uuid> = ContactId::column(contact_ids);
    // One order for every writer of many rows, so that two of them never deadlock.
    ids.sort_unstable();
    let done = query!(
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
    Ok(done.rows_affected())
}

/// Takes contacts off a list and returns how many were on it.
pub async fn delete_members(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    list_id: ListId,
    contact_ids: &[ContactId],
) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH locked AS (
            SELECT contact_id
            FROM contact_list_members
            WHERE tenant_id = $1 AND list_id = $2 AND contact_id = ANY($3)
            -- One order for every writer of many rows, so that two of them never deadlock.
            ORDER BY contact_id
            FOR UPDATE
        )
        DELETE FROM contact_list_members m
        USING locked
        WHERE m.tenant_id = $1 AND m.list_id = $2 AND m.contact_id = locked.contact_id
        "#,
        tenant_id.0,
        list_id.0,
        &ContactId::column(contact_ids),
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Who stands on a list, the newest contact first, before `before`.
pub async fn list_members(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    list_id: ListId,
    before: Option<ContactId>,
    limit: i64,
) -> StoreResult<Vec<Contact>> {
    let contacts = query_as!(
        Contact,
        r#"
        SELECT c.id, c.first_name, c.last_name, c.phone_e164, c.email, c.country, c.zip, c.timezone,
               c.attributes AS "attributes: Json<Attributes>", c.created_at, c.updated_at
        FROM contact_list_members m
        JOIN contacts c ON c.tenant_id = m.tenant_id AND c.id = m.contact_id
        WHERE m.tenant_id = $1 AND m.list_id = $2 AND ($3::uuid IS NULL OR m.contact_id < $3)
        ORDER BY m.contact_id DESC
        LIMIT $4
        "#,
        tenant_id.0,
        list_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(contacts)
}
