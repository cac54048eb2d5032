//! Ours, as the product starts it. A finished job is a row that is gone.

use std::time::Instant;

use engageninja::clock::Clock;
use engageninja::dev::bench_queue::{Crew, fill};
use engageninja::store::migrate::migrate;
use engageninja::store::{Db, DbOptions};
use sqlx::postgres::PgConnectOptions;
use sqlx::query_scalar;

use super::{Ran, Round, WORKERS, per_sec, pool};

pub async fn play(database: &PgConnectOptions, jobs: usize) -> anyhow::Result<Round> {
    migrate(database, database).await?;
    let db = Db::new(&DbOptions::single(database), Clock::default());
    let looker = pool(database).await?;

    let started = Instant::now();
    fill(&db, jobs).await?;
    let enqueued_per_sec = per_sec(jobs, started);

    let ran = Ran::default();
    let counter = ran.clone();
    let started = Instant::now();
    let crew = Crew::start(&db, WORKERS, false, move || {
        counter.one();
        async {}
    });
    ran.until_drained(jobs, async || {
        let is_empty = query_scalar("SELECT NOT EXISTS (SELECT FROM cell.jobs)");
        Ok(is_empty.fetch_one(&looker).await?)
    })
    .await?;
    let drained_per_sec = per_sec(jobs, started);

    crew.stop().await?;
    looker.close().await;
    db.close().await;
    Ok(Round {
        enqueued_per_sec,
        drained_per_sec,
    })
}
