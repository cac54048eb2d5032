//! How long a pause takes to answer while a campaign goes out, and whether anything begins after it.

use std::time::{Duration, Instant};

use super::Scale;
use super::fill::{counted, waiting_campaign};
use super::processes::{start_senders, stop_all};
use super::stage::Stage;
use crate::delivery::campaigns::{count_in_flight, pause_campaign, resume_campaign};
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure, millis, quantile};
use crate::domain::counts::CountWord;
use crate::store::bench;

const PAUSES: u32 = 100;
/// A call that was under way at a pause is over by then, and nothing has begun.
const SETTLE: Duration = Duration::from_millis(100);

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let db = &stage.installation.db;
    let tenant_id = ensure_demo_tenant(db, "bench", "bench").await?;
    let id = waiting_campaign(stage, tenant_id, scale.contacts).await?;
    let workers = start_senders(&stage.setting, scale.workers).await?;

    let (mut times, mut late) = (Vec::new(), 0);
    // A few in a hundred are refused, and the last pause finds some waiting.
    let share = i64::from(scale.contacts / (PAUSES + 5));
    let mut through = 0;
    for _ in 0..PAUSES {
        through += share;
        counted(stage, tenant_id, id, |counts| {
            counts.get(CountWord::HandedOver) >= through
        })
        .await?;
        let started = Instant::now();
        let mut tx = db.cell(tenant_id).begin().await?;
        pause_campaign(&mut tx, tenant_id, id, db.clock()).await?;
        tx.commit().await?;
        count_in_flight(db, tenant_id, id).await?;
        times.push(millis(started.elapsed()));
        let answered_at = db.clock().now();
        tokio::time::sleep(SETTLE).await;
        let mut tx = db.system().begin().await?;
        late += bench::count_begun_after(&mut tx, answered_at).await?;
        drop(tx);
        let mut tx = db.cell(tenant_id).begin().await?;
        resume_campaign(&mut tx, tenant_id, id).await?;
        tx.commit().await?;
    }
    stop_all(workers).await?;
    let of = |q| vec![quantile(&times, q)];
    Ok(vec![
        Figure::new("pause, p50 in ms", of(0.5), None),
        Figure::new("pause, p99 in ms", of(0.99), Some(Bar::AtMost(200.0))),
        Figure::new("pause, longest in ms", of(1.0), Some(Bar::AtMost(5_000.0))),
        Figure::new(
            "begins after the answer",
            vec![late as f64],
            Some(Bar::AtMost(0.0)),
        ),
    ])
}
