//! What happened to a message, in order: decisions, calls, and what the provider said.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};

use crate::store::message_events::EventRow;
use crate::store::message_views::{AttemptRow, MessageRow, ReportRow};

/// What happened to a message.
#[derive(Debug, Object)]
pub(super) struct Timeline {
    /// In order of time.
    entries: Vec<TimelineEntry>,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
enum TimelineKind {
    /// Decided: it waits for an instant, it needs somebody's decision, or it will not be sent.
    Decision,
    /// A call to the provider was permitted.
    Attempt,
    /// The outcome of a call became known.
    Outcome,
    /// The provider said how far it is.
    Status,
}

/// One thing that happened to a message.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct TimelineEntry {
    /// When.
    at: DateTime<Utc>,
    /// What kind of thing it is.
    kind: TimelineKind,
    /// What happened, in one word: `deferred`, `parked` or `dropped`; an attempt's state; the provider's own word.
    what: String,
    /// Which attempt, counted from 1.
    attempt_no: Option<i32>,
    /// Why, where a decision has a reason.
    reason: Option<String>,
    /// Who was called.
    provider: Option<String>,
    /// The provider's id of the message.
    provider_message_id: Option<String>,
    /// The provider's code for what went wrong.
    error_code: Option<String>,
}

impl TimelineEntry {
    fn new(at: DateTime<Utc>, kind: TimelineKind, what: impl Into<String>) -> Self {
        Self {
            at,
            kind,
            what: what.into(),
            attempt_no: None,
            reason: None,
            provider: None,
            provider_message_id: None,
            error_code: None,
        }
    }
}

impl Timeline {
    /// Everything that is known, put in order.
    pub(super) fn new(
        message: &MessageRow,
        events: Vec<EventRow>,
        attempts: Vec<AttemptRow>,
        reports: Vec<ReportRow>,
    ) -> Self {
        let mut entries: Vec<TimelineEntry> = events.into_iter().map(decision).collect();
        for attempt in attempts {
            entries.extend(call(attempt));
        }
        // Where the provider's reports are kept one by one, the newest is one of them.
        if reports.is_empty() {
            entries.extend(newest_status(message));
        }
        entries.extend(
            reports
                .into_iter()
                .map(|report| TimelineEntry::new(report.at, TimelineKind::Status, report.status)),
        );
        entries.sort_by_key(|entry| entry.at);
        Self { entries }
    }
}

fn decision(event: EventRow) -> TimelineEntry {
    TimelineEntry {
        attempt_no: event.attempt_no.map(Into::into),
        reason: event.reason,
        ..TimelineEntry::new(event.at, TimelineKind::Decision, event.kind)
    }
}

fn call(attempt: AttemptRow) -> Vec<TimelineEntry> {
    let attempt_no = Some(attempt.attempt_no.into());
    let begun = TimelineEntry {
        attempt_no,
        provider: Some(attempt.provider.clone()),
        ..TimelineEntry::new(attempt.started_at, TimelineKind::Attempt, "open")
    };
    let ended = attempt.resolved_at.map(|at| TimelineEntry {
        attempt_no,
        provider: Some(attempt.provider),
        provider_message_id: attempt.provider_message_id,
        error_code: attempt.error_code,
        ..TimelineEntry::new(at, TimelineKind::Outcome, attempt.state.as_str())
    });
    std::iter::once(begun).chain(ended).collect()
}

fn newest_status(message: &MessageRow) -> Option<TimelineEntry> {
    let (at, status) = (message.status_at?, message.status.clone()?);
    Some(TimelineEntry {
        error_code: message.error_code.clone(),
        ..TimelineEntry::new(at, TimelineKind::Status, status)
    })
}
