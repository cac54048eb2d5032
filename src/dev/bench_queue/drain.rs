//! Claiming, running nothing and completing: by the engine, in order and in turns, and by the least SQL that could do it.

use sqlx::{ConnectOptions, Connection, Executor, PgPool, query};
use uuid::Uuid;

use super::enqueue::fill_with;
use super::{BenchError, Crew, LANES, Pair, QUEUE, WORKERS, job, per_sec};
use crate::jobs::queue::NewJob;
use crate::store::Db;

/// Jobs the reference claims and deletes at once; more does not make it faster.
const RAW_BATCH: i64 = 500;

/// Plain SQL and the engine.
pub(super) async fn pair(db: &Db, jobs: usize) -> Result<Pair, BenchError> {
    refill(db, jobs, |_| job(None)).await?;
    let reference = per_sec(jobs, drain_by_sql(db)).await?;
    Ok((reference, by_engine(db, jobs).await?))
}

/// The engine, of a queue first in, first out.
pub(super) async fn by_engine(db: &Db, jobs: usize) -> Result<f64, BenchError> {
    refill(db, jobs, |_| job(None)).await?;
    per_sec(jobs, drain_by_engine(db, jobs, false)).await
}

/// The engine, of a queue whose lanes take turns.
pub(super) async fn in_turns(db: &Db, jobs: usize) -> Result<f64, BenchError> {
    let lanes: Vec<Uuid> = (0..LANES).map(|_| Uuid::new_v4()).collect();
    refill(db, jobs, |n| job(Some(lanes[n % LANES]))).await?;
    per_sec(jobs, drain_by_engine(db, jobs, true)).await
}

/// So many jobs, in a table that has nothing left of those before: each drain pays for its own rows alone.
async fn refill(db: &Db, jobs: usize, make: impl Fn(usize) -> NewJob) -> Result<(), BenchError> {
    let mut superuser = db
        .direct_options()
        .disable_statement_logging()
        .connect()
        .await?;
    superuser.execute("SET ROLE NONE").await?;
    superuser.execute("VACUUM jobs").await?;
    superuser.close().await?;
    fill_with(db, jobs, make).await
}

async fn drain_by_engine(db: &Db, jobs: usize, claims_in_turns: bool) -> Result<(), BenchError> {
    let crew = Crew::start(db, WORKERS, claims_in_turns, || async {});
    crew.until_done(jobs as u64).await?;
    crew.stop().await
}

async fn drain_by_sql(db: &Db) -> Result<(), BenchError> {
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(drain_one_by_sql(db.claim_pool(), db.system_pool())))
        .collect();
    for worker in workers {
        worker.await.map_err(|_| BenchError::Hangs("a worker"))??;
    }
    Ok(())
}

async fn drain_one_by_sql(claim: PgPool, complete: PgPool) -> Result<(), sqlx::Error> {
    let mut claim = claim.acquire().await?;
    let mut complete = complete.acquire().await?;
    let mut low = 0;
    loop {
        let ids: Vec<i64> = query!(
            r#"
            WITH picked AS MATERIALIZED (
                SELECT id FROM jobs
                WHERE queue = $1 AND priority = 0 AND state = 0 AND id >= $2
                ORDER BY id
                LIMIT $3
                FOR UPDATE SKIP LOCKED
            )
            UPDATE jobs j
            SET state = 1, attempt = j.attempt + 1, lease = 1, lease_until = app_now() + interval '30 s'
            WHERE j.id = ANY (ARRAY(SELECT id FROM picked))
            RETURNING j.id, j.kind, j.attempt, j.payload
            "#,
            QUEUE,
            low,
            RAW_BATCH,
        )
        .fetch_all(&mut *claim)
        .await?
        .into_iter()
        .map(|row| row.id)
        .collect();
        let Some(highest) = ids.iter().max() else {
            return Ok(());
        };
        low = highest + 1;
        query!("DELETE FROM jobs WHERE id = ANY($1)", &ids)
            .execute(&mut *complete)
            .await?;
    }
}
