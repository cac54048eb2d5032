//! Inserting, in bulk and one by one: by the engine's door, and by the least SQL that could do it.

use std::ops::Range;

use sqlx::{PgConnection, query};

use super::{BenchError, KIND, Pair, QUEUE, clear, job, per_sec};
use crate::jobs::queue::{Announcer, NewJob, Tuning, enqueue};
use crate::jobs::worker::announcements;
use crate::store::{Db, SystemTx};

/// Connections that insert one job per commit.
const CONNECTIONS: usize = 16;
/// Jobs of one bulk insert.
const BULK_BATCH: usize = 1_000;

/// One connection that inserts many at once.
pub(super) async fn bulk_pair(db: &Db, jobs: usize) -> Result<Pair, BenchError> {
    clear(&db.system_pool()).await?;
    let reference = per_sec(jobs, bulk_by_sql(db, jobs)).await?;
    clear(&db.system_pool()).await?;
    let engine = per_sec(jobs, fill(db, jobs)).await?;
    clear(&db.system_pool()).await?;
    Ok((reference, engine))
}

/// Many connections that commit each job by itself.
pub(super) async fn single_pair(db: &Db, jobs: usize) -> Result<Pair, BenchError> {
    let each = (jobs / CONNECTIONS).max(1);
    let reference = per_sec(
        each * CONNECTIONS,
        at_once(db, |db| single_by_sql(db, each)),
    )
    .await?;
    clear(&db.system_pool()).await?;
    let tuning = Tuning::default();
    let announcer = Announcer::start(db.direct_options(), announcements(db), &tuning);
    let engine = per_sec(
        each * CONNECTIONS,
        at_once(db, |db| single_by_engine(db, each)),
    )
    .await?;
    drop(announcer);
    clear(&db.system_pool()).await?;
    Ok((reference, engine))
}

/// Enqueues so many jobs that do nothing, a thousand per commit.
///
/// # Errors
/// When the database refuses a statement or a commit.
pub async fn fill(db: &Db, jobs: usize) -> Result<(), BenchError> {
    fill_with(db, jobs, |_| job(None)).await
}

/// The same with other jobs.
pub(super) async fn fill_with(
    db: &Db,
    jobs: usize,
    make: impl Fn(usize) -> NewJob,
) -> Result<(), BenchError> {
    for batch in batches(jobs) {
        let orders: Vec<_> = batch.map(&make).collect();
        // All tenants, since the engine's tables have none.
        let mut tx = db.system().begin().await?;
        enqueue(&mut tx, orders).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// The same in one transaction, whose commit lets all of them loose at once.
pub(super) async fn put(tx: &mut SystemTx, jobs: usize) -> Result<(), BenchError> {
    for batch in batches(jobs) {
        let orders: Vec<_> = batch.map(|_| job(None)).collect();
        enqueue(tx, orders).await?;
    }
    Ok(())
}

fn batches(jobs: usize) -> impl Iterator<Item = Range<usize>> {
    (0..jobs)
        .step_by(BULK_BATCH)
        .map(move |first| first..jobs.min(first + BULK_BATCH))
}

async fn bulk_by_sql(db: &Db, jobs: usize) -> Result<(), BenchError> {
    for batch in batches(jobs) {
        let payloads: Vec<_> = batch.map(|_| job(None).payload).collect();
        let mut tx = db.system().begin().await?;
        insert_by_sql(tx.conn(), &payloads).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn at_once<F, Fut>(db: &Db, work: F) -> Result<(), BenchError>
where
    F: Fn(Db) -> Fut,
    Fut: Future<Output = Result<(), BenchError>> + Send + 'static,
{
    let running: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::spawn(work(db.clone())))
        .collect();
    for one in running {
        one.await.map_err(|_| BenchError::Hangs("a connection"))??;
    }
    Ok(())
}

async fn single_by_engine(db: Db, jobs: usize) -> Result<(), BenchError> {
    for _ in 0..jobs {
        let mut tx = db.system().begin().await?;
        enqueue(&mut tx, job(None)).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn single_by_sql(db: Db, jobs: usize) -> Result<(), BenchError> {
    for _ in 0..jobs {
        let mut tx = db.system().begin().await?;
        insert_by_sql(tx.conn(), &[job(None).payload]).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn insert_by_sql(
    conn: &mut PgConnection,
    payloads: &[serde_json::Value],
) -> Result<(), sqlx::Error> {
    query!(
        r#"
        INSERT INTO jobs (queue, kind, payload, run_at, created_at)
        SELECT $1, $2, u.payload, clock.at, clock.at
        FROM (SELECT app_now() AS at OFFSET 0) AS clock, unnest($3::jsonb[]) AS u (payload)
        "#,
        QUEUE,
        KIND,
        payloads,
    )
    .execute(conn)
    .await?;
    Ok(())
}
