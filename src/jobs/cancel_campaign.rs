//! Drops what waits of a cancelled campaign: people who were not expanded, and messages without a call.
//!
//! Running twice is harmless: a message's row is locked and dropped from where it is, once, and counted in the same
//! commit. A call that was under way at the cancellation may give its message back; the job stays until none is.

use std::time::Duration;

use uuid::Uuid;

use super::{Job, JobContext, Outcome, Run, WORK_MAX};
use crate::clock::Clock;
use crate::domain::campaign::CampaignStatus;
use crate::domain::counts::{CountDelta, CountWord};
use crate::domain::ids::MessageId;
use crate::domain::orders::CancelCampaign;
use crate::store::campaign_counts::{append_deltas, list_snapshots};
use crate::store::{Db, StoreResult, campaigns, cancellations};

/// Messages of one transaction.
const BATCH_MESSAGES: i64 = 2_000;
/// How long to wait for calls that were under way.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Job for CancelCampaign {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match drop_all(&self, &context.db).await {
            Ok(Left::Nothing) => Outcome::Done,
            Ok(Left::Messages) => Outcome::Snooze(Duration::ZERO),
            Ok(Left::Calls) => Outcome::Snooze(LOOK_AGAIN),
            Err(error) => error.into(),
        }
    }
}

/// What a run left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Messages,
    Calls,
}

async fn drop_all(order: &CancelCampaign, db: &Db) -> StoreResult<Left> {
    let started_at = Clock::boottime();
    if !stop_expansion(order, db).await? {
        return Ok(Left::Nothing);
    }
    let mut after = MessageId(Uuid::nil());
    while let Some(last) = drop_some(order, db, after).await? {
        after = last;
        if Clock::boottime().saturating_sub(started_at) > WORK_MAX {
            return Ok(Left::Messages);
        }
    }
    seal(order, db).await
}

/// No message is added from here on; people who have none are counted as dropped. False when nothing is cancelled.
async fn stop_expansion(order: &CancelCampaign, db: &Db) -> StoreResult<bool> {
    let (tenant_id, campaign_id) = (order.tenant_id, order.campaign_id);
    // On the connections of begin and finish, whose plans do not depend on what is known of a new partition.
    let mut tx = db.batch().begin().await?;
    let campaign = campaigns::load_campaign(tx.conn(), tenant_id, campaign_id).await?;
    if campaign.status != CampaignStatus::Cancelled {
        return Ok(false);
    }
    let people = cancellations::stop_expansion(&mut tx, tenant_id, campaign_id).await?;
    let mut delta = CountDelta::default();
    delta.shift(CountWord::Unexpanded, CountWord::DroppedCancelled, people);
    append_deltas(tx.conn(), &[(tenant_id, campaign_id, delta)]).await?;
    tx.commit().await?;
    Ok(true)
}

/// Drops messages behind `after` and returns the last one; none when nothing waits there.
async fn drop_some(
    order: &CancelCampaign,
    db: &Db,
    after: MessageId,
) -> StoreResult<Option<MessageId>> {
    let (tenant_id, campaign_id) = (order.tenant_id, order.campaign_id);
    let mut tx = db.batch().begin().await?;
    let dropped =
        cancellations::drop_waiting(&mut tx, tenant_id, campaign_id, after, BATCH_MESSAGES).await?;
    let mut delta = CountDelta::default();
    for part in &dropped {
        let from = CountWord::of(part.from, None);
        delta.shift(from, CountWord::DroppedCancelled, part.messages);
    }
    append_deltas(tx.conn(), &[(tenant_id, campaign_id, delta)]).await?;
    tx.commit().await?;
    Ok(dropped.iter().map(|part| part.last).max())
}

/// Keeps the counts that it came to, once nothing waits and no call is open.
async fn seal(order: &CancelCampaign, db: &Db) -> StoreResult<Left> {
    let (tenant_id, campaign_id) = (order.tenant_id, order.campaign_id);
    let mut tx = db.batch().begin().await?;
    let snapshots = list_snapshots(tx.conn(), &[(tenant_id, campaign_id)]).await?;
    let Some(snapshot) = snapshots.first() else {
        return Ok(Left::Nothing);
    };
    if !snapshot.counts.is_settled() {
        return Ok(Left::Calls);
    }
    cancellations::seal_cancelled(&mut tx, tenant_id, campaign_id, &snapshot.counts).await?;
    tx.commit().await?;
    tracing::info!(campaign.id = %campaign_id, "cancelled campaign settled");
    Ok(Left::Nothing)
}
