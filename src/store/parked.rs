//! Messages of which nobody knows whether they were sent, with what is known of them.

use chrono::{DateTime, Utc};
use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx, TenantTx};
use crate::domain::attempt::AttemptState;
use crate::domain::channel::Channel;
use crate::domain::doubt::Decision;
use crate::domain::ids::{CampaignId, MessageId, MessageKey, TenantId};

/// A parked message and its newest attempt.
#[derive(Debug, Clone)]
pub struct ParkedRow {
    /// Which message.
    pub key: MessageKey,
    /// Its campaign.
    pub campaign_id: Option<CampaignId>,
    /// How it reaches the person.
    pub channel: Channel,
    /// Since when it is parked.
    pub parked_at: DateTime<Utc>,
    /// It is not sent again after this.
    pub expires_at: DateTime<Utc>,
    /// Its newest attempt.
    pub attempt_no: i16,
    /// Parked, or not sent where the tenant wants to be asked.
    pub attempt_state: AttemptState,
    /// Who was to be called.
    pub provider: String,
    /// When the call was permitted.
    pub started_at: DateTime<Utc>,
    /// Looks at the provider.
    pub look_ups: i16,
    /// Why nobody knows.
    pub reason: Option<String>,
}

/// Parked messages of all tenants, in the order of their keys.
pub async fn list_parked(
    tx: &mut SystemTx,
    after: Option<MessageKey>,
    limit: i64,
) -> StoreResult<Vec<ParkedRow>> {
    let after = after.map_or((Uuid::nil(), Uuid::nil()), |key| {
        (key.tenant_id.0, key.id.0)
    });
    let rows = query!(
        r#"
        WITH parked AS MATERIALIZED (
            SELECT m.tenant_id, m.id, m.campaign_id, m.channel, m.phase_at, m.expires_at
            FROM messages m
            WHERE m.waiting_phase = 5 AND (m.tenant_id, m.id) > ($1, $2)
            ORDER BY m.tenant_id, m.id
            LIMIT $3
        )
        SELECT p.tenant_id AS "tenant_id!", p.id AS "id!", p.campaign_id, p.channel AS "channel!",
               p.phase_at AS "phase_at!", p.expires_at AS "expires_at!", a.attempt_no, a.state, a.provider, a.started_at,
               a.look_ups, a.error_code
        FROM parked p
        CROSS JOIN LATERAL (
            SELECT s.attempt_no, s.state, s.provider, s.started_at, s.look_ups, s.error_code
            FROM send_attempts s
            WHERE s.tenant_id = p.tenant_id AND s.message_id = p.id
            ORDER BY s.attempt_no DESC
            LIMIT 1
        ) a
        ORDER BY p.tenant_id, p.id
        "#,
        after.0,
        after.1,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(ParkedRow {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.id),
                },
                campaign_id: row.campaign_id.map(CampaignId),
                channel: row.channel.parse()?,
                parked_at: row.phase_at,
                expires_at: row.expires_at,
                attempt_no: row.attempt_no,
                attempt_state: row.state.try_into()?,
                provider: row.provider,
                started_at: row.started_at,
                look_ups: row.look_ups,
                reason: row.error_code,
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// The parked messages of one campaign over which this may be decided, at most `limit`: what is past its time is not sent
/// again. They are not locked.
pub async fn list_parked_of_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
    decision: Decision,
    limit: i64,
) -> StoreResult<Vec<MessageKey>> {
    let rows = query!(
        r#"
        SELECT id
        FROM messages
        WHERE tenant_id = $1 AND campaign_id = $2 AND waiting_phase = 5
          AND (NOT $3::boolean OR expires_at > app_now())
        ORDER BY id
        LIMIT $4
        "#,
        tenant_id.0,
        campaign_id.0,
        decision == Decision::SendAgain,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| MessageKey {
            tenant_id,
            id: MessageId(row.id),
        })
        .collect())
}

/// Parked messages of a campaign, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedCounts {
    /// All of them.
    pub parked: i64,
    /// Those of them that are past their time.
    pub expired: i64,
}

/// How many messages of a campaign are parked.
pub async fn count_parked_of_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<ParkedCounts> {
    let row = query!(
        r#"
        SELECT count(*) AS "parked!", count(*) FILTER (WHERE expires_at <= app_now()) AS "expired!"
        FROM messages
        WHERE tenant_id = $1 AND campaign_id = $2 AND waiting_phase = 5
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(ParkedCounts {
        parked: row.parked,
        expired: row.expired,
    })
}

/// Whether the sender that a message waits behind may still be sent with; it cannot be retired before this transaction ends.
///
/// Asked before the message's row is taken: a retirement takes the sender first, too.
pub async fn hold_sender(tx: &mut TenantTx, key: MessageKey) -> StoreResult<bool> {
    let is_retired = query_scalar!(
        r#"
        SELECT s.status = 'released' AS "is_retired!"
        FROM messages m
        JOIN lanes l ON l.tenant_id = m.tenant_id AND l.id = m.lane_id
        JOIN senders s ON s.tenant_id = l.tenant_id AND s.id = l.sender_id
        WHERE m.tenant_id = $1 AND m.id = $2
        FOR SHARE OF s
        "#,
        key.tenant_id.0,
        key.id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(is_retired != Some(true))
}

/// How many of these messages are past their time.
pub async fn count_expired(tx: &mut TenantTx, keys: &[MessageKey]) -> StoreResult<i64> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    let row = query!(
        r#"
        SELECT count(*) AS "expired!"
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        WHERE m.expires_at <= app_now()
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.expired)
}

/// Writes down that a person decided over attempts of locked messages; `was_sent` makes them accepted.
pub async fn save_decided(
    tx: &mut TenantTx,
    attempts: &[(MessageKey, i16)],
    was_sent: bool,
) -> StoreResult<()> {
    let keys: Vec<MessageKey> = attempts.iter().map(|(key, _)| *key).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let attempt_nos: Vec<i16> = attempts.iter().map(|(_, attempt_no)| *attempt_no).collect();
    query!(
        r#"
        UPDATE send_attempts a
        SET state = CASE WHEN $4 THEN 1 ELSE a.state END, resolved_by = 'person', resolved_at = app_now()
        FROM unnest($1::uuid[], $2::uuid[], $3::smallint[]) AS u (tenant_id, message_id, attempt_no)
        WHERE a.tenant_id = u.tenant_id AND a.message_id = u.message_id AND a.attempt_no = u.attempt_no
          AND a.state IN (5, 6)
        "#,
        &tenant_ids,
        &ids,
        &attempt_nos,
        was_sent,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
