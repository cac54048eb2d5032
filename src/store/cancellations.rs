//! What the cancellation of a campaign leaves to do: people who were not expanded, and messages that wait.

use sqlx::types::Json;
use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::campaigns::delete_audience;
use super::{StoreResult, SystemTx};
use crate::domain::campaign::CampaignStatus;
use crate::domain::counts::Counts;
use crate::domain::ids::{CampaignId, MessageId, TenantId};
use crate::domain::message::{DropReason, Phase};

/// Stops a campaign's expansion where it is, after the chunk that is under way.
///
/// Returns how many people it had not come to; none of them, when it was done or is stopped already.
pub async fn stop_expansion(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<i64> {
    let unexpanded = query_scalar!(
        r#"
        UPDATE campaign_expansion
        SET is_done = true, updated_at = app_now()
        WHERE tenant_id = $1 AND campaign_id = $2 AND step = 0 AND NOT is_done
        RETURNING total - next_pos AS "unexpanded!"
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(unexpanded.unwrap_or(0))
}

/// Waiting messages of one phase that one statement dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Where they were.
    pub from: Phase,
    /// How many.
    pub messages: i64,
    /// The highest id among them.
    pub last: MessageId,
}

/// Drops messages of a cancelled campaign that wait, those behind `after`, at most `limit`.
pub async fn drop_waiting(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
    after: MessageId,
    limit: i64,
) -> StoreResult<Vec<Dropped>> {
    let rows = query!(
        r#"
        WITH locked AS (
            SELECT m.tenant_id, m.id, m.phase
            FROM messages m
            WHERE m.tenant_id = $1 AND m.campaign_id = $2 AND m.phase = ANY($4)
              AND m.id > GREATEST($3, campaign_ids_from($1, $2)) AND m.id < campaign_ids_to($1, $2)
            -- One order for every writer of many rows, so that two of them never deadlock.
            ORDER BY m.tenant_id, m.id
            LIMIT $5
            FOR UPDATE OF m
        ), moved AS (
            UPDATE messages m
            SET phase = $6, phase_at = app_now(), drop_reason = $7
            FROM locked k
            WHERE m.tenant_id = k.tenant_id AND m.id = k.id
            RETURNING m.id, k.phase
        )
        SELECT phase AS "phase!", count(*) AS "messages!", (array_agg(id ORDER BY id DESC))[1] AS "last!: Uuid"
        FROM moved
        GROUP BY phase
        "#,
        tenant_id.0,
        campaign_id.0,
        after.0,
        &Phase::WAITING.map(i16::from),
        limit,
        i16::from(Phase::Dropped),
        DropReason::Cancelled.as_str(),
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Dropped {
                from: row.phase.try_into()?,
                messages: row.messages,
                last: MessageId(row.last),
            })
        })
        .collect()
}

/// Freezes the counts that a cancelled campaign came to, and forgets its frozen audience.
pub async fn seal_cancelled(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    id: CampaignId,
    counts: &Counts,
) -> StoreResult<()> {
    query!(
        r#"
        UPDATE campaigns
        SET final_counts = $3, updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2 AND status = $4 AND final_counts IS NULL
        "#,
        tenant_id.0,
        id.0,
        Json(counts) as _,
        CampaignStatus::Cancelled.as_str(),
    )
    .execute(tx.conn())
    .await?;
    delete_audience(tx, tenant_id, id).await
}
