//! Turns, by the release's own instants: between tenants by their weight, whatever the number of their lanes, and none for what
//! is paused.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;

use crate::harness::eventually;
use crate::harness::ticks::{LetOut, list_let_out, watch_ticks};
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
/// Messages of each of two tenants: many times what one tick lets out.
const MESSAGES: i64 = 600;
/// Cost that one visit grants a tenant of weight 1.
const QUANTUM: i64 = 10;

/// A campaign to everybody of which nothing goes before it is told to.
pub(super) async fn held_back(world: &World, body: &str) -> CampaignId {
    let id = world.campaign(body).await;
    world.pause(id).await.unwrap();
    id
}

/// Lets campaigns go at once when everybody of them waits, so many of each; says since when all of them go.
pub(super) async fn let_go(all: &[(&World, CampaignId, i64)]) -> DateTime<Utc> {
    for (world, id, people) in all {
        eventually("everybody waits", || async {
            world.counts(*id).await.get(CountWord::Queued) == *people
        })
        .await;
    }
    for (world, id, _) in all {
        world.resume(*id).await;
    }
    all[0].0.db.clock().now()
}

/// How far the first of two was ahead of `times` the other, or behind it, after any tick: since both go and while both of them,
/// who had `each` so many, have something waiting. Within a tick one lane comes behind the other.
pub(super) fn most_apart(
    let_out: &[LetOut],
    since: DateTime<Utc>,
    each: i64,
    first: &[CampaignId],
    times: i64,
) -> i64 {
    let (mut ahead, mut most) = (0_i64, 0);
    let mut waiting = [each; 2];
    for tick in let_out.chunk_by(|one, next| one.at == next.at) {
        for one in tick {
            let is_first = first.contains(&one.campaign_id);
            waiting[usize::from(is_first)] -= 1;
            if one.at > since {
                ahead += if is_first { 1 } else { -times };
            }
        }
        if waiting.contains(&0) {
            break;
        }
        most = most.max(ahead.abs());
    }
    most
}

/// Two tenants of one database whose ticks are watched.
async fn two_tenants() -> (World, World) {
    let first = World::start().await;
    let second = first.another("Second", "second").await;
    watch_ticks(&first).await;
    (first, second)
}

async fn all_let_out(world: &World, messages: i64) -> Vec<LetOut> {
    eventually("all are let out", || async {
        list_let_out(world).await.len() as i64 == messages
    })
    .await;
    list_let_out(world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_weight_three_is_let_out_three_times_as_much() {
    const WEIGHT: i64 = 3;
    let (heavy, light) = two_tenants().await;
    let weight = format!(
        "UPDATE cell.tenants SET weight = {WEIGHT} WHERE id = '{}'",
        heavy.tenant_id
    );
    heavy.db.execute(&weight).await;
    for world in [&heavy, &light] {
        world.add_contacts(MESSAGES as u32).await;
    }
    let first = held_back(&heavy, "One").await;
    let second = held_back(&light, "Two").await;
    let worker = heavy.worker().await;
    let since = let_go(&[(&heavy, first, MESSAGES), (&light, second, MESSAGES)]).await;

    let let_out = all_let_out(&heavy, 2 * MESSAGES).await;
    let apart = most_apart(&let_out, since, MESSAGES, &[first], WEIGHT);
    assert!(apart <= 2 * WEIGHT * QUANTUM, "{apart} apart");
    worker.drain(DRAIN).await;
}

/// The other tenant has as many messages, in twelve campaigns.
#[tokio::test(flavor = "multi_thread")]
async fn many_lanes_are_let_out_no_more_than_one() {
    const LANES: i64 = 12;
    let (one, many) = two_tenants().await;
    one.add_contacts(MESSAGES as u32).await;
    many.add_contacts((MESSAGES / LANES) as u32).await;
    let single = held_back(&one, "One").await;
    let mut all = vec![(&one, single, MESSAGES)];
    for lane in 0..LANES {
        let id = held_back(&many, &format!("Campaign {lane}")).await;
        all.push((&many, id, MESSAGES / LANES));
    }
    let worker = one.worker().await;
    let since = let_go(&all).await;

    let let_out = all_let_out(&one, 2 * MESSAGES).await;
    let apart = most_apart(&let_out, since, MESSAGES, &[single], 1);
    assert!(apart <= 2 * QUANTUM, "{apart} apart");
    worker.drain(DRAIN).await;
}

/// Nothing of it is let out to come back, and its tenant's turn is not used up by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_campaign_takes_no_turn_of_its_tenants() {
    let (both, other) = two_tenants().await;
    for world in [&both, &other] {
        world.add_contacts(MESSAGES as u32).await;
    }
    let paused = held_back(&both, "Paused").await;
    let runs = held_back(&both, "Runs").await;
    let beside = held_back(&other, "Runs too").await;
    let worker = both.worker().await;
    eventually("everybody of it waits", || async {
        both.counts(paused).await.get(CountWord::Queued) == MESSAGES
    })
    .await;
    let since = let_go(&[(&both, runs, MESSAGES), (&other, beside, MESSAGES)]).await;

    let let_out = all_let_out(&both, 2 * MESSAGES).await;
    assert!(let_out.iter().all(|one| one.campaign_id != paused));
    let apart = most_apart(&let_out, since, MESSAGES, &[runs], 1);
    assert!(apart <= 2 * QUANTUM, "{apart} apart");
    assert_eq!(both.counts(paused).await.get(CountWord::Queued), MESSAGES);
    worker.drain(DRAIN).await;
}
