//! Addresses never to write to. Keyed by MAC, so that an opt-out outlives the contact.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};

use super::{StoreError, StoreResult, SystemTx, TenantTx, affected};
use crate::domain::channel::Channel;
use crate::domain::ids::{ContactId, MessageKey, TenantId};
use crate::domain::single::SingleFacts;

/// An address on a channel that is not written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// The channel.
    pub channel: Channel,
    /// MAC of the address.
    pub dest_mac: Vec<u8>,
    /// Why, by the stored word.
    pub reason: String,
    /// Where that came from.
    pub source: Option<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// A contact with the address, if there is one.
    pub contact_id: Option<ContactId>,
}

struct Row {
    channel: String,
    dest_mac: Vec<u8>,
    reason: String,
    source: Option<String>,
    created_at: DateTime<Utc>,
    contact_id: Option<ContactId>,
}

impl TryFrom<Row> for Suppression {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        Ok(Self {
            channel: row.channel.parse()?,
            dest_mac: row.dest_mac,
            reason: row.reason,
            source: row.source,
            created_at: row.created_at,
            contact_id: row.contact_id,
        })
    }
}

/// Where a list of suppressions goes on: behind this instant and MAC.
pub type After = (DateTime<Utc>, Vec<u8>);

/// Suppressions of a tenant, the newest first, behind `after`; of one channel, or of one address, where asked.
pub async fn list_suppressions(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Option<Channel>,
    dest_mac: Option<&[u8]>,
    after: Option<&After>,
    limit: i64,
) -> StoreResult<Vec<Suppression>> {
    query_as!(
        Row,
        r#"
        SELECT s.channel, s.dest_mac, s.reason, s.source, s.created_at, c.id AS "contact_id?: ContactId"
        FROM suppressions s
        LEFT JOIN LATERAL (
            SELECT c.id
            FROM contacts c
            WHERE c.tenant_id = $1
              AND (c.phone_mac = s.dest_mac AND s.channel <> 'email' OR c.email_mac = s.dest_mac AND s.channel = 'email')
            LIMIT 1
        ) c ON true
        WHERE s.tenant_id = $1 AND ($2::text IS NULL OR s.channel = $2) AND ($3::bytea IS NULL OR s.dest_mac = $3)
          AND ($4::timestamptz IS NULL OR (s.created_at, s.dest_mac) < ($4, $5))
        ORDER BY s.created_at DESC, s.dest_mac DESC
        LIMIT $6
        "#,
        tenant_id.0,
        channel.map(Channel::as_str),
        dest_mac,
        after.map(|(at, _)| *at),
        after.map(|(_, mac)| mac.as_slice()),
        limit,
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Suppression::try_from)
    .collect()
}

/// One suppression.
pub async fn load_suppression(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    dest_mac: &[u8],
) -> StoreResult<Suppression> {
    let mut found =
        list_suppressions(tx, tenant_id, Some(channel), Some(dest_mac), None, 1).await?;
    let what = "suppression";
    found.pop().ok_or(StoreError::NotFound { what })
}

/// Adds a suppression; one that is there stays as it is.
pub async fn insert_suppression(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    dest_mac: &[u8],
    reason: &str,
    source: Option<&str>,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO suppressions (tenant_id, channel, dest_mac, reason, source)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (tenant_id, channel, dest_mac) DO NOTHING
        "#,
        tenant_id.0,
        channel.as_str(),
        dest_mac,
        reason,
        source,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Suppresses the recipients of messages, because their provider says with a code that they opted out. Locks nothing: an
/// address that is there stays as it is.
pub async fn suppress_recipients(
    tx: &mut SystemTx,
    opted_out: &[(MessageKey, String)],
) -> StoreResult<()> {
    if opted_out.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = opted_out.iter().map(|(key, _)| *key).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let codes: Vec<&str> = opted_out.iter().map(|(_, code)| code.as_str()).collect();
    query!(
        r#"
        INSERT INTO suppressions (tenant_id, channel, dest_mac, reason, source)
        SELECT DISTINCT m.tenant_id, m.channel, m.dest_mac, 'provider', u.code
        FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS u (tenant_id, id, code)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        -- One order for every writer of many rows, so that two of them never deadlock.
        ORDER BY m.tenant_id, m.channel, m.dest_mac, u.code
        ON CONFLICT (tenant_id, channel, dest_mac) DO NOTHING
        "#,
        &tenant_ids,
        &ids,
        &codes as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Removes a suppression.
pub async fn delete_suppression(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    dest_mac: &[u8],
) -> StoreResult<()> {
    let done = query!(
        "DELETE FROM suppressions WHERE tenant_id = $1 AND channel = $2 AND dest_mac = $3",
        tenant_id.0,
        channel.as_str(),
        dest_mac,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "suppression")
}

/// Contacts with an address on a channel; more than one when their other address differs.
pub async fn list_contacts_at(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    dest_mac: &[u8],
) -> StoreResult<Vec<ContactId>> {
    let ids = query_scalar!(
        r#"
        SELECT c.id AS "id: ContactId"
        FROM contacts c
        WHERE c.tenant_id = $1
          AND (c.phone_mac = $3 AND $2 <> 'email' OR c.email_mac = $3 AND $2 = 'email')
        ORDER BY c.id
        "#,
        tenant_id.0,
        channel.as_str(),
        dest_mac,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids)
}

/// What opt-outs and consent say of an address on a channel.
pub async fn read_standing(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    dest_mac: &[u8],
) -> StoreResult<SingleFacts> {
    let facts = query_as!(
        SingleFacts,
        r#"
        SELECT EXISTS (
                   SELECT FROM suppressions s WHERE s.tenant_id = $1 AND s.channel = $2 AND s.dest_mac = $3
               ) AS "is_suppressed!",
               EXISTS (
                   SELECT
                   FROM contacts c
                   JOIN contact_consents k ON k.tenant_id = $1 AND k.contact_id = c.id AND k.channel = $2
                   JOIN tenants t ON t.id = $1
                   WHERE c.tenant_id = $1
                     AND (c.phone_mac = $3 AND $2 <> 'email' OR c.email_mac = $3 AND $2 = 'email')
                     AND (k.state = 'granted' OR k.state = 'attested' AND t.consent_policy = 'attested')
               ) AS "has_consent!"
        "#,
        tenant_id.0,
        channel.as_str(),
        dest_mac,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(facts)
}
