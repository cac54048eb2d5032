//! The fold: events of the raw inbox, merged into their messages some hundred at a time.
//!
//! Folding an event twice changes nothing: statuses merge by rank, and an attempt is closed once. The timeline of a message
//! reads the events themselves.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Named, StatusReport, merge};
use crate::delivery::begin::retry_deadlocks;
use crate::domain::status::Status;
use crate::store::provider_events::{DueEvent, EventRef, mark_folded, postpone, take_due};
use crate::store::{Db, StoreResult};
use crate::telemetry;

/// Events of one transaction.
pub const EVENTS_MAX: usize = 500;
/// An event whose attempt we do not know is kept so long: a restored database learns of it again.
const UNKNOWN_FOR: Duration = Duration::from_hours(24);
/// The longest wait between two looks at such an event.
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
pub async fn fold_events(db: &Db) -> StoreResult<usize> {
    retry_deadlocks(|| fold(db)).await
}

async fn fold(db: &Db) -> StoreResult<usize> {
    let now = db.clock().now();
    let mut tx = db.batch().begin().await?;
    let due = take_due(&mut tx, EVENTS_MAX as i64).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut reports = Vec::with_capacity(due.len());
    let mut done: Vec<EventRef> = Vec::with_capacity(due.len());
    let mut later = Vec::new();
    for event in &due {
        let judged = judge(event, now);
        if let Judged::Later(wait) = judged {
            later.push((event.at.clone(), wait));
            continue;
        }
        done.push(event.at.clone());
        if let Judged::Heard(status) = judged {
            reports.push(report(event, status));
        }
        count(&judged, event, now);
    }
    merge(&mut tx, &reports).await?;
    mark_folded(&mut tx, &done).await?;
    postpone(&mut tx, &later).await?;
    tx.commit().await?;
    Ok(due.len())
}

fn judge(event: &DueEvent, now: DateTime<Utc>) -> Judged {
    let Some((_, channel)) = event.attempt else {
        let age = (now - event.received_at).to_std().unwrap_or_default();
        if age >= UNKNOWN_FOR {
            return Judged::Stray;
        }
        let doublings = u32::from(event.tries.unsigned_abs()).min(10);
        return Judged::Later(Duration::from_secs(1 << doublings).min(WAIT_MAX));
    };
    Status::parse(channel, &event.status).map_or(Judged::Strange, Judged::Heard)
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

fn count(judged: &Judged, event: &DueEvent, now: DateTime<Utc>) {
    let state = match judged {
        Judged::Heard(_) => "heard",
        Judged::Later(_) => "later",
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

#[cfg(test)]
mod tests {
    use chrono::{NaiveDate, TimeDelta};
    use uuid::Uuid;

    use super::*;
    use crate::domain::channel::Channel;
    use crate::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};

    fn event(attempt: Option<(i16, Channel)>, status: &str, tries: i16) -> DueEvent {
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
            attempt,
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
        let known = Some((1, Channel::Sms));
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
