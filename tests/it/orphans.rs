//! The nightly look for rows whose other half is missing: each kind is planted, and found.

use engageninja::domain::orders::CheckOrphans;
use engageninja::jobs::check_orphans::find_orphans;
use engageninja::jobs::worker::Worker;
use engageninja::schedules::table::SCHEDULES;
use engageninja::store::orphans::KINDS;
use std::time::Duration;

use crate::harness::eventually;
use crate::harness::world::World;

/// One kind, and what plants it.
const PLANTS: &[(&str, &str)] = &[
    ("message_without_lane", "UPDATE cell.messages SET lane_id = -1 WHERE id = (SELECT min(id::text)::uuid FROM cell.messages)"),
    ("message_without_campaign", "UPDATE cell.messages SET campaign_id = gen_random_uuid() WHERE id = (SELECT max(id::text)::uuid FROM cell.messages)"),
    ("message_without_text", "DELETE FROM cell.message_bodies WHERE message_id = (SELECT max(id::text)::uuid FROM cell.messages)"),
    ("retry_without_original", "UPDATE cell.messages SET retry_of = gen_random_uuid() WHERE id = (SELECT max(id::text)::uuid FROM cell.messages)"),
    ("call_without_attempt", "UPDATE cell.messages SET phase = 2 WHERE id = (SELECT max(id::text)::uuid FROM cell.messages)"),
    ("attempt_without_message", "INSERT INTO cell.send_attempts (tenant_id, message_id, attempt_no, id, incarnation, provider, account_ref, dest_mac, content_mac, state, deadline)
        SELECT id, public.uuid_floor(public.app_now()), 1, gen_random_uuid(), 1, 'demo', 'x', '', '', 1, public.app_now() FROM cell.tenants"),
    ("attempt_without_call", "INSERT INTO cell.send_attempts (tenant_id, message_id, attempt_no, id, incarnation, provider, account_ref, dest_mac, content_mac, state, deadline)
        SELECT tenant_id, id, 9, gen_random_uuid(), 1, 'demo', 'x', '', '', 2, public.app_now() FROM cell.messages LIMIT 1"),
    ("mapping_without_attempt", "INSERT INTO cell.message_provider_mappings (tenant_id, message_id, attempt_no, channel, provider, provider_account, provider_message_id)
        SELECT tenant_id, id, 8, 'sms', 'demo', 'x', 'y' FROM cell.messages LIMIT 1"),
    ("event_without_message", "INSERT INTO cell.message_events (tenant_id, message_id, id, kind)
        SELECT id, public.uuid_floor(public.app_now()), gen_random_uuid(), 'parked' FROM cell.tenants"),
    ("text_without_message", "INSERT INTO cell.message_bodies (tenant_id, message_id, body)
        SELECT id, public.uuid_floor(public.app_now()), 'x' FROM cell.tenants"),
    ("wake_without_lane", "INSERT INTO cell.lane_wakes (tenant_id, lane_id, head_id) SELECT id, -1, gen_random_uuid() FROM cell.tenants"),
    ("counts_without_campaign", "INSERT INTO cell.campaign_deltas (tenant_id, campaign_id, counts) SELECT id, gen_random_uuid(), '{}' FROM cell.tenants"),
];

#[tokio::test]
async fn each_kind_of_orphan_is_found_and_nothing_else() {
    let planted: Vec<_> = PLANTS.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(planted, KINDS, "a kind without a plant");
    for (kind, plant) in PLANTS {
        let world = World::start().await;
        world.add_contacts(5).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        world.let_out(campaign, 5).await;
        assert_eq!(
            find_orphans(&world.db.db()).await.unwrap(),
            [],
            "before {kind}"
        );
        world.db.execute(plant).await;
        let found = find_orphans(&world.db.db()).await.unwrap();
        let kinds: Vec<_> = found.iter().map(|orphan| orphan.kind).collect();
        assert_eq!(kinds, [*kind]);
        assert_eq!(found[0].tenant_id, world.tenant_id);
    }
}

/// A whole story, with attempts, mappings, reports and a dropped message, leaves nothing that looks like an orphan.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_has_gone_out_leaves_no_orphan() {
    let world = World::start().await;
    world.add_contacts(300).await;
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.completed(campaign).await;
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(find_orphans(&world.db.db()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_look_is_ordered_nightly() {
    let schedule = SCHEDULES
        .iter()
        .find(|one| one.row.id == "orphans")
        .unwrap();
    assert_eq!(
        (schedule.row.kind, schedule.row.cron),
        (CheckOrphans::NAME, "0 40 8 * * *")
    );
    let world = World::start().await;
    let worker = Worker::start(world.db.db(), world.without_sends()).await;
    let mut tx = world.db.db().system().begin().await.unwrap();
    engageninja::jobs::queue::enqueue(&mut tx, (schedule.order)())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let left = "SELECT count(*) FROM jobs WHERE kind = 'check-orphans'";
    eventually("it has been done", || async {
        world.number(left).await == 0
    })
    .await;
    assert_eq!(world.number("SELECT count(*) FROM dead_jobs").await, 0);
    worker.drain(Duration::from_secs(5)).await;
}
