//! Nothing goes faster than what it draws on allows, and nothing that may go waits for what may not. The release's own
//! instants judge to the unit, and the provider's ledger as exactly as the machine between them allows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engageninja::domain::ids::CampaignId;
use engageninja::domain::orders::SendMessage;
use engageninja::domain::rate::Rule;
use sqlx::Row;

use crate::harness::eventually;
use crate::harness::world::World;

/// What sums of fractions may be off by, far below one message.
const ROUNDING: f64 = 0.01;

/// What a window may hold above 20 a second: the bucket's burst, and what was let out while no worker had time for it,
/// which is two seconds' worth. On a machine with time it is the burst alone.
pub(super) const BURST_MAX: f64 = 3.0 + 40.0;

/// How soon another pace shows.
const SOON: TimeDelta = TimeDelta::seconds(1);

/// A message that was let out.
#[derive(Debug, Clone, Copy)]
pub(super) struct LetOut {
    /// The instant that its tick reckoned with.
    pub at: DateTime<Utc>,
    /// Its campaign.
    pub campaign_id: CampaignId,
}

/// Has written down what each tick lets out, and the instant that it reckons with. On the way from there to the provider
/// lies all that the machine does besides, which no rate is to blame for.
pub(super) async fn watch_ticks(world: &World) {
    let watch = format!(
        "CREATE TABLE public.ticks (tick xid8 PRIMARY KEY, at timestamptz NOT NULL);
         CREATE TABLE public.let_out (job_id bigint, tick xid8, message_id uuid);
         CREATE FUNCTION public.note_tick() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
             $$ BEGIN
                 INSERT INTO public.ticks VALUES (pg_current_xact_id(), new.last_served_at) ON CONFLICT DO NOTHING;
                 RETURN NULL;
             END $$;
         CREATE TRIGGER note_tick AFTER UPDATE OF last_served_at ON cell.lanes
             FOR EACH ROW EXECUTE FUNCTION public.note_tick();
         CREATE FUNCTION public.note_let_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
             $$ BEGIN
                 INSERT INTO public.let_out SELECT new.id, pg_current_xact_id(), i::uuid
                     FROM jsonb_array_elements_text(new.payload -> 'message_ids') i;
                 RETURN NULL;
             END $$;
         CREATE TRIGGER note_let_out AFTER INSERT ON cell.jobs
             FOR EACH ROW WHEN (new.kind = '{}') EXECUTE FUNCTION public.note_let_out()",
        SendMessage::NAME
    );
    world.db.execute(&watch).await;
}

/// What was let out since the ticks are watched, in its order.
pub(super) async fn list_let_out(world: &World) -> Vec<LetOut> {
    let sql = "SELECT t.at, m.campaign_id FROM public.let_out o JOIN public.ticks t USING (tick)
        JOIN messages m ON m.id = o.message_id ORDER BY t.at, o.job_id, o.message_id";
    let rows = world.rows(sql).await;
    rows.iter()
        .map(|row| LetOut {
            at: row.get(0),
            campaign_id: CampaignId(row.get(1)),
        })
        .collect()
}

/// No window of what was let out holds more than its rate and the burst. None of these messages costs more than one, so
/// that not even the last of a tick overdraws.
pub(super) fn assert_keeps_to(rate_per_sec: f64, let_out: &[LetOut]) {
    let times: Vec<DateTime<Utc>> = let_out.iter().map(|one| one.at).collect();
    let above = most_above_rate(&times, rate_per_sec);
    let most = Rule::burst_of(rate_per_sec) + ROUNDING;
    assert!(above <= most, "{above} above {rate_per_sec} a second");
}

/// What the provider accepted so far, in order.
pub(super) async fn accepted(world: &World) -> Vec<DateTime<Utc>> {
    world
        .db
        .value(
            "SELECT COALESCE(array_agg(accepted_at ORDER BY accepted_at), '{}') FROM demo_ledger",
        )
        .await
}

/// The most that any window holds above its rate: never more than the burst allows.
pub(super) fn most_above_rate(times: &[DateTime<Utc>], rate_per_sec: f64) -> f64 {
    let secs = |at: usize| times[at].timestamp_micros() as f64 / 1e6;
    let mut most: f64 = 0.0;
    for first in 0..times.len() {
        for last in first..times.len() {
            let allowed = (secs(last) - secs(first)) * rate_per_sec;
            most = most.max((last - first + 1) as f64 - allowed);
        }
    }
    most
}

pub(super) async fn hand_over_all(world: &World, people: i64) {
    eventually("everybody is reached, or never will be", async || {
        let ended = world
            .number("SELECT count(*) FROM messages WHERE phase IN (4, 6)")
            .await;
        ended == people
    })
    .await;
}

#[tokio::test]
async fn three_workers_keep_to_the_rate_of_one_sender() {
    let world = World::start().await;
    watch_ticks(&world).await;
    world.add_contacts(60).await;
    world
        .db
        .execute("UPDATE cell.senders SET segments_per_sec_override = 10")
        .await;
    let workers = [
        world.worker().await,
        world.worker().await,
        world.worker().await,
    ];
    world.campaign("Hello").await;
    hand_over_all(&world, 60).await;

    // Six seconds of it: a charge that is a quarter too small shows as a dozen messages too many.
    let let_out = list_let_out(&world).await;
    assert!(let_out.len() >= 60, "{} were seen", let_out.len());
    assert_keeps_to(10.0, &let_out);
    // And two seconds' worth may come late together, after a stall of the workers.
    let above = most_above_rate(&accepted(&world).await, 10.0);
    assert!(above <= Rule::burst_of(10.0) + 20.0, "{above}");
    for worker in workers {
        worker.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn two_campaigns_share_what_the_tenants_plan_allows() {
    let world = World::start().await;
    watch_ticks(&world).await;
    world.add_contacts(40).await;
    world
        .db
        .execute("UPDATE cell.tenants SET plan_segments_per_sec = 20")
        .await;
    let worker = world.worker().await;
    world.campaign("One").await;
    world.campaign("Two").await;
    hand_over_all(&world, 80).await;

    assert_keeps_to(20.0, &list_let_out(&world).await);
    let above = most_above_rate(&accepted(&world).await, 20.0);
    assert!(above <= BURST_MAX, "{above}");
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_campaigns_pace_changes_while_it_runs() {
    let world = World::start().await;
    world.add_contacts(300).await;
    let worker = world.worker().await;
    world
        .db
        .execute("ALTER TABLE cell.campaigns ALTER pace_per_sec SET DEFAULT 2")
        .await;
    world.campaign("Hello").await;
    eventually("it has begun", async || accepted(&world).await.len() >= 2).await;
    let slow = accepted(&world).await.len();
    assert!(slow < 10, "{slow} at 2 a second");

    world
        .db
        .execute("UPDATE cell.campaigns SET pace_per_sec = 200")
        .await;
    let changed = world.db.clock().now();
    hand_over_all(&world, 300).await;
    let times = accepted(&world).await;
    let soon = times.iter().filter(|at| **at - changed < SOON).count();
    assert!(soon > slow + 20, "{soon} so soon after, {slow} before");
    worker.drain(Duration::from_secs(5)).await;
}

/// Cells of this size are measured by the bench; here it is the order that counts.
#[tokio::test]
async fn a_paced_campaign_slows_no_other_lane_of_its_tenant() {
    let world = World::start().await;
    world.add_contacts(200).await;
    world
        .db
        .execute("ALTER TABLE cell.campaigns ALTER pace_per_sec SET DEFAULT 1")
        .await;
    let slow = world.campaign("Slow").await;
    world
        .db
        .execute("ALTER TABLE cell.campaigns ALTER pace_per_sec DROP DEFAULT")
        .await;
    let worker = world.worker().await;
    eventually("the slow one has begun", async || {
        !accepted(&world).await.is_empty()
    })
    .await;
    let quick = world.campaign("Quick").await;
    let handed_over = async |id: CampaignId| {
        let sql =
            format!("SELECT count(*) FROM messages WHERE phase IN (4, 6) AND campaign_id = '{id}'");
        world.number(&sql).await
    };
    eventually("the quick one is sent", async || {
        handed_over(quick).await == 200
    })
    .await;
    assert!(handed_over(slow).await < 40);
    worker.drain(Duration::from_secs(5)).await;
}
