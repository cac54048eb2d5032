//! awa on its queue storage. A finished job is a line of history; the queue counts them.
//!
//! Configured as its own throughput bench (`tests/benchmark_test.rs` of 0.6.9, queue storage): no deadline per job, which
//! keeps a claim on its short path, a poll every 50 ms, claims of 512; enqueued by COPY, which its documentation names for
//! producers of many.

use std::time::{Duration, Instant};

use ::awa::model::insert::params_with;
use ::awa::model::migrations;
use ::awa::{Client, InsertOpts, JobResult, QueueConfig, QueueStorage, QueueStorageConfig};
use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx08::postgres::{PgConnectOptions as OlderOptions, PgPoolOptions, PgSslMode};

use super::{CONCURRENCY, CONNECTIONS, Nothing, QUEUE, Ran, Round, WORKERS, batches, per_sec};

/// A pool of the sqlx that awa is built on.
type Pool = sqlx08::PgPool;

const POLL_EVERY: Duration = Duration::from_millis(50);
const STOP_MAX: Duration = Duration::from_secs(5);

pub async fn play(database: &PgConnectOptions, jobs: usize) -> anyhow::Result<Round> {
    let looker = pool(database).await?;
    migrations::run(&looker).await?;
    let ran = Ran::default();
    // In a new installation the first worker that starts makes the storage.
    let first = client(&looker, &ran)?;
    first.start().await?;
    first.shutdown(STOP_MAX).await;
    let storage = QueueStorage::new(QueueStorageConfig::default())?;

    let started = Instant::now();
    for batch in batches(jobs) {
        let options = || InsertOpts {
            queue: QUEUE.to_owned(),
            ..Default::default()
        };
        let params = batch.map(|_| params_with(&Nothing::new(), options()));
        let params = params.collect::<Result<Vec<_>, _>>()?;
        storage.enqueue_params_copy(&looker, &params).await?;
    }
    let enqueued_per_sec = per_sec(jobs, started);

    let (mut clients, mut pools) = (Vec::new(), Vec::new());
    for _ in 0..WORKERS {
        let pool = pool(database).await?;
        clients.push(client(&pool, &ran)?);
        pools.push(pool);
    }
    let started = Instant::now();
    for client in &clients {
        client.start().await?;
    }
    ran.until_drained(jobs, async || {
        let counts = storage.queue_counts(&looker, QUEUE).await?;
        Ok(counts.terminal >= jobs as i64)
    })
    .await?;
    let drained_per_sec = per_sec(jobs, started);

    for client in clients {
        client.shutdown(STOP_MAX).await;
    }
    for pool in pools.into_iter().chain([looker]) {
        pool.close().await;
    }
    Ok(Round {
        enqueued_per_sec,
        drained_per_sec,
    })
}

fn client(pool: &Pool, ran: &Ran) -> anyhow::Result<Client> {
    let ran = ran.clone();
    let queue = QueueConfig {
        max_workers: CONCURRENCY as u32,
        poll_interval: POLL_EVERY,
        deadline_duration: Duration::ZERO,
        ..QueueConfig::default()
    };
    let client = Client::builder(pool.clone())
        .queue(QUEUE, queue)
        .register::<Nothing, _, _>(move |_, _| {
            ran.one();
            async { Ok(JobResult::Completed) }
        })
        .build()?;
    Ok(client)
}

async fn pool(database: &PgConnectOptions) -> anyhow::Result<Pool> {
    let options = OlderOptions::new_without_pgpass()
        .socket(database.get_socket().context("the server has a socket")?)
        .port(database.get_port())
        .username(database.get_username())
        .database(database.get_database().context("it is a database")?)
        .ssl_mode(PgSslMode::Disable);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    Ok(pool.connect_with(options).await?)
}
