//! A cancellation is a strict bound, too, and it leaves nobody waiting.

use std::time::Duration;

use engageninja::domain::attempt::Verdict;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::{CountWord, Counts};
use engageninja::domain::ids::CampaignId;

use sqlx::{AssertSqlSafe, Executor, Row};

use crate::harness::world::World;
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);
const ROUNDS: i64 = 20;
const CONTACTS: i64 = 400;

/// Waits until the job has dropped what waited and no call is open.
async fn settled(world: &World, id: CampaignId) -> Counts {
    let sealed =
        format!("SELECT count(*) FROM campaigns WHERE id = '{id}' AND final_counts IS NOT NULL");
    eventually("the cancelled campaign settles", || async {
        world.number(&sealed).await == 1
    })
    .await;
    world.counts(id).await
}

/// What holds of every cancelled campaign that has settled: the numbers sum, and the rows say the same.
async fn assert_nobody_waits(world: &World, id: CampaignId, counts: &Counts) {
    assert!(counts.is_balanced() && counts.is_settled(), "{counts:?}");
    let campaign = world.load(id).await;
    assert_eq!(campaign.status, CampaignStatus::Cancelled);
    let rows = |condition: &str| {
        format!("SELECT count(*) FROM messages WHERE campaign_id = '{id}' AND {condition}")
    };
    let waiting = rows("phase IN (-1, 0, 1, 2, 3)");
    assert_eq!(world.number(&waiting).await, 0);
    let unexpanded = format!(
        "SELECT COALESCE(sum(total - next_pos), 0)::bigint FROM campaign_expansion WHERE campaign_id = '{id}'"
    );
    let dropped = rows("phase = 6 AND drop_reason = 'cancelled'");
    assert_eq!(
        world.number(&dropped).await + world.number(&unexpanded).await,
        counts.get(CountWord::DroppedCancelled)
    );
    let late = format!(
        "SELECT count(*) FROM send_attempts a JOIN messages m ON m.tenant_id = a.tenant_id AND m.id = a.message_id
         WHERE m.campaign_id = '{id}' AND a.started_at > (SELECT finished_at FROM campaigns WHERE id = '{id}')"
    );
    assert_eq!(
        world.number(&late).await,
        0,
        "a call began after the answer"
    );
    let frozen = format!("SELECT count(*) FROM campaign_audience WHERE campaign_id = '{id}'");
    assert_eq!(world.number(&frozen).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_after_any_of_twenty_cancellations_under_load_and_nobody_waits() {
    let world = World::start().await;
    world.add_contacts(CONTACTS as u32).await;
    let workers = [world.slow_worker().await, world.slow_worker().await];
    let mut session = world.session().await;
    let (mut sent, mut dropped) = (0, 0);
    for round in 0..ROUNDS {
        let campaign = world
            .campaign(&format!("Hello {{{{ first_name }}}}, {round}"))
            .await;
        // The first ones are cancelled before anybody has looked at them, the others ever later.
        eventually("messages go out", || async {
            world.through(campaign).await >= round * 9
        })
        .await;
        let in_flight = within(5, "the cancellation answers", async {
            world.cancel(campaign).await.unwrap().1
        })
        .await;
        let begun_sql = format!(
            "SELECT count(*) FROM send_attempts a JOIN messages m ON m.tenant_id = a.tenant_id AND m.id = a.message_id
             WHERE m.campaign_id = '{campaign}'"
        );
        let row = session.fetch_one(AssertSqlSafe(begun_sql.clone())).await;
        let begun: i64 = row.unwrap().get(0);

        let counts = settled(&world, campaign).await;
        assert_nobody_waits(&world, campaign, &counts).await;
        assert_eq!(world.number(&begun_sql).await, begun, "round {round}");
        assert!(in_flight <= begun, "round {round}");
        let through = world.through(campaign).await;
        assert!(through >= round * 9);
        sent += through;
        dropped += counts.get(CountWord::DroppedCancelled);
    }
    // What was let out and cancelled has jobs that find nothing to do.
    eventually("no job is left", || async {
        world.number("SELECT count(*) FROM cell.jobs").await == 0
    })
    .await;
    for worker in workers {
        worker.drain(DRAIN).await;
    }
    assert!(sent > 0 && dropped > sent, "{sent} sent, {dropped} dropped");
    assert_eq!(world.number("SELECT count(*) FROM cell.jobs").await, 0);
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}

/// The expansion stops between two chunks; whom it had not come to is counted all the same.
#[tokio::test]
async fn people_who_were_not_expanded_are_counted_as_dropped() {
    let world = World::start().await;
    world.add_contacts(2_300).await;
    // The second chunk never commits.
    world
        .db
        .execute(
            "CREATE FUNCTION public.stuck() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'stuck'; END $$;
             CREATE TRIGGER stuck BEFORE UPDATE ON cell.campaign_expansion FOR EACH ROW
                 WHEN (new.next_pos > 2000) EXECUTE FUNCTION public.stuck()",
        )
        .await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, 5).await;
    assert_eq!(world.counts(campaign).await.get(CountWord::Unexpanded), 300);

    world.cancel(campaign).await.unwrap();
    let worker = world.worker().await;
    let counts = settled(&world, campaign).await;
    worker.drain(DRAIN).await;

    assert_eq!(counts.get(CountWord::DroppedCancelled), 2_300);
    assert_eq!(counts.get(CountWord::Audience), 2_300);
    assert_nobody_waits(&world, campaign, &counts).await;
    let messages = "SELECT count(*) FROM messages";
    assert_eq!(world.number(messages).await, 2_000);
}

#[tokio::test]
async fn a_campaign_cancelled_before_its_audience_is_frozen_writes_to_nobody() {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.cancel(campaign).await.unwrap();

    let worker = world.worker().await;
    let counts = settled(&world, campaign).await;
    eventually("no job is left", || async {
        world.number("SELECT count(*) FROM cell.jobs").await == 0
    })
    .await;
    worker.drain(DRAIN).await;

    assert_eq!(counts.get(CountWord::Audience), 0);
    assert_eq!(world.number("SELECT count(*) FROM messages").await, 0);
}

/// A call under way at the cancellation gives its message back afterwards: it is dropped then.
#[tokio::test]
async fn a_message_that_comes_back_after_the_cancellation_is_dropped() {
    let world = World::start().await;
    world.add_contacts(12).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 12).await;
    world.begin(&released[..7]).await;
    let (_, in_flight) = world.cancel(campaign).await.unwrap();
    assert_eq!(in_flight, 7);
    let judged = world.begin(&released).await;
    let refused = |verdict| judged.iter().filter(|one| one.verdict == verdict).count();
    assert_eq!(
        (refused(Verdict::Cancelled), refused(Verdict::Gone)),
        (5, 7)
    );

    let worker = world.worker().await;
    eventually("the waiting ones are dropped", || async {
        world
            .counts(campaign)
            .await
            .get(CountWord::DroppedCancelled)
            == 5
    })
    .await;
    // As finish does with a call that was not made.
    world
        .db
        .execute(&format!(
            "BEGIN;
             UPDATE cell.messages SET phase = 0 WHERE phase = 2 AND campaign_id = '{campaign}';
             UPDATE cell.send_attempts SET state = 4, resolved_at = app_now(), next_look_at = NULL;
             DELETE FROM cell.live_calls;
             INSERT INTO cell.campaign_deltas (tenant_id, campaign_id, counts)
             VALUES ('{}', '{campaign}', jsonb_build_object('sending', -7, 'queued', 7));
             COMMIT",
            world.tenant_id
        ))
        .await;
    let counts = settled(&world, campaign).await;
    worker.drain(DRAIN).await;

    assert_eq!(counts.get(CountWord::DroppedCancelled), 12);
    assert_nobody_waits(&world, campaign, &counts).await;
    assert_eq!(world.number("SELECT count(*) FROM demo_ledger").await, 0);
}
