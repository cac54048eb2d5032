//! Messages under their locks, and the steps they take. Every writer of many rows locks them in one order first.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};
use uuid::Uuid;

use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, ContactId, LaneId, MessageId, MessageKey, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::store::{StoreError, StoreResult, SystemTx, TenantTx, Tx};

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

/// Locks messages in the backlog of these lanes, of each at most the `limit` oldest, or those of them alone that are past their
/// time by `expired_by`; those that somebody else holds are left out.
pub async fn lock_queued(
    tx: &mut SystemTx,
    lanes: &[LaneId],
    expired_by: Option<DateTime<Utc>>,
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
        WHERE m.phase = 0 AND ($3::timestamptz IS NULL OR m.expires_at <= $3)
        ORDER BY m.tenant_id, m.id
        FOR UPDATE OF m SKIP LOCKED
        "#,
        &lane_ids,
        limit,
        expired_by,
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
