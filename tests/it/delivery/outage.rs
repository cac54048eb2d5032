//! PostgreSQL goes away in the middle of a campaign and comes back: workers wait and go on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::domain::counts::CountWord;
use engageninja::store::StoreError;

use crate::harness::db::Cluster;
use crate::harness::world::World;
use crate::harness::{eventually, within};

const CONTACTS: i64 = 1_500;

/// How the server goes away.
#[derive(Debug, Clone, Copy)]
enum End {
    InOrder,
    Crash,
}

/// Takes the server away until a request has been told so, brings it back, and says when that was.
async fn outage(world: &World, cluster: &mut Cluster, end: End) -> DateTime<Utc> {
    match end {
        End::InOrder => cluster.stop().await,
        End::Crash => cluster.crash().await,
    }
    let refused = within(30, "a request is refused", world.db.db().system().begin()).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    cluster.start().await;
    world.db.clock().now()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_wait_for_postgresql_and_nothing_is_lost_or_sent_twice() {
    let mut cluster = Cluster::dedicated(true).await;
    let world = World::on(cluster.db().await).await;
    world.add_contacts(CONTACTS as u32).await;
    let worker = world.slow_worker().await;
    let _scheduler = world.scheduler();
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let mut back_at = DateTime::UNIX_EPOCH;
    for (round, end) in [End::InOrder, End::Crash].into_iter().enumerate() {
        let enough = 300 * (round as i64 + 1);
        eventually("messages go out", || async {
            world.through(campaign).await >= enough
        })
        .await;
        back_at = outage(&world, &mut cluster, end).await;
        let counts = world.counts(campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        assert!(counts.get(CountWord::Queued) > 0, "{end:?} came too late");
    }
    let under_way = format!(
        "SELECT (SELECT count(*) FROM messages WHERE phase IN (-1, 0, 1))
              + (SELECT count(*) FROM send_attempts WHERE state IN (0, 2) AND started_at >= '{}')",
        back_at.to_rfc3339()
    );
    eventually("the rest goes out", || async {
        world.number(&under_way).await == 0
    })
    .await;
    // What was open when the server went has no owner who knows.
    world.settle().await;
    within(60, "the campaign completes", world.completed(campaign)).await;
    worker.drain(Duration::from_secs(5)).await;

    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(world.through(campaign).await, CONTACTS);
    assert_eq!(world.doubled().await, 0);
    let unsent = "SELECT count(*) FROM messages m WHERE m.phase = 4 AND NOT EXISTS (
        SELECT FROM demo_ledger d WHERE d.tenant_id = m.tenant_id AND d.message_id = m.id)";
    assert_eq!(world.number(unsent).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    assert_eq!(
        world
            .number("SELECT count(*) FROM jobs WHERE queue = 'send'")
            .await,
        0
    );
    assert_eq!(world.number("SELECT count(*) FROM dead_jobs").await, 0);
}
