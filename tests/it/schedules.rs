//! Ticks, and what has to be there although nobody ticked.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engageninja::domain::counts::CountWord;
use engageninja::schedules::table::SCHEDULES;
use engageninja::store::startup::maintain_partitions;
use nix::sys::signal::Signal;
use sqlx::Row;

use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::program::{Started, on};
use crate::harness::world::World;

const WEEK: Duration = Duration::from_hours(24 * 7);
/// How long a scheduler that stands still inside a tick may keep the others from firing: the server ends its transaction after
/// two seconds, who waited for its row tries again a second later, and the next tick is a second away. As much again for a
/// machine that has other things to do.
const HELD_UP_MAX: TimeDelta = TimeDelta::seconds(10);

/// Writes down every job that somebody tries to insert, one refused by its key among them.
const EAR: &str = "
    CREATE TABLE public.heard (kind text);
    CREATE FUNCTION public.hear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN INSERT INTO public.heard VALUES (new.kind); RETURN new; END $$;
    CREATE TRIGGER hear BEFORE INSERT ON cell.jobs FOR EACH ROW EXECUTE FUNCTION public.hear()";

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_fire_each_tick_once_and_skip_none() {
    let world = World::start().await;
    world.db.execute(EAR).await;
    let schedulers = [world.scheduler(), world.scheduler(), world.scheduler()];

    eventually("ticks have fired", || async {
        world
            .number("SELECT count(*) FROM schedule_runs WHERE schedule_id = 'fold-deltas'")
            .await
            >= 3
    })
    .await;
    // The clock jumps over many ticks: they come to one.
    world.db.advance(Duration::from_hours(1)).await;
    eventually("an hour later, too", || async {
        world
            .number("SELECT count(*) FROM schedule_runs WHERE schedule_id = 'partitions'")
            .await
            >= 1
    })
    .await;
    drop(schedulers);
    world.db.db().close().await;

    assert_ordered_once(&world).await;
    let fired =
        "SELECT fire_at FROM schedule_runs WHERE schedule_id = 'fold-deltas' ORDER BY fire_at";
    let rows = world.rows(fired).await;
    let ticks: Vec<DateTime<Utc>> = rows.iter().map(|row| row.get(0)).collect();
    let steps: BTreeSet<TimeDelta> = ticks.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(steps.first(), Some(&TimeDelta::seconds(1)), "{ticks:?}");
    let jumps = steps
        .iter()
        .filter(|step| **step > TimeDelta::minutes(30))
        .count();
    assert_eq!(jumps, 1, "{ticks:?}");
    let missed = steps
        .iter()
        .find(|step| (HELD_UP_MAX..TimeDelta::minutes(30)).contains(step));
    assert_eq!(missed, None, "{ticks:?}");
}

/// Each tick that fired, by the key of its row once, ordered its job once.
async fn assert_ordered_once(world: &World) {
    for schedule in SCHEDULES {
        let (id, kind) = (schedule.row.id, schedule.row.kind);
        let ticks = format!("SELECT count(*) FROM schedule_runs WHERE schedule_id = '{id}'");
        let heard = format!("SELECT count(*) FROM public.heard WHERE kind = '{kind}'");
        assert_eq!(
            world.number(&heard).await,
            world.number(&ticks).await,
            "{id}"
        );
    }
}

/// Waits until a schedule of every second has fired so often more.
async fn ticks_fire(world: &World, more: i64) {
    let fired = "SELECT count(*) FROM schedule_runs WHERE schedule_id = 'fold-deltas'";
    let before = world.number(fired).await;
    eventually("ticks fire", || async {
        world.number(fired).await >= before + more
    })
    .await;
}

/// Three processes, one of which stands still between its claim and its commit, so that the tick is nobody else's either. It
/// loses that, and the others go on; woken, it fires nothing a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_stopped_inside_a_tick_holds_the_others_up_for_seconds_and_fires_nothing_twice()
{
    let world = World::start().await;
    world.db.execute(EAR).await;
    world.build_gate("jobs").await;
    let start = || Started::new(on(&world.db, &["scheduler"]));
    let (stopped, second, third) = tokio::join!(start(), start(), start());
    ticks_fire(&world, 3).await;
    // The others rest meanwhile, so that it is known who has the next tick.
    for other in [&second, &third] {
        other.signal(Signal::SIGSTOP);
    }
    world.shut_gate().await;
    world.somebody_is_at_gate().await;
    stopped.signal(Signal::SIGSTOP);
    world.open_gate().await;
    for other in [&second, &third] {
        other.signal(Signal::SIGCONT);
    }
    let since = world.db.clock().now();

    ticks_fire(&world, 4).await;
    stopped.signal(Signal::SIGCONT);
    ticks_fire(&world, 3).await;
    for scheduler in [stopped, second, third] {
        scheduler.stop().await;
    }

    assert_ordered_once(&world).await;
    let fired = format!(
        "SELECT fired_at FROM schedule_runs WHERE schedule_id = 'fold-deltas' AND fired_at > '{}' ORDER BY 1",
        since.to_rfc3339()
    );
    let rows = world.rows(&fired).await;
    let fired = std::iter::once(since).chain(rows.iter().map(|row| row.get(0)));
    let fired: Vec<DateTime<Utc>> = fired.collect();
    for pair in fired.windows(2) {
        assert!(pair[1] - pair[0] < HELD_UP_MAX, "{fired:?}");
    }
}

/// One of three stands still for half a minute, at no particular moment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "five minutes"]
async fn three_schedulers_fire_each_second_for_five_minutes() {
    let world = World::start().await;
    world.db.execute(EAR).await;
    let start = || Started::new(on(&world.db, &["scheduler"]));
    let (stopped, second, third) = tokio::join!(start(), start(), start());
    ticks_fire(&world, 3).await;

    tokio::time::sleep(Duration::from_mins(2)).await;
    stopped.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(30)).await;
    stopped.signal(Signal::SIGCONT);
    tokio::time::sleep(Duration::from_secs(150)).await;
    for scheduler in [stopped, second, third] {
        scheduler.stop().await;
    }

    assert_ordered_once(&world).await;
    let fired = "SELECT fire_at FROM schedule_runs WHERE schedule_id = 'fold-deltas' ORDER BY 1";
    let rows = world.rows(fired).await;
    let ticks: Vec<DateTime<Utc>> = rows.iter().map(|row| row.get(0)).collect();
    let length = *ticks.last().unwrap() - ticks[0];
    let missed = length - TimeDelta::seconds(ticks.len() as i64 - 1);
    eprintln!("{} ticks in {length}, {missed} missed", ticks.len());
    assert!(length >= TimeDelta::seconds(290), "{length}");
    // Whoever stands still inside a tick costs the others a few; anywhere else it costs none.
    assert!(missed < HELD_UP_MAX, "{ticks:?}");
}

#[tokio::test]
async fn a_schedule_that_an_operator_switched_off_orders_nothing() {
    let world = World::start().await;
    world.db.execute(EAR).await;
    // The list in the code says the rest, and leaves the switch alone.
    world
        .db
        .execute(
            "INSERT INTO cell.schedules (id, cron, queue, kind, is_enabled)
             VALUES ('fold-deltas', '', '', '', false)",
        )
        .await;

    let _scheduler = world.scheduler();
    world.db.advance(Duration::from_secs(10)).await;
    eventually("another schedule ticks", || async {
        world
            .number("SELECT count(*) FROM public.heard WHERE kind = 'demo-advance-status'")
            .await
            >= 1
    })
    .await;
    let folds = "SELECT count(*) FROM public.heard WHERE kind = 'fold-campaign-deltas'";
    assert_eq!(world.number(folds).await, 0);
    let filled =
        "SELECT count(*) FROM schedules WHERE kind = 'fold-campaign-deltas' AND NOT is_enabled";
    assert_eq!(world.number(filled).await, 1);
}

/// Nobody ran the scheduler for ten weeks, nor started anything.
#[tokio::test]
async fn after_ten_weeks_without_a_scheduler_nothing_is_refused_and_the_next_start_makes_partitions()
 {
    let world = World::on(TestDb::with_all_partitions().await).await;
    world.add_contacts(10).await;

    world.db.advance(10 * WEEK).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let worker = world.worker().await;
    eventually("all are through", || async {
        world.through(campaign).await == 10
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    let counts = world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Audience), 10);
    assert!(counts.is_balanced(), "{counts:?}");
    let today = "INSERT INTO cell.provider_events (dedup_key, provider, status, body) VALUES ('x', 'demo', 'sent', '{}')";
    world.db.execute(today).await;

    let ahead = "SELECT count(*) FROM schema_faults() WHERE fault LIKE 'fewer than 8 weeks%'";
    assert!(
        world.number(ahead).await > 0,
        "ten weeks cost no partitions"
    );
    maintain_partitions(&world.db.db()).await.unwrap();
    assert_eq!(
        world.number("SELECT count(*) FROM schema_faults()").await,
        0
    );
}
