//! `apalis-postgres`. A finished job stays, as `Done`.
//!
//! Configured as its own example (`examples/basic.rs` of 1.0.0): no second write that locks what the fetch has taken, a
//! listener, handlers in tasks of their own. Fetched are as many as may run at once, since larger batches are faster by its
//! documentation (`Config::batch_size`) and those beyond would wait in a buffer that holds up acknowledgements.

use std::time::Instant;

use apalis::prelude::{
    BoxDynError, Data, Monitor, ParallelizeExt, TaskBuilder, WorkerBuilder, WorkerBuilderExt,
};
use apalis_postgres::queries::push_tasks;
use apalis_postgres::{Config, PostgresStorage};
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgPool, query_scalar};
use tokio::sync::oneshot;

use super::{CONCURRENCY, Nothing, QUEUE, Ran, Round, WORKERS, batches, per_sec, pool};

pub async fn play(database: &PgConnectOptions, jobs: usize) -> anyhow::Result<Round> {
    let looker = pool(database).await?;
    PostgresStorage::setup(&looker).await?;

    let started = Instant::now();
    for batch in batches(jobs) {
        let tasks = batch.map(|_| {
            let payload = serde_json::to_vec(&Nothing::new())?;
            Ok(TaskBuilder::new(payload).build())
        });
        let tasks = tasks.collect::<Result<Vec<_>, serde_json::Error>>()?;
        let mut tx = looker.begin().await?;
        push_tasks(&mut *tx, QUEUE, tasks).await?;
        tx.commit().await?;
    }
    let enqueued_per_sec = per_sec(jobs, started);

    let ran = Ran::default();
    let (mut monitor, mut pools) = (Monitor::new(), Vec::new());
    for number in 0..WORKERS {
        let pool = pool(database).await?;
        monitor = register(monitor, number, pool.clone(), ran.clone());
        pools.push(pool);
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let started = Instant::now();
    let running = tokio::spawn(monitor.run_with_signal(async move {
        // Whether told or forgotten, it is over.
        let _ = stopped.await;
        Ok(())
    }));
    ran.until_drained(jobs, async || {
        let is_empty = query_scalar(
            "SELECT NOT EXISTS (SELECT FROM apalis.jobs WHERE status IN ('Pending', 'Queued', 'Running', 'Failed'))",
        );
        Ok(is_empty.fetch_one(&looker).await?)
    })
    .await?;
    let drained_per_sec = per_sec(jobs, started);

    drop(stop);
    running.await??;
    for pool in pools.into_iter().chain([looker]) {
        pool.close().await;
    }
    Ok(Round {
        enqueued_per_sec,
        drained_per_sec,
    })
}

/// Not inside an async block: the worker's type is too much for one that is spawned.
fn register(monitor: Monitor, number: usize, pool: PgPool, ran: Ran) -> Monitor {
    monitor.register(move |_| {
        let config = Config::default()
            .queue(QUEUE)
            .batch_size(CONCURRENCY)
            .lock_tasks(false);
        let storage = PostgresStorage::<Nothing>::new(&pool)
            .with_config(config)
            .with_pubsub();
        WorkerBuilder::new(format!("bench-{number}"))
            .backend(storage)
            .data(ran.clone())
            .concurrency(CONCURRENCY)
            .parallelize(tokio::spawn)
            .build(run)
    })
}

async fn run(_: Nothing, ran: Data<Ran>) -> Result<(), BoxDynError> {
    ran.one();
    Ok(())
}
