//! Whom a campaign is written to: frozen once, then read in pieces.

use sqlx::types::Json;
use sqlx::{query, query_as};
use uuid::Uuid;

use super::{StoreResult, TenantTx, affected};
use crate::domain::campaign::{Audience, Campaign};
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, ContactId, ListId, TenantId};
use crate::domain::recipient::Recipient;

/// How far a campaign's expansion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The next position to turn into a message.
    pub next_position: i64,
    /// How many positions there are.
    pub total: i64,
}

/// How many people the freeze found in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Why they were left out; none for those who are written to.
    pub reason: Option<String>,
    /// How many.
    pub people: i64,
}

/// One person of the frozen audience, with what a template may name.
#[derive(Debug, Clone)]
pub struct Member {
    /// The place in the audience.
    pub position: i64,
    /// Who it is.
    pub contact_id: ContactId,
    /// The address' MAC, as frozen.
    pub dest_mac: Vec<u8>,
    /// What is known of them; nothing when the contact was deleted meanwhile.
    pub recipient: Option<Recipient>,
}

/// Prepares this transaction for [`freeze`], which reads all that a tenant has: a million people take seconds, and right
/// after an import the planner still believes the tables empty, so that it would look each of them up one by one for
/// each person (measured: 335 s for 100,000, against under 2 s).
pub async fn expect_many(tx: &mut TenantTx) -> StoreResult<()> {
    query!(
        r#"
        SELECT set_config('statement_timeout', '600000', true) AS patience, set_config('enable_nestloop', 'off', true) AS plan
        "#,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(())
}

/// What became of asking for the cursor of a campaign's expansion.
#[derive(Debug, Clone, Copy)]
pub enum CursorTaken {
    /// It is the caller's until the transaction ends.
    Ours(Cursor),
    /// Somebody else has it, and may die with it.
    Elsewhere,
    /// The expansion has not begun or is done, or the campaign is cancelled.
    Nothing,
}

/// Takes the cursor of a campaign's expansion, without waiting for it.
pub async fn take_cursor(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<CursorTaken> {
    let row = query!(
        r#"
        WITH ours AS MATERIALIZED (
            SELECT e.next_pos, e.total
            FROM campaign_expansion e
            WHERE e.tenant_id = $1 AND e.campaign_id = $2 AND e.step = 0 AND NOT e.is_done
            FOR UPDATE OF e SKIP LOCKED
        )
        SELECT o.next_pos AS "next_pos?", o.total AS "total?"
        FROM campaign_expansion e
        JOIN campaigns c ON c.tenant_id = e.tenant_id AND c.id = e.campaign_id
        LEFT JOIN ours o ON true
        WHERE e.tenant_id = $1 AND e.campaign_id = $2 AND e.step = 0 AND NOT e.is_done
          AND c.status IN ('sending', 'paused')
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else {
        return Ok(CursorTaken::Nothing);
    };
    Ok(match (row.next_pos, row.total) {
        (Some(next_position), Some(total)) => CursorTaken::Ours(Cursor {
            next_position,
            total,
        }),
        _ => CursorTaken::Elsewhere,
    })
}

/// Whether the audience of a campaign is frozen.
pub async fn is_frozen(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<bool> {
    let row = query!(
        r#"
        SELECT EXISTS (
            SELECT FROM campaign_expansion WHERE tenant_id = $1 AND campaign_id = $2 AND step = 0
        ) AS "is_frozen!"
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.is_frozen)
}

/// The lists a campaign's audience is; none for everybody.
async fn audience_lists(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    audience: &Audience,
) -> StoreResult<Option<Vec<Uuid>>> {
    let import_id = match audience {
        Audience::Everybody => return Ok(None),
        Audience::Lists { list_ids } => return Ok(Some(ListId::column(list_ids))),
        Audience::Import { import_id } => import_id,
    };
    let row = query!(
        "SELECT list_id FROM imports WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        import_id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    // An import without a list named nobody.
    Ok(Some(row.and_then(|row| row.list_id).into_iter().collect()))
}

/// Freezes the audience: one row per address, and one per contact left out with the reason.
///
/// The caller holds the campaign's row, so that this happens once. Positions follow the contacts' ids. A contact on two
/// of the lists is chosen once.
pub async fn freeze(tx: &mut TenantTx, campaign: &Campaign) -> StoreResult<Vec<Frozen>> {
    let list_ids = audience_lists(tx, campaign.tenant_id, &campaign.audience).await?;
    let frozen = query_as!(
        Frozen,
        r#"
        WITH chosen AS (
            SELECT c.id, CASE $3 WHEN 'email' THEN c.email_mac ELSE c.phone_mac END AS dest_mac
            FROM contacts c
            WHERE c.tenant_id = $1
              AND ($4::uuid[] IS NULL OR c.id IN (
                  SELECT m.contact_id FROM contact_list_members m WHERE m.tenant_id = $1 AND m.list_id = ANY($4)))
        ), judged AS (
            SELECT c.id, c.dest_mac, CASE
                WHEN c.dest_mac IS NULL THEN 'no_address'
                WHEN s.dest_mac IS NOT NULL THEN 'suppressed'
                WHEN k.state = 'granted' THEN NULL
                WHEN k.state = 'attested'
                 AND (SELECT t.consent_policy FROM tenants t WHERE t.id = $1) = 'attested' THEN NULL
                ELSE 'no_consent' END AS reason
            FROM chosen c
            LEFT JOIN contact_consents k ON k.tenant_id = $1 AND k.contact_id = c.id AND k.channel = $3
            LEFT JOIN suppressions s ON s.tenant_id = $1 AND s.channel = $3 AND s.dest_mac = c.dest_mac
        ), decided AS MATERIALIZED (
            SELECT j.id, j.dest_mac, CASE
                WHEN j.reason IS NULL
                 AND row_number() OVER (PARTITION BY j.dest_mac, j.reason IS NULL ORDER BY j.id) > 1
                  THEN 'duplicate_address'
                ELSE j.reason END AS reason
            FROM judged j
        ), audience AS (
            INSERT INTO campaign_audience (tenant_id, campaign_id, pos, contact_id, dest_mac)
            SELECT $1, $2, row_number() OVER (ORDER BY d.id) - 1, d.id, d.dest_mac
            FROM decided d
            WHERE d.reason IS NULL
        ), skips AS (
            INSERT INTO campaign_skips (tenant_id, campaign_id, contact_id, reason)
            SELECT $1, $2, d.id, d.reason
            FROM decided d
            WHERE d.reason IS NOT NULL
        ), cursor AS (
            INSERT INTO campaign_expansion (tenant_id, campaign_id, total, is_done)
            SELECT $1, $2, count(*), count(*) = 0
            FROM decided d
            WHERE d.reason IS NULL
        )
        SELECT d.reason, count(*) AS "people!"
        FROM decided d
        GROUP BY d.reason
        "#,
        campaign.tenant_id.0,
        campaign.id.0,
        campaign.channel.as_str(),
        list_ids.as_deref() as Option<&[Uuid]>,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(frozen)
}

/// The people at `limit` positions from `cursor` on, in order.
pub async fn list_members(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
    cursor: Cursor,
    limit: i64,
) -> StoreResult<Vec<Member>> {
    let rows = query!(
        r#"
        SELECT a.pos, a.contact_id, a.dest_mac, c.id AS "found?", c.first_name AS "first_name?",
               c.last_name AS "last_name?", c.phone_e164 AS "phone_e164?", c.email AS "email?",
               c.country AS "country?", c.zip AS "zip?", c.timezone AS "timezone?",
               c.attributes AS "attributes?: Json<serde_json::Map<String, serde_json::Value>>"
        FROM campaign_audience a
        LEFT JOIN contacts c ON c.tenant_id = a.tenant_id AND c.id = a.contact_id
        WHERE a.tenant_id = $1 AND a.campaign_id = $2 AND a.pos >= $3 AND a.pos < $3 + $4
        ORDER BY a.pos
        "#,
        tenant_id.0,
        campaign_id.0,
        cursor.next_position,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let members = rows.into_iter().map(|row| Member {
        position: row.pos,
        contact_id: ContactId(row.contact_id),
        dest_mac: row.dest_mac,
        recipient: row.found.map(|_| Recipient {
            first_name: row.first_name,
            last_name: row.last_name,
            phone_e164: row.phone_e164,
            email: row.email,
            country: row.country,
            zip: row.zip,
            timezone: row.timezone,
            attributes: row.attributes.map(|json| json.0).unwrap_or_default(),
        }),
    });
    Ok(members.collect())
}

/// Moves the cursor; at the end the expansion is done.
pub async fn advance_cursor(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
    cursor: Cursor,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE campaign_expansion
        SET next_pos = $3, is_done = $3 >= total, updated_at = app_now()
        WHERE tenant_id = $1 AND campaign_id = $2 AND step = 0
        "#,
        tenant_id.0,
        campaign_id.0,
        cursor.next_position,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "expansion")
}

/// Records contacts that the expansion had to leave out.
pub async fn insert_skips(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
    skipped: &[(ContactId, &'static str)],
) -> StoreResult<()> {
    let (contact_ids, reasons): (Vec<Uuid>, Vec<String>) = skipped
        .iter()
        .map(|(id, reason)| (id.0, (*reason).to_owned()))
        .unzip();
    query!(
        r#"
        INSERT INTO campaign_skips (tenant_id, campaign_id, contact_id, reason)
        SELECT $1, $2, u.contact_id, u.reason
        FROM unnest($3::uuid[], $4::text[]) AS u (contact_id, reason)
        ON CONFLICT DO NOTHING
        "#,
        tenant_id.0,
        campaign_id.0,
        &contact_ids,
        &reasons,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether anybody in the audience has an address on the channel.
pub async fn has_recipients(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    audience: &Audience,
    channel: Channel,
) -> StoreResult<bool> {
    let list_ids = audience_lists(tx, tenant_id, audience).await?;
    let row = query!(
        r#"
        SELECT EXISTS (
            SELECT FROM contacts c
            WHERE c.tenant_id = $1
              AND CASE $2 WHEN 'email' THEN c.email_mac ELSE c.phone_mac END IS NOT NULL
              AND ($3::uuid[] IS NULL OR c.id IN (
                  SELECT m.contact_id FROM contact_list_members m WHERE m.tenant_id = $1 AND m.list_id = ANY($3)))
        ) AS "exists!"
        "#,
        tenant_id.0,
        channel.as_str(),
        list_ids.as_deref() as Option<&[Uuid]>,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.exists)
}

/// Of these names, those that no contact of the tenant has as an attribute. Reads contacts until it met each.
pub async fn list_unknown_attributes(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    names: &[String],
) -> StoreResult<Vec<String>> {
    let rows = query!(
        r#"
        SELECT n.name AS "name!"
        FROM unnest($2::text[]) WITH ORDINALITY AS n (name, place)
        WHERE NOT EXISTS (SELECT FROM contacts c WHERE c.tenant_id = $1 AND c.attributes ? n.name)
        ORDER BY n.place
        "#,
        tenant_id.0,
        names,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}
