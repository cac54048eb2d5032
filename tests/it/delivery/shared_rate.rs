//! Several wait for one slow rate: their sum keeps to it, and each of them gets its share. Where only one may go at a time,
//! nothing but the order in which they are asked decides who gets any at all.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::dev::fake_twilio::ACCOUNT_SID;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;

use super::pace::{LetOut, assert_keeps_to, hand_over_all, list_let_out, watch_ticks};
use crate::harness::eventually;
use crate::harness::twilio::TwilioWorld;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
/// Of each of the two.
const PEOPLE: i64 = 20;
/// How far one may be ahead of the other: by its turn, and by one it had coming when both began to wait.
const APART_MAX: i64 = 2;

/// A campaign of which nothing goes before it is told to.
async fn held_back(world: &World, body: &str) -> CampaignId {
    world.add_contacts(PEOPLE as u32).await;
    let id = world.campaign(body).await;
    world.pause(id).await.unwrap();
    id
}

/// Lets two campaigns go at once when everybody of them waits; says since when both do.
async fn let_go(both: [(&World, CampaignId); 2]) -> DateTime<Utc> {
    for (world, id) in both {
        eventually("everybody waits", || async {
            world.counts(id).await.get(CountWord::Queued) == PEOPLE
        })
        .await;
    }
    for (world, id) in both {
        world.resume(id).await;
    }
    both[0].0.db.clock().now()
}

/// How far one of two was ahead of the other at most since both go and while both have somebody waiting.
fn most_apart(let_out: &[LetOut], since: DateTime<Utc>, first: CampaignId) -> i64 {
    let (mut ahead, mut most) = (0_i64, 0);
    let mut waiting = [PEOPLE; 2];
    for one in let_out {
        let is_first = one.campaign_id == first;
        if one.at > since {
            ahead += if is_first { 1 } else { -1 };
            most = most.max(ahead.abs());
        }
        waiting[usize::from(is_first)] -= 1;
        if waiting.contains(&0) {
            break;
        }
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_on_one_account_keep_to_its_rate_together_and_take_turns() {
    // Slower than two in a tick, so that each tick lets one of them out.
    const PER_SEC: f64 = 8.0;
    let it = TwilioWorld::start().await;
    let other = it.another("second", "+12025550107").await;
    watch_ticks(&it.world).await;
    let rate = format!(
        "UPDATE cell.provider_accounts SET quota = jsonb_build_object('per_sec', {PER_SEC})
         WHERE account_ref = '{ACCOUNT_SID}'"
    );
    it.world.db.execute(&rate).await;
    // Other words to the same people, so that no message waits for its like.
    let first = held_back(&it.world, "One").await;
    let second = held_back(&other, "Two").await;
    let worker = it.world.worker().await;
    let since = let_go([(&it.world, first), (&other, second)]).await;
    hand_over_all(&it.world, 2 * PEOPLE).await;
    worker.drain(DRAIN).await;

    let let_out = list_let_out(&it.world).await;
    assert_keeps_to(PER_SEC, &let_out);
    let apart = most_apart(&let_out, since, first);
    assert!(apart <= APART_MAX, "{apart} apart: {let_out:?}");
    let taken = it.fake.ledger().accepted_count();
    assert_eq!(taken as i64, 2 * PEOPLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_campaigns_on_one_slow_sender_take_turns() {
    const PER_SEC: f64 = 4.0;
    const LOOKED_AT: usize = 12;
    let world = World::start().await;
    watch_ticks(&world).await;
    let rate = format!("UPDATE cell.senders SET segments_per_sec_override = {PER_SEC}");
    world.db.execute(&rate).await;
    let first = held_back(&world, "One").await;
    let second = world.campaign("Two").await;
    world.pause(second).await.unwrap();
    let worker = world.worker().await;
    let since = let_go([(&world, first), (&world, second)]).await;
    let since_both_go = async || {
        let mut let_out = list_let_out(&world).await;
        let_out.retain(|one| one.at > since);
        let_out
    };
    eventually("some of them go", || async {
        since_both_go().await.len() >= LOOKED_AT
    })
    .await;
    worker.drain(DRAIN).await;

    let let_out = &since_both_go().await[..LOOKED_AT];
    let of_first = let_out.iter().filter(|one| one.campaign_id == first);
    let of_first = of_first.count();
    assert!((5..=7).contains(&of_first), "{of_first} of {LOOKED_AT}");
    assert!(most_apart(let_out, since, first) <= APART_MAX);
    assert_keeps_to(PER_SEC, &list_let_out(&world).await);
}
