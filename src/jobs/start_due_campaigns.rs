//! Starts the campaigns whose time has come.
//!
//! Running twice is harmless: whoever holds a campaign's row starts it, and it is not scheduled any more for the next. A
//! start that is refused fails the campaign, with the reason for whoever scheduled it.

use serde_json::json;

use super::{Job, JobContext, Outcome, Run};
use crate::delivery::campaigns::{StartError, start_campaign};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::ids::{CampaignId, TenantId};
use crate::domain::orders::StartDueCampaigns;
use crate::store::audit::{Origin, insert_entry};
use crate::store::{Db, StoreResult, campaigns};

/// Campaigns of one run: what is left comes with the next tick.
const CAMPAIGNS_MAX: i64 = 200;

/// Nobody asked: it is the product that starts them.
const ORIGIN: Origin = Origin {
    author: Author::System,
    request_id: None,
    ip: None,
};

impl Job for StartDueCampaigns {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match start_due(&context.db).await {
            Ok(()) => Outcome::Done,
            Err(error) => error.into(),
        }
    }
}

/// One that cannot be started now keeps no other back; the first reason is told when all were looked at.
async fn start_due(db: &Db) -> StoreResult<()> {
    // System: the time has come for campaigns of any tenant.
    let mut tx = db.system().begin().await?;
    let due = campaigns::list_due(&mut tx, CAMPAIGNS_MAX).await?;
    drop(tx);
    let mut done = Ok(());
    for (tenant_id, id) in due {
        done = done.and(start_or_fail(db, tenant_id, id).await);
    }
    done
}

async fn start_or_fail(db: &Db, tenant_id: TenantId, id: CampaignId) -> StoreResult<()> {
    match start(db, tenant_id, id).await {
        Ok(()) => Ok(()),
        Err(StartError::Store(error)) if error.is_transient() => {
            tracing::warn!(campaign.id = %id, %error, "scheduled campaign not started yet");
            Err(error)
        }
        Err(refusal) => {
            tracing::warn!(campaign.id = %id, %refusal, "scheduled campaign not started");
            fail(db, tenant_id, id, refusal.to_string()).await
        }
    }
}

async fn start(db: &Db, tenant_id: TenantId, id: CampaignId) -> Result<(), StartError> {
    let mut tx = db.cell(tenant_id).begin().await?;
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    if !campaign.is_due(db.clock().now()) {
        return Ok(());
    }
    let started = start_campaign(&mut tx, tenant_id, id, db.clock()).await?;
    let after = json!({ "status": started.status, "send_at": started.send_at });
    let entry = AuditEntry::new("send_campaign", "campaign", &id).after(after);
    insert_entry(&mut tx, tenant_id, &ORIGIN, &entry).await?;
    tx.commit().await?;
    tracing::info!(campaign.id = %id, "scheduled campaign started");
    Ok(())
}

async fn fail(db: &Db, tenant_id: TenantId, id: CampaignId, reason: String) -> StoreResult<()> {
    let mut tx = db.cell(tenant_id).begin().await?;
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let now = db.clock().now();
    if !campaign.is_due(now) {
        return Ok(());
    }
    let failed = campaign.fail(reason, now);
    campaigns::save_campaign(&mut tx, &failed).await?;
    let after = json!({ "status": failed.status, "failure_reason": failed.failure_reason });
    let entry = AuditEntry::new("send_campaign", "campaign", &id).after(after);
    insert_entry(&mut tx, tenant_id, &ORIGIN, &entry).await?;
    tx.commit().await
}
