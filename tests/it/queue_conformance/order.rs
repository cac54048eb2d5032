//! Who goes first.

use std::collections::HashSet;
use std::time::Duration;

use engageninja::jobs::queue::{Delivered, Outcome, Weight};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::crew::{Crew, Setup, in_lane, live, note, notes, put};
use crate::harness::db::TestDb;
use crate::harness::eventually;

#[tokio::test]
async fn the_lower_priority_goes_first_and_then_the_older_job() {
    let test = TestDb::new().await;
    let db = test.db();
    let mut jobs = notes(0..6);
    for (job, priority) in jobs.iter_mut().zip([5, 0, -3, 5, 0, 9]) {
        job.priority = priority;
    }
    put(&db, jobs).await;
    let one = Setup {
        concurrency: 1,
        ..Setup::default()
    };
    let crew = Crew::eager(&db, &one);

    crew.done(6).await;

    assert_eq!(crew.log.numbers(), [2, 1, 4, 0, 3, 5]);
    crew.stop().await;
}

/// A priority that nobody has seen before is found all the same, above and below the known ones.
#[tokio::test]
async fn a_new_priority_is_found_while_others_are_known() {
    let test = TestDb::new().await;
    let db = test.db();
    let crew = Crew::eager(&db, &Setup::default());
    for (round, priority) in [0, 7, -7, 3].into_iter().enumerate() {
        put(&db, vec![note(1).with_priority(priority)]).await;
        crew.done(round as u64 + 1).await;
    }
    crew.stop().await;
}

#[tokio::test]
async fn a_lane_with_one_job_does_not_wait_behind_a_lane_with_thousands() {
    let test = TestDb::new().await;
    let db = test.db();
    put(&db, (0..5_000).map(|n| in_lane(n, 1)).collect()).await;
    put(&db, vec![in_lane(-1, 2)]).await;
    put(&db, vec![note(-2)]).await;
    let crew = Crew::eager(
        &db,
        &Setup {
            claims_in_turns: true,
            ..Setup::default()
        },
    );

    crew.done(5_002).await;

    let ran = crew.log.numbers();
    let at = ran.iter().position(|n| *n == -1).unwrap();
    assert!(at < 20, "it was the {at}th");
    assert!(ran.contains(&-2), "a job without a lane runs too");
    crew.stop().await;
}

#[tokio::test]
async fn more_lanes_than_slots_are_served_in_turn() {
    let test = TestDb::new().await;
    let db = test.db();
    let jobs = (0..150).map(|n| in_lane(n, 1 + (n as u128 / 3))).collect();
    put(&db, jobs).await;
    let crew = Crew::eager(
        &db,
        &Setup {
            claims_in_turns: true,
            concurrency: 5,
            ..Setup::default()
        },
    );

    crew.done(150).await;

    let first: HashSet<_> = crew.log.numbers()[..50].iter().map(|n| n / 3).collect();
    assert_eq!(first.len(), 50, "each lane once before any of them twice");
    crew.stop().await;
}

/// A claim looks for so many lanes at most, and the next one goes on with the others.
#[tokio::test]
async fn of_very_many_lanes_each_has_its_turn_and_gets_more_at_a_time() {
    const LANES: i64 = 100;
    let test = TestDb::new().await;
    let db = test.db();
    let lane_of = |n: i64| n % LANES;
    let jobs = (0..8 * LANES).map(|n| in_lane(n, 1 + lane_of(n) as u128));
    put(&db, jobs.collect()).await;
    let setup = Setup {
        claims_in_turns: true,
        concurrency: 128,
        ..Setup::default()
    };
    let (open, gate) = watch::channel(false);
    let crew = Crew::start(&db, &setup, behind(&gate, 0));
    crew.log.until(128).await;
    let lanes = |jobs: usize| -> HashSet<_> {
        let ran = crew.log.numbers();
        ran[..jobs].iter().map(|n| lane_of(*n)).collect()
    };
    assert_eq!(lanes(128).len(), 64, "two of each");

    open.send(true).unwrap();
    crew.done(8 * LANES as u64).await;
    assert_eq!(lanes(400).len(), 100, "nobody is left for the end");
    crew.stop().await;
}

/// Jobs that count for four each, for crews that have room for two.
fn heavy() -> Setup {
    Setup {
        concurrency: 8,
        weight: Weight { of: |_| 4, most: 4 },
        ..Setup::default()
    }
}

/// A handler that lightens its job by `parts` and then waits until the gate is open.
fn behind(
    gate: &watch::Receiver<bool>,
    parts: usize,
) -> impl Fn(Delivered) -> BoxFuture<'static, Outcome> + Send + Sync + 'static {
    let gate = gate.clone();
    move |delivered| {
        let mut gate = gate.clone();
        async move {
            for _ in 0..parts {
                delivered.load.lighten();
            }
            gate.wait_for(|is_open| *is_open).await.unwrap();
            Outcome::Done
        }
        .boxed()
    }
}

/// So that no process claims more than it can do while another has nothing.
#[tokio::test]
async fn a_job_that_counts_for_four_takes_four_slots() {
    let test = TestDb::new().await;
    let db = test.db();
    let (open, gate) = watch::channel(false);
    put(&db, notes(0..6)).await;
    let one = Crew::start(&db, &heavy(), behind(&gate, 0));
    one.log.until(2).await;
    let another = Crew::start(&db, &heavy(), behind(&gate, 0));
    another.log.until(2).await;
    // A third one would leave no other trace.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(one.log.starts().len(), 2);
    assert_eq!(another.log.starts().len(), 2);

    open.send(true).unwrap();
    eventually("all are done", || async { live(&db).await == 0 }).await;
    assert_eq!(one.log.starts().len() + another.log.starts().len(), 6);
    one.stop().await;
    another.stop().await;
}

/// Whoever had nothing but light jobs for long asks for heavy ones as if they were light.
#[tokio::test]
async fn a_claim_that_guesses_wrong_takes_twice_the_room_at_most() {
    const LIGHT: i64 = 20;
    let test = TestDb::new().await;
    let db = test.db();
    let setup = Setup {
        weight: Weight {
            of: |payload| {
                let is_light = payload["n"].as_i64() < Some(LIGHT);
                if is_light { 1 } else { 4 }
            },
            most: 4,
        },
        ..heavy()
    };
    let (open, gate) = watch::channel(true);
    let crew = Crew::start(&db, &setup, behind(&gate, 0));
    for n in 0..LIGHT {
        put(&db, vec![note(n)]).await;
        crew.done(n as u64 + 1).await;
    }
    open.send(false).unwrap();
    put(&db, notes(LIGHT..LIGHT + 12)).await;
    crew.log.until(LIGHT as usize + 4).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(crew.log.starts().len(), LIGHT as usize + 4);

    open.send(true).unwrap();
    eventually("all are done", || async { live(&db).await == 0 }).await;
    crew.stop().await;
}

/// A slow part does not keep the slots of those beside it.
#[tokio::test]
async fn slots_are_free_as_soon_as_the_parts_they_were_for_are_done() {
    let test = TestDb::new().await;
    let db = test.db();
    let (open, gate) = watch::channel(false);
    put(&db, notes(0..12)).await;
    let crew = Crew::start(&db, &heavy(), behind(&gate, 9));
    // However often a job is lightened it keeps a slot.
    crew.log.until(8).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(crew.log.starts().len(), 8);

    open.send(true).unwrap();
    eventually("all are done", || async { live(&db).await == 0 }).await;
    assert_eq!(crew.log.starts().len(), 12);
    crew.stop().await;
}
