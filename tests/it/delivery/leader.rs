//! One leader lets messages out, and another follows when it dies.

use std::time::Duration;

use engageninja::domain::ids::Incarnation;
use engageninja::store::release::{renew_term, take_term};
use tokio::time::Instant;

use crate::harness::eventually;
use crate::harness::killable::Killable;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn when_the_leader_dies_another_leads_within_its_term() {
    let world = World::start().await;
    world.add_contacts(2_000).await;
    let leader = Killable::start(&world, world.worker_options()).await;
    let epoch = || world.number("SELECT epoch FROM release_shards");
    eventually("it leads", || async { epoch().await == 1 }).await;
    let follower = world.worker().await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    eventually("messages go out", || async {
        world.through(campaign).await > 100
    })
    .await;
    assert_eq!(epoch().await, 1);

    let killed_at = Instant::now();
    leader.kill();
    eventually("the other leads", || async { epoch().await == 2 }).await;
    let took = killed_at.elapsed();
    // The look of the follower, and a busy machine.
    let slack = Duration::from_secs(2);
    assert!(took < world.holds.term + slack, "took over after {took:?}");

    // What the dead one had begun nobody finishes.
    world
        .db
        .advance(world.holds.slot + Duration::from_secs(1))
        .await;
    world.settle().await;
    eventually("all are through", || async {
        world.through(campaign).await == 2_000
    })
    .await;
    follower.drain(DRAIN).await;
    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}

#[tokio::test]
async fn a_leader_that_slept_through_its_term_writes_nothing_more() {
    let world = World::start().await;
    let db = world.db.db();
    let term = world.holds.term;
    let mut tx = db.system().begin().await.unwrap();
    let first = take_term(&mut tx, Incarnation(1), term)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        take_term(&mut tx, Incarnation(2), term).await.unwrap(),
        None
    );
    let again = take_term(&mut tx, Incarnation(1), term).await.unwrap();
    assert_eq!(again, Some(first + 1), "its own term keeps nobody back");
    tx.commit().await.unwrap();

    world.db.advance(term + Duration::from_secs(1)).await;
    let mut tx = db.system().begin().await.unwrap();
    let second = take_term(&mut tx, Incarnation(2), term)
        .await
        .unwrap()
        .unwrap();
    assert!(second > first + 1);
    assert!(renew_term(&mut tx, first, term, 0).await.unwrap().is_none());
    assert!(
        renew_term(&mut tx, second, term, 0)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_leader_that_ends_in_order_leaves_the_term_to_the_next() {
    let world = World::start().await;
    let first = world.worker().await;
    let epoch = || world.number("SELECT epoch FROM release_shards");
    eventually("it leads", || async { epoch().await == 1 }).await;
    first.drain(DRAIN).await;
    let free = "SELECT count(*) FROM release_shards WHERE until = '-infinity' AND owner IS NULL";
    assert_eq!(world.number(free).await, 1);
}
