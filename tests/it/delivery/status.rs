//! What a provider says may come in any order and any number of times: the row is the same.

use engageninja::delivery::inbox::{StatusReport, merge};
use engageninja::domain::channel::Channel;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::MessageKey;
use engageninja::domain::status::Status;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sqlx::Row;

use crate::harness::world::World;

const MESSAGES: usize = 40;

/// Everything a provider may say of one message, with the error code that goes with it.
const STORY: &[(&str, Option<&str>)] = &[
    ("queued", None),
    ("sending", None),
    ("sent", None),
    ("failed", Some("30008")),
    ("undelivered", Some("30003")),
    ("delivered", None),
];

fn report(key: MessageKey, said: (&str, Option<&str>)) -> StatusReport {
    StatusReport {
        key,
        attempt: None,
        status: Status::parse(Channel::Sms, said.0).unwrap(),
        error_code: said.1.map(Into::into),
    }
}

#[tokio::test]
async fn any_order_and_any_repeats_give_the_same_row() {
    let world = World::start().await;
    world.add_contacts(MESSAGES as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let keys = world.let_out(campaign, MESSAGES).await;
    let seed = rand::random::<u64>();
    let mut random = StdRng::seed_from_u64(seed);

    // Half of the messages never arrive, the other half does after all.
    let mut reports = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let told = if at % 2 == 0 { STORY } else { &STORY[..5] };
        reports.extend(told.iter().map(|said| report(*key, *said)));
    }
    reports.extend(reports.clone());
    reports.shuffle(&mut random);
    let db = world.db.db();
    while !reports.is_empty() {
        let some = reports.split_off(reports.len() - random.random_range(1..=reports.len()));
        let mut tx = db.system().begin().await.unwrap();
        merge(&mut tx, &some).await.unwrap();
        tx.commit().await.unwrap();
    }

    let rows = world
        .rows("SELECT status, status_rank, status_conflict, error_code FROM messages ORDER BY id")
        .await;
    for (at, row) in rows.iter().enumerate() {
        let found: (Option<&str>, i16, bool, Option<&str>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let wanted = if at % 2 == 0 {
            (Some("delivered"), 70, true, None)
        } else {
            (Some("undelivered"), 60, false, Some("30003"))
        };
        assert_eq!(found, wanted, "message {at}, seed {seed}");
    }
    let counts = world.counts(campaign).await;
    let half = MESSAGES as i64 / 2;
    assert_eq!(
        (
            counts.get(CountWord::Delivered),
            counts.get(CountWord::Failed)
        ),
        (half, half),
        "seed {seed}"
    );
}
