//! Jobs that do harm, and harm done to jobs.

use std::time::Duration;

use engageninja::jobs::queue::{NewJob, Outcome, admin};

use super::crew::{Crew, Setup, live, note, number, put};
use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::world::World;

async fn dead(db: &engageninja::store::Db) -> Vec<admin::DeadJob> {
    let mut tx = db.system().begin().await.unwrap();
    admin::list_dead(tx.conn(), None, None, 100).await.unwrap()
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_dies_and_takes_nobody_with_it() {
    let test = TestDb::new().await;
    let db = test.db();
    // PostgreSQL keeps numbers that no machine number holds.
    test.execute(
        "INSERT INTO cell.jobs (queue, kind, payload) VALUES ('q', 'note', '{\"n\": 1e400}')",
    )
    .await;
    put(&db, vec![note(2)]).await;
    let crew = Crew::eager(&db, &Setup::default());

    eventually("both are gone", || async { live(&db).await == 0 }).await;

    assert_eq!(crew.log.numbers(), [2]);
    let dead = dead(&db).await;
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].reason.starts_with("payload cannot be read"),
        "{dead:?}"
    );
    crew.stop().await;
}

#[tokio::test]
async fn a_kind_that_nobody_knows_dies_with_the_reason_when_its_tries_are_used_up() {
    let test = TestDb::new().await;
    let db = test.db();
    let retired = NewJob {
        kind: "retired".into(),
        max_attempts: 1,
        ..note(1)
    };
    put(&db, vec![retired, note(2)]).await;
    let crew = Crew::eager(&db, &Setup::default());

    eventually("both are gone", || async { live(&db).await == 0 }).await;

    assert_eq!(crew.log.numbers(), [2]);
    let found = dead(&db).await.remove(0);
    assert_eq!(found.reason, "attempts used up");
    let no_handler = "no handler for \"retired\"";
    assert_eq!(found.last_error.as_deref(), Some(no_handler));
    crew.stop().await;
}

/// As during an upgrade.
#[tokio::test]
async fn a_kind_that_only_the_newer_of_two_workers_knows_runs_there() {
    let test = TestDb::new().await;
    let db = test.db();
    let older = Crew::eager(&db, &Setup::default());
    let new = NewJob {
        kind: "new".into(),
        max_attempts: i16::MAX,
        ..note(1)
    };
    put(&db, vec![new]).await;
    let given_back = "SELECT count(*) FROM jobs WHERE last_error = 'no handler for \"new\"'";
    eventually("the older one had it", || async {
        number(&db, given_back).await == 1
    })
    .await;

    let knows_new = Setup {
        knows: "new",
        ..Setup::default()
    };
    let newer = Crew::eager(&db, &knows_new);
    eventually("the newer one has it", || async {
        // The older one may be first again, however often: the rest that follows is cut short.
        test.execute("UPDATE cell.jobs SET run_at = app_now() WHERE state = 2")
            .await;
        newer.engine.totals().done == 1
    })
    .await;

    let starts = newer.log.starts();
    assert_eq!((starts.len(), starts[0].n), (1, 1));
    assert!(starts[0].attempt > 1, "{starts:?}");
    assert!(older.log.starts().is_empty());
    assert_eq!(dead(&db).await, []);
    older.stop().await;
    newer.stop().await;
}

/// A newer version may have written it, and reads it.
#[tokio::test]
async fn an_order_that_this_version_cannot_read_is_tried_until_its_tries_are_used_up() {
    let world = World::start().await;
    world
        .db
        .execute(
            "INSERT INTO cell.jobs (queue, kind, payload, max_attempts)
             VALUES ('house', 'sync-tenants', '\"all\"', 2)",
        )
        .await;
    let worker = world.worker().await;

    let db = world.db.db();
    eventually("it is dead", || async { !dead(&db).await.is_empty() }).await;

    let found = dead(&db).await.remove(0);
    assert_eq!(
        (found.reason.as_str(), found.attempt),
        ("attempts used up", 2)
    );
    let error = found.last_error.unwrap();
    assert!(error.starts_with("unreadable payload"), "{error}");
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_panic_is_a_failure_like_any_other() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::start(&db, &Setup::default(), |delivered| async move {
        assert!(delivered.attempt > 1, "the first one panics");
        Outcome::Done
    });
    put(&db, vec![note(1)]).await;

    crew.done(1).await;

    let attempts: Vec<_> = crew
        .log
        .starts()
        .iter()
        .map(|start| start.attempt)
        .collect();
    assert_eq!(attempts, [1, 2]);
    crew.stop().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_cut_off_and_tried_again() {
    let test = TestDb::new().await;
    let db = test.db();
    let setup = Setup {
        timeout: Duration::from_millis(100),
        ..Setup::default()
    };
    let crew = Crew::start(&db, &setup, |delivered| async move {
        if delivered.attempt == 1 {
            std::future::pending::<()>().await;
        }
        Outcome::Done
    });
    put(&db, vec![note(1)]).await;

    crew.done(1).await;

    assert_eq!(crew.log.starts().len(), 2);
    crew.stop().await;
}

#[tokio::test]
async fn a_job_without_attempts_left_is_dead_and_can_be_replayed() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut job = note(1);
    job.max_attempts = 3;
    job.unique_key = Some("once".into());
    put(&db, vec![job]).await;
    let crew = Crew::start(&db, &Setup::default(), |delivered| async move {
        panic!("attempt {}", delivered.attempt)
    });
    eventually("it is dead", || async { !dead(&db).await.is_empty() }).await;
    assert_eq!(crew.log.starts().len(), 3);
    crew.stop().await;
    let found = dead(&db).await.remove(0);
    assert_eq!(found.reason, "attempts used up");
    assert_eq!(found.last_error.as_deref(), Some("panicked: attempt 3"));
    assert_eq!((found.attempt, live(&db).await), (3, 0));

    let crew = Crew::eager(&db, &Setup::default());
    let mut tx = db.system().begin().await.unwrap();
    let replayed = admin::replay_dead(&mut tx, &[found.id]).await.unwrap();
    tx.commit().await.unwrap();

    crew.done(1).await;
    assert_eq!(replayed, [found.id]);
    assert_eq!(crew.log.starts()[0].attempt, 1);
    assert_eq!(dead(&db).await, []);
    crew.stop().await;
}

#[tokio::test]
async fn a_dead_job_whose_work_is_waiting_already_is_not_replayed() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::start(&db, &Setup::default(), |_| async { Outcome::dead("no") });
    put(&db, vec![super::crew::keyed(1, "a")]).await;
    eventually("it is dead", || async { !dead(&db).await.is_empty() }).await;
    crew.stop().await;
    put(&db, vec![super::crew::keyed(2, "a")]).await;

    let id = dead(&db).await[0].id;
    let mut tx = db.system().begin().await.unwrap();
    assert_eq!(
        admin::replay_dead(&mut tx, &[id]).await.unwrap(),
        Vec::<i64>::new()
    );
    assert_eq!(admin::discard_dead(tx.conn(), &[id]).await.unwrap(), [id]);
    tx.commit().await.unwrap();

    let queues = {
        let mut tx = db.system().begin().await.unwrap();
        admin::list_queues(tx.conn()).await.unwrap()
    };
    assert_eq!((queues[0].ready, queues[0].dead), (1, 0));
    assert_eq!(number(&db, "SELECT count(*) FROM jobs").await, 1);
}

#[tokio::test]
async fn a_run_that_got_its_tries_anew_is_not_given_up_when_it_fails() {
    let test = TestDb::new().await;
    let db = test.db();
    let of_handler = db.clone();
    let crew = Crew::start(&db, &Setup::default(), move |delivered| {
        let db = of_handler.clone();
        async move {
            if delivered.attempt > 1 {
                return Outcome::Done;
            }
            let mut tx = db.system().begin().await.unwrap();
            delivered.fence.renew_tries(tx.conn(), 3).await.unwrap();
            tx.commit().await.unwrap();
            Outcome::Retry {
                reason: "after a part of the work".into(),
                after: None,
            }
        }
    });
    let once = NewJob {
        max_attempts: 1,
        ..note(1)
    };
    put(&db, vec![once]).await;
    crew.done(1).await;
    assert_eq!(crew.log.starts().len(), 2);
    assert_eq!(dead(&db).await.len(), 0);
    crew.stop().await;
}
