//! Many who bring messages to one lane at once: no wake is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engageninja::delivery::intake::{Commands, accept_messages};
use engageninja::domain::campaign::Campaign;
use engageninja::domain::channel::{Channel, Class};
use engageninja::domain::ids::{LaneId, MessageId};
use engageninja::domain::message::campaign_message_id;
use engageninja::store::lanes::wake_lost;
use engageninja::store::messages::{BatchHead, NewMessage};
use engageninja::store::senders::find_active;
use futures_util::future::{join, join_all};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
const INTAKES: usize = 16;
const BATCHES: usize = 25;
const MESSAGES: usize = 4;
const ALL: i64 = (INTAKES * BATCHES * MESSAGES) as i64;
/// Connections that are left for the worker and the looks when each intake has one.
const OTHERS: usize = 4;

const EXPANDERS: usize = 2;
/// People of one chunk of an expander.
const CHUNK: usize = 20;
/// People whom the campaign is expanded to before; their messages keep the lane active.
const AUDIENCE: usize = 400;

/// Accepts messages as every door does, in a transaction of its own. Those who `meet` have one each before any goes on.
async fn accept(
    world: &World,
    campaign: Option<&Campaign>,
    people: Vec<(MessageId, String)>,
    meet: Option<&Barrier>,
) {
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    if let Some(meet) = meet {
        meet.wait().await;
    }
    let sender = find_active(tx.conn(), tenant_id, Channel::Sms, None)
        .await
        .unwrap()
        .unwrap();
    let accepted_at = db.clock().now();
    let head = BatchHead {
        tenant_id,
        lane_id: LaneId(0),
        campaign_id: campaign.map(|campaign| campaign.id),
        channel: Channel::Sms,
        provider: sender.provider,
        account_ref: sender.account_ref.clone(),
        content_id: campaign.and_then(|campaign| campaign.content_id),
        accepted_at,
        expires_at: accepted_at + Duration::from_hours(1),
    };
    let messages: Vec<NewMessage> = people
        .into_iter()
        .map(|(id, address)| NewMessage {
            id,
            contact_id: None,
            dest_mac: world.mac_key.address(&address),
            content_mac: world.mac_key.content(&["Hello"]),
            address,
            cost: 1,
            ready_at: None,
            subject: None,
            body: "Hello".into(),
            html: None,
        })
        .collect();
    let commands = Commands {
        sender: &sender,
        class: campaign.map_or(Class::Txn, |campaign| campaign.class),
        head,
        messages: &messages,
    };
    let inserted = accept_messages(&mut tx, commands).await.unwrap();
    assert_eq!(inserted.queued, messages.len() as i64);
    tx.commit().await.unwrap();
}

/// One of those who bring messages, batch after batch; with the first one they meet.
async fn bring(world: &World, intake: usize, meet: Option<&Barrier>) {
    for batch in 0..BATCHES {
        let people = (0..MESSAGES).map(|n| {
            let address = format!("+1205{intake:02}{batch:02}{n:03}");
            (MessageId(Uuid::now_v7()), address)
        });
        let meet = meet.filter(|_| batch == 0);
        accept(world, None, people.collect(), meet).await;
    }
}

/// One of those who expand a campaign, each with every other chunk of its audience. They meet with each, so that the lane may
/// hear of the later chunk first.
async fn expand(world: &World, campaign: &Campaign, expander: usize, meet: &Barrier) {
    let started_at = campaign.started_at.unwrap();
    for chunk in 0..BATCHES {
        let before = AUDIENCE + (chunk * EXPANDERS + expander) * CHUNK;
        let people = (0..CHUNK).map(|n| {
            let address = format!("+12056{expander:02}{chunk:02}{n:02}");
            let position = (before + n) as u32;
            let id = campaign_message_id(started_at, campaign.id, 0, position);
            (id, address)
        });
        accept(world, Some(campaign), people.collect(), Some(meet)).await;
    }
}

/// Sees a storm of wakes through until `all` have been sent: at no moment is there a lane with messages that nobody will look
/// at.
async fn see_through(world: &World, storm: impl Future, all: i64) {
    let forgotten = AtomicU64::new(0);
    let through = eventually("all are through", || async {
        // The leader's own look would mend it.
        forgotten.fetch_add(world.wake_lost().await, Ordering::Relaxed);
        world
            .number("SELECT count(*) FROM messages WHERE phase IN (4, 6)")
            .await
            == all
    });
    join(storm, through).await;
    assert_eq!(forgotten.into_inner(), 0, "lanes were forgotten");
    eventually("the lane rests", || async {
        world
            .number("SELECT count(*) FROM lanes WHERE active")
            .await
            == 0
    })
    .await;
}

/// What a storm leaves when nobody works any more.
async fn assert_over(world: &World, all: i64) {
    assert_eq!(world.number("SELECT count(*) FROM lanes").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM lane_wakes").await, 0);
    assert_eq!(world.wake_lost().await, 0);
    assert_eq!(world.number("SELECT count(*) FROM messages").await, all);
    let taken = world
        .number("SELECT count(DISTINCT message_id) FROM demo_ledger")
        .await;
    assert_eq!(
        world.number("SELECT count(*) FROM demo_ledger").await,
        taken
    );
    assert_eq!(world.deadlocks().await, 0);
}

/// On one thread, whose metrics are this test's own.
#[tokio::test]
async fn a_lane_that_somebody_forgot_is_found_and_goes_on() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let world = World::start().await;
    bring(&world, 0, None).await;
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
    worker.drain(DRAIN).await;
    let shown = recorder.handle().render();
    assert!(shown.contains("engageninja_lost_wake_total 1"), "{shown}");
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
    let db = TestDb::for_many((INTAKES + OTHERS) as u32).await;
    let world = World::on(db).await;
    // Slower than the intakes, so that wakes come while messages still wait.
    let worker = world.slow_worker().await;

    let meet = Barrier::new(INTAKES);
    let intakes = join_all((0..INTAKES).map(|intake| bring(&world, intake, Some(&meet))));
    see_through(&world, intakes, ALL).await;
    worker.drain(DRAIN).await;
    assert_over(&world, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_expanders_on_an_active_lane_lose_no_message() {
    let world = World::start().await;
    world.add_contacts(AUDIENCE as u32).await;
    let worker = world.slow_worker().await;
    let id = world.campaign("Hello").await;
    let sends = "SELECT count(*) FROM lanes WHERE active
        AND EXISTS (SELECT FROM messages WHERE phase = 4) AND EXISTS (SELECT FROM messages WHERE phase = 0)";
    eventually("its lane sends", || async {
        world.number(sends).await == 1
    })
    .await;

    let campaign = world.load(id).await;
    let meet = Barrier::new(EXPANDERS);
    let expanders =
        join_all((0..EXPANDERS).map(|expander| expand(&world, &campaign, expander, &meet)));
    let all = (AUDIENCE + EXPANDERS * BATCHES * CHUNK) as i64;
    see_through(&world, expanders, all).await;
    worker.drain(DRAIN).await;
    assert_over(&world, all).await;
}
