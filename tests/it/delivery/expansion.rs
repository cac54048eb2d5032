//! An expansion whose worker is killed at every chunk, or dies while another has its job, writes to each person once.

use std::time::Duration;

use engageninja::crypto::mac::MacKey;
use engageninja::domain::counts::CountWord;
use engageninja::jobs::worker::Worker;
use nix::sys::signal::Signal;
use rand::Rng;
use sqlx::{ConnectOptions, Connection, Executor};

use crate::harness::eventually;
use crate::harness::program::{MAC_KEY, Started, on};
use crate::harness::world::World;

/// Ten chunks: more than a job may start without an end, so that only one which gets on comes through.
const PEOPLE: u32 = 20_000;
/// After a chunk was seen, as long as the next one takes or less.
const KILL_WITHIN_MS: u64 = 250;
/// Most kills come between a chunk's messages and its cursor, so that it shows whether these commit together.
const SLOW_CURSOR: &str = "
    CREATE FUNCTION cell.slow_cursor() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END';
    CREATE TRIGGER slow_cursor BEFORE UPDATE ON cell.campaign_expansion
        FOR EACH ROW EXECUTE FUNCTION cell.slow_cursor()";

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_killed_at_every_chunk_writes_to_each_person_once() {
    let mut world = World {
        mac_key: MacKey::from_base64(&MAC_KEY.into()).unwrap(),
        ..World::start().await
    };
    // The job of a killed worker is free again after its lease.
    world.scale_holds(0.05).await;
    world.add_contacts(PEOPLE).await;
    world.db.execute(SLOW_CURSOR).await;
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

/// A worker that stands still in its chunk loses its lease, and its job goes to another; then it is killed. The other one
/// must not have taken the held cursor for the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_a_dying_worker_holds_is_not_the_end() {
    const FEW: i64 = 30;
    let world = World::start().await;
    world.add_contacts(FEW as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    // What the first transaction of the one that dies has committed: the audience, and the cursor at its start.
    let freezing = format!(
        "INSERT INTO cell.campaign_audience (tenant_id, campaign_id, pos, contact_id, dest_mac)
         SELECT tenant_id, '{campaign}', row_number() OVER (ORDER BY id) - 1, id, phone_mac FROM cell.contacts;
         INSERT INTO cell.campaign_expansion (tenant_id, campaign_id, total) VALUES ('{tenant}', '{campaign}', {FEW});
         INSERT INTO cell.campaign_deltas (tenant_id, campaign_id, counts)
         VALUES ('{tenant}', '{campaign}', jsonb_build_object('audience', {FEW}, 'unexpanded', {FEW}))",
        tenant = world.tenant_id,
    );
    world.db.execute(&freezing).await;
    let mut dying = world.db.options().cell.connect().await.unwrap();
    let mut chunk = dying.begin().await.unwrap();
    let taking = "SELECT FROM cell.campaign_expansion FOR UPDATE";
    chunk.execute(taking).await.unwrap();

    let worker = Worker::start(world.db.db(), world.without_sends()).await;
    let looked = "SELECT count(*) FROM cell.jobs WHERE kind = 'expand-campaign' AND state = 2";
    eventually("another one looks, and will look again", || async {
        world.number(looked).await == 1
    })
    .await;
    chunk.rollback().await.unwrap();
    eventually("everybody has a message", || async {
        world.number("SELECT count(*) FROM messages").await == FEW
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
}
