//! A pause is a strict bound: what has not begun when it answers does not begin.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::delivery::campaigns::pause_campaign;
use engageninja::domain::attempt::Verdict;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;

use crate::harness::world::World;
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);
const PAUSES: usize = 20;
const CONTACTS: i64 = 2_500;

/// Lets a paused campaign go on, as an operator would by hand.
async fn resume(world: &World, id: CampaignId) {
    world
        .db
        .execute(&format!(
            "BEGIN;
             UPDATE cell.campaigns SET status = 'sending', paused_at = NULL WHERE id = '{id}';
             INSERT INTO cell.lane_wakes (tenant_id, lane_id, head_id)
             SELECT tenant_id, id, head FROM cell.lanes WHERE campaign_id = '{id}';
             COMMIT"
        ))
        .await;
}

fn instant(at: DateTime<Utc>) -> String {
    format!("'{}'::timestamptz", at.to_rfc3339())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_begins_after_any_of_twenty_pauses_under_load() {
    let world = World::start().await;
    world.add_contacts(CONTACTS as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let db = world.db.db();
    let workers = [world.slow_worker().await, world.slow_worker().await];
    let begun = || world.number("SELECT count(*) FROM send_attempts");

    let mut before = 0;
    for round in 0..PAUSES {
        eventually("messages go out", || async { begun().await > before + 20 }).await;
        let (paused, in_flight) = within(5, "the pause answers", async {
            pause_campaign(&db, world.tenant_id, campaign)
                .await
                .unwrap()
        })
        .await;
        let answered_at = db.clock().now();
        let paused_at = instant(paused.paused_at.unwrap());

        // Whoever was open when the answer was given is in the answer.
        let open = format!(
            "SELECT count(*) FROM send_attempts WHERE started_at < {paused_at}
             AND (resolved_at IS NULL OR resolved_at > {})",
            instant(answered_at)
        );
        let still_open = world.number(&open).await;
        assert!(
            in_flight >= still_open,
            "round {round}: {in_flight} said, {still_open} open"
        );

        eventually("all that was let out is settled or back", || async {
            let counts = world.counts(campaign).await;
            counts.get(CountWord::Released) + counts.get(CountWord::Sending) == 0
        })
        .await;
        let late = format!("SELECT count(*) FROM send_attempts WHERE started_at > {paused_at}");
        assert_eq!(world.number(&late).await, 0, "round {round}");
        assert!(
            world.counts(campaign).await.get(CountWord::Queued) > 0,
            "no load in round {round}"
        );
        before = begun().await;
        resume(&world, campaign).await;
    }
    eventually("the rest goes out", || async {
        world.through(campaign).await == CONTACTS
    })
    .await;
    for worker in workers {
        worker.drain(DRAIN).await;
    }

    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}

#[tokio::test]
async fn a_pause_says_how_many_calls_are_under_way_and_begin_keeps_the_others_back() {
    let world = World::start().await;
    world.add_contacts(12).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 12).await;
    world.begin(&released[..7]).await;

    let db = world.db.db();
    let (_, in_flight) = pause_campaign(&db, world.tenant_id, campaign)
        .await
        .unwrap();
    assert_eq!(in_flight, 7);

    let judged = world.begin(&released).await;
    let held = judged
        .iter()
        .filter(|one| one.verdict == Verdict::Held)
        .count();
    let gone = judged
        .iter()
        .filter(|one| one.verdict == Verdict::Gone)
        .count();
    assert_eq!((held, gone), (5, 7));
    let counts = world.counts(campaign).await;
    assert_eq!(
        (
            counts.get(CountWord::Queued),
            counts.get(CountWord::Sending)
        ),
        (5, 7)
    );
    assert!(counts.is_balanced(), "{counts:?}");
    // The leader is told that there is work, and skips it until it may go.
    assert!(world.number("SELECT count(*) FROM lane_wakes").await > 0);
}
