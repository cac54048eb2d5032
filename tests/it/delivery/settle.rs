//! Attempts and slots whose owner is gone.

use std::time::Duration;

use engageninja::delivery::resolve::park_overdue;
use engageninja::domain::counts::CountWord;
use sqlx::{Connection, Executor};

use crate::harness::eventually;
use crate::harness::killable::Killable;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_attempt_left_open_is_parked_at_its_first_look_and_not_before() {
    let world = World::start().await;
    world.add_contacts(5).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 5).await;
    world.begin(&released[..2]).await;

    world.db.advance(world.holds.deadline).await;
    park_overdue(&world.db.db()).await.unwrap();
    assert_eq!(world.counts(campaign).await.get(CountWord::Sending), 2);

    world.db.advance(SECOND * 6).await;
    park_overdue(&world.db.db()).await.unwrap();

    let counts = world.counts(campaign).await;
    assert_eq!(
        (
            counts.get(CountWord::Parked),
            counts.get(CountWord::Sending)
        ),
        (2, 0)
    );
    assert!(counts.is_balanced(), "{counts:?}");
    let parked = "SELECT count(*) FROM send_attempts a JOIN messages m ON m.tenant_id = a.tenant_id AND m.id = a.message_id
        WHERE a.state = 6 AND m.phase = 5 AND a.resolved_at IS NOT NULL AND a.error_code IS NOT NULL AND a.next_look_at IS NULL";
    assert_eq!(world.number(parked).await, 2);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
}

#[tokio::test]
async fn an_answer_that_comes_after_the_parking_still_hands_the_message_over() {
    let world = World::start().await;
    world.add_contacts(1).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    // Whoever wants to store an outcome waits here.
    let mut session = world.session().await;
    let mut gate = session.begin().await.unwrap();
    gate.execute("LOCK TABLE message_provider_mappings IN SHARE MODE")
        .await
        .unwrap();

    let worker = world.worker().await;
    eventually("the provider has it", || async {
        world.number("SELECT count(*) FROM demo_ledger").await
            + world.counts(campaign).await.get(CountWord::DroppedRefused)
            == 1
    })
    .await;
    if world.counts(campaign).await.get(CountWord::DroppedRefused) == 1 {
        // One in a hundred: the demo provider refuses it, and there is no answer to come late.
        worker.drain(DRAIN).await;
        return;
    }
    world.db.advance(world.holds.first_look + SECOND).await;
    eventually("it is parked", || async {
        world.counts(campaign).await.get(CountWord::Parked) == 1
    })
    .await;
    gate.rollback().await.unwrap();
    eventually("the answer is stored", || async {
        world.counts(campaign).await.get(CountWord::HandedOver) == 1
    })
    .await;
    worker.drain(DRAIN).await;

    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    let accepted =
        "SELECT count(*) FROM send_attempts WHERE state = 1 AND provider_message_id IS NOT NULL";
    assert_eq!(world.number(accepted).await, 1);
    assert_eq!(
        world
            .number("SELECT count(*) FROM message_provider_mappings")
            .await,
        1
    );
    assert_eq!(world.number("SELECT count(*) FROM demo_ledger").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
}

#[tokio::test]
async fn the_slots_of_a_dead_worker_go_back_after_their_hold() {
    let world = World::start().await;
    world.add_contacts(30).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let dead = Killable::start(&world, world.without_sends()).await;
    eventually("messages are let out", || async {
        world.list_released(campaign).await.len() == 30
    })
    .await;
    dead.kill();
    // Its jobs went with it.
    world
        .db
        .execute("DELETE FROM cell.jobs WHERE queue = 'send'")
        .await;

    let worker = world.worker().await;
    eventually("another leads", || async {
        world.number("SELECT epoch FROM release_shards").await == 2
    })
    .await;
    assert_eq!(world.list_released(campaign).await.len(), 30);

    world.db.advance(world.holds.slot + SECOND).await;
    eventually("all go out", || async {
        world.through(campaign).await == 30
    })
    .await;
    worker.drain(DRAIN).await;

    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
}
