//! Which variables of a template people lack, counted before anything is sent.

use sqlx::query;
use uuid::Uuid;

use super::{StoreResult, TenantTx};
use crate::domain::channel::Channel;
use crate::domain::ids::TenantId;

/// How many people lack one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingVariable {
    /// As the template writes it.
    pub name: String,
    /// People with an address on the channel for whom it is empty.
    pub people: i64,
}

/// People with an address on the channel, in the tenant or on one list.
pub async fn count_people(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    list_id: Option<Uuid>,
) -> StoreResult<i64> {
    let row = query!(
        r#"
        SELECT count(*) AS "people!"
        FROM contacts c
        WHERE c.tenant_id = $1
          AND CASE $2 WHEN 'email' THEN c.email_normalized ELSE c.phone_e164 END IS NOT NULL
          AND ($3::uuid IS NULL OR c.id IN (
              SELECT m.contact_id FROM contact_list_members m WHERE m.tenant_id = $1 AND m.list_id = $3))
        "#,
        tenant_id.0,
        channel.as_str(),
        list_id,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.people)
}

/// For each name, how many of the people of [`count_people`] lack it. Reads them all: a preview asks, not a send.
pub async fn list_missing_variables(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    list_id: Option<Uuid>,
    names: &[String],
) -> StoreResult<Vec<MissingVariable>> {
    let rows = query!(
        r#"
        SELECT n.name AS "name!", count(*) FILTER (WHERE COALESCE(
            CASE n.name
                -- A field of ours wins over an attribute of the same name, as it does when rendering.
                WHEN 'first_name' THEN COALESCE(c.first_name, c.attributes ->> n.name)
                WHEN 'last_name' THEN COALESCE(c.last_name, c.attributes ->> n.name)
                WHEN 'phone' THEN COALESCE(c.phone_e164, c.attributes ->> n.name)
                WHEN 'email' THEN COALESCE(c.email, c.attributes ->> n.name)
                WHEN 'country' THEN COALESCE(c.country, c.attributes ->> n.name)
                WHEN 'zip' THEN COALESCE(c.zip, c.attributes ->> n.name)
                WHEN 'timezone' THEN COALESCE(c.timezone, c.attributes ->> n.name)
                ELSE c.attributes ->> n.name
            END, '') = '') AS "people!"
        FROM unnest($4::text[]) WITH ORDINALITY AS n (name, place)
        CROSS JOIN contacts c
        WHERE c.tenant_id = $1
          AND CASE $2 WHEN 'email' THEN c.email_normalized ELSE c.phone_e164 END IS NOT NULL
          AND ($3::uuid IS NULL OR c.id IN (
              SELECT m.contact_id FROM contact_list_members m WHERE m.tenant_id = $1 AND m.list_id = $3))
        GROUP BY n.name, n.place
        ORDER BY n.place
        "#,
        tenant_id.0,
        channel.as_str(),
        list_id,
        names,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| MissingVariable {
            name: row.name,
            people: row.people,
        })
        .collect())
}
