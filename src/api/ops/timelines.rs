//! Servers in quarantine: seen and released by those who run the platform.

use chrono::{DateTime, Utc};
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::finish;
use crate::api::Tag;
use crate::api::body::Body;
use crate::api::change::{Facts, Owner};
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::reply::Done;
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::domain::audit::{AuditEntry, Reason};
use crate::store::timelines::{Timeline, list_timelines, release_seen};

/// The operations on servers.
#[derive(Debug)]
pub struct Timelines {
    state: ApiState,
}

/// A database server that was met.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct TimelineView {
    /// Its timeline.
    timeline: String,
    /// Its own number.
    system_identifier: String,
    /// When it was first met.
    seen_at: DateTime<Utc>,
    /// Since when calls may begin on it; absent while it is in quarantine.
    released_at: Option<DateTime<Utc>>,
    /// Who released it.
    released_by: Option<String>,
    /// The last that it knows of the server before it; absent when nobody can tell.
    recovered_to: Option<DateTime<Utc>>,
    /// What keeps it in quarantine; absent once it is released.
    held_because: Option<String>,
    /// Workers that have written down on it what it had forgotten of their calls.
    replays: i32,
    /// Calls that it had forgotten.
    calls_restored: i64,
    /// Whether it is the one that answers.
    is_current: bool,
}

/// All servers.
#[derive(Debug, Object)]
struct TimelineList {
    /// The newest first.
    items: Vec<TimelineView>,
}

/// Why a server is released.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct ReleaseBody {
    /// What was made sure of; it is kept in the audit.
    #[oai(validator(min_length = 3, max_length = 500))]
    reason: String,
    /// The server's own number, as the list shows it. Say it, so that no other server is released that was met on this
    /// timeline since.
    #[oai(validator(min_length = 1, max_length = 20))]
    system_identifier: Option<String>,
}

#[OpenApi(tag = "Tag::Ops")]
impl Timelines {
    /// List database servers.
    ///
    /// A server that was promoted or restored may have forgotten calls that were made. No call begins on it until it is
    /// released: by itself, when the lists of all provider accounts were compared with it, or by an operator.
    #[oai(
        path = "/ops/timelines",
        method = "get",
        operation_id = "list_timelines"
    )]
    async fn list_timelines(&self, _operator: Operator) -> ApiResult<Json<TimelineList>> {
        // System: the server is everybody's.
        let mut tx = self.state.db.system().begin().await?;
        let items = list_timelines(&mut tx).await?;
        Ok(Json(TimelineList {
            items: items.into_iter().map(TimelineView::from).collect(),
        }))
    }

    /// Release a database server.
    ///
    /// Calls begin on it from now on. Make sure first that what the old server did is known here: messages that it sent and
    /// this one does not know of would go out again.
    #[oai(
        path = "/ops/timelines/:timeline/release",
        method = "post",
        operation_id = "release_timeline"
    )]
    async fn release_timeline(
        &self,
        operator: Operator,
        facts: Facts,
        /// The timeline, 8 hexadecimal digits.
        timeline: Path<String>,
        body: Body<ReleaseBody>,
    ) -> ApiResult<Done> {
        let reason: Reason = body.0.reason.parse()?;
        let mut cell = self.state.db.system().begin().await?;
        let known = list_timelines(&mut cell).await?;
        let Some(found) = known.into_iter().find(|one| one.timeline == timeline.0) else {
            return Err(ApiError::not_found("timeline"));
        };
        if let Some(refusal) = refuse(&found, body.0.system_identifier.as_deref()) {
            return Err(ApiError::new(ProblemType::Conflict, refusal));
        }
        let owner = Owner::operator(&operator, None);
        let change = facts.in_all_control(&self.state, owner).await?;
        let entry = AuditEntry::new("release_timeline", "timeline", &found.timeline)
            .after(json!({ "reason": reason, "system_identifier": found.system_identifier }));
        let by = format!("user:{}", operator.user_id);
        release_seen(&mut cell, &found.timeline, &found.system_identifier, &by).await?;
        finish(change, entry, cell).await?;
        Ok(Done)
    }
}

impl Timelines {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// Why a server is not the one to release, where somebody saw the one with the number `seen`.
fn refuse(found: &Timeline, seen: Option<&str>) -> Option<String> {
    if seen.is_some_and(|seen| seen != found.system_identifier) {
        return Some(format!(
            "Another server is on this timeline by now, with the number {}. Load the list again, then decide.",
            found.system_identifier
        ));
    }
    found
        .released_at
        .map(|_| "The server was released before; calls begin on it already.".to_owned())
}

impl From<Timeline> for TimelineView {
    fn from(row: Timeline) -> Self {
        Self {
            timeline: row.timeline,
            system_identifier: row.system_identifier,
            seen_at: row.seen_at,
            released_at: row.released_at,
            released_by: row.released_by,
            recovered_to: row.recovered_to,
            held_because: row.held_because,
            replays: row.replays,
            calls_restored: row.calls_restored,
            is_current: row.is_current,
        }
    }
}
