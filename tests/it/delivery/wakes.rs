//! Many who bring messages to one lane at once: no wake is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engageninja::delivery::intake::{Commands, accept_messages};
use engageninja::domain::channel::{Channel, Class};
use engageninja::domain::ids::{LaneId, MessageId};
use engageninja::store::lanes::wake_lost;
use engageninja::store::messages::{BatchHead, NewMessage};
use engageninja::store::senders::find_active;
use uuid::Uuid;

use crate::harness::eventually;
use crate::harness::world::World;

const INTAKES: usize = 16;
const BATCHES: usize = 25;
const MESSAGES: usize = 4;
const ALL: i64 = (INTAKES * BATCHES * MESSAGES) as i64;

/// One of those who bring messages: batch after batch, each in a transaction of its own.
async fn bring(world: &World, intake: usize) {
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    for batch in 0..BATCHES {
        let mut tx = db.cell(tenant_id).begin().await.unwrap();
        let sender = find_active(tx.conn(), tenant_id, Channel::Sms, None)
            .await
            .unwrap()
            .unwrap();
        let accepted_at = db.clock().now();
        let head = BatchHead {
            tenant_id,
            lane_id: LaneId(0),
            campaign_id: None,
            channel: Channel::Sms,
            provider: sender.provider,
            account_ref: sender.account_ref.clone(),
            content_id: None,
            accepted_at,
            expires_at: accepted_at + Duration::from_hours(1),
        };
        let messages: Vec<NewMessage> = (0..MESSAGES)
            .map(|n| {
                let address = format!("+1205{intake:02}{batch:02}{n:03}");
                NewMessage {
                    id: MessageId(Uuid::now_v7()),
                    contact_id: None,
                    dest_mac: world.mac_key.address(&address),
                    content_mac: world.mac_key.content(&["Hello"]),
                    address,
                    cost: 1,
                    ready_at: None,
                    subject: None,
                    body: "Hello".into(),
                    html: None,
                }
            })
            .collect();
        let commands = Commands {
            sender: &sender,
            class: Class::Txn,
            head,
            messages: &messages,
        };
        let inserted = accept_messages(&mut tx, commands).await.unwrap();
        assert_eq!(inserted.queued, MESSAGES as i64);
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_somebody_forgot_is_found_and_goes_on() {
    let world = World::start().await;
    let intake = bring(&world, 0);
    intake.await;
    // As a leader would have it that lost the wake, and then one that went past messages.
    for forgotten in [
        "active = false",
        "active = true, head = 'ffffffff-ffff-ffff-ffff-ffffffffffff'",
    ] {
        let lose = format!("DELETE FROM cell.lane_wakes; UPDATE cell.lanes SET {forgotten}");
        world.db.execute(&lose).await;
        assert_eq!(world.wake_lost().await, 1, "{forgotten}");
        assert_eq!(world.wake_lost().await, 0, "its wake is on its way");
    }
    world.db.execute("DELETE FROM cell.lane_wakes").await;

    let worker = world.worker().await;
    eventually("all are through", || async {
        world
            .number("SELECT count(*) FROM messages WHERE phase = 4")
            .await
            > 0
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}

impl World {
    /// Looks through all lanes for forgotten ones; says how many there were.
    pub(super) async fn wake_lost(&self) -> u64 {
        let mut tx = self.db.db().system().begin().await.unwrap();
        let (lost, _) = wake_lost(&mut tx, LaneId(0), 1_000).await.unwrap();
        tx.commit().await.unwrap();
        lost
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_intakes_on_one_lane_lose_no_message() {
    let world = World::start().await;
    // Slower than the intakes, so that wakes come while messages still wait.
    let worker = world.slow_worker().await;

    let intakes = futures_util::future::join_all((0..INTAKES).map(|intake| bring(&world, intake)));
    let forgotten = AtomicU64::new(0);
    let through = eventually("all are through", || async {
        // At no moment is there a lane with messages that nobody will look at; the leader's own look would mend it.
        forgotten.fetch_add(world.wake_lost().await, Ordering::Relaxed);
        world
            .number("SELECT count(*) FROM messages WHERE phase IN (4, 6)")
            .await
            == ALL
    });
    futures_util::future::join(intakes, through).await;
    assert_eq!(forgotten.into_inner(), 0, "lanes were forgotten");
    eventually("the lane rests", || async {
        world
            .number("SELECT count(*) FROM lanes WHERE active")
            .await
            == 0
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;

    assert_eq!(world.number("SELECT count(*) FROM lanes").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM lane_wakes").await, 0);
    assert_eq!(world.wake_lost().await, 0);
    assert_eq!(world.number("SELECT count(*) FROM messages").await, ALL);
    let taken = world
        .number("SELECT count(DISTINCT message_id) FROM demo_ledger")
        .await;
    assert_eq!(
        world.number("SELECT count(*) FROM demo_ledger").await,
        taken
    );
    assert_eq!(world.deadlocks().await, 0);
}
