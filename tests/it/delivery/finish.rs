//! What came of calls is stored in batches, and one that cannot be stored is nobody else's trouble.

use std::time::Duration;

use engageninja::dev::fake_twilio::Weather;
use engageninja::domain::ids::MessageKey;
use sqlx::Executor;
use tokio::time::Instant;

use crate::harness::eventually;
use crate::harness::twilio::{TwilioWorld, silent};
use crate::harness::world::World;

const PEOPLE: usize = 20;
const DRAIN: Duration = Duration::from_secs(10);

impl World {
    /// From now on what came of calls for these cannot be stored.
    pub(super) async fn refuse_outcomes_of(&self, refused: &[MessageKey]) {
        let function =
            "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'data_exception'; END $$";
        self.db.execute(function).await;
        let ids: Vec<String> = refused.iter().map(|key| format!("'{}'", key.id)).collect();
        let trigger = format!(
            "CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON cell.send_attempts FOR EACH ROW
             WHEN (OLD.state = 0 AND NEW.message_id IN ({})) EXECUTE FUNCTION public.refuse()",
            ids.join(", ")
        );
        self.db.execute(&trigger).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_stored_keeps_no_other_and_no_worker_back() {
    const REFUSED: usize = 6;
    let world = World::start().await;
    world.add_contacts(PEOPLE as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, PEOPLE).await;
    world.refuse_outcomes_of(&released[..REFUSED]).await;

    let worker = world.worker().await;
    eventually("the others are through", || async {
        world.through(campaign).await == (PEOPLE - REFUSED) as i64
    })
    .await;
    let stopped = Instant::now();
    worker.drain(DRAIN).await;
    assert!(stopped.elapsed() < DRAIN / 2, "somebody waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_was_refused_is_stored_once_that_can_be() {
    let world = World::start().await;
    world.add_contacts(PEOPLE as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, PEOPLE).await;
    world.refuse_outcomes_of(&released[..1]).await;
    let worker = world.worker().await;
    eventually("the others are through", || async {
        world.through(campaign).await == PEOPLE as i64 - 1
    })
    .await;

    world
        .db
        .execute("DROP TRIGGER refuse ON cell.send_attempts")
        .await;
    eventually("what was refused is stored", || async {
        world.through(campaign).await == PEOPLE as i64
    })
    .await;
    let by_owner = "SELECT count(DISTINCT message_id) FROM send_attempts WHERE resolved_by = 'owner' AND state IN (1, 3)";
    assert_eq!(world.number(by_owner).await, PEOPLE as i64);
    assert_eq!(world.doubled().await, 0);
    worker.drain(DRAIN).await;
}

/// Somebody keeps the row of a message, as an operator at a prompt may: its outcome waits, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_somebody_holds_keeps_no_other_back() {
    let it = TwilioWorld::start().await;
    let world = &it.world;
    world.add_contacts(PEOPLE as u32).await;
    it.fake.set_weather(Weather {
        after_ms: (1_000, 1_000),
        ..silent()
    });
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let worker = world.worker().await;
    let under_way = "SELECT count(*) FROM messages WHERE phase = 2";
    eventually("calls are under way", || async {
        world.number(under_way).await > 0
    })
    .await;
    let one = world
        .db
        .text("SELECT min(id::text) FROM messages WHERE phase = 2")
        .await;
    let mut holder = world.hold(one).await;

    eventually("all others are through", || async {
        world.through(campaign).await == PEOPLE as i64 - 1
    })
    .await;
    holder.execute("ROLLBACK").await.unwrap();
    eventually("it is, too", || async {
        world.through(campaign).await == PEOPLE as i64
    })
    .await;
    let by_owner = "SELECT count(*) FROM send_attempts WHERE resolved_by = 'owner' AND state = 1";
    assert_eq!(world.number(by_owner).await, PEOPLE as i64);
    worker.drain(DRAIN).await;
}
