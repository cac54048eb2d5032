//! The counts of a campaign are its rows, at any instant of a run.

use std::time::Duration;

use engageninja::domain::counts::CountWord;

use crate::harness::world::World;
use crate::harness::{eventually, within};

const SNAPSHOTS: usize = 100;
const CONTACTS: i64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_snapshots_of_a_run_equal_the_rows() {
    let world = World::start().await;
    world.add_contacts(CONTACTS as u32).await;
    let workers = [world.slow_worker().await, world.slow_worker().await];
    let _scheduler = world.scheduler();
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let mut newest = 0;
    let mut seen = 0;
    within(60, "a hundred snapshots that differ", async {
        while seen < SNAPSHOTS {
            let counted = world.counted(campaign).await;
            counted.assert_equal();
            let version = counted.version;
            assert!(version >= newest, "version {version} after {newest}");
            seen += usize::from(version > newest);
            newest = version;
        }
    })
    .await;

    eventually("all are through", || async {
        world.through(campaign).await == CONTACTS
    })
    .await;
    // The provider's last word comes within a dozen seconds of its clock.
    world.db.advance(Duration::from_secs(15)).await;
    eventually("some have arrived", || async {
        world.counts(campaign).await.get(CountWord::Delivered) > 0
    })
    .await;
    world.counted(campaign).await.assert_equal();
    for worker in workers {
        worker.drain(Duration::from_secs(5)).await;
    }
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}
