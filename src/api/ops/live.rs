//! Queues, schedules and workers by stream.

use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi};

use super::QueueView;
use super::schedules::ScheduleView;
use super::workers::WorkerView;
use crate::api::Tag;
use crate::api::events::pump::{LiveEvent, LiveStream, stream};
use crate::api::problem::ApiResult;
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::live::topic::{Content, Operations, Snapshot, Topic};

/// The operation that streams what operators look at.
#[derive(Debug)]
pub struct OpsLive {
    state: ApiState,
}

/// Queues, schedules and workers as they were at one time.
#[derive(Debug, Object)]
struct OperationsEvent {
    /// Show the event with the highest, the last of these that came.
    version: i64,
    /// As `list_queues` answers them.
    queues: Vec<QueueView>,
    /// As `list_schedules` answers them.
    schedules: Vec<ScheduleView>,
    /// As `list_workers` answers them.
    workers: Vec<WorkerView>,
}

#[OpenApi(tag = "Tag::Ops")]
impl OpsLive {
    /// Follow queues, schedules and workers.
    ///
    /// A stream of events named `operations`: what they are at once, then each change, at most once a second. Each is a
    /// whole snapshot with its version as id. The stream ends after 15 minutes, and when a reader takes nothing for 30
    /// seconds.
    #[oai(path = "/ops/sse", method = "get", operation_id = "stream_operations")]
    async fn stream_operations(
        &self,
        _operator: Operator,
    ) -> ApiResult<LiveStream<OperationsEvent>> {
        let watch = self.state.live.watch(&[Topic::Operations]).await?;
        Ok(stream(&self.state, watch))
    }
}

impl OpsLive {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl LiveEvent for OperationsEvent {
    fn of(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Self> {
        let Content::Operations(content) = &snapshot.content else {
            return None;
        };
        let Operations {
            queues,
            schedules,
            runs,
            workers,
        } = content.clone();
        Some(Self {
            version: snapshot.version,
            queues: queues.into_iter().map(QueueView::from).collect(),
            schedules: ScheduleView::all(schedules, &runs, now),
            workers: workers.into_iter().map(WorkerView::from).collect(),
        })
    }

    fn name(&self) -> &'static str {
        "operations"
    }

    fn version(&self) -> i64 {
        self.version
    }
}
