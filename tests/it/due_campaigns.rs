//! Campaigns whose time has come, and one of them that cannot start now.

use std::time::Duration;

use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::orders::StartDueCampaigns;
use engageninja::jobs::queue::enqueue;
use engageninja::jobs::worker::Worker;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::harness::eventually;
use crate::harness::world::World;

/// Its row is held, so that it cannot start before that is over; it starts with a later run then.
#[tokio::test]
async fn a_campaign_that_cannot_start_yet_keeps_no_other_back() {
    let world = World::start().await;
    world.add_contacts(5).await;
    let first = world
        .scheduled("Hello {{ first_name }}", Duration::from_mins(1))
        .await;
    let second = world
        .scheduled("Hello {{ first_name }}", Duration::from_mins(2))
        .await;
    world.db.advance(Duration::from_secs(121)).await;
    let mut session = world.session().await;
    let mut lock = session.begin().await.unwrap();
    let held = format!("SELECT FROM campaigns WHERE id = '{first}' FOR UPDATE");
    lock.execute(AssertSqlSafe(held)).await.unwrap();

    let worker = Worker::start(world.db.db(), world.without_sends()).await;
    let mut tx = world.db.db().system().begin().await.unwrap();
    enqueue(&mut tx, StartDueCampaigns {}).await.unwrap();
    tx.commit().await.unwrap();
    eventually("the second starts", || async {
        world.load(second).await.status == CampaignStatus::Sending
    })
    .await;
    assert_eq!(world.load(first).await.status, CampaignStatus::Scheduled);

    lock.rollback().await.unwrap();
    eventually("the first starts", || async {
        world.load(first).await.status == CampaignStatus::Sending
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}
