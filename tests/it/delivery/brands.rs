//! What carriers grant a brand holds for all its numbers together: messages each second, segments each day. The provider's
//! ledger judges.

use std::time::Duration;

use engageninja::domain::rate::learned::next_midnight_pacific;

use super::pace::{BURST_MAX, accepted, hand_over_all, most_above_rate};
use crate::harness::eventually;
use crate::harness::world::World;

/// Two segments of the basic alphabet.
fn long_text() -> String {
    "two segments ".repeat(13)
}

/// The world's sender belongs to a brand of which carriers say `columns` and `values`.
async fn grant(world: &World, columns: &str, values: &str) {
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
