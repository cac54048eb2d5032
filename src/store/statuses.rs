//! What providers say of messages, merged into their rows. The rule is `domain::status`; these statements read and
//! write what it decides.

use sqlx::query;
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx};
use crate::domain::channel::Channel;
use crate::domain::ids::{AttemptId, CampaignId, MessageId, MessageKey, TenantId};
use crate::domain::message::Phase;
use crate::domain::status::Status;

/// A message's status when its row was locked.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Which message.
    pub key: MessageKey,
    /// Its channel, which says whose words it speaks.
    pub channel: Channel,
    /// Its campaign.
    pub campaign_id: Option<CampaignId>,
    /// Where it is with us.
    pub phase: Phase,
    /// Its newest attempt; 0 when there was none.
    pub attempt_no: i16,
    /// Our tokens of all its attempts.
    pub attempts: Vec<AttemptId>,
    /// What was heard of it so far.
    pub status: Option<Status>,
    /// Whether two ends of different kind were heard.
    pub has_conflict: bool,
    /// How often it was sent anew before.
    pub step: i16,
    /// Whether a new message has taken its place: what is heard of it counts no more.
    pub is_replaced: bool,
}

/// Locks messages in the order of all writers, and reads what was heard of them.
pub async fn lock_heard(tx: &mut SystemTx, keys: &[MessageKey]) -> StoreResult<Vec<Heard>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    let rows = query!(
        r#"
        SELECT m.tenant_id, m.id, m.channel, m.campaign_id, m.phase, m.attempt_no, m.status, m.status_conflict,
               m.step, m.retried_by IS NOT NULL AS "is_replaced!",
               ARRAY(SELECT a.id FROM send_attempts a WHERE a.tenant_id = m.tenant_id AND a.message_id = m.id) AS "attempts!"
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        ORDER BY m.tenant_id, m.id
        FOR UPDATE OF m
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let channel: Channel = row.channel.parse()?;
            let status = row
                .status
                .map(|word| Status::parse(channel, &word))
                .transpose()?;
            Ok(Heard {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.id),
                },
                channel,
                campaign_id: row.campaign_id.map(CampaignId),
                phase: row.phase.try_into()?,
                attempt_no: row.attempt_no,
                attempts: row.attempts.into_iter().map(AttemptId).collect(),
                status,
                has_conflict: row.status_conflict,
                step: row.step,
                is_replaced: row.is_replaced,
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// What is believed of a locked message from now on.
#[derive(Debug, Clone)]
pub struct Believed {
    /// Which message.
    pub key: MessageKey,
    /// Its status.
    pub status: Status,
    /// Whether two ends of different kind were heard.
    pub has_conflict: bool,
    /// The provider's error code for a new status, where it gave one.
    pub error_code: Option<String>,
}

/// Stores what is believed of locked messages.
pub async fn save_believed(tx: &mut SystemTx, believed: &[Believed]) -> StoreResult<()> {
    if believed.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = believed.iter().map(|b| b.key).collect();
    let (tenant_ids, ids): (Vec<Uuid>, Vec<Uuid>) = MessageKey::columns(&keys);
    let words: Vec<&str> = believed.iter().map(|b| b.status.as_str()).collect();
    let ranks: Vec<i16> = believed.iter().map(|b| b.status.rank()).collect();
    let conflicts: Vec<bool> = believed.iter().map(|b| b.has_conflict).collect();
    let error_codes: Vec<Option<&str>> = believed.iter().map(|b| b.error_code.as_deref()).collect();
    query!(
        r#"
        UPDATE messages m
        SET status = u.status, status_rank = u.rank, status_at = (SELECT app_now()), status_conflict = u.has_conflict,
            -- The code belongs to the status: what an overtaken one said must not depend on who came first.
            -- The status may stand already, by the report that proved the attempt.
            error_code = CASE WHEN u.status IS DISTINCT FROM m.status OR u.error_code IS NOT NULL
                              THEN u.error_code ELSE m.error_code END
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::boolean[], $6::text[])
             AS u (tenant_id, id, status, rank, has_conflict, error_code)
        WHERE m.tenant_id = u.tenant_id AND m.id = u.id
        "#,
        &tenant_ids,
        &ids,
        &words as &[&str],
        &ranks,
        &conflicts,
        &error_codes as &[Option<&str>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
