//! `graphile_worker`, the Rust one. A finished job is a row that is gone.
//!
//! Configured as its own throughput bench (`benches/perf_test.rs` of 0.14.1) and its guide's throughput-oriented worker
//! (`docs/src/configuration/worker-options.md`): a local queue that fetches 5,000 at once, completions written together
//! after 5 ms, a poll every 5 ms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, Worker,
    WorkerContext, WorkerOptions, WorkerUtils,
};
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgPool, query_scalar};

use super::{CONCURRENCY, Nothing, Ran, Round, WORKERS, batches, per_sec, pool};

const SCHEMA: &str = "graphile_worker";
const FETCHED: usize = 5_000;
const LINGER: Duration = Duration::from_millis(5);

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = "nothing";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(ran) = context.get_ext::<Ran>() {
            ran.one();
        }
        Ok::<(), String>(())
    }
}

pub async fn play(database: &PgConnectOptions, jobs: usize) -> anyhow::Result<Round> {
    let looker = pool(database).await?;
    let utils = WorkerUtils::new(looker.clone(), SCHEMA);
    utils.migrate().await?;

    let started = Instant::now();
    for batch in batches(jobs) {
        let specs = batch.map(|_| spec()).collect::<Result<Vec<_>, _>>()?;
        utils.add_raw_jobs(&specs).await?;
    }
    let enqueued_per_sec = per_sec(jobs, started);

    let ran = Ran::default();
    let (mut workers, mut pools) = (Vec::new(), Vec::new());
    for _ in 0..WORKERS {
        let pool = pool(database).await?;
        workers.push(Arc::new(worker(pool.clone(), ran.clone()).await?));
        pools.push(pool);
    }
    let started = Instant::now();
    let mut running = Vec::new();
    for worker in &workers {
        let worker = Arc::clone(worker);
        running.push(tokio::spawn(async move { worker.run().await }));
    }
    ran.until_drained(jobs, async || {
        let is_empty =
            query_scalar("SELECT NOT EXISTS (SELECT FROM graphile_worker._private_jobs)");
        Ok(is_empty.fetch_one(&looker).await?)
    })
    .await?;
    let drained_per_sec = per_sec(jobs, started);

    for worker in &workers {
        worker.request_shutdown();
    }
    for running in running {
        running.await??;
    }
    for pool in pools.into_iter().chain([looker]) {
        pool.close().await;
    }
    Ok(Round {
        enqueued_per_sec,
        drained_per_sec,
    })
}

fn spec() -> Result<RawJobSpec, serde_json::Error> {
    Ok(RawJobSpec {
        identifier: Nothing::IDENTIFIER.to_owned(),
        payload: serde_json::to_value(Nothing::new())?,
        spec: JobSpec::default(),
    })
}

async fn worker(pool: PgPool, ran: Ran) -> anyhow::Result<Worker> {
    let worker = WorkerOptions::default()
        .pg_pool(pool)
        .schema(SCHEMA)
        .concurrency(CONCURRENCY)
        .poll_interval(LINGER)
        .complete_job_batch_delay(LINGER)
        .local_queue(LocalQueueConfig::default().with_size(FETCHED))
        .add_extension(ran)
        .define_job::<Nothing>()
        .init()
        .await?;
    Ok(worker)
}
