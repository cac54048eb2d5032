//! An expansion whose worker is killed at every chunk writes to each person once.

use std::time::Duration;

use engageninja::crypto::mac::MacKey;
use engageninja::domain::counts::CountWord;
use nix::sys::signal::Signal;
use rand::Rng;

use crate::harness::eventually;
use crate::harness::program::{MAC_KEY, Started, on};
use crate::harness::world::World;

/// Ten chunks: more than a job may start without an end, so that only one which gets on comes through.
const PEOPLE: u32 = 20_000;
/// After a chunk was seen, as long as the next one takes or less.
const KILL_WITHIN_MS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_killed_at_every_chunk_writes_to_each_person_once() {
    let mut world = World {
        mac_key: MacKey::from_base64(&MAC_KEY.into()).unwrap(),
        ..World::start().await
    };
    // The job of a killed worker is free again after its lease.
    world.scale_holds(0.05).await;
    world.add_contacts(PEOPLE).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let left = async || {
        let counts = world.counts(campaign).await;
        match counts.get(CountWord::Audience) {
            0 => i64::from(PEOPLE),
            _ => counts.get(CountWord::Unexpanded),
        }
    };

    let mut kills = 0;
    loop {
        let before = left().await;
        if before == 0 {
            break;
        }
        let mut worker = Started::new(on(&world.db, &["worker", "--jobs", "campaigns"])).await;
        eventually("a chunk is done", || async { left().await < before }).await;
        let moment = rand::rng().random_range(0..KILL_WITHIN_MS);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
        kills += 1;
    }
    assert!(kills > 2, "nobody was killed on the way");
    let people = i64::from(PEOPLE);
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(counts.get(CountWord::Audience), people);
    for what in [
        "count(*)",
        "count(DISTINCT dest_mac)",
        "count(DISTINCT contact_id)",
    ] {
        let sql = format!("SELECT {what} FROM messages");
        assert_eq!(world.number(&sql).await, people, "{what}");
    }
    let bodies = "SELECT count(*) FROM message_bodies";
    assert_eq!(world.number(bodies).await, people);
}
