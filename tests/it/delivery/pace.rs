//! Nothing goes faster than what it draws on allows, and nothing that may go waits for what may not. The release's own
//! instants judge to the unit, and the provider's ledger as exactly as the machine between them allows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engageninja::domain::ids::CampaignId;
use engageninja::domain::rate::Rule;

use crate::harness::eventually;
use crate::harness::ticks::{assert_keeps_to, list_let_out, most_above_rate, watch_ticks};
use crate::harness::world::World;

/// What a window may hold above 20 a second: the bucket's burst, and what was let out while no worker had time for it,
/// which is two seconds' worth. On a machine with time it is the burst alone.
pub(super) const BURST_MAX: f64 = 3.0 + 40.0;

/// How soon another pace shows.
const SOON: TimeDelta = TimeDelta::seconds(1);

/// What the provider accepted so far, in order.
pub(super) async fn accepted(world: &World) -> Vec<DateTime<Utc>> {
    world
        .db
        .value(
            "SELECT COALESCE(array_agg(accepted_at ORDER BY accepted_at), '{}') FROM demo_ledger",
        )
        .await
}

pub(super) async fn hand_over_all(world: &World, people: i64) {
    eventually("everybody is reached, or never will be", async || {
        let ended = world
            .number("SELECT count(*) FROM messages WHERE phase IN (4, 6)")
            .await;
        ended == people
    })
    .await;
}

#[tokio::test]
async fn three_workers_keep_to_the_rate_of_one_sender() {
    let world = World::start().await;
    watch_ticks(&world).await;
    world.add_contacts(60).await;
    world
        .db
        .execute("UPDATE cell.senders SET segments_per_sec_override = 10")
        .await;
    let workers = [
        world.worker().await,
        world.worker().await,
        world.worker().await,
    ];
    world.campaign("Hello").await;
    hand_over_all(&world, 60).await;

    // Six seconds of it: a charge that is a quarter too small shows as a dozen messages too many.
    let let_out = list_let_out(&world).await;
    assert!(let_out.len() >= 60, "{} were seen", let_out.len());
    assert_keeps_to(10.0, &let_out);
    // And two seconds' worth may come late together, after a stall of the workers.
    let above = most_above_rate(&accepted(&world).await, 10.0);
    assert!(above <= Rule::burst_of(10.0) + 20.0, "{above}");
    for worker in workers {
        worker.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn two_campaigns_share_what_the_tenants_plan_allows() {
    let world = World::start().await;
    watch_ticks(&world).await;
    world.add_contacts(40).await;
    world
        .db
        .execute("UPDATE cell.tenants SET plan_segments_per_sec = 20")
        .await;
    let worker = world.worker().await;
    world.campaign("One").await;
    world.campaign("Two").await;
    hand_over_all(&world, 80).await;

    assert_keeps_to(20.0, &list_let_out(&world).await);
    let above = most_above_rate(&accepted(&world).await, 20.0);
    assert!(above <= BURST_MAX, "{above}");
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_campaigns_pace_changes_while_it_runs() {
    let world = World::start().await;
    world.add_contacts(300).await;
    let worker = world.worker().await;
    world
        .db
        .execute("ALTER TABLE cell.campaigns ALTER pace_per_sec SET DEFAULT 2")
        .await;
    world.campaign("Hello").await;
    eventually("it has begun", async || accepted(&world).await.len() >= 2).await;
    let slow = accepted(&world).await.len();
    assert!(slow < 10, "{slow} at 2 a second");

    world
        .db
        .execute("UPDATE cell.campaigns SET pace_per_sec = 200")
        .await;
    let changed = world.db.clock().now();
    hand_over_all(&world, 300).await;
    let times = accepted(&world).await;
    let soon = times.iter().filter(|at| **at - changed < SOON).count();
    assert!(soon > slow + 20, "{soon} so soon after, {slow} before");
    worker.drain(Duration::from_secs(5)).await;
}

/// Cells of this size are measured by the bench; here it is the order that counts.
#[tokio::test]
async fn a_paced_campaign_slows_no_other_lane_of_its_tenant() {
    let world = World::start().await;
    world.add_contacts(200).await;
    world
        .db
        .execute("ALTER TABLE cell.campaigns ALTER pace_per_sec SET DEFAULT 1")
        .await;
    let slow = world.campaign("Slow").await;
    world
        .db
        .execute("ALTER TABLE cell.campaigns ALTER pace_per_sec DROP DEFAULT")
        .await;
    let worker = world.worker().await;
    eventually("the slow one has begun", async || {
        !accepted(&world).await.is_empty()
    })
    .await;
    let quick = world.campaign("Quick").await;
    let handed_over = async |id: CampaignId| {
        let sql =
            format!("SELECT count(*) FROM messages WHERE phase IN (4, 6) AND campaign_id = '{id}'");
        world.number(&sql).await
    };
    eventually("the quick one is sent", async || {
        handed_over(quick).await == 200
    })
    .await;
    assert!(handed_over(slow).await < 40);
    worker.drain(Duration::from_secs(5)).await;
}
