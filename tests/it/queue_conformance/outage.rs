//! A database that goes away under running jobs. It is durable here, since what was committed must survive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engageninja::jobs::queue::{NewJob, Outcome, Tuning};
use engageninja::store::{Db, StoreError};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::Semaphore;

use super::crew::{Crew, Setup, live, note, notes, number, put, tuning};
use crate::harness::db::{Cluster, TestDb};
use crate::harness::eventually;

/// What runs and what happened, around one outage.
struct Outage {
    cluster: Cluster,
    _test: TestDb,
    db: Db,
    crew: Crew,
    gate: Arc<Semaphore>,
}

impl Outage {
    /// Twenty jobs run, and the database is gone.
    async fn begin(setup: Setup) -> Self {
        let mut cluster = Cluster::dedicated(true).await;
        let test = cluster.db().await;
        let db = test.db();
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let crew = Crew::start(&db, &setup, move |_| {
            let gate = Arc::clone(&held);
            async move {
                gate.acquire().await.unwrap().forget();
                Outcome::Done
            }
        });
        put(&db, notes(0..20)).await;
        crew.log.until(20).await;
        cluster.crash().await;
        Self {
            cluster,
            _test: test,
            db,
            crew,
            gate,
        }
    }

    /// Half of the handlers end while nobody can write it down, the others afterwards.
    async fn end(mut self) {
        self.gate.add_permits(10);
        eventually("half of the handlers have ended", || async {
            self.gate.available_permits() == 0
        })
        .await;
        self.cluster.start().await;
        self.crew.done(10).await;
        self.gate.add_permits(11);
        put_when_back(&self.db).await;
        self.crew.done(21).await;

        let starts = self.crew.log.starts();
        assert_eq!(starts.len(), 21, "each ran once: {starts:?}");
        let totals = self.crew.engine.totals();
        assert_eq!((totals.lost, totals.missed, totals.rescued), (0, 0, 0));
        assert_eq!(live(&self.db).await, 0);
        assert_eq!(number(&self.db, "SELECT count(*) FROM dead_jobs").await, 0);
        let drained = self.crew.stop().await;
        assert_eq!((drained.cancelled, drained.unwritten), (0, 0));
    }
}

fn setup() -> Setup {
    Setup {
        concurrency: 25,
        ..Setup::default()
    }
}

/// A pool may still hold connections of the server that is gone.
async fn put_when_back(db: &Db) {
    eventually("a transaction can be opened", || async {
        db.system().begin().await.is_ok()
    })
    .await;
    put(db, vec![note(20)]).await;
}

#[tokio::test]
async fn a_crash_of_the_database_drops_no_handler_and_loses_no_completion() {
    let outage = Outage::begin(setup()).await;
    outage.end().await;
}

#[tokio::test]
async fn an_outage_longer_than_every_lease_takes_no_job_from_a_living_worker() {
    let mut setup = setup();
    setup.tuning = tuning();
    setup.tuning.lease = Duration::from_millis(1_500);
    setup.tuning.renew_every = Duration::from_millis(500);
    let lease = setup.tuning.lease;
    let outage = Outage::begin(setup).await;
    let gone = Instant::now();
    eventually("every lease is over", || async {
        gone.elapsed() > lease * 2
    })
    .await;
    outage.end().await;
}

#[tokio::test]
async fn a_job_that_the_database_left_uses_up_no_attempt_and_is_set_aside_when_it_always_does() {
    let test = TestDb::new().await;
    let db = test.db();
    let setup = Setup {
        tuning: Tuning {
            cut_offs_max: 3,
            ..tuning()
        },
        ..Setup::default()
    };
    let runs = std::sync::atomic::AtomicU32::new(0);
    let crew = Crew::start(&db, &setup, move |delivered| {
        let is_first = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
        let is_bad = delivered.payload["n"] == 1;
        async move {
            if is_first || is_bad {
                Outcome::CutOff {
                    reason: "database unavailable".into(),
                }
            } else {
                Outcome::Done
            }
        }
    });
    let once = |n| NewJob {
        max_attempts: 1,
        ..note(n)
    };
    put(&db, vec![once(0)]).await;
    crew.done(1).await;
    let starts = crew.log.starts();
    assert_eq!(starts.len(), 3, "of one try: {starts:?}");

    put(&db, vec![once(1)]).await;
    crew.log.until(6).await;
    let dead = "SELECT count(*) FROM dead_jobs WHERE reason = 'cut off each time' AND last_error = 'database unavailable'";
    eventually("it is set aside", || async { number(&db, dead).await == 1 }).await;
    assert_eq!((live(&db).await, crew.log.starts().len()), (0, 6));
    crew.stop().await;
}

#[tokio::test]
async fn a_job_that_the_database_left_is_not_held_to_have_killed_its_workers() {
    let test = TestDb::new().await;
    let db = test.db();
    put(&db, vec![note(0)]).await;
    test.execute("UPDATE cell.jobs SET starts = 8").await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let crew = Crew::start(&db, &Setup::default(), move |delivered| {
        let gate = Arc::clone(&held);
        async move {
            if delivered.attempt == 1 {
                return Outcome::CutOff {
                    reason: "database unavailable".into(),
                };
            }
            gate.acquire().await.unwrap().forget();
            Outcome::Done
        }
    });
    crew.log.until(2).await;
    assert_eq!(number(&db, "SELECT max(starts)::bigint FROM jobs").await, 1);
    gate.add_permits(1);
    crew.done(1).await;
    crew.stop().await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_uses_up_a_try_and_one_that_cannot_begin_does_not() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut tx = db.system().begin().await.unwrap();
    tx.conn()
        .execute("SET LOCAL statement_timeout = '50ms'")
        .await
        .unwrap();
    let slow = tx.conn().execute("SELECT pg_sleep(5)").await.unwrap_err();
    drop(tx);

    let mut session = test.options().cell.connect().await.unwrap();
    let mut lock = session.begin().await.unwrap();
    lock.execute("LOCK TABLE cell.tenants").await.unwrap();
    let mut tx = db.system().begin().await.unwrap();
    tx.conn()
        .execute("SET LOCAL lock_timeout = '50ms'")
        .await
        .unwrap();
    let locked = tx.conn().execute("SELECT FROM tenants").await.unwrap_err();
    lock.rollback().await.unwrap();

    let outcome = |error: sqlx::Error| Outcome::from(StoreError::from(error));
    assert_eq!(outcome(slow), Outcome::retry("database unavailable"));
    for away in [locked, sqlx::Error::PoolTimedOut] {
        let cut_off = Outcome::CutOff {
            reason: "database unavailable".into(),
        };
        assert_eq!(outcome(away), cut_off);
    }
}

#[tokio::test]
async fn what_a_look_within_the_grace_passes_over_is_rescued_after_it() {
    let cluster = Cluster::dedicated(false).await;
    let test = cluster.db().await;
    let db = test.db();
    put(&db, vec![note(0)]).await;
    // Longer ago than looks go back.
    test.execute(
        "UPDATE cell.jobs SET state = 1, lease = 1, lease_until = app_now() - interval '1 minute'",
    )
    .await;
    let mut setup = Setup::default();
    setup.tuning.sweep_grace = server_age(&db).await + Duration::from_secs(3);
    let crew = Crew::eager(&db, &setup);
    crew.done(1).await;
    assert!(server_age(&db).await >= setup.tuning.sweep_grace);
    assert_eq!(crew.engine.totals().rescued, 1);
    crew.stop().await;
}

async fn server_age(db: &Db) -> Duration {
    let sql =
        "SELECT floor(extract(epoch FROM app_now() - pg_postmaster_start_time()) * 1000)::bigint";
    Duration::from_millis(number(db, sql).await.unsigned_abs())
}
