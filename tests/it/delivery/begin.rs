//! What begin says of messages that were let out and may not go, and what follows.

use std::time::Duration;

use engageninja::domain::attempt::Verdict;
use engageninja::domain::counts::CountWord;
use sqlx::Executor;

use crate::harness::world::World;
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn who_opts_out_after_the_release_gets_nothing() {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 20).await;
    let leaves = released[7].id;
    world
        .db
        .execute(&format!(
            "INSERT INTO cell.suppressions (tenant_id, channel, dest_mac, reason)
             SELECT tenant_id, 'sms', dest_mac, 'opt_out' FROM cell.messages WHERE id = '{leaves}'"
        ))
        .await;

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    within(60, "the campaign completes", world.completed(campaign)).await;
    worker.drain(DRAIN).await;

    let counts = world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::DroppedOptedOut), 1);
    assert_eq!(world.through(campaign).await, 19);
    assert!(counts.is_balanced(), "{counts:?}");
    let dropped = format!(
        "SELECT count(*) FROM messages WHERE id = '{leaves}' AND phase = 6 AND drop_reason = 'opted_out'"
    );
    assert_eq!(world.number(&dropped).await, 1);
    for table in ["demo_ledger", "send_attempts"] {
        let sql = format!("SELECT count(*) FROM {table} WHERE message_id = '{leaves}'");
        assert_eq!(world.number(&sql).await, 0, "{table}");
    }
}

#[tokio::test]
async fn what_expires_after_the_release_is_dropped_and_never_sent() {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, 20).await;

    world.db.advance(Duration::from_hours(73)).await;
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    within(60, "the campaign completes", world.completed(campaign)).await;
    worker.drain(DRAIN).await;

    let counts = world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::DroppedExpired), 20);
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(world.number("SELECT count(*) FROM demo_ledger").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM send_attempts").await, 0);
}

/// A backlog that grew old behind a halt goes at once, and costs those who come after it nothing.
#[tokio::test]
async fn what_expires_in_the_backlog_is_dropped_though_its_sender_is_halted() {
    let world = World::start().await;
    world.add_contacts(100).await;
    let old = world.campaign("Hello {{ first_name }}").await;
    for sql in [
        "UPDATE cell.senders SET segments_per_sec_override = 1 WHERE channel = 'sms'",
        "INSERT INTO cell.halts (tenant_id, sender_id, until, reason)
         SELECT tenant_id, id, 'infinity', 'test' FROM cell.senders WHERE channel = 'sms'",
    ] {
        world.db.execute(sql).await;
    }
    let worker = world.worker().await;
    eventually("all wait", || async {
        world.counts(old).await.get(CountWord::Queued) == 100
    })
    .await;
    world.db.advance(Duration::from_hours(73)).await;
    eventually("what is past its time is dropped", || async {
        world.counts(old).await.get(CountWord::DroppedExpired) == 100
    })
    .await;

    // At one a second these would wait for more than a minute behind what nobody is sent.
    let new = world.campaign("Hello again, {{ first_name }}").await;
    world.db.execute("DELETE FROM cell.halts").await;
    eventually("the others go", || async { world.through(new).await >= 3 }).await;
    worker.drain(DRAIN).await;
    assert!(world.counts(old).await.is_balanced());
}

/// A look-up at the provider must have one candidate at most.
#[tokio::test]
async fn a_message_like_one_under_way_waits_until_that_one_is_settled() {
    let world = World::start().await;
    world.add_contacts(1).await;
    let first = world.campaign("The same words").await;
    let released = world.let_out(first, 1).await;
    let begun = world.begin(&released).await;
    assert_eq!(begun[0].verdict, Verdict::Begun);

    let second = world.campaign("The same words").await;
    let worker = world.worker().await;
    eventually("the second is put off", || async {
        world.counts(second).await.get(CountWord::Deferred) == 1
    })
    .await;
    let attempts = "SELECT count(*) FROM send_attempts";
    assert_eq!(world.number(attempts).await, 1);
    assert_eq!(world.number("SELECT count(*) FROM demo_ledger").await, 0);

    world.settle().await;
    eventually("the first goes", || async {
        world.through(first).await == 1
    })
    .await;

    world.db.advance(world.holds.busy).await;
    eventually("the second goes", || async {
        world.through(second).await == 1
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(world.number(attempts).await, 3);
    assert!(world.counts(second).await.is_balanced());
}

#[tokio::test]
async fn two_jobs_of_one_message_in_one_batch_open_one_attempt() {
    let world = World::start().await;
    world.add_contacts(3).await;
    let campaign = world.campaign("Hello").await;
    let released = world.let_out(campaign, 3).await;

    let verdicts = |judged: Vec<engageninja::store::attempts::Judged>| {
        judged
            .into_iter()
            .map(|one| one.verdict)
            .collect::<Vec<_>>()
    };
    let (a, b) = tokio::join!(world.begin(&released), world.begin(&released));

    let mut all = [verdicts(a), verdicts(b)].concat();
    all.sort_by_key(|verdict| *verdict == Verdict::Gone);
    assert_eq!(all, [[Verdict::Begun; 3], [Verdict::Gone; 3]].concat());
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 3);
}

#[tokio::test]
async fn a_halted_sender_sends_nothing_until_the_halt_is_over() {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, 20).await;
    world
        .db
        .execute(
            "INSERT INTO cell.halts (tenant_id, sender_id, until, reason)
             SELECT tenant_id, id, public.app_now() + interval '10 minutes', 'test' FROM cell.senders WHERE channel = 'sms'",
        )
        .await;

    let worker = world.worker().await;
    eventually("all is back in the backlog", || async {
        world.counts(campaign).await.get(CountWord::Queued) == 20
    })
    .await;
    assert_eq!(world.number("SELECT count(*) FROM send_attempts").await, 0);

    world.db.advance(Duration::from_mins(11)).await;
    eventually("the halt is over", || async {
        world.through(campaign).await == 20
    })
    .await;
    worker.drain(DRAIN).await;
    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
}

/// One that no attempt can be made for is asked for with others, and only it gets no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_begin_keeps_no_other_from_it() {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 20).await;
    // The next attempt has no number.
    let spoil = format!(
        "UPDATE cell.messages SET attempt_no = 32767 WHERE id = '{}'",
        released[7].id
    );
    world.db.execute(&spoil).await;

    let worker = world.worker().await;
    eventually("the others are through", || async {
        world.through(campaign).await == 19
    })
    .await;
    worker.drain(DRAIN).await;
    let counts = world.counts(campaign).await;
    let waits = counts.get(CountWord::Queued) + counts.get(CountWord::Released);
    assert_eq!(waits, 1, "{counts:?}");
}

/// Nor does one that somebody holds, as an operator at a prompt may.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_somebody_holds_keeps_no_other_from_beginning() {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 20).await;
    let mut holder = world.hold(released[7].id).await;

    let worker = world.worker().await;
    eventually("the others are through", || async {
        world.through(campaign).await == 19
    })
    .await;
    holder.execute("ROLLBACK").await.unwrap();
    eventually("it is, too", || async {
        world.through(campaign).await == 20
    })
    .await;
    worker.drain(DRAIN).await;
    let aborted = "SELECT count(*) FROM send_attempts WHERE state = 4";
    assert_eq!(
        world.number(aborted).await,
        0,
        "a lock that was not had began nothing"
    );
    assert_eq!(world.doubled().await, 0);
}
