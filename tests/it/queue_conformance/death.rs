//! Workers that die, and workers that only seem to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engageninja::jobs::queue::Outcome;
use nix::sys::signal::Signal;
use tokio::sync::Semaphore;

use super::child::{Child, Told};
use super::crew::{Crew, LEASE, Setup, live, note, number, put};
use crate::harness::db::TestDb;
use crate::harness::eventually;

/// How much later than its lease a dead worker's job may run.
const LATE_MAX: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_job_of_a_killed_worker_runs_again_when_its_lease_is_over() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut child = Child::spawn(&Told::about(&test, LEASE));
    put(&db, vec![note(1)]).await;
    child.says("starts 1").await;
    let crew = Crew::eager(&db, &Setup::default());

    child.signal(Signal::SIGKILL);
    let killed = Instant::now();
    let start = crew.log.until(1).await[0];

    assert!(
        start.at - killed <= LEASE + LATE_MAX,
        "{:?}",
        start.at - killed
    );
    assert_eq!(start.attempt, 2);
    crew.done(1).await;
    crew.stop().await;
}

#[tokio::test]
async fn a_restart_under_the_same_name_does_not_keep_the_dead_ones_jobs() {
    let test = TestDb::new().await;
    let told = Told::about(&test, LEASE);
    let mut first = Child::spawn(&told);
    put(&test.db(), vec![note(1)]).await;
    first.says("starts 1").await;

    first.signal(Signal::SIGKILL);
    let killed = Instant::now();
    let mut second = Child::spawn(&told);
    second.says("starts 2").await;

    assert!(
        killed.elapsed() <= LEASE + LATE_MAX,
        "{:?}",
        killed.elapsed()
    );
    second.tell("2").await;
    eventually("it is done", || async { live(&test.db()).await == 0 }).await;
}

#[tokio::test]
async fn what_a_stopped_worker_says_late_changes_nothing() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut child = Child::spawn(&Told {
        lost_grace_ms: 60_000,
        ..Told::about(&test, LEASE)
    });
    put(&db, vec![note(1)]).await;
    child.says("starts 1").await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let crew = Crew::start(&db, &Setup::default(), move |_| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            Outcome::Done
        }
    });

    child.signal(Signal::SIGSTOP);
    crew.log.until(1).await;
    child.signal(Signal::SIGCONT);
    child.tell("1").await;
    until_says(&mut child, "done 0 lost 0 missed 1").await;

    let still_leased = "SELECT count(*) FROM jobs WHERE state = 1 AND attempt = 2";
    assert_eq!(number(&db, still_leased).await, 1);
    gate.add_permits(1);
    crew.done(1).await;
    assert_eq!(crew.engine.totals().missed, 0);
    crew.stop().await;
}

#[tokio::test]
async fn a_sleeper_that_has_claimed_its_job_again_does_not_complete_it_by_its_old_handler() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut child = Child::spawn(&Told {
        lost_grace_ms: 60_000,
        ..Told::about(&test, LEASE)
    });
    put(&db, vec![note(1)]).await;
    child.says("starts 1").await;

    child.signal(Signal::SIGSTOP);
    // What any process's sweeper does with an expired lease. Left to the sleeper, its renewal may be faster.
    let over = "UPDATE cell.jobs SET id = DEFAULT, state = 0, lease = NULL, lease_until = NULL \
                WHERE lease_until < public.app_now()";
    eventually("its lease is over and swept", || async {
        test.execute(over).await;
        number(&db, "SELECT count(*) FROM jobs WHERE state = 0").await == 1
    })
    .await;
    child.signal(Signal::SIGCONT);
    // A claim that was on its way when it fell asleep may be forgotten, and the job claimed once more after its lease.
    let started = child.next().await;
    assert!(["starts 2", "starts 3"].contains(&&*started), "{started}");
    child.tell("1").await;
    until_says(&mut child, "done 0 lost 0 missed 1").await;

    assert_eq!(live(&db).await, 1);
    // Whichever it is by now: on a busy machine its lease may have run out once more.
    for attempt in ["2", "3", "4", "5"] {
        child.tell(attempt).await;
    }
    eventually("the new run is done", || async { live(&db).await == 0 }).await;
}

#[tokio::test]
async fn a_handler_whose_lease_is_lost_is_cancelled() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut child = Child::spawn(&Told::about(&test, LEASE));
    put(&db, vec![note(1)]).await;
    child.says("starts 1").await;

    child.signal(Signal::SIGSTOP);
    let crew = Crew::eager(&db, &Setup::default());
    crew.done(1).await;
    child.signal(Signal::SIGCONT);

    // A cancelled handler writes nothing, so nothing is missed either, and the worker works on.
    until_says(&mut child, "done 0 lost 1 missed 0").await;
    crew.stop().await;
    put(&db, vec![note(2)]).await;
    child.says("starts 1").await;
    child.tell("1").await;
    until_says(&mut child, "done 1 lost 1 missed 0").await;
}

#[tokio::test]
async fn a_job_that_kills_its_process_ten_times_is_dead() {
    let test = TestDb::new().await;
    let db = test.db();
    put(&db, vec![note(1)]).await;
    let told = Told {
        dies: true,
        ..Told::about(&test, Duration::from_millis(500))
    };

    for attempt in 1..=10 {
        let mut child = Child::spawn(&told);
        child.says(&format!("starts {attempt}")).await;
        child.ends().await;
    }
    let survivor = Crew::eager(&db, &Setup::default());

    let dead = "SELECT count(*) FROM dead_jobs \
                WHERE starts = 10 AND attempt = 10 AND reason = 'started 10 times and never ended'";
    eventually("it is dead", || async { number(&db, dead).await == 1 }).await;
    assert_eq!(live(&db).await, 0);
    assert_eq!(survivor.log.starts().len(), 0);
    survivor.stop().await;
}

/// Asks for the totals until they are these.
async fn until_says(child: &mut Child, what: &str) {
    let mut again = tokio::time::interval(Duration::from_millis(10));
    let mut last = String::new();
    let said = async {
        while last != what {
            again.tick().await;
            child.tell("totals").await;
            last = child.next().await;
        }
    };
    let is_said = tokio::time::timeout(Duration::from_secs(30), said)
        .await
        .is_ok();
    assert!(is_said, "wanted {what:?}, last heard {last:?}");
}
