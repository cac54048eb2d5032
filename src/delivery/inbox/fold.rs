//! The fold: events of the raw inbox, merged into their messages some hundred at a time.
//!
//! Folding an event twice changes nothing: statuses merge by rank, and an attempt is closed once. The timeline of a message
//! reads the events themselves.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Named, StatusReport, merge};
use crate::clock::answer::answered;
use crate::delivery::batch::log_left;
use crate::delivery::begin::retry_deadlocks;
use crate::domain::status::Status;
use crate::store::provider_events::{DueEvent, EventRef, mark_folded, postpone, take_due};
use crate::store::{Db, StoreResult, SystemTx};
use crate::telemetry;

/// Events of one transaction.
pub const EVENTS_MAX: usize = 500;
/// An event whose attempt we do not know is kept so long: a restored database learns of it again.
const UNKNOWN_FOR: Duration = Duration::from_hours(24);
/// The longest wait between two looks at such an event, and at one that cannot be merged.
const WAIT_MAX: Duration = Duration::from_mins(15);

/// What to do with one event.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Judged {
    /// It says this of an attempt of ours.
    Heard(Status),
    /// Its attempt is unknown; it may come to be known.
    Later(Duration),
    /// Its attempt is unknown for good.
    Stray,
    /// Its word is none that we know.
    Strange,
}

/// Folds the events that are due, at most [`EVENTS_MAX`]. Answers how many it took.
///
/// They are of many tenants: one that cannot be merged is put off alone.
pub async fn fold_events(db: &Db) -> StoreResult<usize> {
    match retry_deadlocks(|| answered(fold(db))).await {
        Err(error) if error.may_be_of_one_row() => {
            tracing::warn!(%error, "events are folded one by one");
            fold_each(db).await
        }
        done => done,
    }
}

async fn fold(db: &Db) -> StoreResult<usize> {
    let now = db.clock().now();
    let mut tx = db.batch().begin().await?;
    let due = take_due(&mut tx, EVENTS_MAX as i64).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let judged = settle_all(tx, &due, now).await?;
    count(&due, &judged, now);
    Ok(due.len())
}

async fn fold_each(db: &Db) -> StoreResult<usize> {
    for taken in 0..EVENTS_MAX {
        if !retry_deadlocks(|| answered(fold_one(db))).await? {
            return Ok(taken);
        }
    }
    Ok(EVENTS_MAX)
}

/// Folds one event, or puts it off when it cannot be merged. False when none is due.
async fn fold_one(db: &Db) -> StoreResult<bool> {
    let now = db.clock().now();
    let mut tx = db.batch().begin().await?;
    let due = take_due(&mut tx, 1).await?;
    let Some(event) = due.first() else {
        return Ok(false);
    };
    match settle_all(tx, &due, now).await {
        Ok(judged) => count(&due, &judged, now),
        Err(error) if !error.may_be_of_one_row() => return Err(error),
        Err(error) => {
            log_left(event.key.id, &error, "an event is merged later");
            put_off(db, event).await?;
        }
    }
    Ok(true)
}

async fn put_off(db: &Db, event: &DueEvent) -> StoreResult<()> {
    let mut tx = db.batch().begin().await?;
    postpone(&mut tx, &[(event.at.clone(), wait_after(event.tries))]).await?;
    tx.commit().await
}

/// Settles taken events, all of them or none.
async fn settle_all(
    mut tx: SystemTx,
    due: &[DueEvent],
    now: DateTime<Utc>,
) -> StoreResult<Vec<Judged>> {
    match settle(&mut tx, due, now).await {
        Ok(judged) => {
            tx.commit().await?;
            Ok(judged)
        }
        Err(error) => {
            // Whoever takes them next passes over what is locked.
            tx.rollback().await?;
            Err(error)
        }
    }
}

/// Does with taken events what is to be done with each, and says what that was.
async fn settle(
    tx: &mut SystemTx,
    due: &[DueEvent],
    now: DateTime<Utc>,
) -> StoreResult<Vec<Judged>> {
    let judged: Vec<Judged> = due.iter().map(|event| judge(event, now)).collect();
    let mut reports = Vec::with_capacity(due.len());
    let mut done: Vec<EventRef> = Vec::with_capacity(due.len());
    let mut later = Vec::new();
    for (event, judged) in due.iter().zip(&judged) {
        match judged {
            Judged::Heard(status) => reports.push(report(event, *status)),
            Judged::Later(wait) => {
                later.push((event.at.clone(), *wait));
                continue;
            }
            Judged::Stray | Judged::Strange => {}
        }
        done.push(event.at.clone());
    }
    merge(tx, &reports).await?;
    mark_folded(tx, &done).await?;
    postpone(tx, &later).await?;
    Ok(judged)
}

fn judge(event: &DueEvent, now: DateTime<Utc>) -> Judged {
    let Some(channel) = event.channel else {
        let age = (now - event.received_at).to_std().unwrap_or_default();
        if age >= UNKNOWN_FOR {
            return Judged::Stray;
        }
        return Judged::Later(wait_after(event.tries));
    };
    Status::parse(channel, &event.status).map_or(Judged::Strange, Judged::Heard)
}

/// Until the next look at an event that was looked at so often in vain: a second, and twice as long each time.
fn wait_after(tries: i16) -> Duration {
    let doublings = u32::from(tries.unsigned_abs()).min(10);
    Duration::from_secs(1 << doublings).min(WAIT_MAX)
}

fn report(event: &DueEvent, status: Status) -> StatusReport {
    StatusReport {
        key: event.key,
        attempt: Some(Named {
            attempt_id: event.attempt_id,
            provider_message_id: event.provider_message_id.clone(),
        }),
        status,
        error_code: event.error_code.clone(),
    }
}

/// Counts events that are folded; those that wait are counted when they are.
fn count(due: &[DueEvent], judged: &[Judged], now: DateTime<Utc>) {
    for (event, judged) in due.iter().zip(judged) {
        let state = match judged {
            Judged::Heard(_) => "heard",
            Judged::Later(_) => continue,
            Judged::Stray => "stray",
            Judged::Strange => "strange",
        };
        metrics::counter!(telemetry::EVENTS_FOLDED_TOTAL, "state" => state).increment(1);
        if let Ok(lag) = (now - event.received_at).to_std() {
            metrics::histogram!(telemetry::EVENT_FOLD_LAG_SECONDS).record(lag.as_secs_f64());
        }
        if !matches!(judged, Judged::Heard(_)) {
            tracing::warn!(message.id = %event.key.id, state, status = event.status, "an event that says nothing to us");
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveDate, TimeDelta};
    use uuid::Uuid;

    use super::*;
    use crate::domain::channel::Channel;
    use crate::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};

    fn event(channel: Option<Channel>, status: &str, tries: i16) -> DueEvent {
        DueEvent {
            at: EventRef {
                received_day: NaiveDate::default(),
                dedup_key: "tw:SM1:sent:".into(),
            },
            key: MessageKey {
                tenant_id: TenantId(Uuid::nil()),
                id: MessageId(Uuid::nil()),
            },
            attempt_id: AttemptId(Uuid::nil()),
            channel,
            provider_message_id: "SM1".into(),
            status: status.into(),
            error_code: None,
            received_at: DateTime::UNIX_EPOCH,
            tries,
        }
    }

    #[test]
    fn an_event_is_heard_kept_or_given_up() {
        let at = |hours: i64| DateTime::UNIX_EPOCH + TimeDelta::hours(hours);
        let known = Some(Channel::Sms);
        let sent = Status::parse(Channel::Sms, "sent").unwrap();
        let later = |secs| Judged::Later(Duration::from_secs(secs));
        let cases = [
            (event(known, "sent", 0), at(0), Judged::Heard(sent)),
            (event(known, "sent", 0), at(48), Judged::Heard(sent)),
            (event(known, "vanished", 0), at(0), Judged::Strange),
            (event(None, "sent", 0), at(0), later(1)),
            (event(None, "sent", 3), at(0), later(8)),
            (event(None, "sent", 12), at(1), later(900)),
            (event(None, "vanished", 0), at(0), later(1)),
            (event(None, "sent", 12), at(24), Judged::Stray),
        ];
        for (event, now, wanted) in cases {
            assert_eq!(judge(&event, now), wanted, "{event:?}");
        }
    }
}
