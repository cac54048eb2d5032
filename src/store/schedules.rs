//! Cron: what is due when, and which ticks have fired.

use chrono::{DateTime, Utc};
use sqlx::{query, query_scalar};

use super::{StoreResult, SystemTx};

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

/// Forgets fired ticks before `before`, at most `limit`: a tick that old is never tried again.
pub async fn delete_old_ticks(
    tx: &mut SystemTx,
    before: DateTime<Utc>,
    limit: i64,
) -> StoreResult<u64> {
    let done = query!(
        r#"
        DELETE FROM schedule_runs r
        USING (
            SELECT schedule_id, fire_at FROM schedule_runs WHERE fire_at < $1 ORDER BY schedule_id, fire_at LIMIT $2
        ) o
        WHERE r.schedule_id = o.schedule_id AND r.fire_at = o.fire_at
        "#,
        before,
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}
