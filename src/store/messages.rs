//! Messages: one recipient, one channel, frozen content. Every statement names them by tenant and id.

pub mod locked;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query};
use uuid::Uuid;

use super::credentials::{TwilioCredentials, list_twilio};
use super::{StoreError, StoreResult};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{
    CampaignId, ContactId, LaneId, MessageId, MessageKey, TemplateVersionId, TenantId,
};
use crate::domain::message::Phase;

/// What the messages of one batch have in common.
#[derive(Debug, Clone)]
pub struct BatchHead {
    /// Whose messages they are.
    pub tenant_id: TenantId,
    /// Where they wait.
    pub lane_id: LaneId,
    /// Their campaign; none for single messages.
    pub campaign_id: Option<CampaignId>,
    /// How they reach people.
    pub channel: Channel,
    /// Who carries them out.
    pub provider: Provider,
    /// The provider account.
    pub account_ref: String,
    /// The text they were made from.
    pub content_id: Option<TemplateVersionId>,
    /// The instant they are accepted at.
    pub accepted_at: DateTime<Utc>,
    /// When they are no longer worth sending.
    pub expires_at: DateTime<Utc>,
}

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Computed for a campaign, drawn for a single message.
    pub id: MessageId,
    /// Who gets it.
    pub contact_id: Option<ContactId>,
    /// Number or email address, as the channel wants it.
    pub address: String,
    /// The address' MAC.
    pub dest_mac: Vec<u8>,
    /// The content's MAC.
    pub content_mac: Vec<u8>,
    /// Segments, 1 to 255.
    pub cost: i16,
    /// Not before; none for at once.
    pub ready_at: Option<DateTime<Utc>>,
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text as rendered.
    pub body: String,
    /// The HTML as rendered, of emails.
    pub html: Option<String>,
}

/// What an insertion came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inserted {
    /// New in the backlog.
    pub queued: i64,
    /// New, and waiting for an instant.
    pub deferred: i64,
    /// The lowest id among the new ones in the backlog.
    pub head: Option<MessageId>,
}

/// Adds messages and their bodies; one that is there already stays as it is.
pub async fn insert_messages(
    conn: &mut PgConnection,
    head: &BatchHead,
    messages: &[NewMessage],
) -> StoreResult<Inserted> {
    let column = |f: fn(&NewMessage) -> Uuid| messages.iter().map(f).collect::<Vec<_>>();
    let ids = column(|m| m.id.0);
    let contact_ids: Vec<Option<Uuid>> = messages
        .iter()
        .map(|m| m.contact_id.map(|id| id.0))
        .collect();
    let addresses: Vec<&str> = messages.iter().map(|m| m.address.as_str()).collect();
    let dest_macs: Vec<&[u8]> = messages.iter().map(|m| m.dest_mac.as_slice()).collect();
    let content_macs: Vec<&[u8]> = messages.iter().map(|m| m.content_mac.as_slice()).collect();
    let costs: Vec<i16> = messages.iter().map(|m| m.cost).collect();
    let ready_ats: Vec<Option<DateTime<Utc>>> = messages.iter().map(|m| m.ready_at).collect();
    let subjects: Vec<Option<&str>> = messages.iter().map(|m| m.subject.as_deref()).collect();
    let bodies: Vec<&str> = messages.iter().map(|m| m.body.as_str()).collect();
    let htmls: Vec<Option<&str>> = messages.iter().map(|m| m.html.as_deref()).collect();
    let rows = query!(
        r#"
        WITH asked AS MATERIALIZED (
            SELECT u.*, CASE WHEN u.ready_at > $8 THEN -1 ELSE 0 END::smallint AS phase
            FROM unnest($10::uuid[], $11::uuid[], $12::text[], $13::bytea[], $14::bytea[], $15::smallint[],
                        $16::timestamptz[], $17::text[], $18::text[], $19::text[])
                 AS u (id, contact_id, address, dest_mac, content_mac, cost, ready_at, subject, body, html)
        ), added AS (
            INSERT INTO messages (tenant_id, id, lane_id, campaign_id, contact_id, channel, provider, provider_account_sid,
                                  content_id, phone_number, email_address, dest_mac, content_mac, cost, phase, phase_at,
                                  ready_at, expires_at)
            SELECT $1, a.id, $2, $3, a.contact_id, $4, $5, $6, $7,
                   CASE WHEN $4 <> 'email' THEN a.address END, CASE WHEN $4 = 'email' THEN a.address END,
                   a.dest_mac, a.content_mac, a.cost, a.phase, $8, COALESCE(a.ready_at, $8), $9
            FROM asked a
            ORDER BY a.id
            ON CONFLICT DO NOTHING
            RETURNING id, phase
        ), bodies AS (
            INSERT INTO message_bodies (tenant_id, message_id, subject, body, html)
            SELECT $1, a.id, a.subject, a.body, a.html
            FROM asked a
            JOIN added d ON d.id = a.id
            ON CONFLICT DO NOTHING
        )
        SELECT d.phase AS "phase!", count(*) AS "messages!", (array_agg(d.id ORDER BY d.id))[1] AS "head!"
        FROM added d
        GROUP BY d.phase
        "#,
        head.tenant_id.0,
        head.lane_id.0,
        head.campaign_id.map(|id| id.0),
        head.channel.as_str(),
        head.provider.as_str(),
        head.account_ref,
        head.content_id.map(|id| id.0),
        head.accepted_at,
        head.expires_at,
        &ids,
        &contact_ids as &[Option<Uuid>],
        &addresses as &[&str],
        &dest_macs as &[&[u8]],
        &content_macs as &[&[u8]],
        &costs,
        &ready_ats as &[Option<DateTime<Utc>>],
        &subjects as &[Option<&str>],
        &bodies as &[&str],
        &htmls as &[Option<&str>],
    )
    .fetch_all(conn)
    .await?;
    let mut inserted = Inserted::default();
    for row in rows {
        if row.phase == i16::from(Phase::Queued) {
            inserted.queued = row.messages;
            inserted.head = Some(MessageId(row.head));
        } else {
            inserted.deferred = row.messages;
        }
    }
    Ok(inserted)
}

/// How many of these messages are there, for this campaign and to these contacts: what a repeated chunk finds.
pub async fn count_present(
    conn: &mut PgConnection,
    head: &BatchHead,
    messages: &[NewMessage],
) -> StoreResult<i64> {
    let ids: Vec<Uuid> = messages.iter().map(|m| m.id.0).collect();
    let contact_ids: Vec<Option<Uuid>> = messages
        .iter()
        .map(|m| m.contact_id.map(|id| id.0))
        .collect();
    let row = query!(
        r#"
        SELECT count(*) AS "present!"
        FROM unnest($3::uuid[], $4::uuid[]) AS u (id, contact_id)
        JOIN messages m ON m.tenant_id = $1 AND m.id = u.id
        WHERE m.campaign_id IS NOT DISTINCT FROM $2 AND m.contact_id IS NOT DISTINCT FROM u.contact_id
        "#,
        head.tenant_id.0,
        head.campaign_id.map(|id| id.0),
        &ids,
        &contact_ids as &[Option<Uuid>],
    )
    .fetch_one(conn)
    .await?;
    Ok(row.present)
}

/// Everything a provider needs for one call.
#[derive(Debug, Clone)]
pub struct CallContent {
    /// Which message.
    pub key: MessageKey,
    /// How it reaches the person.
    pub channel: Channel,
    /// Who carries it out.
    pub provider: Provider,
    /// The provider account.
    pub account_ref: String,
    /// The tenant's account, where a real provider carries the channel.
    pub credentials: Option<Arc<TwilioCredentials>>,
    /// The sender's address.
    pub from: String,
    /// The provider's pool of senders, where the sender has one.
    pub messaging_service_sid: Option<String>,
    /// The person's address; none after erasure.
    pub to: Option<String>,
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text.
    pub body: String,
    /// The HTML, of emails.
    pub html: Option<String>,
    /// When it is no longer worth sending.
    pub expires_at: DateTime<Utc>,
}

/// What to say to whom, for messages that may be called now.
pub async fn list_call_contents(
    conn: &mut PgConnection,
    keys: &[MessageKey],
) -> StoreResult<Vec<CallContent>> {
    let mut contents = list_texts(conn, keys).await?;
    let mut wanted: Vec<(TenantId, Channel)> = contents
        .iter()
        .filter(|content| content.provider == Provider::Twilio)
        .map(|content| (content.key.tenant_id, content.channel))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(contents);
    }
    // Read anew for every batch: a token that was changed or switched off counts at once.
    let known: HashMap<(TenantId, Channel), Arc<TwilioCredentials>> = list_twilio(conn, &wanted)
        .await?
        .into_iter()
        .map(|one| ((one.tenant_id, one.channel), Arc::new(one)))
        .collect();
    for content in &mut contents {
        let credentials = known.get(&(content.key.tenant_id, content.channel));
        // The messages of an account that the tenant has left are not another account's.
        content.credentials = credentials
            .filter(|one| one.account_ref == content.account_ref)
            .cloned();
    }
    Ok(contents)
}

async fn list_texts(conn: &mut PgConnection, keys: &[MessageKey]) -> StoreResult<Vec<CallContent>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    let rows = query!(
        r#"
        -- Fenced: with all tables in one join the planner reaches messages by the tenant of a lane, and reads
        -- all that the tenant has.
        WITH asked AS MATERIALIZED (
            SELECT m.tenant_id, m.id, m.lane_id, m.channel, m.provider, m.provider_account_sid, m.expires_at,
                   COALESCE(m.phone_number, m.email_address) AS address
            FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
            JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        )
        SELECT a.tenant_id AS "tenant_id!", a.id AS "id!", a.channel AS "channel!", a.provider AS "provider!",
               a.provider_account_sid AS "provider_account_sid!", a.expires_at AS "expires_at!", a.address,
               b.subject AS "subject?", COALESCE(b.body, '') AS "body!", b.html AS "html?", s.address AS from_address,
               s.messaging_service_sid
        FROM asked a
        JOIN lanes l ON l.tenant_id = a.tenant_id AND l.id = a.lane_id
        JOIN senders s ON s.tenant_id = l.tenant_id AND s.id = l.sender_id
        LEFT JOIN message_bodies b ON b.tenant_id = a.tenant_id AND b.message_id = a.id
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(CallContent {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.id),
                },
                channel: row.channel.parse()?,
                provider: row.provider.parse()?,
                account_ref: row.provider_account_sid,
                credentials: None,
                from: row.from_address,
                messaging_service_sid: row.messaging_service_sid,
                to: row.address,
                subject: row.subject,
                body: row.body,
                html: row.html,
                expires_at: row.expires_at,
            })
        })
        .collect::<Result<_, StoreError>>()
}
