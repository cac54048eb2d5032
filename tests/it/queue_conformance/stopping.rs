//! Cancelling a job, and draining a process.

use std::sync::Arc;
use std::time::Duration;

use engageninja::clock::Clock;
use engageninja::jobs::queue::admin::{self, Cancelled};
use engageninja::jobs::queue::{Outcome, Tuning, enqueue};
use engageninja::store::Db;
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::Semaphore;

use super::crew::{Crew, QUEUE, Setup, keyed, live, note, notes, number, put, tuning};
use crate::harness::db::TestDb;
use crate::harness::eventually;

async fn cancel(db: &Db, key: &str) -> Cancelled {
    let mut tx = db.system().begin().await.unwrap();
    let cancelled = admin::cancel(tx.conn(), QUEUE, key).await.unwrap();
    tx.commit().await.unwrap();
    cancelled
}

#[tokio::test]
async fn a_cancelled_job_does_not_run_and_one_that_is_gone_says_so() {
    let test = TestDb::new().await;
    let db = test.db();
    put(&db, vec![keyed(1, "a"), note(2)]).await;
    let mut tx = db.system().begin().await.unwrap();
    let scheduled = note(3).after(Duration::from_hours(1));
    let seen = enqueue(&mut tx, scheduled).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(cancel(&db, "a").await, Cancelled::Waiting);
    assert_eq!(cancel(&db, "a").await, Cancelled::Gone);
    let mut tx = db.system().begin().await.unwrap();
    let by_id = admin::cancel_by_id(tx.conn(), seen[0]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(by_id, Cancelled::Waiting);

    let crew = Crew::eager(&db, &Setup::default());
    crew.done(1).await;
    assert_eq!(crew.log.numbers(), [2]);
    assert_eq!(live(&db).await, 0);
    crew.stop().await;
}

/// Dropped while it waits: its handler was stopped.
struct Stopped(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_job_cancelled_while_it_runs_is_stopped_and_changes_nothing() {
    let test = TestDb::new().await;
    let db = test.db();
    let (stopped, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let crew = Crew::start(&db, &Setup::default(), move |_| {
        let stopped = Stopped(stopped.clone());
        async move {
            std::future::pending::<()>().await;
            drop(stopped);
            Outcome::Done
        }
    });
    put(&db, vec![keyed(1, "a")]).await;
    crew.log.until(1).await;

    assert_eq!(cancel(&db, "a").await, Cancelled::Running);
    crate::harness::within(30, "the handler is stopped", heard.recv()).await;

    assert_eq!(live(&db).await, 0);
    assert_eq!(crew.engine.totals().lost, 1);
    let drained = crew.stop().await;
    assert_eq!((drained.cancelled, drained.unwritten), (0, 0));
}

#[tokio::test]
async fn a_drain_lets_handlers_end_and_gives_the_rest_back_uncounted() {
    let test = TestDb::new().await;
    let db = test.db();
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let crew = Crew::start(&db, &Setup::default(), move |delivered| {
        let gate = Arc::clone(&held);
        async move {
            if delivered.payload["n"] == 0 {
                gate.acquire().await.unwrap().forget();
            } else {
                std::future::pending::<()>().await;
            }
            Outcome::Done
        }
    });
    // Ten run, five wait in the database.
    put(&db, notes(0..15)).await;
    crew.log.until(10).await;

    let log = crew.log.clone();
    let engine = crew.engine.clone();
    let draining = tokio::spawn(crew.drain(Duration::from_secs(1)));
    engine.stopping().await;
    put(&db, vec![note(99)]).await;
    gate.add_permits(1);
    let drained = draining.await.unwrap();

    assert_eq!((drained.cancelled, drained.unwritten), (9, 0));
    assert_eq!(
        log.starts().len(),
        10,
        "nothing was claimed after the signal"
    );
    assert_eq!(live(&db).await, 15);
    let untouched = "SELECT count(*) FROM jobs WHERE state = 0 AND attempt = 0 AND starts = 0";
    assert_eq!(number(&db, untouched).await, 15);
}

#[tokio::test]
async fn what_a_drain_gives_back_runs_elsewhere_at_once() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::start(&db, &Setup::default(), |_| async {
        std::future::pending::<()>().await;
        Outcome::Done
    });
    put(&db, notes(0..3)).await;
    crew.log.until(3).await;
    let other_db = Db::new(&test.options(), engageninja::clock::Clock::default());
    let other = Crew::eager(&other_db, &Setup::default());

    crew.drain(Duration::ZERO).await;
    other.done(3).await;

    assert!(other.log.starts().iter().all(|start| start.attempt == 1));
    eventually("nothing is left", || async { live(&db).await == 0 }).await;
    other.stop().await;
}

#[tokio::test]
async fn what_a_claim_brings_in_while_a_drain_begins_goes_back_as_well() {
    let test = TestDb::new().await;
    let db = test.db();
    put(&db, notes(0..5)).await;
    let mut session = PgConnection::connect_with(&test.options().cell)
        .await
        .unwrap();
    let mut lock = session.begin().await.unwrap();
    lock.execute("LOCK TABLE cell.jobs").await.unwrap();
    let crew = Crew::eager(&db, &Setup::default());
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '%starts = j.starts + 1%'";
    eventually("the claim waits", || async {
        test.value::<i64>(waiting).await > 0
    })
    .await;
    let drain = tokio::spawn(crew.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(test.value::<i64>(waiting).await > 0, "it waits no more");
    lock.rollback().await.unwrap();

    let drained = drain.await.unwrap();
    assert_eq!((drained.cancelled, drained.unwritten), (0, 0));
    let ready = "SELECT count(*) FROM jobs WHERE state = 0 AND attempt = 0 AND starts = 0";
    assert_eq!(number(&db, ready).await, 5);
}

/// Those who could take it wait for a poll otherwise, which comes in ten minutes here.
#[tokio::test]
async fn what_a_drain_gives_back_is_told_to_the_others_before_it_ends() {
    let test = TestDb::new().await;
    let here = Db::new(&test.options(), Clock::default());
    // It holds what it has and takes nothing else, and what it says soon after something else waits for a while.
    let busy = Setup {
        concurrency: 1,
        tuning: Tuning {
            lease: Duration::from_mins(1),
            notify_gap: Duration::from_secs(2),
            ..tuning()
        },
        ..Setup::default()
    };
    let stuck = Crew::start(&test.db(), &busy, |_| async {
        std::future::pending::<()>().await;
        Outcome::Done
    });
    put(&test.db(), vec![note(1)]).await;
    stuck.log.until(1).await;
    let other = Crew::eager(&here, &Setup::default());
    // It has looked: this one it was told of.
    put(&here, vec![note(2)]).await;
    other.log.until(1).await;

    stuck.engine.announce("something else", 0);
    let drained = stuck.drain(Duration::ZERO).await;
    assert_eq!((drained.cancelled, drained.unwritten), (1, 0));
    let ran = other.log.until(2).await;
    assert_eq!((ran[0].n, ran[1].n), (2, 1));
    other.stop().await;
}
