//! A worker that stops: what it has begun comes to its end before it says that it has ended.

use std::time::Duration;

use engageninja::dev::fake_twilio::Weather;
use engageninja::domain::counts::CountWord;

use crate::harness::eventually;
use crate::harness::twilio::{TwilioWorld, silent};

/// The provider takes longer than the drain waits for handlers.
#[tokio::test(flavor = "multi_thread")]
async fn what_slow_calls_come_to_is_stored_before_the_process_says_that_it_has_ended() {
    const PEOPLE: u32 = 12;
    const CALLED: usize = 5;
    let it = TwilioWorld::start().await;
    it.fake.set_weather(Weather {
        after_ms: (2_000, 2_500),
        ..silent()
    });
    it.world.add_contacts(PEOPLE).await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;
    let worker = it.world.worker().await;
    eventually("some are called", || async {
        it.fake.ledger().requested().len() >= CALLED
    })
    .await;
    worker.drain(Duration::from_millis(100)).await;

    let ended = "SELECT count(*) FROM incarnations WHERE ended_at IS NOT NULL";
    assert_eq!(it.world.number(ended).await, 1);
    let open = "SELECT count(*) FROM send_attempts WHERE state IN (0, 2)";
    assert_eq!(it.world.number(open).await, 0);
    let called = it.fake.ledger().requested().len() as i64;
    let told = "SELECT count(*) FROM send_attempts WHERE state = 1 AND resolved_by = 'owner'";
    assert_eq!(it.world.number(told).await, called);
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::HandedOver), called);
    assert!(counts.is_balanced(), "{counts:?}");
}
