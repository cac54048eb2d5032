//! A process's workers on one queue, and what they were handed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engageninja::jobs::queue::{
    Backoff, Delivered, Drained, Engine, EngineConfig, Handlers, KindSpec, NewJob, Outcome,
    QueueSpec, Tuning, Weight, Workers, enqueue,
};
use engageninja::jobs::worker::announcements;
use engageninja::store::Db;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::harness::within;

/// The queue of these tests; each has a database of its own.
pub const QUEUE: &str = "q";
pub const KIND: &str = "note";

/// A lease long enough for a busy machine and short enough for a test.
pub const LEASE: Duration = Duration::from_secs(3);

/// Nothing is found by polling, and no net is cast within a test.
pub fn tuning() -> Tuning {
    Tuning {
        poll_min: Duration::from_mins(10),
        poll_max: Duration::from_mins(10),
        net_every: Duration::from_mins(10),
        ..Tuning::with_lease(LEASE)
    }
}

/// A job with a number.
pub fn note(n: i64) -> NewJob {
    NewJob {
        queue: QUEUE.into(),
        kind: KIND.into(),
        lane: None,
        priority: 0,
        delay: None,
        max_attempts: 12,
        unique_key: None,
        payload: serde_json::json!({ "n": n }),
    }
}

pub fn notes(numbers: impl Iterator<Item = i64>) -> Vec<NewJob> {
    numbers.map(note).collect()
}

pub fn keyed(n: i64, key: &str) -> NewJob {
    NewJob {
        unique_key: Some(key.into()),
        ..note(n)
    }
}

pub fn in_lane(n: i64, lane: u128) -> NewJob {
    NewJob {
        lane: Some(Uuid::from_u128(lane)),
        ..note(n)
    }
}

/// Enqueues and commits.
pub async fn put(db: &Db, jobs: Vec<NewJob>) -> Vec<i64> {
    let mut tx = db.system().begin().await.unwrap();
    let ids = enqueue(&mut tx, jobs).await.unwrap();
    tx.commit().await.unwrap();
    ids
}

/// One number, asked of the database.
pub async fn number(db: &Db, sql: &str) -> i64 {
    let mut conn = PgConnection::connect_with(&db.direct_options())
        .await
        .unwrap();
    let row = sqlx::Executor::fetch_one(&mut conn, AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap();
    row.get(0)
}

/// Jobs that are not done, dead ones aside.
pub async fn live(db: &Db) -> i64 {
    number(db, "SELECT count(*) FROM jobs").await
}

/// The start of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    pub n: i64,
    pub id: i64,
    pub attempt: i16,
    pub at: Instant,
}

/// Every run that started, in order. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    inner: Arc<(Mutex<Vec<Start>>, Notify)>,
}

impl Log {
    fn add(&self, delivered: &Delivered) {
        self.inner.0.lock().unwrap().push(Start {
            n: delivered.payload["n"].as_i64().unwrap(),
            id: delivered.fence.id(),
            attempt: delivered.attempt,
            at: Instant::now(),
        });
        self.inner.1.notify_waiters();
    }

    pub fn starts(&self) -> Vec<Start> {
        self.inner.0.lock().unwrap().clone()
    }

    pub fn numbers(&self) -> Vec<i64> {
        self.starts().iter().map(|start| start.n).collect()
    }

    /// Waits for so many starts, and returns those there are then.
    pub async fn until(&self, count: usize) -> Vec<Start> {
        let counted = async {
            loop {
                let added = self.inner.1.notified();
                let starts = self.starts();
                if starts.len() >= count {
                    return starts;
                }
                added.await;
            }
        };
        within(60, &format!("{count} runs start"), counted).await
    }
}

/// How a crew works.
#[derive(Debug, Clone)]
pub struct Setup {
    pub tuning: Tuning,
    /// The one kind of job that it knows.
    pub knows: &'static str,
    pub concurrency: usize,
    pub weight: Weight,
    pub claims_in_turns: bool,
    pub timeout: Duration,
    pub backoff: Backoff,
    pub incarnation: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tuning: tuning(),
            knows: KIND,
            concurrency: 10,
            weight: Weight::ONE,
            claims_in_turns: false,
            timeout: Duration::from_mins(1),
            backoff: Backoff {
                base: Duration::from_millis(1),
                cap: Duration::from_millis(1),
            },
            incarnation: "1",
        }
    }
}

impl Setup {
    pub fn engine(&self, db: &Db) -> Engine {
        Engine::start(EngineConfig {
            claim_pool: db.claim_pool(),
            system_pool: db.batch_pool(),
            direct: db.direct_options(),
            announcements: announcements(db),
            incarnation: self.incarnation.into(),
            clock: db.clock().clone(),
            tuning: self.tuning.clone(),
        })
    }

    pub fn spec(&self) -> QueueSpec {
        QueueSpec {
            queue: QUEUE.into(),
            concurrency: self.concurrency,
            weight: self.weight,
            claims_in_turns: self.claims_in_turns,
        }
    }

    pub fn kind(&self) -> KindSpec {
        KindSpec {
            kind: self.knows,
            timeout: self.timeout,
            backoff: self.backoff,
        }
    }
}

/// Workers that run.
#[derive(Debug)]
pub struct Crew {
    pub engine: Engine,
    pub log: Log,
    workers: JoinHandle<()>,
}

impl Crew {
    /// Serves the queue with one handler.
    pub fn start<F, Fut>(db: &Db, setup: &Setup, handler: F) -> Self
    where
        F: Fn(Delivered) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let engine = setup.engine(db);
        let log = Log::default();
        let written = log.clone();
        let handlers = Handlers::default().with(setup.kind(), move |delivered| {
            written.add(&delivered);
            handler(delivered)
        });
        let workers = Workers::new(engine.clone()).serve(setup.spec(), handlers);
        let workers = tokio::spawn(async move { workers.run().await.unwrap() });
        Self {
            engine,
            log,
            workers,
        }
    }

    /// A crew whose jobs are done at once.
    pub fn eager(db: &Db, setup: &Setup) -> Self {
        Self::start(db, setup, |_| async { Outcome::Done })
    }

    /// Waits until the engine has completed so many.
    pub async fn done(&self, jobs: u64) {
        crate::harness::eventually(&format!("{jobs} jobs are completed"), || async {
            self.engine.totals().done >= jobs
        })
        .await;
    }

    /// Stops in good order.
    pub async fn stop(self) -> Drained {
        self.drain(Duration::from_secs(30)).await
    }

    pub async fn drain(self, limit: Duration) -> Drained {
        let drained = within(60, "the engine drains", self.engine.drain(limit)).await;
        within(60, "the workers end", self.workers).await.unwrap();
        drained
    }
}
