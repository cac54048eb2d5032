//! Whether a campaign that is paused with a long backlog, or one whose recipients sleep, slows another lane of its tenant:
//! beside a tenant of the same weight that has no such campaigns.

use std::time::Duration;

use super::Scale;
use super::fairness::{WARM_UP, rates_of_a_run};
use super::fill::{add_sender, backlog, backlog_behind, waiting_campaign};
use super::processes::{start_senders, stop_all};
use super::stage::Stage;
use crate::delivery::campaigns::pause_campaign;
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure};

/// More than two tenants send in a run.
const WAITING: u32 = 100_000;
/// Until when recipients sleep; no run takes as long.
const NIGHT: Duration = Duration::from_hours(10);

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let db = &stage.installation.db;
    let burdened = ensure_demo_tenant(db, "burdened", "burdened").await?;
    let free = ensure_demo_tenant(db, "free", "free").await?;
    let id = waiting_campaign(stage, burdened, scale.contacts).await?;
    let mut tx = db.cell(burdened).begin().await?;
    pause_campaign(&mut tx, burdened, id, db.clock()).await?;
    tx.commit().await?;

    let sleeping = Some(add_sender(db, burdened, 0).await?);
    let morning = Some(db.clock().now() + NIGHT);
    backlog_behind(
        stage,
        burdened,
        sleeping,
        morning,
        scale.contacts,
        "Morning",
    )
    .await?;

    for tenant_id in [burdened, free] {
        backlog(stage, tenant_id, WAITING, "Points").await?;
    }
    stage.tidy().await?;
    let workers = start_senders(&stage.setting, scale.workers).await?;
    tokio::time::sleep(WARM_UP).await;
    let sent = rates_of_a_run(db, &[burdened, free]).await?;
    stop_all(workers).await?;
    Ok(vec![Figure::new(
        format!(
            "sends of a tenant with {0} paused and {0} that wait for the morning, beside one without",
            scale.contacts
        ),
        vec![sent[0] / sent[1]],
        Some(Bar::AtLeast(0.95)),
    )])
}
