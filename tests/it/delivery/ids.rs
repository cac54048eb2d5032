//! The id of a campaign's message is computed in two places, and is the same.

use chrono::{DateTime, Utc};
use engageninja::domain::ids::CampaignId;
use engageninja::domain::message::campaign_message_id;
use rand::Rng;
use sqlx::Row;
use uuid::Uuid;

use crate::harness::world::World;

#[tokio::test]
async fn the_database_computes_the_same_id_as_the_product() {
    let world = World::start().await;
    let mut random = rand::rng();
    // Any instant from 1970 to 2100, to the microsecond.
    let mut asked: Vec<(DateTime<Utc>, Uuid, u16, u32)> = (0..1_000)
        .map(|_| {
            let micros = random.random_range(0..4_102_444_800_000_000);
            let started_at = DateTime::from_timestamp_micros(micros).unwrap();
            (
                started_at,
                Uuid::from_u128(random.random()),
                random.random_range(0..=4095),
                random.random(),
            )
        })
        .collect();
    let started_at = DateTime::from_timestamp_micros(1_764_000_000_000_999).unwrap();
    asked.push((started_at, Uuid::nil(), 0, 0));
    asked.push((started_at, Uuid::max(), 4095, u32::MAX));

    let values: Vec<String> = asked
        .iter()
        .map(|(at, campaign, step, position)| {
            format!("('{}', '{campaign}', {step}, {position})", at.to_rfc3339())
        })
        .collect();
    let sql = format!(
        "SELECT public.campaign_message_id(v.at::timestamptz, v.campaign::uuid, v.step::int, v.pos::bigint)
         FROM (VALUES {}) AS v (at, campaign, step, pos)",
        values.join(", ")
    );
    let rows = world.rows(&sql).await;

    assert_eq!(rows.len(), asked.len());
    for (row, (at, campaign, step, position)) in rows.iter().zip(asked) {
        let ours = campaign_message_id(at, CampaignId(campaign), step, position);
        assert_eq!(
            row.get::<Uuid, _>(0),
            ours.0,
            "{at} {campaign} {step} {position}"
        );
    }
}
