//! Turns, by the release's own instants: between tenants by their weight, whatever the number of their lanes, and none for what
//! is paused.

use std::time::Duration;

use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;
use engageninja::jobs::worker::Worker;

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

/// Until everybody of these campaigns waits, so many of each. Nobody expands or sends after that.
async fn expand(all: &[(&World, CampaignId, i64)]) {
    let worker = all[0].0.worker().await;
    for (world, id, people) in all {
        eventually("everybody waits", || async {
            world.counts(*id).await.get(CountWord::Queued) == *people
        })
        .await;
    }
    worker.drain(DRAIN).await;
}

/// Lets campaigns go at once when everybody of them waits, so many of each, and returns the worker that sends them. It starts
/// when the last is resumed: what went before would be ahead by as long as the machine takes for the others.
pub(super) async fn let_go(all: &[(&World, CampaignId, i64)]) -> Worker {
    expand(all).await;
    for (world, id, _) in all {
        world.resume(*id).await;
    }
    all[0].0.worker().await
}

/// Those who share one turn, with its weight.
pub(super) type Sharer<'a> = (&'a [CampaignId], i64);

/// How many messages one of them was ahead of another after any tick, for each unit of its weight: while all of them, who had
/// `each` so many, have something waiting. Within a tick one comes behind the other.
pub(super) fn most_apart(let_out: &[LetOut], each: i64, sharers: &[Sharer]) -> i64 {
    let mut most = 0;
    let mut gone = vec![0; sharers.len()];
    for tick in let_out.chunk_by(|one, next| one.at == next.at) {
        for one in tick {
            let of = |(campaigns, _): &Sharer| campaigns.contains(&one.campaign_id);
            gone[sharers.iter().position(of).unwrap()] += 1;
        }
        if gone.contains(&each) {
            break;
        }
        let by_weight = gone
            .iter()
            .zip(sharers)
            .map(|(gone, (_, weight))| gone / weight);
        most = most.max(by_weight.clone().max().unwrap() - by_weight.min().unwrap());
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
    let worker = let_go(&[(&heavy, first, MESSAGES), (&light, second, MESSAGES)]).await;

    let let_out = all_let_out(&heavy, 2 * MESSAGES).await;
    let apart = most_apart(&let_out, MESSAGES, &[(&[first], WEIGHT), (&[second], 1)]);
    assert!(apart <= 2 * QUANTUM, "{apart} apart");
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
    let mut twelve = Vec::new();
    for lane in 0..LANES {
        twelve.push(held_back(&many, &format!("Campaign {lane}")).await);
    }
    let mut all = vec![(&one, single, MESSAGES)];
    all.extend(twelve.iter().map(|id| (&many, *id, MESSAGES / LANES)));
    let worker = let_go(&all).await;

    let let_out = all_let_out(&one, 2 * MESSAGES).await;
    let apart = most_apart(&let_out, MESSAGES, &[(&[single], 1), (&twelve, 1)]);
    assert!(apart <= 2 * QUANTUM, "{apart} apart");
    worker.drain(DRAIN).await;
}

/// More than one tick looks at: each of them is visited before anybody has a second turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_tenants_is_let_out_alike() {
    const TENANTS: i64 = 60;
    const EACH: i64 = 100;
    let first = World::start().await;
    watch_ticks(&first).await;
    let mut crowd = vec![first];
    for n in 1..TENANTS {
        let name = format!("tenant-{n}");
        crowd.push(crowd[0].another(&name, &name).await);
    }
    let mut campaigns = Vec::new();
    for world in &crowd {
        world.add_contacts(EACH as u32).await;
        campaigns.push([held_back(world, "All").await]);
    }
    let all: Vec<_> = crowd
        .iter()
        .zip(&campaigns)
        .map(|(world, [id])| (world, *id, EACH))
        .collect();
    let worker = let_go(&all).await;

    let let_out = all_let_out(&crowd[0], TENANTS * EACH).await;
    let sharers: Vec<Sharer> = campaigns.iter().map(|one| (&one[..], 1)).collect();
    let apart = most_apart(&let_out, EACH, &sharers);
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
    expand(&[(&both, paused, MESSAGES)]).await;
    let worker = let_go(&[(&both, runs, MESSAGES), (&other, beside, MESSAGES)]).await;

    let let_out = all_let_out(&both, 2 * MESSAGES).await;
    assert!(let_out.iter().all(|one| one.campaign_id != paused));
    let apart = most_apart(&let_out, MESSAGES, &[(&[runs], 1), (&[beside], 1)]);
    assert!(apart <= 2 * QUANTUM, "{apart} apart");
    assert_eq!(both.counts(paused).await.get(CountWord::Queued), MESSAGES);
    worker.drain(DRAIN).await;
}
