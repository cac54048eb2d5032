//! What carriers grant a brand holds for all its numbers together: messages each second, segments each day. The provider's
//! ledger judges.

use std::time::Duration;

use engageninja::dev::fake_twilio::Weather;
use engageninja::domain::counts::CountWord;
use engageninja::domain::rate::learned::next_midnight_pacific;

use super::pace::{BURST_MAX, accepted, hand_over_all};
use crate::harness::eventually;
use crate::harness::ticks::most_above_rate;
use crate::harness::twilio::{TwilioWorld, silent};
use crate::harness::world::World;

/// Two segments of the basic alphabet.
fn long_text() -> String {
    "two segments ".repeat(13)
}

/// The world's sender belongs to a brand of which carriers say `columns` and `values`.
async fn grant(world: &World, columns: &str, values: &str) {
    // Quotas are of a day.
    world.db.step_past_hours_end().await;
    for sql in [
        "INSERT INTO cell.tenant_10dlc_brands (id, tenant_id, legal_business_name, country, business_address, business_city,
             business_state, business_zip, owner_name, owner_email, owner_phone)
         SELECT gen_random_uuid(), tenant_id, 'Dojo Coffee', 'US', '1 Main St', 'Austin', 'TX', '78701', 'Ada', 'ada@dojo.test',
             '+12025550100' FROM cell.senders WHERE is_default AND channel = 'sms'",
        "UPDATE cell.senders s SET brand_id = b.id FROM cell.tenant_10dlc_brands b
         WHERE b.tenant_id = s.tenant_id AND s.channel = 'sms'",
        &format!(
            "INSERT INTO cell.brand_grants (tenant_id, brand_id, {columns})
             SELECT tenant_id, id, {values} FROM cell.tenant_10dlc_brands"
        ),
    ] {
        world.db.execute(sql).await;
    }
}

#[tokio::test]
async fn two_numbers_of_a_brand_share_its_messages_a_second() {
    let world = World::start().await;
    world.add_contacts(70).await;
    grant(&world, "messages_per_sec", "20").await;
    // The world's campaigns leave by the default sender: each has its own.
    world.campaign(&long_text()).await;
    for sql in [
        "UPDATE cell.senders SET is_default = false WHERE channel = 'sms'",
        "INSERT INTO cell.senders (tenant_id, id, channel, provider, account_ref, address, brand_id, is_default)
         SELECT tenant_id, gen_random_uuid(), channel, provider, account_ref, address || '0', brand_id, true
         FROM cell.senders WHERE channel = 'sms'",
    ] {
        world.db.execute(sql).await;
    }
    world.campaign(&format!("Another {}", long_text())).await;
    let worker = world.worker().await;
    hand_over_all(&world, 140).await;

    let lanes = "SELECT count(DISTINCT sender_id) FROM lanes";
    assert_eq!(world.number(lanes).await, 2);
    let above = most_above_rate(&accepted(&world).await, 20.0);
    assert!(above <= BURST_MAX, "{above}");
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_brand_sends_no_more_segments_than_its_day_takes() {
    let world = World::start().await;
    world.add_contacts(30).await;
    grant(&world, "daily_segment_cap", "21").await;
    world.campaign(&long_text()).await;
    let worker = world.worker().await;

    // Ten messages are twenty segments; the eleventh begins with the one that is left.
    let waits = "SELECT count(*) FROM lanes l JOIN buckets b ON b.kind = 'brand' AND b.resets_at = l.next_at";
    eventually("the lane waits for the next day", async || {
        world.number(waits).await == 1
    })
    .await;
    let ended = "SELECT count(*) FROM messages WHERE phase IN (4, 6)";
    eventually("what was let out is sent", async || {
        world.number(ended).await == 11
    })
    .await;
    let bucket = "SELECT used FROM buckets WHERE kind = 'brand'";
    assert_eq!(world.number(bucket).await, 22);
    let resets_at = world
        .db
        .value("SELECT resets_at FROM buckets WHERE kind = 'brand'")
        .await;
    assert_eq!(
        Some(next_midnight_pacific(world.db.clock().now())),
        resets_at
    );

    // Midnight.
    for sql in [
        "UPDATE cell.buckets SET resets_at = app_now() WHERE kind = 'brand'",
        "UPDATE cell.lanes SET next_at = app_now()",
        "UPDATE cell.tenant_turns SET next_at = app_now()",
    ] {
        world.db.execute(sql).await;
    }
    eventually("the next day's are sent", async || {
        world.number(ended).await == 22
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}

/// What the day's quota was charged for and the provider never got is given back, however long it takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_takes_nothing_uses_up_nothing_of_the_day() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(10).await;
    grant(&it.world, "daily_segment_cap", "24").await;
    it.fake.set_weather(Weather {
        throttled: 1000,
        retry_after: Some("0".into()),
        ..silent()
    });
    let campaign = it.world.campaign(&long_text()).await;
    let worker = it.world.worker().await;
    // Each is two segments of the day.
    let charged = "SELECT count(*) FROM send_attempts WHERE state <> 0";
    eventually("more was let out than a day takes", || async {
        it.world.number(charged).await > 15
    })
    .await;

    it.fake.set_weather(silent());
    eventually("all are through", || async {
        it.world.counts(campaign).await.get(CountWord::HandedOver) == 10
    })
    .await;
    let used = "SELECT used FROM buckets WHERE kind = 'brand'";
    eventually("what was sent is all that counts", || async {
        it.world.number(used).await == 20
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}

/// Nor does a call whose answer was lost, once it is proven that the provider never got it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_sent_is_given_back_to_the_day() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(3).await;
    grant(&it.world, "daily_segment_cap", "24").await;
    it.fake.set_weather(Weather {
        cut: 1000,
        ..silent()
    });
    let campaign = it.world.campaign(&long_text()).await;
    let worker = it.world.worker().await;
    eventually("all are in doubt", || async {
        it.world.counts(campaign).await.get(CountWord::InDoubt) == 3
    })
    .await;
    let used = "SELECT used FROM buckets WHERE kind = 'brand'";
    assert_eq!(it.world.number(used).await, 6);

    it.world.pause(campaign).await.unwrap();
    it.world.settle().await;
    assert_eq!(it.world.counts(campaign).await.get(CountWord::Queued), 3);
    it.world.resume(campaign).await;
    it.fake.set_weather(silent());
    eventually("all are through", || async {
        it.world.counts(campaign).await.get(CountWord::HandedOver) == 3
    })
    .await;
    eventually("what was sent is all that counts", || async {
        it.world.number(used).await == 6
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}

/// A carrier's word on yesterday's quota may be told today, and says nothing of today's.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_of_yesterday_closes_nothing_today() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(3).await;
    grant(&it.world, "daily_segment_cap", "100").await;
    let worker = it.world.worker().await;
    let first = it.sent("Hello").await;
    it.world.db.advance(Duration::from_hours(25)).await;
    it.fail(first, "30023").await;
    eventually("the leader hears it", || async {
        let heard = "SELECT count(*) FROM buckets WHERE closed_until IS NOT NULL";
        it.world.number(heard).await == 2
    })
    .await;

    let next = it.world.campaign("Hello again").await;
    eventually("the next goes out", || async {
        it.world.through(next).await == 3
    })
    .await;
    let closed = "SELECT count(*) FROM buckets WHERE closed_until > app_now()";
    assert_eq!(it.world.number(closed).await, 0);
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_is_past_its_time_uses_up_nothing_of_the_day() {
    let world = World::start().await;
    world.add_contacts(30).await;
    grant(&world, "daily_segment_cap", "20").await;
    let campaign = world.campaign(&long_text()).await;
    world.pause(campaign).await.unwrap();
    let worker = world.worker().await;
    eventually("all wait", || async {
        world.counts(campaign).await.get(CountWord::Queued) == 30
    })
    .await;
    // Two of three, with those that are worth sending between them.
    world
        .db
        .execute(
            "UPDATE cell.messages m SET expires_at = public.app_now() - interval '1 minute'
             FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM cell.messages) n
             WHERE m.id = n.id AND n.place % 3 <> 0",
        )
        .await;
    world.resume(campaign).await;
    eventually("the others are through", || async {
        world.through(campaign).await == 10
    })
    .await;
    let used = "SELECT used FROM buckets WHERE kind = 'brand'";
    assert_eq!(world.number(used).await, 20);
    assert_eq!(
        world.counts(campaign).await.get(CountWord::DroppedExpired),
        20
    );
    worker.drain(Duration::from_secs(5)).await;
}
