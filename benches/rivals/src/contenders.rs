//! Who plays, and the rules that are the same for all.

mod apalis;
mod awa;
mod graphile;
mod ours;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

/// Workers of a drain, each with a pool of its own.
const WORKERS: usize = 2;
/// Jobs a worker may hold.
const CONCURRENCY: usize = 256;
/// Jobs of one insert.
const BATCH: usize = 1_000;
/// Connections of a pool.
const CONNECTIONS: u32 = 20;
const QUEUE: &str = "bench";
/// Longer than any drain takes; ends a round that hangs.
const PATIENCE: Duration = Duration::from_mins(10);
/// Between two looks at the table, once every handler has run.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Ours,
    Graphile,
    Apalis,
    Awa,
}

/// What a contender did in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub enqueued_per_sec: f64,
    pub drained_per_sec: f64,
}

impl Contender {
    /// Ours first; the order is that of a round.
    pub const ALL: [Self; 4] = [Self::Ours, Self::Graphile, Self::Apalis, Self::Awa];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "EngageNinja",
            Self::Graphile => "graphile_worker 0.14",
            Self::Apalis => "apalis-postgres 1.0",
            Self::Awa => "awa 0.6",
        }
    }

    /// One round in an empty database.
    pub async fn play(self, database: &PgConnectOptions, jobs: usize) -> anyhow::Result<Round> {
        match self {
            Self::Ours => ours::play(database, jobs).await,
            Self::Graphile => graphile::play(database, jobs).await,
            Self::Apalis => apalis::play(database, jobs).await,
            Self::Awa => awa::play(database, jobs).await,
        }
    }
}

/// What every job carries: two ids, as ours do. Handlers do nothing with it.
#[derive(Debug, Serialize, Deserialize, ::awa::JobArgs)]
struct Nothing {
    tenant_id: Uuid,
    message_id: Uuid,
}

impl Nothing {
    fn new() -> Self {
        Self {
            tenant_id: Uuid::now_v7(),
            message_id: Uuid::now_v7(),
        }
    }
}

/// Counts the handlers that have run.
#[derive(Debug, Clone, Default)]
struct Ran(Arc<AtomicU64>);

impl Ran {
    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until as many handlers have run as there are jobs, and then until the database has no job left that is not
    /// finished: only the last completions are waited for by looking, so that looks cost nobody anything.
    async fn until_drained(
        &self,
        jobs: usize,
        mut is_empty: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let drained = async {
            while self.0.load(Ordering::Relaxed) < jobs as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            while !is_empty().await? {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, drained).await?
    }
}

fn batches(jobs: usize) -> impl Iterator<Item = Range<usize>> {
    (0..jobs)
        .step_by(BATCH)
        .map(move |first| first..jobs.min(first + BATCH))
}

fn per_sec(jobs: usize, since: Instant) -> f64 {
    jobs as f64 / since.elapsed().as_secs_f64()
}

async fn pool(database: &PgConnectOptions) -> anyhow::Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS);
    Ok(options.connect_with(database.clone()).await?)
}
