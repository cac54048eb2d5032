//! What operators look at and steer: queues, lanes, dead jobs, schedules, workers, servers in quarantine, and a stream of them.
//!
//! What they steer lies in the cell, and the record of it in `control`: two transactions, which may be in two databases. The
//! change is made first and stays open while its record is committed, then it is committed itself. So nothing is done
//! without a record, and only a crash between the two commits leaves a record of what was not done; it is asked for again
//! then, and each change is one that may be.

pub mod dead_jobs;
pub mod lanes;
pub mod live;
pub mod schedules;
mod timelines;
pub mod workers;

use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::change::Change;
use super::problem::{ApiError, ApiResult, ProblemType};
use super::state::ApiState;
use crate::domain::actor::Operator;
use crate::domain::audit::AuditEntry;
use crate::jobs::queue::admin::{self, QueueCounts};
use crate::store::{StoreError, SystemTx, tx};

/// The operations of those who run the platform.
#[derive(Debug)]
pub struct Ops {
    state: ApiState,
}

/// One queue.
#[derive(Debug, Object)]
struct QueueView {
    /// Its name.
    queue: String,
    /// Jobs that may start now.
    ready: i64,
    /// Jobs that a worker has.
    leased: i64,
    /// Jobs that rest until their time.
    scheduled: i64,
    /// Jobs that were given up.
    dead: i64,
}

/// All queues.
#[derive(Debug, Object)]
struct Queues {
    /// By name.
    items: Vec<QueueView>,
}

#[OpenApi(tag = "Tag::Ops")]
impl Ops {
    /// List queues.
    ///
    /// How many jobs of each wait, run, rest and were given up.
    #[oai(path = "/ops/queues", method = "get", operation_id = "list_queues")]
    async fn list_queues(&self, _operator: Operator) -> ApiResult<Json<Queues>> {
        // System: the engine's tables hold all tenants' jobs.
        let mut tx = self.state.db.system().begin().await?;
        let items = admin::list_queues(tx.conn())
            .await
            .map_err(StoreError::from)?;
        let items = items.into_iter().map(QueueView::from).collect();
        Ok(Json(Queues { items }))
    }
}

impl Ops {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<QueueCounts> for QueueView {
    fn from(queue: QueueCounts) -> Self {
        Self {
            queue: queue.queue,
            ready: queue.ready,
            leased: queue.leased,
            scheduled: queue.scheduled,
            dead: queue.dead,
        }
    }
}

/// Every resource for operators.
pub type OpsResources = (
    Ops,
    dead_jobs::DeadJobs,
    schedules::Schedules,
    workers::Workers,
    live::OpsLive,
    timelines::Timelines,
    lanes::Lanes,
);

/// All of them on the state of this process.
pub fn resources(state: &ApiState) -> OpsResources {
    (
        Ops::new(state.clone()),
        dead_jobs::DeadJobs::new(state.clone()),
        schedules::Schedules::new(state.clone()),
        workers::Workers::new(state.clone()),
        live::OpsLive::new(state.clone()),
        timelines::Timelines::new(state.clone()),
        lanes::Lanes::new(state.clone()),
    )
}

/// Makes a change durable, its record first: nothing holds that nobody is on record for.
pub(super) async fn finish(
    record: Change<tx::Control>,
    entry: AuditEntry,
    changed: SystemTx,
) -> ApiResult<()> {
    record.finish(entry).await?;
    Ok(changed.commit().await?)
}

/// Not there; what operators see belongs to no tenant.
fn missing(detail: &str) -> ApiError {
    ApiError::new(ProblemType::NotFound, detail)
}
