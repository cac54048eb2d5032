//! What the queue costs, against plain SQL on the same machine in the same run.
//!
//! Absolute figures differ by a third from one day to the next, so a bar is the median ratio of interleaved
//! pairs: plain SQL, then the engine, then plain SQL again. The statements here are the least a durable queue
//! could do: claim by `SKIP LOCKED`, delete by id, insert by `unnest`.

mod crew;
mod drain;
mod enqueue;
mod pick_up;
pub mod snapshot;

use std::time::{Duration, Instant};

use sqlx::{PgPool, query};
use uuid::Uuid;

pub use self::crew::Crew;
pub use self::enqueue::fill;
use super::figures::{Bar, Figure};
use crate::jobs::queue::NewJob;
use crate::store::{Db, StoreError};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Jobs drained, or inserted in bulk, in one measurement. The other counts follow it.
    pub jobs: usize,
    /// Pairs of a reference and the engine.
    pub pairs: usize,
}

impl Plan {
    /// The backlog beside which a short one is measured.
    fn long_backlog(&self) -> usize {
        self.jobs * 10
    }

    /// Rounds with the long backlog, which takes longer than all else together.
    fn long_rounds(&self) -> usize {
        self.pairs.min(3)
    }

    /// Jobs inserted one by one, over all connections.
    fn single_jobs(&self) -> usize {
        self.jobs * 16 / 100
    }

    /// Jobs picked up from an idle queue.
    fn picked_jobs(&self) -> usize {
        (self.jobs / 200).max(1)
    }
}

/// Workers of the drain, as the bar has them.
const WORKERS: usize = 2;
/// Lanes among which turns are dealt.
const LANES: usize = 1_000;
const QUEUE: &str = "bench";
const KIND: &str = "bench-nothing";
/// Longer than any drain takes; ends a measurement that hangs.
const PATIENCE: Duration = Duration::from_mins(10);

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The database refused a statement.
    #[error("database error")]
    Database(#[from] sqlx::Error),
    /// A transaction could not be opened or committed.
    #[error("transaction failed")]
    Store(#[from] StoreError),
    /// A measurement did not end.
    #[error("{0} did not end in time")]
    Hangs(&'static str),
}

/// Measures. The database should be durable and have nothing else to do; what is inserted is gone afterwards.
pub async fn run(db: &Db, plan: &Plan) -> Result<Vec<Figure>, BenchError> {
    let (mut drain, mut long, mut turns) = (Pairs::new(), Pairs::new(), Pairs::new());
    let (mut bulk, mut single) = (Pairs::new(), Pairs::new());
    for _ in 0..plan.pairs {
        let (reference, engine) = drain::pair(db, plan.jobs).await?;
        drain.push((reference, engine));
        turns.push((engine, drain::in_turns(db, plan.jobs).await?));
        bulk.push(enqueue::bulk_pair(db, plan.jobs).await?);
        single.push(enqueue::single_pair(db, plan.single_jobs()).await?);
    }
    let pick_up = pick_up::measure(db, plan.picked_jobs()).await?;
    // Last, since a million rows that are gone keep the server busy long after.
    for _ in 0..plan.long_rounds() {
        let short = drain::by_engine(db, plan.jobs).await?;
        long.push((short, drain::by_engine(db, plan.long_backlog()).await?));
    }
    clear(&db.system_pool()).await?;

    let mut figures = beside_sql("claim, run nothing, complete; 2 workers", &drain, 0.7);
    let ten_times = format!("the same with {} waiting", plan.long_backlog());
    let before = format!("{} right before", plan.jobs);
    figures.extend(measured(&ten_times, &before, &long, 0.9));
    let lanes = format!("the same in {LANES} lanes, claimed in turns");
    figures.extend(measured(&lanes, "the first", &turns, 0.6));
    figures.extend(beside_sql("bulk enqueue, one connection", &bulk, 0.8));
    figures.extend(beside_sql(
        "one enqueue per commit, 16 connections",
        &single,
        0.7,
    ));
    figures.extend(pick_up);
    Ok(figures)
}

/// Jobs per second of a reference, and of what is measured beside it.
type Pair = (f64, f64);
type Pairs = Vec<Pair>;

/// The engine beside plain SQL.
fn beside_sql(what: &str, pairs: &[Pair], bar: f64) -> Vec<Figure> {
    let plain = pairs.iter().map(|(reference, _)| *reference).collect();
    let mut figures = vec![Figure::new(
        format!("{what}: plain SQL, jobs/s"),
        plain,
        None,
    )];
    figures.extend(measured(what, "plain SQL", pairs, bar));
    figures
}

/// The engine beside a reference whose own figures are there already.
fn measured(what: &str, reference: &str, pairs: &[Pair], bar: f64) -> Vec<Figure> {
    vec![
        Figure::new(
            format!("{what}: engine, jobs/s"),
            pairs.iter().map(|(_, engine)| *engine).collect(),
            None,
        ),
        Figure::new(
            format!("{what}: beside {reference}"),
            pairs
                .iter()
                .map(|(reference, engine)| engine / reference)
                .collect(),
            Some(Bar::AtLeast(bar)),
        ),
    ]
}

async fn per_sec(
    jobs: usize,
    work: impl Future<Output = Result<(), BenchError>>,
) -> Result<f64, BenchError> {
    let started = Instant::now();
    tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| BenchError::Hangs("a measurement"))??;
    Ok(jobs as f64 / started.elapsed().as_secs_f64())
}

/// A payload of the usual size: two ids.
fn job(lane: Option<Uuid>) -> NewJob {
    NewJob {
        queue: QUEUE.to_owned(),
        kind: KIND.to_owned(),
        lane,
        priority: 0,
        delay: None,
        max_attempts: 12,
        unique_key: None,
        payload: serde_json::json!({
            "tenant_id": Uuid::now_v7(),
            "message_id": Uuid::now_v7(),
        }),
    }
}

async fn clear(pool: &PgPool) -> Result<(), BenchError> {
    query!("DELETE FROM jobs WHERE queue = $1", QUEUE)
        .execute(pool)
        .await?;
    Ok(())
}
