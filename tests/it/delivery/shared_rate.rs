//! Several wait for one slow rate: their sum keeps to it, and each of them gets its share. Where only one may go at a time,
//! nothing but the order in which they are asked decides who gets any at all.

use std::time::Duration;

use engageninja::dev::fake_twilio::ACCOUNT_SID;

use super::fairness::{held_back, let_go, most_apart};
use super::pace::hand_over_all;
use crate::harness::eventually;
use crate::harness::ticks::{assert_keeps_to, list_let_out, watch_ticks};
use crate::harness::twilio::TwilioWorld;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
/// Of each of the two.
const PEOPLE: i64 = 20;
/// How far one may be ahead of the other: by its turn, and by one it had coming when both began to wait.
const APART_MAX: i64 = 2;

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
    for world in [&it.world, &other] {
        world.add_contacts(PEOPLE as u32).await;
    }
    let first = held_back(&it.world, "One").await;
    let second = held_back(&other, "Two").await;
    let worker = let_go(&[(&it.world, first, PEOPLE), (&other, second, PEOPLE)]).await;
    hand_over_all(&it.world, 2 * PEOPLE).await;
    worker.drain(DRAIN).await;

    let let_out = list_let_out(&it.world).await;
    assert_keeps_to(PER_SEC, &let_out);
    let apart = most_apart(&let_out, PEOPLE, &[(&[first], 1), (&[second], 1)]);
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
    world.add_contacts(PEOPLE as u32).await;
    let first = held_back(&world, "One").await;
    let second = held_back(&world, "Two").await;
    let worker = let_go(&[(&world, first, PEOPLE), (&world, second, PEOPLE)]).await;
    eventually("some of them go", || async {
        list_let_out(&world).await.len() >= LOOKED_AT
    })
    .await;
    worker.drain(DRAIN).await;

    let all_let_out = list_let_out(&world).await;
    let let_out = &all_let_out[..LOOKED_AT];
    let of_first = let_out.iter().filter(|one| one.campaign_id == first);
    let of_first = of_first.count();
    assert!((5..=7).contains(&of_first), "{of_first} of {LOOKED_AT}");
    assert!(most_apart(let_out, PEOPLE, &[(&[first], 1), (&[second], 1)]) <= APART_MAX);
    assert_keeps_to(PER_SEC, &all_let_out);
}
