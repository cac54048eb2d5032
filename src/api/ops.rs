//! What operators look at and steer: queues, dead jobs, schedules, workers.

use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::problem::ApiResult;
use super::state::ApiState;
use crate::domain::actor::Operator;
use crate::jobs::queue::admin;
use crate::store::StoreError;

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
        let items = items
            .into_iter()
            .map(|queue| QueueView {
                queue: queue.queue,
                ready: queue.ready,
                leased: queue.leased,
                scheduled: queue.scheduled,
                dead: queue.dead,
            })
            .collect();
        Ok(Json(Queues { items }))
    }
}

impl Ops {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}
