//! Folds what transactions counted into the totals, and completes campaigns that have nothing left to do.
//!
//! Running twice is harmless: a delta is deleted by the statement that adds it, and a campaign completes once.

use super::{Job, JobContext, Outcome, Run};
use crate::domain::campaign::CampaignStatus;
use crate::domain::ids::{CampaignId, TenantId};
use crate::domain::orders::FoldCampaignDeltas;
use crate::store::campaign_counts::{fold_deltas, list_snapshots};
use crate::store::message_hours::fold_single_deltas;
use crate::store::{Db, StoreResult, campaigns};

/// Campaigns of one transaction.
const CAMPAIGNS_MAX: i64 = 200;
/// Deltas of single messages in one transaction.
const DELTAS_MAX: i64 = 5_000;

impl Job for FoldCampaignDeltas {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match fold_and_complete(&context.db).await {
            Ok(()) => Outcome::Done,
            Err(error) => error.into(),
        }
    }
}

async fn fold_and_complete(db: &Db) -> StoreResult<()> {
    loop {
        let mut tx = db.system().begin().await?;
        let folded = fold_deltas(&mut tx, CAMPAIGNS_MAX).await?;
        tx.commit().await?;
        if folded.len() < CAMPAIGNS_MAX as usize {
            break;
        }
    }
    loop {
        let mut tx = db.system().begin().await?;
        let folded = fold_single_deltas(&mut tx, DELTAS_MAX).await?;
        tx.commit().await?;
        if folded < DELTAS_MAX {
            break;
        }
    }
    let mut tx = db.system().begin().await?;
    let settled = campaigns::list_settled(&mut tx, CAMPAIGNS_MAX).await?;
    drop(tx);
    for (tenant_id, id) in settled {
        complete(db, tenant_id, id).await?;
    }
    Ok(())
}

/// Looks again with the campaign's row held: whoever adds messages to a campaign holds it too.
async fn complete(db: &Db, tenant_id: TenantId, id: CampaignId) -> StoreResult<()> {
    let mut tx = db.system().begin().await?;
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let snapshots = list_snapshots(tx.conn(), &[(tenant_id, id)]).await?;
    let Some(snapshot) = snapshots.first() else {
        return Ok(());
    };
    if campaign.status == CampaignStatus::Sending && snapshot.counts.is_settled() {
        campaigns::mark_completed(&mut tx, tenant_id, id, &snapshot.counts).await?;
        tx.commit().await?;
        tracing::info!(campaign.id = %id, "campaign completed");
    }
    Ok(())
}
