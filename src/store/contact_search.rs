//! Finding contacts by the beginning of a name, a number or an address.
//!
//! Each is one range of one index, walked in its order; so a page costs the same in a thousand contacts and in a
//! million. Under row-level security only such a range becomes an index condition: the operators that compare text are
//! leakproof, `LIKE` and `starts_with` are not.

use sqlx::types::Json;
use sqlx::{query, query_as};

use super::contacts::{Attributes, Contact};
use super::{StoreResult, TenantTx};
use crate::domain::ids::{ContactId, TenantId};

/// What the beginning is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchBy {
    /// First and last name, normalised.
    Name,
    /// The number, E.164.
    Phone,
    /// The address, normalised.
    Email,
}

/// A contact with what it was found by, which is also what the page is ordered by.
#[derive(Debug, Clone)]
pub struct Found {
    /// The whole name, number or address.
    pub key: String,
    /// The contact.
    pub contact: Contact,
}

/// Above every text that begins with `prefix`.
pub(super) fn upper_bound(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

/// Contacts whose name, number or address begins with `prefix`, in its order, after `after`.
pub async fn list_by_prefix(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    by: SearchBy,
    prefix: &str,
    after: Option<&(String, ContactId)>,
    limit: i64,
) -> StoreResult<Vec<Found>> {
    let (after_key, after_id) = after.map_or((None, None), |(key, id)| (Some(key), Some(*id)));
    let keys = match by {
        SearchBy::Name => names(tx, tenant_id, prefix, after_key, after_id, limit).await?,
        SearchBy::Phone => phones(tx, tenant_id, prefix, after_key, after_id, limit).await?,
        SearchBy::Email => emails(tx, tenant_id, prefix, after_key, after_id, limit).await?,
    };
    load_all(tx, tenant_id, keys).await
}

type Keys = Vec<(String, ContactId)>;

async fn names(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    prefix: &str,
    after_key: Option<&String>,
    after_id: Option<ContactId>,
    limit: i64,
) -> StoreResult<Keys> {
    let rows = query!(
        r#"
        SELECT name_normalized AS "key!", id AS "id: ContactId"
        FROM contacts
        WHERE tenant_id = $1 AND name_normalized >= $2 AND name_normalized < $3
          -- The range is the beginning alone where texts are ordered byte by byte; elsewhere this keeps it so.
          AND starts_with(name_normalized, $2)
          AND ($4::text IS NULL OR (name_normalized, id) > ($4, $5))
        ORDER BY name_normalized, id
        LIMIT $6
        "#,
        tenant_id.0,
        prefix,
        upper_bound(prefix),
        after_key,
        after_id.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, row.id)).collect())
}

async fn phones(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    prefix: &str,
    after_key: Option<&String>,
    after_id: Option<ContactId>,
    limit: i64,
) -> StoreResult<Keys> {
    let rows = query!(
        r#"
        SELECT phone_e164 AS "key!", id AS "id: ContactId"
        FROM contacts
        WHERE tenant_id = $1 AND phone_e164 >= $2 AND phone_e164 < $3
          AND starts_with(phone_e164, $2)
          AND ($4::text IS NULL OR (phone_e164, id) > ($4, $5))
        ORDER BY phone_e164, id
        LIMIT $6
        "#,
        tenant_id.0,
        prefix,
        upper_bound(prefix),
        after_key,
        after_id.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, row.id)).collect())
}

async fn emails(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    prefix: &str,
    after_key: Option<&String>,
    after_id: Option<ContactId>,
    limit: i64,
) -> StoreResult<Keys> {
    let rows = query!(
        r#"
        SELECT email_normalized AS "key!", id AS "id: ContactId"
        FROM contacts
        WHERE tenant_id = $1 AND email_normalized >= $2 AND email_normalized < $3
          AND starts_with(email_normalized, $2)
          AND ($4::text IS NULL OR (email_normalized, id) > ($4, $5))
        ORDER BY email_normalized, id
        LIMIT $6
        "#,
        tenant_id.0,
        prefix,
        upper_bound(prefix),
        after_key,
        after_id.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, row.id)).collect())
}

/// The contacts with these ids, in the order of the keys.
async fn load_all(tx: &mut TenantTx, tenant_id: TenantId, keys: Keys) -> StoreResult<Vec<Found>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<ContactId> = keys.iter().map(|(_, id)| *id).collect();
    let mut contacts = query_as!(
        Contact,
        r#"
        SELECT id, first_name, last_name, phone_e164, email, country, zip, timezone,
               attributes AS "attributes: Json<Attributes>", created_at, updated_at
        FROM contacts
        WHERE tenant_id = $1 AND id = ANY($2)
        "#,
        tenant_id.0,
        &ContactId::column(&ids),
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(keys
        .into_iter()
        .filter_map(|(key, id)| {
            let place = contacts.iter().position(|contact| contact.id == id)?;
            let contact = contacts.swap_remove(place);
            Some(Found { key, contact })
        })
        .collect())
}

/// Contacts with a text anywhere in name, number or address, newest first, before `before`.
///
/// No index helps: it reads contacts until the page is full, all of the tenant when few are found.
pub async fn list_containing(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    text: &str,
    before: Option<ContactId>,
    limit: i64,
) -> StoreResult<Vec<Contact>> {
    let contacts = query_as!(
        Contact,
        r#"
        SELECT id, first_name, last_name, phone_e164, email, country, zip, timezone,
               attributes AS "attributes: Json<Attributes>", created_at, updated_at
        FROM contacts
        WHERE tenant_id = $1 AND ($3::uuid IS NULL OR id < $3)
          AND (strpos(name_normalized, $2) > 0 OR strpos(email_normalized, $2) > 0 OR strpos(phone_e164, $2) > 0)
        ORDER BY id DESC
        LIMIT $4
        "#,
        tenant_id.0,
        text,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(contacts)
}

/// What a contact agreed to, per channel, by the stored words.
pub async fn list_consents(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contact_id: ContactId,
) -> StoreResult<Vec<(String, String)>> {
    let rows = query!(
        r#"
        SELECT channel, state
        FROM contact_consents
        WHERE tenant_id = $1 AND contact_id = $2
        ORDER BY channel
        "#,
        tenant_id.0,
        contact_id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.channel, row.state))
        .collect())
}
