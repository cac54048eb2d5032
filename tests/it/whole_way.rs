//! The product's main job on real input: a file of 10,000 contacts becomes a campaign, by curl alone, and its worker is
//! killed on the way.

use std::path::Path;
use std::process::{Output, Stdio};

use engageninja::crypto::mac::MacKey;
use engageninja::domain::actor::Role;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::app::App;
use crate::harness::db::TestDb;
use crate::harness::program::{MAC_KEY, Started, on};
use crate::harness::world::World;
use crate::harness::{TempDir, eventually, within};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/contacts-10k.csv");
const KILLS: i64 = 5;

/// A world whose worker is a process of its own.
async fn world(db: TestDb) -> World {
    World {
        mac_key: MacKey::from_base64(&MAC_KEY.into()).unwrap(),
        ..World::on(db).await
    }
}

async fn start_worker(world: &World) -> Started {
    Started::new(on(&world.db, &["worker"])).await
}

/// Runs the script of the docs on a file of contacts.
async fn script(world: &World, file: &Path) -> tokio::task::JoinHandle<Output> {
    let (app, tenant) = App::beside(world).await;
    let key = app.key(&tenant, Role::Sender).await;
    let script = tokio::process::Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/campaign.sh"))
        .arg(file)
        .arg("Hello {{ first_name | default('you') }}, you have {{ points }} points.")
        .env("URL", app.origin())
        .env("KEY", &key)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::spawn(async move {
        let output = within(240, "the script ends", script).await.unwrap();
        drop(app);
        output
    })
}

/// The snapshots that the script printed; everybody stands in one place in each.
fn snapshots(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}");
    let lines = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let snapshots: Vec<Value> = lines.collect();
    for snapshot in &snapshots {
        let counts = snapshot["counts"].as_object().unwrap();
        let sum: i64 = counts.values().map(|count| count.as_i64().unwrap()).sum();
        assert_eq!(sum, snapshot["audience"].as_i64().unwrap(), "{snapshot}");
    }
    snapshots
}

/// What holds at the end, whatever happened on the way.
async fn assert_once_each(world: &World, last: &Value) -> i64 {
    assert_eq!(last["status"], "completed", "{last}");
    let parked = world
        .number("SELECT count(*) FROM messages WHERE phase = 5")
        .await;
    let handed_over = world
        .number("SELECT count(*) FROM messages WHERE phase = 4")
        .await;
    let dropped = world
        .number("SELECT count(*) FROM messages WHERE phase = 6")
        .await;
    let skipped = world.number("SELECT count(*) FROM campaign_skips").await;
    assert_eq!(
        handed_over + dropped + parked + skipped,
        last["audience"].as_i64().unwrap()
    );
    assert_eq!(last["counts"]["parked"].as_i64().unwrap(), parked);

    assert_eq!(world.doubled().await, 0, "an address was written to twice");
    let addresses = "SELECT count(DISTINCT m.dest_mac) FROM demo_ledger d
                     JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.message_id";
    let ledger = world.number("SELECT count(*) FROM demo_ledger").await;
    assert_eq!(world.number(addresses).await, ledger);
    assert!(
        (handed_over..=handed_over + parked).contains(&ledger),
        "{ledger} of {handed_over}"
    );

    let without = "SELECT count(*) FROM messages m WHERE m.phase = 5 AND NOT EXISTS (
                   SELECT FROM send_attempts a WHERE a.tenant_id = m.tenant_id AND a.message_id = m.id AND a.state = 6)";
    assert_eq!(
        world.number(without).await,
        0,
        "a parked message without its attempt"
    );
    parked
}

#[tokio::test]
async fn people_in_a_file_are_reached_with_control_and_cell_in_two_databases() {
    let world = world(TestDb::split().await).await;
    let _scheduler = world.scheduler();
    let worker = start_worker(&world).await;
    let dir = TempDir::new();
    let file = dir.path().join("contacts.csv");
    let whole = std::fs::read_to_string(FILE).unwrap();
    let some: String = whole.split_inclusive('\n').take(1_001).collect();
    std::fs::write(&file, some).unwrap();

    let output = script(&world, &file).await.await.unwrap();

    worker.stop().await;
    assert_eq!(
        assert_once_each(&world, snapshots(&output).last().unwrap()).await,
        0
    );
}

#[tokio::test]
async fn ten_thousand_people_in_a_file_are_reached_by_curl_alone_through_five_kills_of_the_worker()
{
    let mut world = world(TestDb::new().await).await;
    // The holds of production, ten times as fast: what a dead worker had open is settled within half a minute.
    world.scale_holds(0.1).await;
    let _scheduler = world.scheduler();
    let mut worker = start_worker(&world).await;
    let script = script(&world, Path::new(FILE)).await;

    let mut open_at_kills = 0;
    for kill in 1..=KILLS {
        eventually("more messages go out", || async {
            world.number("SELECT count(*) FROM demo_ledger").await >= kill * 1_200
        })
        .await;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
        open_at_kills += world
            .number("SELECT count(*) FROM send_attempts WHERE state IN (0, 2)")
            .await;
        worker = start_worker(&world).await;
    }
    let output = script.await.unwrap();

    worker.stop().await;
    let snapshots = snapshots(&output);
    assert!(snapshots.len() > 2, "it moves before their eyes");
    let parked = assert_once_each(&world, snapshots.last().unwrap()).await;
    assert_eq!(world.number("SELECT count(*) FROM contacts").await, 9_539);
    assert!(open_at_kills > 0, "no call was open at any kill");
    assert_eq!(parked, 0, "of {open_at_kills} calls open at the kills");
}
