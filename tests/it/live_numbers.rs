//! A campaign's numbers by stream: whole snapshots, read once for all who watch.

use std::time::{Duration, Instant};

use engageninja::domain::actor::Role;
use engageninja::domain::counts::{CountDelta, CountWord};
use engageninja::domain::ids::CampaignId;
use engageninja::live::topic::TopicKind;
use engageninja::store::campaign_counts::append_deltas;

use crate::harness::app::App;
use crate::harness::eventually;
use crate::harness::world::World;

async fn add_people(world: &World, id: CampaignId, people: i64) {
    let mut delta = CountDelta::default();
    delta.add(CountWord::Audience, people);
    delta.add(CountWord::Queued, people);
    let mut tx = world.db.db().cell(world.tenant_id).begin().await.unwrap();
    append_deltas(tx.conn(), &[(world.tenant_id, id, delta)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_first_event_is_the_newest_snapshot_and_each_change_brings_another() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let id = world.draft("Hello").await;
    add_people(&world, id, 3).await;

    let mut events = app.events(&key, &format!("/api/campaigns/{id}/sse")).await;
    let first = events.next().await.unwrap();
    assert_eq!(first.name, "campaign");
    assert_eq!(first.data["counts"]["waiting"], 3);
    assert_eq!(first.data["version"], first.id);
    let status = app.get(&key, &format!("/api/campaigns/{id}/status")).await;
    assert_eq!(status.ok(200), first.data);

    add_people(&world, id, 2).await;
    let second = events.next().await.unwrap();
    assert_eq!(second.data["counts"]["waiting"], 5);
    assert!(second.id > first.id);
}

#[tokio::test]
async fn however_many_watch_the_database_is_read_four_times_a_second_and_then_not_at_all() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let id = world.draft("Hello").await;
        for _ in 0..10 {
            let mut events = app.events(&key, &format!("/api/campaigns/{id}/sse")).await;
            events.next().await.unwrap();
            watchers.push(events);
        }
    }
    let live = app.state.live.clone();
    let (begun, reads) = (Instant::now(), live.reads(TopicKind::Campaign));
    eventually("six further reads", || async {
        live.reads(TopicKind::Campaign) >= reads + 6
    })
    .await;
    // The first of them may have come at once.
    let least = Duration::from_millis(250) * 5;
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());

    drop(watchers);
    eventually("nothing is read", || async {
        !live.is_reading(TopicKind::Campaign)
    })
    .await;
}

#[tokio::test]
async fn somebody_elses_campaign_cannot_be_watched() {
    let world = World::start().await;
    let (app, _) = App::beside(&world).await;
    let other = app.tenant("harbor").await;
    let key = app.key(&other, Role::Admin).await;
    let id = world.draft("Hello").await;
    for path in ["status", "sse"] {
        app.get(&key, &format!("/api/campaigns/{id}/{path}"))
            .await
            .problem(404, "not-found");
    }
}

#[tokio::test]
async fn streams_end_when_the_process_shall_end() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let id = world.draft("Hello").await;
    let mut events = app.events(&key, &format!("/api/campaigns/{id}/sse")).await;
    events.next().await.unwrap();
    app.state.streams.cancel();
    assert!(events.next().await.is_none());
}
