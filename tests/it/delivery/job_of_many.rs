//! Messages that are let out together share jobs, and each has one until it is begun.

use std::time::Duration;

use engageninja::domain::orders::SendMessage;
use engageninja::jobs::worker::{Worker, WorkerOptions};

use crate::harness::eventually;
use crate::harness::world::World;

/// Messages under way.
const OPEN: &str = "SELECT count(*) FROM send_attempts WHERE state = 0";

/// Enough for jobs of several, and no more than may be let out at once.
const PEOPLE: i64 = 60;

/// Messages that are let out and not begun, and that no job looks at.
const WITHOUT_JOB: &str = "SELECT count(*) FROM messages m WHERE m.phase = 1 AND NOT EXISTS (
    SELECT FROM jobs j WHERE j.queue = 'send' AND j.payload -> 'message_ids' ? m.id::text)";

#[tokio::test]
async fn those_that_are_let_out_together_share_jobs_and_few_have_one_each() {
    let world = World::start().await;
    // Each of these may go to another process.
    let few = world.another("few", "few").await;
    few.add_contacts(3).await;
    let campaign = few.campaign("Hello").await;
    few.let_out(campaign, 3).await;
    let jobs = "SELECT count(*) FROM jobs WHERE queue = 'send'";
    assert_eq!(world.number(jobs).await, 3);

    world.add_contacts(PEOPLE as u32).await;
    let campaign = world.campaign("Hello").await;
    world.let_out(campaign, PEOPLE as usize).await;
    let size = "SELECT max(jsonb_array_length(payload -> 'message_ids'))::bigint FROM jobs WHERE queue = 'send'";
    let most = SendMessage::MESSAGES_MAX as i64;
    let size = world.number(size).await;
    assert!((2..=most).contains(&size), "{size}");
    let in_jobs = "SELECT count(*) FROM jobs, jsonb_array_elements_text(payload -> 'message_ids') WHERE queue = 'send'";
    assert_eq!(world.number(in_jobs).await, 3 + PEOPLE);
    assert_eq!(world.number(WITHOUT_JOB).await, 0);
}

/// Few at once, so that jobs wait while others are under way.
#[tokio::test]
async fn a_job_is_there_until_the_last_of_its_messages_is_begun() {
    let world = World::start().await;
    world.add_contacts(PEOPLE as u32).await;
    let campaign = world.campaign("Hello").await;
    world.let_out(campaign, PEOPLE as usize).await;
    let options = WorkerOptions {
        concurrency: Some(4),
        ..world.worker_options()
    };
    let worker = Worker::start(world.db.db(), options).await;
    eventually("all are through", || async {
        let open = world.number(OPEN).await;
        assert!(open <= 4, "{open} at once");
        assert_eq!(world.number(WITHOUT_JOB).await, 0);
        world.through(campaign).await == PEOPLE
    })
    .await;
    eventually("no job is left", || async {
        let jobs = "SELECT count(*) FROM jobs WHERE queue = 'send'";
        world.number(jobs).await == 0
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(world.doubled().await, 0);
}
