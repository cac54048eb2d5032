//! Messages: one recipient, one channel, frozen content. Every statement names them by tenant and id.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_as};
use uuid::Uuid;

use super::credentials::{TwilioCredentials, list_twilio};
use super::{StoreError, StoreResult, SystemTx, TenantTx, Tx};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{
    CampaignId, ContactId, LaneId, MessageId, MessageKey, TemplateVersionId, TenantId,
};
use crate::domain::message::{DropReason, Phase};

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

/// A message as it was when its row was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locked {
    /// Which message.
    pub key: MessageKey,
    /// Where it was.
    pub phase: Phase,
    /// Why it is not sent, of those dropped.
    pub drop_reason: Option<DropReason>,
    /// Where it waits, when it waits.
    pub lane_id: LaneId,
    /// Its campaign.
    pub campaign_id: Option<CampaignId>,
    /// Its channel.
    pub channel: Channel,
    /// Its newest attempt; 0 when there was none.
    pub attempt_no: i16,
    /// Whether a new message has taken its place: what becomes of it counts no more.
    pub is_replaced: bool,
}

struct LockedRow {
    tenant_id: Uuid,
    id: Uuid,
    phase: i16,
    drop_reason: Option<String>,
    lane_id: i64,
    campaign_id: Option<Uuid>,
    channel: String,
    attempt_no: i16,
    is_replaced: bool,
}

impl TryFrom<LockedRow> for Locked {
    type Error = StoreError;

    fn try_from(row: LockedRow) -> StoreResult<Self> {
        Ok(Self {
            key: MessageKey {
                tenant_id: TenantId(row.tenant_id),
                id: MessageId(row.id),
            },
            phase: row.phase.try_into()?,
            drop_reason: row.drop_reason.map(|word| word.parse()).transpose()?,
            lane_id: LaneId(row.lane_id),
            campaign_id: row.campaign_id.map(CampaignId),
            channel: row.channel.parse()?,
            attempt_no: row.attempt_no,
            is_replaced: row.is_replaced,
        })
    }
}

/// Locks messages in the order that every writer of many rows keeps, so that two of them never deadlock. Their
/// attempts are guarded by the same lock.
pub async fn lock_messages<K>(tx: &mut Tx<K>, keys: &[MessageKey]) -> StoreResult<Vec<Locked>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    query_as!(
        LockedRow,
        r#"
        SELECT m.tenant_id, m.id, m.phase, m.drop_reason, m.lane_id, m.campaign_id, m.channel, m.attempt_no,
               m.retried_by IS NOT NULL AS "is_replaced!"
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        ORDER BY m.tenant_id, m.id
        FOR UPDATE OF m
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Locked::try_from)
    .collect()
}

/// Locks the messages to one of these contacts for which no call has begun; those to one address of theirs, where that
/// is asked. None of them begins from here on.
pub async fn lock_waiting(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contact_ids: &[ContactId],
    address: Option<(Channel, &[u8])>,
) -> StoreResult<Vec<Locked>> {
    query_as!(
        LockedRow,
        r#"
        SELECT m.tenant_id, m.id, m.phase, m.drop_reason, m.lane_id, m.campaign_id, m.channel, m.attempt_no,
               m.retried_by IS NOT NULL AS "is_replaced!"
        FROM messages m
        WHERE m.tenant_id = $1 AND m.contact_id = ANY($2) AND m.phase = ANY($3)
          AND ($4::text IS NULL OR m.channel = $4 AND m.dest_mac = $5)
        ORDER BY m.tenant_id, m.id
        FOR UPDATE OF m
        "#,
        tenant_id.0,
        &ContactId::column(contact_ids),
        &Phase::WAITING.map(i16::from),
        address.map(|(channel, _)| channel.as_str()),
        address.map(|(_, dest_mac)| dest_mac),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Locked::try_from)
    .collect()
}

/// Locks messages in the backlog of these lanes, at most `limit`; those that somebody else holds are left out.
pub async fn lock_queued(
    tx: &mut SystemTx,
    lanes: &[LaneId],
    limit: i64,
) -> StoreResult<Vec<Locked>> {
    let lane_ids: Vec<i64> = lanes.iter().map(|id| id.0).collect();
    query_as!(
        LockedRow,
        r#"
        WITH waiting AS MATERIALIZED (
            SELECT p.tenant_id, p.id
            FROM unnest($1::bigint[]) AS l (id)
            CROSS JOIN LATERAL (
                SELECT m.tenant_id, m.id
                FROM messages m
                WHERE m.lane_id = l.id AND m.waiting_phase = 0
                ORDER BY m.id
                LIMIT $2
            ) p
            LIMIT $2
        )
        SELECT m.tenant_id, m.id, m.phase, m.drop_reason, m.lane_id, m.campaign_id, m.channel, m.attempt_no,
               m.retried_by IS NOT NULL AS "is_replaced!"
        FROM waiting w
        JOIN messages m ON m.tenant_id = w.tenant_id AND m.id = w.id
        WHERE m.phase = 0
        ORDER BY m.tenant_id, m.id
        FOR UPDATE OF m SKIP LOCKED
        "#,
        &lane_ids,
        limit,
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Locked::try_from)
    .collect()
}

/// A step of one message that its lock allows.
#[derive(Debug, Clone)]
pub struct Step {
    /// The phase it goes to.
    pub phase: Phase,
    /// Why it will not be sent, for those dropped.
    pub drop_reason: Option<DropReason>,
    /// Not before, for those deferred.
    pub ready_at: Option<DateTime<Utc>>,
    /// The provider's word and its rank, where it said one.
    pub status: Option<(&'static str, i16)>,
    /// The provider's error code.
    pub error_code: Option<String>,
}

impl Step {
    /// A step to a phase that needs no reason and no instant.
    pub fn to(phase: Phase) -> Self {
        Self {
            phase,
            drop_reason: None,
            ready_at: None,
            status: None,
            error_code: None,
        }
    }
}

/// Moves locked messages. The caller holds their locks and has looked at where they were.
pub async fn save_steps<K>(tx: &mut Tx<K>, steps: &[(MessageKey, Step)]) -> StoreResult<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let (tenant_ids, ids): (Vec<Uuid>, Vec<Uuid>) = steps
        .iter()
        .map(|(key, _)| (key.tenant_id.0, key.id.0))
        .unzip();
    let phases: Vec<i16> = steps.iter().map(|(_, step)| step.phase.into()).collect();
    let drop_reasons: Vec<Option<&str>> = steps
        .iter()
        .map(|(_, step)| step.drop_reason.map(DropReason::as_str))
        .collect();
    let ready_ats: Vec<Option<DateTime<Utc>>> =
        steps.iter().map(|(_, step)| step.ready_at).collect();
    let statuses: Vec<Option<&str>> = steps
        .iter()
        .map(|(_, step)| step.status.map(|(word, _)| word))
        .collect();
    let ranks: Vec<i16> = steps
        .iter()
        .map(|(_, step)| step.status.map_or(0, |(_, rank)| rank))
        .collect();
    let error_codes: Vec<Option<&str>> = steps
        .iter()
        .map(|(_, step)| step.error_code.as_deref())
        .collect();
    query!(
        r#"
        UPDATE messages m
        SET phase = u.phase, phase_at = (SELECT app_now()), drop_reason = u.drop_reason,
            ready_at = COALESCE(u.ready_at, m.ready_at),
            -- A callback may have been faster than the answer.
            status = CASE WHEN u.rank > m.status_rank THEN u.status ELSE m.status END,
            status_at = CASE WHEN u.rank > m.status_rank THEN (SELECT app_now()) ELSE m.status_at END,
            status_rank = greatest(u.rank, m.status_rank),
            -- What was seen instead of an answer no longer counts once the provider has it.
            error_code = CASE WHEN u.phase = 4 THEN u.error_code ELSE COALESCE(u.error_code, m.error_code) END
        FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::text[], $5::timestamptz[], $6::text[], $7::smallint[],
                    $8::text[])
             AS u (tenant_id, id, phase, drop_reason, ready_at, status, rank, error_code)
        WHERE m.tenant_id = u.tenant_id AND m.id = u.id
        "#,
        &tenant_ids,
        &ids,
        &phases,
        &drop_reasons as &[Option<&str>],
        &ready_ats as &[Option<DateTime<Utc>>],
        &statuses as &[Option<&str>],
        &ranks,
        &error_codes as &[Option<&str>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
