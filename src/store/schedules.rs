//! Cron: what is due when, and which ticks have fired.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};

use super::{StoreError, StoreResult, SystemTx, affected};

/// A schedule as the code lists it.
#[derive(Debug, Clone, Copy)]
pub struct NewSchedule {
    /// Its name; never changed.
    pub id: &'static str,
    /// Seconds, minutes, hours, day of month, month, day of week; in UTC.
    pub cron: &'static str,
    /// The queue of its job.
    pub queue: &'static str,
    /// The job's stored name.
    pub kind: &'static str,
}

/// How often the job of a run is tried: the next tick makes up for it.
pub const RUN_TRIES: i16 = 3;

/// What the job of a run carries.
pub fn run_payload() -> serde_json::Value {
    serde_json::json!({})
}

/// Writes the code's list down; whether one is switched on stays the operator's.
pub async fn save_schedules(tx: &mut SystemTx, schedules: &[NewSchedule]) -> StoreResult<()> {
    let column = |f: fn(&NewSchedule) -> &'static str| schedules.iter().map(f).collect::<Vec<_>>();
    query!(
        r#"
        INSERT INTO schedules (id, cron, queue, kind)
        SELECT u.id, u.cron, u.queue, u.kind
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u (id, cron, queue, kind)
        ORDER BY u.id
        ON CONFLICT (id) DO UPDATE
        SET cron = excluded.cron, queue = excluded.queue, kind = excluded.kind, updated_at = app_now()
        WHERE (schedules.cron, schedules.queue, schedules.kind) <> (excluded.cron, excluded.queue, excluded.kind)
        "#,
        &column(|s| s.id) as &[&str],
        &column(|s| s.cron) as &[&str],
        &column(|s| s.queue) as &[&str],
        &column(|s| s.kind) as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Claims one tick of one schedule: true for the one scheduler that is to enqueue its job, in this transaction.
///
/// False when another fired it, or an operator switched the schedule off.
pub async fn claim_tick(
    tx: &mut SystemTx,
    schedule_id: &str,
    fire_at: DateTime<Utc>,
) -> StoreResult<bool> {
    let done = query!(
        r#"
        INSERT INTO schedule_runs (schedule_id, fire_at)
        SELECT s.id, $2
        FROM schedules s
        WHERE s.id = $1 AND s.is_enabled
        ON CONFLICT DO NOTHING
        "#,
        schedule_id,
        fire_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A schedule as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Its name.
    pub id: String,
    /// Seconds, minutes, hours, day of month, month, day of week; in UTC.
    pub cron: String,
    /// The queue of its job.
    pub queue: String,
    /// The job's stored name.
    pub kind: String,
    /// Whether its ticks fire.
    pub is_enabled: bool,
    /// When it last fired.
    pub fired_at: Option<DateTime<Utc>>,
}

/// Every schedule, by name.
pub async fn list_schedules(tx: &mut SystemTx) -> StoreResult<Vec<ScheduleRow>> {
    let rows = query_as!(
        ScheduleRow,
        r#"
        SELECT s.id, s.cron, s.queue, s.kind, s.is_enabled, r.fired_at AS "fired_at?"
        FROM schedules s
        LEFT JOIN LATERAL (
            SELECT r.fired_at FROM schedule_runs r WHERE r.schedule_id = s.id ORDER BY r.fire_at DESC LIMIT 1
        ) r ON true
        ORDER BY s.id
        "#,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}

/// One schedule, held until the transaction ends.
pub async fn load_for_update(tx: &mut SystemTx, id: &str) -> StoreResult<ScheduleRow> {
    query_as!(
        ScheduleRow,
        r#"
        SELECT id, cron, queue, kind, is_enabled, NULL::timestamptz AS fired_at
        FROM schedules
        WHERE id = $1
        FOR UPDATE
        "#,
        id,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "schedule" })
}

/// Switches a schedule on or off.
pub async fn save_is_enabled(tx: &mut SystemTx, id: &str, is_enabled: bool) -> StoreResult<()> {
    let done = query!(
        "UPDATE schedules SET is_enabled = $2, updated_at = app_now() WHERE id = $1",
        id,
        is_enabled,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "schedule")
}

/// Writes down a run that somebody asked for between two ticks.
pub async fn insert_run(tx: &mut SystemTx, id: &str) -> StoreResult<()> {
    query!(
        "INSERT INTO schedule_runs (schedule_id, fire_at) VALUES ($1, app_now())",
        id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The latest tick of a schedule that fired.
pub async fn find_last_tick(
    tx: &mut SystemTx,
    schedule_id: &str,
) -> StoreResult<Option<DateTime<Utc>>> {
    let last = query_scalar!(
        "SELECT max(fire_at) FROM schedule_runs WHERE schedule_id = $1",
        schedule_id,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(last)
}
