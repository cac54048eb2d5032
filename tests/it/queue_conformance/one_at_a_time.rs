//! Nobody has a job beside somebody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use engageninja::clock::Clock;
use engageninja::jobs::queue::{Handlers, Outcome, Tuning, Workers};
use engageninja::store::Db;
use tokio::sync::Semaphore;

use super::crew::{Crew, LEASE, Setup, live, note, notes, number, put, tuning};
use crate::harness::db::TestDb;
use crate::harness::{eventually, within};

#[tokio::test]
async fn exactly_one_of_eight_racing_workers_gets_a_job() {
    let test = TestDb::new().await;
    let databases: Vec<_> = (0..8)
        .map(|_| Db::new(&test.options(), Clock::default()))
        .collect();
    let setup = Setup {
        concurrency: 7,
        // Eight engines start on one thread: on a machine that stalls, a short lease would run out by right.
        tuning: Tuning {
            lease: Duration::from_mins(1),
            ..tuning()
        },
        ..Setup::default()
    };
    let crews: Vec<_> = databases.iter().map(|db| Crew::eager(db, &setup)).collect();

    // By one whose engine tells the others: they may all have looked before.
    put(&databases[0], notes(0..1_000)).await;
    eventually("all jobs are done", || async {
        live(&test.db()).await == 0
    })
    .await;

    let mut runs: HashMap<i64, usize> = HashMap::new();
    for crew in crews {
        for n in crew.log.numbers() {
            *runs.entry(n).or_default() += 1;
        }
        assert_eq!(crew.engine.totals().missed, 0);
        crew.stop().await;
    }
    assert_eq!(runs.len(), 1_000);
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
}

/// The renewal is a task of its own: it asks neither the handlers nor whoever takes from the buffer.
#[tokio::test]
async fn a_job_that_runs_for_many_leases_is_not_given_to_another() {
    let test = TestDb::new().await;
    let db = test.db();
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let crew = Crew::start(&db, &Setup::default(), move |_| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            Outcome::Done
        }
    });
    put(&db, notes(0..5)).await;
    let first = crew.log.until(5).await[0].at;
    let other = Crew::eager(
        &Db::new(&test.options(), Clock::default()),
        &Setup::default(),
    );

    until_old(first, 2).await;
    gate.add_permits(5);
    crew.done(5).await;

    assert_eq!(crew.log.starts().len(), 5);
    assert_eq!(other.log.starts().len(), 0);
    assert_eq!(
        (crew.engine.totals().lost, crew.engine.totals().missed),
        (0, 0)
    );
    crew.stop().await;
    other.stop().await;
}

/// Claimed, and nobody takes it from the buffer for two leases.
#[tokio::test]
async fn a_job_that_waits_in_a_full_buffer_is_not_given_to_another() {
    let test = TestDb::new().await;
    let db = test.db();
    let setup = Setup::default();
    put(&db, notes(0..5)).await;
    let engine = setup.engine(&db);
    let (ran, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let handlers = Handlers::default().with(setup.kind(), move |delivered| {
        let ran = ran.clone();
        async move {
            ran.send(delivered.attempt).unwrap();
            Outcome::Done
        }
    });
    let workers = Workers::new(engine.clone()).serve(setup.spec(), handlers);
    eventually("all five are claimed", || async {
        engine.totals().claimed == 5
    })
    .await;
    let claimed = std::time::Instant::now();
    let other = Crew::eager(&Db::new(&test.options(), Clock::default()), &setup);

    until_old(claimed, 2).await;
    let running = tokio::spawn(async move { workers.run().await.unwrap() });
    for _ in 0..5 {
        let attempt = within(30, "the job runs", heard.recv()).await;
        assert_eq!(attempt, Some(1));
    }

    within(30, "drain", engine.drain(LEASE)).await;
    running.await.unwrap();
    assert_eq!(other.log.starts().len(), 0);
    assert_eq!(live(&db).await, 0);
    other.stop().await;
}

/// What a handler completes in its own transaction is no loss, and costs nobody a lease.
#[tokio::test]
async fn a_job_completed_by_its_handler_is_gone_with_the_handlers_transaction() {
    let test = TestDb::new().await;
    let db = test.db();
    let inside = db.clone();
    let crew = Crew::start(&db, &Setup::default(), move |delivered| {
        let db = inside.clone();
        async move {
            let mut tx = db.system().begin().await.unwrap();
            let was_ours = delivered.fence.complete(tx.conn()).await.unwrap();
            assert!(was_ours);
            tx.commit().await.unwrap();
            Outcome::Settled
        }
    });
    put(&db, vec![note(1)]).await;

    crew.log.until(1).await;
    eventually("the job is gone", || async { live(&db).await == 0 }).await;

    let totals = crew.engine.totals();
    let drained = crew.stop().await;
    assert_eq!((totals.done, totals.missed, drained.unwritten), (0, 0, 0));
    assert_eq!(number(&db, "SELECT count(*) FROM dead_jobs").await, 0);
}

/// Waits for the fact that so many leases have passed.
async fn until_old(since: std::time::Instant, leases: u32) {
    eventually("the leases would have run out", || async {
        since.elapsed() > LEASE * leases
    })
    .await;
}
