//! What a reader that keeps an old picture of the table costs the queue, and how soon that is over.
//!
//! What is finished stays in table and index for as long as the reader might look at it, so a queue that begins its search
//! at the low end slows down in step with what it has done. The engines live all the way, as in an installation.

use std::time::{Duration, Instant};

use sqlx::query;
use tokio::time::interval;

use super::enqueue::put;
use super::{BenchError, Crew, WORKERS, per_sec};
use crate::dev::figures::{Bar, Figure, quantile};
use crate::store::{Db, SystemTx};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Jobs of a burst, which says how fast the queue is.
    pub jobs: usize,
    /// Bursts at the start, and at the end.
    pub bursts: usize,
    /// How long the steady load lasts between them.
    pub lasts: Duration,
}

/// The steady load: 2,000 jobs a second.
const PUT_EVERY: Duration = Duration::from_millis(50);
const PUT_JOBS: usize = 100;
/// After so long it is no use to wait for the old speed.
const RECOVERY_MAX: Duration = Duration::from_mins(5);
/// Between two bursts that look for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Within so long the old speed has to be back.
const RECOVERY_SECS: f64 = 60.0;

/// Measures. What is inserted is gone afterwards.
pub async fn run(db: &Db, plan: &Plan) -> Result<Vec<Figure>, BenchError> {
    let crew = Crew::start(db, WORKERS, false, || async {});
    // The first one opens the connections.
    burst(db, &crew, plan.jobs).await?;

    let reader = take_snapshot(db).await?;
    let at_start = bursts(db, &crew, plan).await?;
    let steady = steady_load(db, &crew, plan.lasts).await?;
    let at_end = bursts(db, &crew, plan).await?;
    reader.commit().await?;
    let recovery_secs = recover(db, &crew, plan, slowest(&at_start)).await?;
    crew.stop().await?;

    let kept = quantile(&at_end, 0.5) / quantile(&at_start, 0.5);
    let secs = plan.lasts.as_secs();
    Ok(vec![
        Figure::new("drained as a snapshot begins, jobs/s", at_start, None),
        Figure::new("steady load meanwhile, jobs/s", vec![steady], None),
        Figure::new(format!("drained {secs} s later, jobs/s"), at_end, None),
        Figure::new(
            "the end beside the start",
            vec![kept],
            Some(Bar::AtLeast(0.8)),
        ),
        Figure::new(
            "after the snapshot, until as fast as at its start, s",
            vec![recovery_secs],
            Some(Bar::AtMost(RECOVERY_SECS)),
        ),
    ])
}

/// A transaction whose picture of the database stays as it is until it ends, however long nothing is asked of it.
async fn take_snapshot(db: &Db) -> Result<SystemTx, BenchError> {
    let mut reader = db.system().begin().await?;
    query!(
        r#"
        SELECT set_config('idle_in_transaction_session_timeout', '0', true),
               -- What is exported is kept to the end of the transaction, at whatever level it reads.
               pg_export_snapshot()
        "#
    )
    .fetch_one(reader.conn())
    .await?;
    Ok(reader)
}

async fn bursts(db: &Db, crew: &Crew, plan: &Plan) -> Result<Vec<f64>, BenchError> {
    let mut rates = Vec::with_capacity(plan.bursts);
    for _ in 0..plan.bursts {
        rates.push(burst(db, crew, plan.jobs).await?);
    }
    Ok(rates)
}

/// Jobs per second, from the commit that lets all of them loose to the last completion.
async fn burst(db: &Db, crew: &Crew, jobs: usize) -> Result<f64, BenchError> {
    let all = crew.done() + jobs as u64;
    let mut tx = db.system().begin().await?;
    put(&mut tx, jobs).await?;
    per_sec(jobs, async {
        tx.commit().await?;
        crew.until_done(all).await
    })
    .await
}

/// Jobs per second that were enqueued and done, which is what was asked for unless the queue fell behind.
async fn steady_load(db: &Db, crew: &Crew, lasts: Duration) -> Result<f64, BenchError> {
    let started = Instant::now();
    let (before, mut enqueued) = (crew.done(), 0);
    // A tick that is late is made up for.
    let mut ticks = interval(PUT_EVERY);
    while started.elapsed() < lasts {
        ticks.tick().await;
        let mut tx = db.system().begin().await?;
        put(&mut tx, PUT_JOBS).await?;
        tx.commit().await?;
        enqueued += PUT_JOBS as u64;
    }
    let rate = (crew.done() - before) as f64 / started.elapsed().as_secs_f64();
    crew.until_done(before + enqueued).await?;
    Ok(rate)
}

/// Seconds until a burst is as fast as the slowest of the start.
async fn recover(db: &Db, crew: &Crew, plan: &Plan, rate: f64) -> Result<f64, BenchError> {
    let ended = Instant::now();
    while burst(db, crew, plan.jobs).await? < rate && ended.elapsed() < RECOVERY_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(ended.elapsed().as_secs_f64())
}

fn slowest(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(f64::INFINITY, f64::min)
}
