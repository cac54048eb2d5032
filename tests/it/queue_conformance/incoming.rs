//! How jobs get in.

use std::collections::HashSet;
use std::time::Duration;

use apalis_core::backend::TaskSink;
use engageninja::clock::Clock;
use engageninja::jobs::queue::{Announced, Announcer, Order, Tuning, enqueue};
use engageninja::jobs::worker::announcements;
use engageninja::store::Db;
use futures_util::{StreamExt, stream};
use sqlx::Executor;

use super::crew::{Crew, KIND, Setup, keyed, live, note, notes, put};
use crate::harness::db::TestDb;
use crate::harness::eventually;

#[tokio::test]
async fn a_rollback_leaves_nothing_and_a_commit_wakes() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::eager(&db, &Setup::default());

    let mut tx = db.system().begin().await.unwrap();
    enqueue(&mut tx, note(1)).await.unwrap();
    drop(tx);
    put(&db, vec![note(2)]).await;

    crew.done(1).await;
    assert_eq!(crew.log.numbers(), [2]);
    assert_eq!(live(&db).await, 0);
    crew.stop().await;
}

#[tokio::test]
async fn a_commit_in_another_process_wakes() {
    let test = TestDb::new().await;
    let crew = Crew::eager(&test.db(), &Setup::default());
    // It has looked, and found nothing.
    put(&test.db(), vec![note(1)]).await;
    crew.done(1).await;

    let other = Db::new(&test.options(), Clock::default());
    let announcer = Announcer::start(
        other.direct_options(),
        announcements(&other),
        &Tuning::default(),
    );
    put(&other, vec![note(2)]).await;

    crew.done(2).await;
    drop(announcer);
    crew.stop().await;
}

/// A process that was too slow to hear what its transactions announced tells all others to look.
#[tokio::test]
async fn announcements_that_were_lost_in_another_process_wake() {
    let test = TestDb::new().await;
    let crew = Crew::eager(&test.db(), &Setup::default());
    put(&test.db(), vec![note(1)]).await;
    crew.done(1).await;

    let other = Db::new(&test.options(), Clock::default());
    put(&other, vec![note(2)]).await;
    let lost = stream::iter([Announced::Missed]).boxed();
    let announcer = Announcer::start(other.direct_options(), lost, &Tuning::default());

    crew.done(2).await;
    drop(announcer);
    crew.stop().await;
}

#[tokio::test]
async fn a_key_is_unique_while_its_job_lives_and_free_afterwards() {
    let test = TestDb::new().await;
    let db = test.db();

    assert_eq!(
        put(&db, vec![keyed(1, "a"), keyed(2, "a"), keyed(3, "b")])
            .await
            .len(),
        2
    );
    assert_eq!(put(&db, vec![keyed(4, "a"), note(5)]).await.len(), 1);
    let crew = Crew::eager(&db, &Setup::default());
    crew.done(3).await;
    assert_eq!(put(&db, vec![keyed(6, "a")]).await.len(), 1);
    crew.done(4).await;

    let ran: HashSet<_> = crew.log.numbers().into_iter().collect();
    assert_eq!(ran, HashSet::from([1, 3, 5, 6]));
    crew.stop().await;
}

/// Three times, and the quickest counts: a machine may be busy once, a lost wake-up would wait for a poll.
#[tokio::test]
async fn a_late_commit_below_what_was_drained_starts_within_100_ms() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::eager(
        &db,
        &Setup {
            concurrency: 200,
            ..Setup::default()
        },
    );
    let mut quickest = Duration::MAX;
    for round in 0..3 {
        let mut late = db.system().begin().await.unwrap();
        // A busy machine may take longer than a transaction may usually rest.
        let patient = "SET LOCAL idle_in_transaction_session_timeout = '1min'";
        late.conn().execute(patient).await.unwrap();
        let low = enqueue(&mut late, note(-1)).await.unwrap();
        let high = put(&db, notes(0..5_000)).await;
        assert!(low[0] < high[0]);
        crew.done(round * 5_001 + 5_000).await;

        let committed = std::time::Instant::now();
        late.commit().await.unwrap();
        crew.done((round + 1) * 5_001).await;

        let starts = crew.log.starts();
        let start = starts.last().unwrap();
        assert_eq!(start.n, -1);
        quickest = quickest.min(start.at - committed);
    }
    assert!(quickest <= Duration::from_millis(100), "{quickest:?}");
    crew.stop().await;
}

#[tokio::test]
async fn a_job_pushed_as_apalis_users_do_it_runs() {
    let test = TestDb::new().await;
    let db = test.db();
    let setup = Setup::default();
    let crew = Crew::eager(&db, &setup);
    let mut storage = crew.engine.backend(setup.spec());

    let order = |n: i64| Order {
        kind: KIND.into(),
        payload: serde_json::json!({ "n": n }),
    };
    storage.push(order(1)).await.unwrap();
    storage.push_bulk(vec![order(2), order(3)]).await.unwrap();

    drop(storage);
    crew.stop().await;
    let second = Crew::eager(&db, &setup);
    eventually("all are done", || async { live(&db).await == 0 }).await;
    second.stop().await;
}
