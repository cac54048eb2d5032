//! What the release lets out, by its own instants.

use chrono::{DateTime, Utc};
use engageninja::domain::ids::CampaignId;
use engageninja::domain::orders::SendMessage;
use engageninja::domain::rate::Rule;
use sqlx::Row;

use super::world::World;

/// What sums of fractions may be off by, far below one message.
const ROUNDING: f64 = 0.01;

/// A message that was let out.
#[derive(Debug, Clone, Copy)]
pub struct LetOut {
    /// The instant that its tick reckoned with.
    pub at: DateTime<Utc>,
    /// Its campaign.
    pub campaign_id: CampaignId,
}

/// Has written down what each tick lets out, and the instant that it reckons with. On the way from there to the provider
/// lies all that the machine does besides, which no rate is to blame for.
pub async fn watch_ticks(world: &World) {
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
pub async fn list_let_out(world: &World) -> Vec<LetOut> {
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
pub fn assert_keeps_to(rate_per_sec: f64, let_out: &[LetOut]) {
    let times: Vec<DateTime<Utc>> = let_out.iter().map(|one| one.at).collect();
    let above = most_above_rate(&times, rate_per_sec);
    let most = Rule::burst_of(rate_per_sec) + ROUNDING;
    assert!(above <= most, "{above} above {rate_per_sec} a second");
}

/// The most that any window holds above its rate: never more than the burst allows.
pub fn most_above_rate(times: &[DateTime<Utc>], rate_per_sec: f64) -> f64 {
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
