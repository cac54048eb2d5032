//! When a job runs.

use std::time::{Duration, Instant};

use engageninja::jobs::queue::{Backoff, Outcome};

use super::crew::{Crew, Setup, note, number, put};
use crate::harness::db::TestDb;
use crate::harness::eventually;

/// Milliseconds until the one job is due.
const DUE_IN_MS: &str =
    "SELECT (extract(epoch FROM run_at - app_now()) * 1000)::bigint FROM jobs WHERE state = 2";

#[tokio::test]
async fn the_wait_after_a_failure_is_drawn_once_within_its_bound_and_stored() {
    let test = TestDb::new().await;
    let db = test.db();
    let setup = Setup {
        backoff: Backoff {
            base: Duration::from_hours(1),
            cap: Duration::from_hours(1),
        },
        ..Setup::default()
    };
    let crew = Crew::start(&db, &setup, |_| async { Outcome::retry("not today") });
    put(&db, (0..20).map(note).collect()).await;

    eventually("all rest", || async {
        number(
            &db,
            "SELECT count(*) FROM jobs WHERE state = 2 AND last_error = 'not today'",
        )
        .await
            == 20
    })
    .await;

    let beyond = "SELECT count(*) FROM jobs WHERE run_at > app_now() + interval '1 h'";
    assert_eq!(number(&db, beyond).await, 0);
    let different = "SELECT count(DISTINCT run_at) FROM jobs";
    assert!(number(&db, different).await > 10);
    crew.stop().await;
}

#[tokio::test]
async fn what_the_other_side_asked_for_is_honoured() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::start(&db, &Setup::default(), |delivered| async move {
        match delivered.attempt {
            1 => Outcome::Retry {
                reason: "later".into(),
                after: Some(Duration::from_hours(1)),
            },
            _ => Outcome::Done,
        }
    });
    put(&db, vec![note(1)]).await;
    eventually("it rests", || async { crew.engine.totals().again == 1 }).await;
    let due_in_ms = number(&db, DUE_IN_MS).await;
    assert!((3_540_000..=3_600_000).contains(&due_in_ms), "{due_in_ms}");

    test.advance(Duration::from_hours(1)).await;
    crew.done(1).await;
    crew.stop().await;
}

/// Never early; and as late as 100 ms, a busy machine aside, of which half of them bear witness.
#[tokio::test]
async fn a_scheduled_job_starts_within_100_ms_of_its_time() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::eager(&db, &Setup::default());
    let delays_ms = (0..20).map(|n| 200 + 40 * n);
    let jobs = delays_ms
        .map(|ms| note(ms).after(Duration::from_millis(ms as u64)))
        .collect();
    let before = Instant::now();
    put(&db, jobs).await;
    let after = Instant::now();

    let starts = crew.log.until(20).await;
    let mut late: Vec<_> = starts
        .iter()
        .map(|start| {
            let delay = Duration::from_millis(start.n as u64);
            assert!(start.at >= before + delay, "early: {start:?}");
            start.at.saturating_duration_since(after + delay)
        })
        .collect();
    late.sort_unstable();
    assert!(late[10] <= Duration::from_millis(100), "{late:?}");
    crew.stop().await;
}

#[tokio::test]
async fn a_snooze_does_not_count_as_an_attempt() {
    let test = TestDb::new().await;
    let db = test.db();
    let snoozes = std::sync::atomic::AtomicU32::new(0);
    let crew = Crew::start(&db, &Setup::default(), move |_| {
        let before = snoozes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            if before < 7 {
                Outcome::Snooze(Duration::from_millis(10))
            } else {
                Outcome::Done
            }
        }
    });
    let mut job = note(1);
    job.max_attempts = 1;
    put(&db, vec![job]).await;

    crew.done(1).await;

    let starts = crew.log.starts();
    assert_eq!(starts.len(), 8);
    assert!(starts.iter().all(|start| start.attempt == 1), "{starts:?}");
    assert!(starts.windows(2).all(|pair| pair[0].id < pair[1].id));
    crew.stop().await;
}
