//! A pause is a strict bound: what has not begun when it answers does not begin.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::crypto::mac::MacKey;
use engageninja::delivery::campaigns::SwitchError;
use engageninja::domain::attempt::Verdict;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::CountWord;
use engageninja::store::StoreError;
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use crate::harness::program::{MAC_KEY, Started, on};
use crate::harness::steps::pause_on;
use crate::harness::world::World;
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);
const PAUSES: usize = 20;
const CONTACTS: i64 = 2_500;

async fn begun(session: &mut PgConnection) -> i64 {
    let row = session
        .fetch_one("SELECT count(*) FROM send_attempts")
        .await;
    row.unwrap().get(0)
}

/// Attempts of the tenant that had begun before a pause and were open still when it was answered: all of them are in the
/// answer.
async fn open_at(world: &World, paused_at: &str, answered_at: DateTime<Utc>) -> i64 {
    let open = format!(
        "SELECT count(*) FROM send_attempts WHERE tenant_id = '{}' AND started_at < {paused_at}
         AND (resolved_at IS NULL OR resolved_at > {})",
        world.tenant_id,
        instant(answered_at)
    );
    world.number(&open).await
}

fn instant(at: DateTime<Utc>) -> String {
    format!("'{}'::timestamptz", at.to_rfc3339())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_begins_after_any_of_twenty_pauses_under_load() {
    let world = World::start().await;
    world.add_contacts(CONTACTS as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let db = world.db.db();
    let workers = [world.slow_worker().await, world.slow_worker().await];
    // Open already, so that nothing lies between an answer and the look.
    let mut session = world.session().await;

    let mut before = 0;
    for round in 0..PAUSES {
        eventually("messages go out", || async {
            world.through(campaign).await > before + 20
        })
        .await;
        let (paused, in_flight) = within(5, "the pause answers", async {
            world.pause(campaign).await.unwrap()
        })
        .await;
        let answered_at = db.clock().now();
        let begun_at_answer = begun(&mut session).await;
        let paused_at = instant(paused.paused_at.unwrap());

        let still_open = open_at(&world, &paused_at, answered_at).await;
        assert!(
            in_flight >= still_open,
            "round {round}: {in_flight} said, {still_open} open"
        );

        eventually("all that was let out is settled or back", || async {
            let counts = world.counts(campaign).await;
            counts.get(CountWord::Released) + counts.get(CountWord::Sending) == 0
        })
        .await;
        let late = format!("SELECT count(*) FROM send_attempts WHERE started_at > {paused_at}");
        assert_eq!(world.number(&late).await, 0, "round {round}");
        assert!(
            world.counts(campaign).await.get(CountWord::Queued) > 0,
            "no load in round {round}"
        );
        assert_eq!(begun(&mut session).await, begun_at_answer, "round {round}");
        before = world.through(campaign).await;
        world.resume(campaign).await;
    }
    eventually("the rest goes out", || async {
        world.through(campaign).await == CONTACTS
    })
    .await;
    for worker in workers {
        worker.drain(DRAIN).await;
    }

    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_that_pause_at_once_get_an_answer_each() {
    const PEOPLE: u32 = 600;
    let first = World::start().await;
    let second = first.another("Second", "second").await;
    let mut campaigns = Vec::new();
    for world in [&first, &second] {
        world.add_contacts(PEOPLE).await;
        campaigns.push(world.campaign("Hello {{ first_name }}").await);
    }
    let workers = [first.slow_worker().await, first.slow_worker().await];
    let both = [(&first, campaigns[0]), (&second, campaigns[1])];
    let mut before = [0, 0];
    for round in 0..5 {
        for (at, (world, campaign)) in both.into_iter().enumerate() {
            eventually("both send", || async {
                world.through(campaign).await > before[at] + 10
            })
            .await;
        }
        let (one, other) = within(5, "both pauses answer", async {
            tokio::join!(
                Box::pin(first.pause(campaigns[0])),
                Box::pin(second.pause(campaigns[1]))
            )
        })
        .await;
        let answered_at = first.db.clock().now();
        for (at, answer) in [one, other].into_iter().enumerate() {
            let (world, campaign) = both[at];
            let (paused, in_flight) = answer.unwrap();
            let paused_at = instant(paused.paused_at.unwrap());
            let still_open = open_at(world, &paused_at, answered_at).await;
            assert!(
                in_flight >= still_open,
                "{in_flight} said, {still_open} open"
            );
            eventually("all that was let out is settled or back", || async {
                let counts = world.counts(campaign).await;
                counts.get(CountWord::Released) + counts.get(CountWord::Sending) == 0
            })
            .await;
            let late = format!(
                "SELECT count(*) FROM send_attempts WHERE tenant_id = '{}' AND started_at > {paused_at}",
                world.tenant_id
            );
            assert_eq!(world.number(&late).await, 0, "round {round}");
            assert_eq!(world.load(campaign).await.status, CampaignStatus::Paused);
            before[at] = world.through(campaign).await;
            assert!(before[at] < i64::from(PEOPLE), "no load in round {round}");
        }
        for (world, campaign) in both {
            world.resume(campaign).await;
        }
    }
    for (world, campaign) in both {
        eventually("the rest goes out", || async {
            world.through(campaign).await == i64::from(PEOPLE)
        })
        .await;
        assert!(world.counts(campaign).await.is_balanced());
    }
    for worker in workers {
        worker.drain(DRAIN).await;
    }
    assert_eq!(first.doubled().await, 0);
    assert_eq!(first.deadlocks().await, 0);
}

#[tokio::test]
async fn a_pause_says_how_many_calls_are_under_way_and_begin_keeps_the_others_back() {
    let world = World::start().await;
    world.add_contacts(12).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 12).await;
    world.begin(&released[..7]).await;

    let (_, in_flight) = world.pause(campaign).await.unwrap();
    assert_eq!(in_flight, 7);

    let judged = world.begin(&released).await;
    let held = judged
        .iter()
        .filter(|one| one.verdict == Verdict::Held)
        .count();
    let gone = judged
        .iter()
        .filter(|one| one.verdict == Verdict::Gone)
        .count();
    assert_eq!((held, gone), (5, 7));
    let counts = world.counts(campaign).await;
    assert_eq!(
        (
            counts.get(CountWord::Queued),
            counts.get(CountWord::Sending)
        ),
        (5, 7)
    );
    assert!(counts.is_balanced(), "{counts:?}");
    // The leader is told that there is work, and skips it until it may go.
    assert!(world.number("SELECT count(*) FROM lane_wakes").await > 0);
}

/// The barrier: a begin that has looked and not committed yet is in the answer, since the pause waits for it.
#[tokio::test]
async fn a_pause_waits_for_a_begin_that_is_under_way() {
    let world = World::start().await;
    world.add_contacts(2).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 2).await;
    let [first, second] = [released[0].id, released[1].id];
    let waiting = |what: &str| {
        format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = '{what}'"
        )
    };

    let mut session = world.session().await;
    let mut row_lock = session.begin().await.unwrap();
    let held = format!("SELECT FROM messages WHERE id = '{first}' FOR UPDATE");
    row_lock.execute(AssertSqlSafe(held)).await.unwrap();
    let tenant_id = world.tenant_id;
    let begin = format!(
        "SELECT result FROM begin_attempts_2(1, ARRAY['{tenant_id}', '{tenant_id}']::uuid[],
             ARRAY['{first}', '{second}']::uuid[], ARRAY[gen_random_uuid(), gen_random_uuid()])"
    );
    let mut other = world.session().await;
    let begin = tokio::spawn(async move { other.fetch_all(AssertSqlSafe(begin)).await });
    eventually("the begin waits for a row", async || {
        world.number(&waiting("transactionid")).await == 1
    })
    .await;

    let db = world.db.db();
    let pause = tokio::spawn(async move {
        loop {
            match pause_on(&db, tenant_id, campaign).await {
                // Its patience is over before a busy machine lets us go on.
                Err(SwitchError::Store(StoreError::Unavailable(_))) => {}
                answer => return answer.unwrap().1,
            }
        }
    });
    eventually("the pause waits for the begin", async || {
        assert!(
            !pause.is_finished(),
            "it answered while a begin was under way"
        );
        world.number(&waiting("advisory")).await == 1
    })
    .await;
    row_lock.rollback().await.unwrap();

    let results = begin.await.unwrap().unwrap();
    assert!(results.iter().all(|row| row.get::<&str, _>(0) == "begun"));
    assert_eq!(pause.await.unwrap(), 2);
}

/// A process that stands still inside begin holds no pause up: its statement ends on the server without it, and what it
/// had begun counts as under way. Woken late, it makes none of these calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_inside_begin_holds_no_pause_up_and_calls_nobody_when_it_wakes() {
    let world = World {
        mac_key: MacKey::from_base64(&MAC_KEY.into()).unwrap(),
        ..World::start().await
    };
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, 20).await;
    let mut session = world.session().await;
    let mut row_lock = session.begin().await.unwrap();
    // All of them, so that no batch is through with its calls before the stop.
    row_lock
        .execute("SELECT FROM messages FOR UPDATE")
        .await
        .unwrap();
    let worker = Started::new(on(&world.db, &["worker", "--jobs", "send"])).await;
    eventually("its begin waits for a row", async || {
        world
            .number(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event = 'transactionid' AND query LIKE '%begin_attempts%'",
            )
            .await
            > 0
    })
    .await;
    worker.signal(Signal::SIGSTOP);
    row_lock.rollback().await.unwrap();

    let (paused, in_flight) = within(5, "the pause answers", async {
        world.pause(campaign).await.unwrap()
    })
    .await;
    let begun = world.number("SELECT count(*) FROM send_attempts").await;
    assert_eq!(in_flight, begun);
    assert!(begun > 0, "it stopped before its begin");

    // Longer than a permission is good for.
    tokio::time::sleep(Duration::from_secs(6)).await;
    worker.signal(Signal::SIGCONT);
    eventually("nothing is under way", || async {
        world
            .number("SELECT count(*) FROM send_attempts WHERE state IN (0, 2)")
            .await
            == 0
    })
    .await;
    let late = format!(
        "SELECT count(*) FROM send_attempts WHERE started_at > {}",
        instant(paused.paused_at.unwrap())
    );
    assert_eq!(world.number(&late).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM demo_ledger").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(counts.get(CountWord::Queued), 20, "{counts:?}");
    worker.stop().await;
}
