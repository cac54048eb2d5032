//! A standby that had not heard the last calls takes over: the processes that made them write them down again, nothing begins
//! before somebody has released the server, and nobody gets a message twice. The provider's ledger judges.

use std::collections::HashMap;
use std::time::Duration;

use engageninja::dev::fake_twilio::Weather;
use engageninja::jobs::worker::Worker;
use engageninja::store::timelines::{Timeline, list_timelines, release_timeline};

use crate::harness::db::Cluster;
use crate::harness::eventually;
use crate::harness::twilio::{TwilioWorld, silent};
use crate::harness::world::World;

const PEOPLE: u32 = 300;

/// The server that answers; none while none does.
pub async fn current(world: &World) -> Option<Timeline> {
    let mut tx = world.db.db().system().begin().await.ok()?;
    let known = list_timelines(&mut tx).await.ok()?;
    known.into_iter().find(|timeline| timeline.is_current)
}

/// How often the provider took each message.
pub fn taken(it: &TwilioWorld) -> HashMap<String, u32> {
    let mut taken = HashMap::new();
    for one in it.fake.ledger().accepted() {
        *taken.entry(one.mark("m").unwrap().clone()).or_default() += 1;
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_forgot_calls_is_told_them_and_nobody_gets_two() {
    let mut cluster = Cluster::dedicated(true).await;
    let mut world = World::on(cluster.db().await).await;
    world.scale_holds(0.05).await;
    let it = TwilioWorld::on(world).await;
    // One in twenty answers is lost, so that doubt is forgotten too.
    it.fake.set_weather(Weather {
        before_ms: (5, 20),
        reset: 50,
        ..silent()
    });
    it.world.add_contacts(PEOPLE).await;
    let filler = Worker::start(it.world.db.db(), it.world.without_sends()).await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;
    let messages = "SELECT count(*) FROM messages";
    eventually("everybody has a message", || async {
        it.world.number(messages).await == i64::from(PEOPLE)
    })
    .await;
    filler.drain(Duration::from_secs(5)).await;
    let standby = cluster.keep_copy().await;

    let worker = it.world.worker().await;
    eventually("some are called", || async {
        it.fake.ledger().accepted().len() > 100
    })
    .await;
    cluster.fail_over(standby).await;
    let failed_over_at = it.world.db.clock().now();

    let mut replayed = None;
    for _ in 0..600 {
        replayed = current(&it.world).await.filter(|found| found.replays > 0);
        if replayed.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let replayed = replayed.expect("the worker tells what it knows");
    assert!(replayed.released_at.is_none(), "{replayed:?}");
    assert!(replayed.calls_restored > 100, "{replayed:?}");
    let before = it.fake.ledger().requested().len();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        it.fake.ledger().requested().len(),
        before,
        "it began in quarantine"
    );
    assert!(before < PEOPLE as usize, "there was nothing left to begin");
    let called = it.fake.ledger().requested();
    let after = called.iter().filter(|one| one.at > failed_over_at).count();
    assert_eq!(after, 0, "called in quarantine");
    let begun = format!(
        "SELECT count(*) FROM send_attempts WHERE started_at > '{}'",
        failed_over_at.to_rfc3339()
    );
    assert_eq!(it.world.number(&begun).await, 0, "begun in quarantine");

    let mut tx = it.world.db.db().system().begin().await.unwrap();
    release_timeline(&mut tx, &replayed.timeline, "somebody who knows")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let _scheduler = it.world.scheduler();
    eventually("everybody is reached", || async {
        it.world.through(campaign).await == i64::from(PEOPLE)
    })
    .await;
    let doubled: Vec<_> = taken(&it)
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    assert_eq!(taken(&it).len(), PEOPLE as usize);
    assert!(it.world.counts(campaign).await.is_balanced());
    assert_eq!(it.world.number("SELECT count(*) FROM live_calls").await, 0);
    worker.drain(Duration::from_secs(5)).await;
}
