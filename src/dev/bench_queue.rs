//! What the queue costs, against plain SQL on the same machine in the same run.
//!
//! Absolute figures differ by a third from one day to the next, so a bar is the median ratio of interleaved
//! pairs: plain SQL, then the engine, then plain SQL again. The statements here are the least a durable queue
//! could do: claim by `SKIP LOCKED`, delete by id, insert by `unnest`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool, query, query_scalar};
use tokio::sync::mpsc;

use crate::jobs::queue::{
    Announcer, Backoff, Engine, EngineConfig, Handlers, KindSpec, NewJob, Outcome, QueueSpec,
    Tuning, Workers, enqueue,
};
use crate::jobs::worker::announcements;
use crate::store::{Db, StoreError};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Jobs drained in one measurement.
    pub drained_jobs: usize,
    /// Jobs inserted in bulk in one measurement.
    pub bulk_jobs: usize,
    /// Jobs inserted one by one in one measurement, over all connections.
    pub single_jobs: usize,
    /// Jobs picked up from an idle queue.
    pub picked_jobs: usize,
    /// Pairs of a reference and the engine.
    pub pairs: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            drained_jobs: 100_000,
            bulk_jobs: 100_000,
            single_jobs: 16_000,
            picked_jobs: 500,
            pairs: 5,
        }
    }
}

/// Workers of the drain, as the bar has them.
const WORKERS: usize = 2;
/// Jobs a worker of the drain may hold.
const CONCURRENCY: usize = 256;
/// Jobs the reference claims and deletes at once; more does not make it faster.
const RAW_BATCH: i64 = 500;
/// Connections that insert one job per commit.
const CONNECTIONS: usize = 16;
/// Jobs of one bulk insert.
const BULK_BATCH: usize = 1_000;
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

/// The engine beside its reference.
#[derive(Debug, Clone)]
pub struct Ratio {
    /// What was measured.
    pub name: &'static str,
    /// Jobs per second of plain SQL, the median.
    pub reference_per_sec: f64,
    /// Jobs per second of the engine, the median.
    pub engine_per_sec: f64,
    /// The median of the pairs' ratios.
    pub ratio: f64,
    /// What it has to be at least.
    pub bar: f64,
}

/// From the start of an enqueue to the start of the handler, on an idle queue.
#[derive(Debug, Clone, Copy)]
pub struct PickUp {
    /// Half of the jobs are faster.
    pub p50: Duration,
    /// One in a hundred is slower.
    pub p99: Duration,
}

impl PickUp {
    /// What the median may be.
    pub const P50_BAR: Duration = Duration::from_millis(3);
    /// What one in a hundred may exceed.
    pub const P99_BAR: Duration = Duration::from_millis(20);
}

/// All figures of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The engine against plain SQL.
    pub ratios: Vec<Ratio>,
    /// Picking up from an idle queue.
    pub pick_up: PickUp,
}

impl Report {
    /// Whether every bar is met.
    pub fn meets_bars(&self) -> bool {
        self.ratios.iter().all(|ratio| ratio.ratio >= ratio.bar)
            && self.pick_up.p50 <= PickUp::P50_BAR
            && self.pick_up.p99 <= PickUp::P99_BAR
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<44} {:>10} {:>10} {:>6} {:>6}",
            "measure (jobs/s)", "plain SQL", "engine", "ratio", "bar"
        )?;
        for ratio in &self.ratios {
            writeln!(
                f,
                "{:<44} {:>10.0} {:>10.0} {:>6.2} {:>6.2}{}",
                ratio.name,
                ratio.reference_per_sec,
                ratio.engine_per_sec,
                ratio.ratio,
                ratio.bar,
                if ratio.ratio < ratio.bar {
                    "  MISSED"
                } else {
                    ""
                }
            )?;
        }
        writeln!(
            f,
            "pick-up from an idle queue: p50 {:.1} ms (bar {}), p99 {:.1} ms (bar {})",
            self.pick_up.p50.as_secs_f64() * 1e3,
            PickUp::P50_BAR.as_millis(),
            self.pick_up.p99.as_secs_f64() * 1e3,
            PickUp::P99_BAR.as_millis(),
        )
    }
}

/// Measures. The database should be durable and have nothing else to do; what is inserted is gone afterwards.
pub async fn run(db: &Db, plan: &Plan) -> Result<Report, BenchError> {
    let mut pairs = Pairs::default();
    for _ in 0..plan.pairs {
        pairs.drain.push(drain_pair(db, plan).await?);
        pairs.bulk.push(bulk_pair(db, plan).await?);
        pairs.single.push(single_pair(db, plan).await?);
    }
    let pick_up = pick_up(db, plan.picked_jobs).await?;
    clear(&db.system_pool()).await?;
    Ok(Report {
        ratios: vec![
            Ratio::of("claim, run nothing, complete; 2 workers", 0.7, &pairs.drain),
            Ratio::of("bulk enqueue, one connection", 0.8, &pairs.bulk),
            Ratio::of("one enqueue per commit, 16 connections", 0.7, &pairs.single),
        ],
        pick_up,
    })
}

/// Jobs per second of the reference and of the engine.
type Pair = (f64, f64);

#[derive(Default)]
struct Pairs {
    drain: Vec<Pair>,
    bulk: Vec<Pair>,
    single: Vec<Pair>,
}

impl Ratio {
    fn of(name: &'static str, bar: f64, pairs: &[Pair]) -> Self {
        Self {
            name,
            reference_per_sec: median(pairs.iter().map(|(reference, _)| *reference)),
            engine_per_sec: median(pairs.iter().map(|(_, engine)| *engine)),
            ratio: median(pairs.iter().map(|(reference, engine)| engine / reference)),
            bar,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Each starts from an empty table.
async fn drain_pair(db: &Db, plan: &Plan) -> Result<Pair, BenchError> {
    fill(db, plan.drained_jobs).await?;
    let reference = per_sec(plan.drained_jobs, drain_by_sql(db)).await?;
    fill(db, plan.drained_jobs).await?;
    let engine = per_sec(
        plan.drained_jobs,
        drain_by_engine(db, plan.drained_jobs as u64),
    )
    .await?;
    Ok((reference, engine))
}

async fn bulk_pair(db: &Db, plan: &Plan) -> Result<Pair, BenchError> {
    clear(&db.system_pool()).await?;
    let reference = per_sec(plan.bulk_jobs, bulk_by_sql(db, plan.bulk_jobs)).await?;
    clear(&db.system_pool()).await?;
    let engine = per_sec(plan.bulk_jobs, fill(db, plan.bulk_jobs)).await?;
    Ok((reference, engine))
}

async fn single_pair(db: &Db, plan: &Plan) -> Result<Pair, BenchError> {
    clear(&db.system_pool()).await?;
    let each = plan.single_jobs / CONNECTIONS;
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
    Ok((reference, engine))
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

/// A payload of the usual size: two ids.
fn job() -> NewJob {
    NewJob {
        queue: QUEUE.to_owned(),
        kind: KIND.to_owned(),
        lane: None,
        priority: 0,
        delay: None,
        max_attempts: 12,
        unique_key: None,
        payload: serde_json::json!({
            "tenant_id": uuid::Uuid::now_v7(),
            "message_id": uuid::Uuid::now_v7(),
        }),
    }
}

/// All tenants, since the engine's tables have none.
async fn fill(db: &Db, jobs: usize) -> Result<(), BenchError> {
    let mut left = jobs;
    while left > 0 {
        let batch = left.min(BULK_BATCH);
        let mut tx = db.system().begin().await?;
        let orders: Vec<_> = (0..batch).map(|_| job()).collect();
        enqueue(&mut tx, orders).await?;
        tx.commit().await?;
        left -= batch;
    }
    Ok(())
}

async fn clear(pool: &PgPool) -> Result<(), BenchError> {
    query!("DELETE FROM jobs WHERE queue = $1", QUEUE)
        .execute(pool)
        .await?;
    Ok(())
}

async fn single_by_engine(db: Db, jobs: usize) -> Result<(), BenchError> {
    for _ in 0..jobs {
        let mut tx = db.system().begin().await?;
        enqueue(&mut tx, job()).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn single_by_sql(db: Db, jobs: usize) -> Result<(), BenchError> {
    for _ in 0..jobs {
        let mut tx = db.system().begin().await?;
        insert_by_sql(tx.conn(), &[job().payload]).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn bulk_by_sql(db: &Db, jobs: usize) -> Result<(), BenchError> {
    let mut left = jobs;
    while left > 0 {
        let batch = left.min(BULK_BATCH);
        let payloads: Vec<_> = (0..batch).map(|_| job().payload).collect();
        let mut tx = db.system().begin().await?;
        insert_by_sql(tx.conn(), &payloads).await?;
        tx.commit().await?;
        left -= batch;
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
            FROM picked
            WHERE j.id = picked.id
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

fn start_engine(db: &Db) -> Engine {
    Engine::start(EngineConfig {
        claim_pool: db.claim_pool(),
        system_pool: db.batch_pool(),
        direct: db.direct_options(),
        announcements: announcements(db),
        incarnation: "bench".into(),
        clock: db.clock().clone(),
        tuning: Tuning::default(),
    })
}

fn serve<F, Fut>(engine: &Engine, handler: F) -> tokio::task::JoinHandle<()>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let kind = KindSpec {
        kind: KIND,
        timeout: Duration::from_secs(30),
        backoff: Backoff::default(),
    };
    let handlers = Handlers::default().with(kind, move |_| {
        let run = handler();
        async move {
            run.await;
            Outcome::Done
        }
    });
    let spec = QueueSpec {
        queue: QUEUE.to_owned(),
        concurrency: CONCURRENCY,
        claims_in_turns: false,
    };
    let workers = Workers::new(engine.clone()).serve(spec, handlers);
    tokio::spawn(async move {
        // The figures say it if something went wrong.
        let _ = workers.run().await;
    })
}

async fn drain_by_engine(db: &Db, jobs: u64) -> Result<(), BenchError> {
    let engines: Vec<_> = (0..WORKERS).map(|_| start_engine(db)).collect();
    let running: Vec<_> = engines
        .iter()
        .map(|engine| serve(engine, || async {}))
        .collect();
    // To the last completion that is committed.
    while engines
        .iter()
        .map(|engine| engine.totals().done)
        .sum::<u64>()
        < jobs
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for engine in engines {
        engine.drain(Duration::from_secs(5)).await;
    }
    for worker in running {
        worker.await.map_err(|_| BenchError::Hangs("a worker"))?;
    }
    Ok(())
}

async fn pick_up(db: &Db, jobs: usize) -> Result<PickUp, BenchError> {
    clear(&db.system_pool()).await?;
    let engine = start_engine(db);
    let (started, mut heard) = mpsc::unbounded_channel();
    let started = Arc::new(started);
    let running = serve(&engine, move || {
        // The handler has started.
        let _ = started.send(Instant::now());
        async {}
    });
    let mut waits = Vec::with_capacity(jobs);
    for n in 0..=jobs {
        let begun = Instant::now();
        let mut tx = db.system().begin().await?;
        enqueue(&mut tx, job()).await?;
        tx.commit().await?;
        let handled = tokio::time::timeout(PATIENCE, heard.recv()).await;
        let handled = handled
            .ok()
            .flatten()
            .ok_or(BenchError::Hangs("a pick-up"))?;
        // The first one opens the connections.
        if n > 0 {
            waits.push(handled - begun);
        }
        until_idle(&db.system_pool()).await?;
    }
    engine.drain(Duration::from_secs(5)).await;
    running.await.map_err(|_| BenchError::Hangs("a worker"))?;
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    Ok(PickUp {
        p50: at(0.5),
        p99: at(0.99),
    })
}

/// The queue is idle once its last completion is committed.
async fn until_idle(pool: &PgPool) -> Result<(), BenchError> {
    loop {
        let live = query_scalar!(
            r#"SELECT EXISTS (SELECT FROM jobs WHERE queue = $1) AS "live!""#,
            QUEUE
        )
        .fetch_one(pool)
        .await?;
        if !live {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
