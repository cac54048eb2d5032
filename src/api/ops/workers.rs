//! Workers: the processes that carry jobs out.

use chrono::{DateTime, Utc};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::api::Tag;
use crate::api::problem::ApiResult;
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::store::incarnations::{self, OpenIncarnation};

/// The operations on workers.
#[derive(Debug)]
pub struct Workers {
    state: ApiState,
}

/// One start of one process.
#[derive(Debug, Object)]
pub(super) struct WorkerView {
    /// The number of this start; a process that starts again has another.
    incarnation: i64,
    /// The machine's name.
    host: String,
    /// The process on it.
    pid: i32,
    /// The product's version.
    version: String,
    /// What it runs.
    roles: Vec<String>,
    /// Calls it may make at once.
    concurrency: i32,
    /// When it started.
    started_at: DateTime<Utc>,
    /// When it last said that it lives.
    seen_at: DateTime<Utc>,
    /// Whether that was within the last 30 seconds. One that ended in order is not listed.
    is_alive: bool,
}

/// The workers.
#[derive(Debug, Object)]
struct WorkerList {
    /// The newest first.
    items: Vec<WorkerView>,
}

#[OpenApi(tag = "Tag::Ops")]
impl Workers {
    /// List workers.
    ///
    /// Those that live, and those that fell silent within the last hour without having ended in order.
    #[oai(path = "/ops/workers", method = "get", operation_id = "list_workers")]
    async fn list_workers(&self, _operator: Operator) -> ApiResult<Json<WorkerList>> {
        // System: processes work for all tenants.
        let mut tx = self.state.db.system().begin().await?;
        let rows = incarnations::list_open(tx.conn()).await?;
        let items = rows.into_iter().map(WorkerView::from).collect();
        Ok(Json(WorkerList { items }))
    }
}

impl Workers {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<OpenIncarnation> for WorkerView {
    fn from(row: OpenIncarnation) -> Self {
        Self {
            incarnation: row.id,
            host: row.host,
            pid: row.pid,
            version: row.version,
            roles: row.roles,
            concurrency: row.concurrency,
            started_at: row.started_at,
            seen_at: row.seen_at,
            is_alive: row.is_alive,
        }
    }
}
