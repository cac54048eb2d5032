//! Messages that failed, and the new ones that take their place.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::senders::Sender;
use super::{StoreError, StoreResult, SystemTx, TenantTx};
use crate::domain::channel::{Channel, Class};
use crate::domain::ids::{CampaignId, LaneId, MessageId, MessageKey, SenderId, TenantId};
use crate::domain::message::{DropReason, Phase, retry_id};
use crate::domain::retries::RETRIED_DROPS;
use crate::domain::status::Status;

/// A failed message whose row is locked, with what decides over another try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedMessage {
    /// Which message.
    pub key: MessageKey,
    /// Its campaign.
    pub campaign_id: Option<CampaignId>,
    /// Its channel.
    pub channel: Channel,
    /// Where it is with us.
    pub phase: Phase,
    /// Why it was dropped, when it was.
    pub drop_reason: Option<DropReason>,
    /// The provider's code for what went wrong.
    pub error_code: Option<String>,
    /// How often it was sent anew before.
    pub step: i16,
    /// It is not worth sending after this.
    pub expires_at: DateTime<Utc>,
    /// Which sender it went out from.
    pub sender_id: SenderId,
    /// What kind of traffic it is.
    pub class: Class,
    /// Whether its address is suppressed.
    pub is_suppressed: bool,
    /// Whether there is consent, where it needs some.
    pub has_consent: bool,
    /// Whether address and text are still there.
    pub is_whole: bool,
}

struct Row {
    tenant_id: Uuid,
    id: Uuid,
    campaign_id: Option<Uuid>,
    channel: String,
    phase: i16,
    drop_reason: Option<String>,
    error_code: Option<String>,
    step: i16,
    expires_at: DateTime<Utc>,
    sender_id: Uuid,
    class: String,
    is_suppressed: bool,
    has_consent: bool,
    is_whole: bool,
}

impl TryFrom<Row> for FailedMessage {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        Ok(Self {
            key: MessageKey {
                tenant_id: TenantId(row.tenant_id),
                id: MessageId(row.id),
            },
            campaign_id: row.campaign_id.map(CampaignId),
            channel: row.channel.parse()?,
            phase: row.phase.try_into()?,
            drop_reason: row.drop_reason.map(|word| word.parse()).transpose()?,
            error_code: row.error_code,
            step: row.step,
            expires_at: row.expires_at,
            sender_id: SenderId(row.sender_id),
            class: row.class.parse()?,
            is_suppressed: row.is_suppressed,
            has_consent: row.has_consent,
            is_whole: row.is_whole,
        })
    }
}

/// Failed messages of a campaign whose place nobody has taken, in order, behind `after`, at most `limit`; those that had failed
/// by `asked_at`.
pub async fn list_failed(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    (campaign_id, channel): (CampaignId, Channel),
    (after, asked_at): (MessageId, DateTime<Utc>),
    limit: i64,
) -> StoreResult<Vec<MessageKey>> {
    let ids = query_scalar!(
        r#"
        SELECT m.id
        FROM messages m
        WHERE m.tenant_id = $1 AND m.campaign_id = $2 AND m.retried_by IS NULL
          AND m.id > GREATEST($3, campaign_ids_from($1, $2)) AND m.id < campaign_ids_to($1, $2)
          AND (m.phase = 4 AND m.status = ANY($4) AND m.status_at <= $6
               OR m.phase = 6 AND m.drop_reason = ANY($5) AND m.phase_at <= $6)
        ORDER BY m.id
        LIMIT $7
        "#,
        tenant_id.0,
        campaign_id.0,
        after.0,
        &Status::failed_words(channel) as &[&str],
        &RETRIED_DROPS.map(DropReason::as_str) as &[&str],
        asked_at,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let keys = ids.into_iter().map(|id| MessageKey {
        tenant_id,
        id: MessageId(id),
    });
    Ok(keys.collect())
}

/// Locks those of these messages that have failed and whose place nobody has taken. One whose success was told meanwhile is
/// none of them.
pub async fn lock_failed(
    tx: &mut TenantTx,
    channel: Channel,
    keys: &[MessageKey],
) -> StoreResult<Vec<FailedMessage>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    query_as!(
        Row,
        r#"
        SELECT m.tenant_id, m.id, m.campaign_id, m.channel, m.phase, m.drop_reason, m.error_code, m.step, m.expires_at,
               l.sender_id, l.class,
               EXISTS (
                   SELECT FROM suppressions s
                   WHERE s.tenant_id = m.tenant_id AND s.channel = m.channel AND s.dest_mac = m.dest_mac
               ) AS "is_suppressed!",
               -- Bulk to somebody we know needs it still; a bare address needed it once.
               (l.class = 'txn' OR m.contact_id IS NULL OR EXISTS (
                   SELECT FROM contact_consents k
                   JOIN tenants t ON t.id = k.tenant_id
                   WHERE k.tenant_id = m.tenant_id AND k.contact_id = m.contact_id AND k.channel = m.channel
                     AND (k.state = 'granted' OR k.state = 'attested' AND t.consent_policy = 'attested')
               )) AS "has_consent!",
               (COALESCE(m.phone_number, m.email_address) IS NOT NULL AND EXISTS (
                   SELECT FROM message_bodies b
                   WHERE b.tenant_id = m.tenant_id AND b.message_id = m.id AND b.redacted_at IS NULL
               )) AS "is_whole!"
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        JOIN lanes l ON l.tenant_id = m.tenant_id AND l.id = m.lane_id
        WHERE m.retried_by IS NULL
          AND (m.phase = 4 AND m.status = ANY($3) OR m.phase = 6 AND m.drop_reason = ANY($4))
        ORDER BY m.tenant_id, m.id
        FOR UPDATE OF m
        "#,
        &tenant_ids,
        &ids,
        &Status::failed_words(channel) as &[&str],
        &RETRIED_DROPS.map(DropReason::as_str) as &[&str],
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(FailedMessage::try_from)
    .collect()
}

/// What the new messages have in common.
#[derive(Debug, Clone)]
pub struct RetryHead<'a> {
    /// Where they wait.
    pub lane_id: LaneId,
    /// Where they come from.
    pub sender: &'a Sender,
    /// The instant they are accepted at.
    pub accepted_at: DateTime<Utc>,
    /// When they are no longer worth sending.
    pub expires_at: DateTime<Utc>,
}

/// Makes a new message in the place of each of these, with its text as it was. The caller holds their locks. Answers the new
/// ones.
pub async fn insert_retries(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    head: &RetryHead<'_>,
    of: &[MessageId],
) -> StoreResult<Vec<MessageId>> {
    let retries: Vec<MessageId> = of.iter().copied().map(retry_id).collect();
    let ids = query_scalar!(
        r#"
        WITH asked AS MATERIALIZED (
            SELECT u.id, u.retry_id FROM unnest($2::uuid[], $3::uuid[]) AS u (id, retry_id)
        ), added AS (
            INSERT INTO messages (tenant_id, id, lane_id, campaign_id, contact_id, step, retry_of, channel, provider,
                                  provider_account_sid, content_id, phone_number, email_address, dest_mac, content_mac, cost,
                                  phase, phase_at, ready_at, expires_at)
            SELECT m.tenant_id, a.retry_id, $4, m.campaign_id, m.contact_id, m.step + 1, m.id, m.channel, $5, $6, m.content_id,
                   m.phone_number, m.email_address, m.dest_mac, m.content_mac, m.cost, 0, $7, $7, $8
            FROM asked a
            JOIN messages m ON m.tenant_id = $1 AND m.id = a.id
            ORDER BY a.retry_id
            RETURNING id, retry_of
        ), bodies AS (
            INSERT INTO message_bodies (tenant_id, message_id, subject, body, html, vars)
            SELECT b.tenant_id, d.id, b.subject, b.body, b.html, b.vars
            FROM added d
            JOIN message_bodies b ON b.tenant_id = $1 AND b.message_id = d.retry_of
        ), replaced AS (
            UPDATE messages m
            SET retried_by = d.id
            FROM added d
            WHERE m.tenant_id = $1 AND m.id = d.retry_of
        )
        SELECT d.id FROM added d ORDER BY d.id
        "#,
        tenant_id.0,
        &MessageId::column(of),
        &MessageId::column(&retries),
        head.lane_id.0,
        head.sender.provider.as_str(),
        head.sender.account_ref,
        head.accepted_at,
        head.expires_at,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids.into_iter().map(MessageId).collect())
}

/// Which of these tenants have late retries switched on.
pub async fn list_retrying(tx: &mut SystemTx, tenants: &[TenantId]) -> StoreResult<Vec<TenantId>> {
    let ids = query_scalar!(
        "SELECT id FROM tenants WHERE id = ANY($1) AND late_retries > 0",
        &TenantId::column(tenants),
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids.into_iter().map(TenantId).collect())
}

/// What a late retry has to know before it takes locks: the message's campaign and channel, and whether its tenant retries.
pub async fn find_late(
    tx: &mut TenantTx,
    key: MessageKey,
) -> StoreResult<Option<(Option<CampaignId>, Channel, bool)>> {
    let row = query!(
        r#"
        SELECT m.campaign_id, m.channel, t.late_retries > m.step AS "may_retry!"
        FROM messages m
        JOIN tenants t ON t.id = m.tenant_id
        WHERE m.tenant_id = $1 AND m.id = $2
        "#,
        key.tenant_id.0,
        key.id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        let campaign_id = row.campaign_id.map(CampaignId);
        Ok((campaign_id, row.channel.parse()?, row.may_retry))
    })
    .transpose()
}
