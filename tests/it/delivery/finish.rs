//! What came of calls is stored in batches, and one that cannot be stored is nobody else's trouble.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::eventually;
use crate::harness::world::World;

/// More than there are batches under way at once.
const SPOILED: usize = 6;
const PEOPLE: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_stored_keeps_no_other_and_no_worker_back() {
    let world = World::start().await;
    world.add_contacts(PEOPLE as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, PEOPLE).await;
    let spoiled: Vec<String> = released[..SPOILED]
        .iter()
        .map(|key| format!("'{}'", key.id))
        .collect();
    world
        .db
        .execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'data_exception'; END $$",
        )
        .await;
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON cell.send_attempts FOR EACH ROW
         WHEN (OLD.state = 0 AND NEW.message_id IN ({})) EXECUTE FUNCTION public.refuse()",
        spoiled.join(", ")
    );
    world.db.execute(&refuse).await;

    let worker = world.worker().await;
    let others = (PEOPLE - SPOILED) as i64;
    eventually("the others are through", || async {
        world.through(campaign).await == others
    })
    .await;
    let next = world.campaign("Hello again {{ first_name }}").await;
    eventually("the next campaign is through", || async {
        world.through(next).await == PEOPLE as i64
    })
    .await;
    assert_eq!(world.through(campaign).await, others);

    world
        .db
        .execute("DROP TRIGGER refuse ON cell.send_attempts")
        .await;
    eventually("what was refused is stored in the end", || async {
        world.through(campaign).await == PEOPLE as i64
    })
    .await;
    let by_owner = "SELECT count(*) FROM send_attempts WHERE resolved_by = 'owner'";
    assert_eq!(world.number(by_owner).await, 2 * PEOPLE as i64);
    assert_eq!(world.doubled().await, 0);
    let stopped = Instant::now();
    worker.drain(Duration::from_secs(10)).await;
    assert!(stopped.elapsed() < Duration::from_secs(5));
}
