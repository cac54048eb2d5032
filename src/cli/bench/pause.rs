//! How long a pause takes to answer while a campaign goes out, also when a worker stands still inside begin with all that it
//! holds, and whether anything begins after it.

use std::time::{Duration, Instant};

use super::Scale;
use super::fill::{counted, waiting_campaign};
use super::processes::{Child, start_senders, stop_all};
use super::stage::Stage;
use crate::delivery::campaigns::{SwitchError, count_in_flight, pause_campaign, resume_campaign};
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure, millis, quantile};
use crate::domain::counts::CountWord;
use crate::domain::ids::{CampaignId, TenantId};
use crate::store::campaigns::lock_out_begins;
use crate::store::{Db, StoreError, bench};

const PAUSES: u32 = 100;
/// Of so many pauses one meets a worker that stands still inside begin.
const FREEZE_EVERY: u32 = 25;
/// How long it stands still, or until the pause has answered.
const FROZEN: Duration = Duration::from_secs(3);
/// When the first begin waits at the barrier, the other workers' do after this time: all have something to begin.
const ALL_WAIT: Duration = Duration::from_millis(250);
/// A worker that goes on has begun by then whatever it still would.
const THAW: Duration = Duration::from_secs(1);
/// A call that was under way at a pause is over by then, and nothing has begun.
const SETTLE: Duration = Duration::from_millis(100);
/// A pause that waits longer than one lock may take is asked for again, but no longer than this.
const PATIENCE: Duration = Duration::from_mins(1);
/// Before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let db = &stage.installation.db;
    let tenant_id = ensure_demo_tenant(db, "bench", "bench").await?;
    let id = waiting_campaign(stage, tenant_id, scale.contacts).await?;
    let workers = start_senders(&stage.setting, scale.workers).await?;

    let (mut times, mut beside_frozen, mut late) = (Vec::new(), Vec::new(), 0);
    // A few in a hundred are refused, more goes out than was waited for, and the last pause finds some waiting.
    let share = i64::from(scale.contacts / (PAUSES + 20));
    let mut through = 0;
    for round in 1..=PAUSES {
        through += share;
        counted(stage, tenant_id, id, |counts| {
            counts.get(CountWord::HandedOver) >= through
        })
        .await?;
        let frozen = (round % FREEZE_EVERY == 0).then(|| {
            // One after the other: one of them lets messages out.
            &workers[(round / FREEZE_EVERY) as usize % workers.len()]
        });
        if let Some(worker) = frozen {
            freeze_inside_begin(db, tenant_id, id, worker).await?;
        }
        let (took, begun) = pause(db, tenant_id, id, frozen).await?;
        match frozen {
            Some(_) => beside_frozen.push(took),
            None => times.push(took),
        }
        late += begun;
        let mut tx = db.cell(tenant_id).begin().await?;
        resume_campaign(&mut tx, tenant_id, id).await?;
        tx.commit().await?;
    }
    stop_all(workers).await?;
    Ok(figures(&times, &beside_frozen, late))
}

fn figures(times: &[f64], beside_frozen: &[f64], late: i64) -> Vec<Figure> {
    let of = |q| vec![quantile(times, q)];
    vec![
        Figure::new("pause, p50 in ms", of(0.5), None),
        Figure::new("pause, p99 in ms", of(0.99), Some(Bar::AtMost(200.0))),
        Figure::new("pause, longest in ms", of(1.0), Some(Bar::AtMost(5_000.0))),
        Figure::new(
            "pause while a worker stands still inside begin, longest in ms",
            vec![quantile(beside_frozen, 1.0)],
            Some(Bar::AtMost(5_000.0)),
        ),
        Figure::new(
            "begins after the answer",
            vec![late as f64],
            Some(Bar::AtMost(0.0)),
        ),
    ]
}

/// Keeps all begins of a campaign waiting, stops a worker meanwhile, and lets them go: its begin ends without it.
async fn freeze_inside_begin(
    db: &Db,
    tenant_id: TenantId,
    id: CampaignId,
    worker: &Child,
) -> anyhow::Result<()> {
    let mut barrier = db.cell(tenant_id).begin().await?;
    lock_out_begins(&mut barrier, id).await?;
    let started = Instant::now();
    loop {
        let mut tx = db.system().begin().await?;
        if bench::count_waiting_begins(&mut tx).await? > 0 {
            break;
        }
        anyhow::ensure!(started.elapsed() < ALL_WAIT * 10, "nothing is to begin");
        tokio::time::sleep(ASK_AGAIN).await;
    }
    tokio::time::sleep(ALL_WAIT).await;
    worker.freeze()?;
    // Nothing was written.
    barrier.commit().await?;
    Ok(())
}

/// How long a pause took to answer, in milliseconds, and how many calls began after that. `frozen` stands still meanwhile, and
/// has gone on before they are counted.
async fn pause(
    db: &Db,
    tenant_id: TenantId,
    id: CampaignId,
    frozen: Option<&Child>,
) -> anyhow::Result<(f64, i64)> {
    let started = Instant::now();
    ask_until_answered(db, tenant_id, id).await?;
    let took = started.elapsed();
    let answered_at = db.clock().now();
    if let Some(worker) = frozen {
        tokio::time::sleep(FROZEN.saturating_sub(took)).await;
        worker.thaw()?;
        tokio::time::sleep(THAW).await;
    }
    tokio::time::sleep(SETTLE).await;
    let mut tx = db.system().begin().await?;
    let begun = bench::count_begun_after(&mut tx, answered_at).await?;
    Ok((millis(took), begun))
}

/// Asks as people do whom the database was too busy for: once more.
async fn ask_until_answered(
    db: &Db,
    tenant_id: TenantId,
    id: CampaignId,
) -> Result<(), SwitchError> {
    let started = Instant::now();
    loop {
        match ask(db, tenant_id, id).await {
            Err(SwitchError::Store(StoreError::Unavailable(_))) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

async fn ask(db: &Db, tenant_id: TenantId, id: CampaignId) -> Result<(), SwitchError> {
    let mut tx = db.cell(tenant_id).begin().await?;
    pause_campaign(&mut tx, tenant_id, id, db.clock()).await?;
    tx.commit().await?;
    count_in_flight(db, tenant_id, id).await?;
    Ok(())
}
