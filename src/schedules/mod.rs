//! Time as a door: for each due tick the job is ordered once, however many schedulers run.
//!
//! A tick is a row named by schedule and nominal instant. Whoever inserts it enqueues the job in the same transaction; the
//! others' conflict is silent. Ticks that were missed come to one, the latest.

pub mod table;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cron::Schedule as Cron;
use tokio_util::sync::CancellationToken;

use self::table::{SCHEDULES, Schedule};
use crate::clock::Clock;
use crate::clock::answer::answered;
use crate::jobs::queue::enqueue;
use crate::store::{Db, StoreError, StoreResult, schedules};

/// Longest sleep, so that a clock that is moved is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// After a failed look at the database.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How far back a missed tick is looked for.
const MISSED_MAX: TimeDelta = TimeDelta::hours(2);

#[derive(Debug)]
struct Clockwork {
    schedule: Schedule,
    cron: Cron,
    /// The latest tick that somebody fired, as far as this process knows.
    last: DateTime<Utc>,
}

/// Fires ticks until `stop`.
pub async fn run(db: Db, stop: CancellationToken) {
    let clock = db.clock().clone();
    let mut clockworks: Option<Vec<Clockwork>> = None;
    while !stop.is_cancelled() {
        let result = match &mut clockworks {
            Some(clockworks) => answered(fire_due(&db, &clock, clockworks)).await,
            None => answered(start(&db, &clock))
                .await
                .map(|started| clockworks = Some(started)),
        };
        let pause = match result {
            Ok(()) => until_next(&clock, clockworks.as_deref().unwrap_or_default()),
            Err(error) => {
                tracing::warn!(%error, "ticks wait for the database");
                TRY_AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn start(db: &Db, clock: &Clock) -> StoreResult<Vec<Clockwork>> {
    let mut tx = db.system().begin().await?;
    let rows: Vec<_> = SCHEDULES.iter().map(|schedule| schedule.row).collect();
    schedules::save_schedules(&mut tx, &rows).await?;
    let now = clock.now();
    let mut clockworks = Vec::with_capacity(SCHEDULES.len());
    for schedule in SCHEDULES {
        let cron = Cron::from_str(schedule.row.cron)
            .map_err(|error| StoreError::Unreadable(format!("{}: {error}", schedule.row.id)))?;
        let last = schedules::find_last_tick(&mut tx, schedule.row.id).await?;
        let last = last.unwrap_or(now).max(now - MISSED_MAX);
        clockworks.push(Clockwork {
            schedule: *schedule,
            cron,
            last,
        });
    }
    tx.commit().await?;
    Ok(clockworks)
}

async fn fire_due(db: &Db, clock: &Clock, clockworks: &mut [Clockwork]) -> StoreResult<()> {
    let now = clock.now();
    for clockwork in clockworks {
        let Some(tick) = latest_due(&clockwork.cron, clockwork.last, now) else {
            continue;
        };
        // A scheduler that is stopped in here holds its tick for two seconds, not for five: another fires it then.
        let mut tx = db.batch().begin().await?;
        if schedules::claim_tick(&mut tx, clockwork.schedule.row.id, tick).await? {
            enqueue(&mut tx, (clockwork.schedule.order)()).await?;
        }
        tx.commit().await?;
        clockwork.last = tick;
    }
    Ok(())
}

/// The latest tick after `last` and not after `now`: missed ones come to one.
fn latest_due(cron: &Cron, last: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let from = last.max(now - MISSED_MAX);
    cron.after(&from).take_while(|tick| *tick <= now).last()
}

fn until_next(clock: &Clock, clockworks: &[Clockwork]) -> Duration {
    let now = clock.now();
    let next = clockworks
        .iter()
        .filter_map(|clockwork| clockwork.cron.after(&now).next())
        .min();
    let wait = next
        .and_then(|next| (next - now).to_std().ok())
        .unwrap_or(SLEEP_MAX);
    wait.min(SLEEP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn missed_ticks_come_to_the_latest_one() {
        let cron = Cron::from_str("*/5 * * * * *").unwrap();
        let last = at("2026-01-01T00:00:00Z");

        assert_eq!(latest_due(&cron, last, at("2026-01-01T00:00:04Z")), None);
        assert_eq!(
            latest_due(&cron, last, at("2026-01-01T00:00:23Z")),
            Some(at("2026-01-01T00:00:20Z"))
        );
    }

    #[test]
    fn every_schedule_in_the_table_can_be_read() {
        for schedule in SCHEDULES {
            assert!(
                Cron::from_str(schedule.row.cron).is_ok(),
                "{}",
                schedule.row.id
            );
        }
    }
}
