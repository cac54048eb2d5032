//! Jobs that were given up: looked at, tried again, forgotten.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::{finish, missing};
use crate::api::Tag;
use crate::api::change::{Facts, Owner};
use crate::api::page::{Page, PageRequest};
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::reply::{AsJson, Done};
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::domain::audit::AuditEntry;
use crate::jobs::queue::admin::{self, DeadJob};
use crate::store::{StoreError, SystemTx};

const GONE: &str =
    "There is no dead job with this id: it was replayed or discarded before, or never died.";

/// The operations on dead jobs.
#[derive(Debug)]
pub struct DeadJobs {
    state: ApiState,
}

/// A job that will not be tried again unless somebody says so.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct DeadJobView {
    /// Its id.
    id: i64,
    /// The queue it was in.
    queue: String,
    /// The kind of job.
    kind: String,
    /// Why it is dead.
    reason: String,
    /// What its last failure said.
    last_error: Option<String>,
    /// How often it was tried.
    attempts: i32,
    /// What it carried, as JSON: ids, the tenant's first.
    payload: String,
    /// The key that no other live job of the queue has.
    unique_key: Option<String>,
    /// When it was enqueued.
    created_at: DateTime<Utc>,
    /// When it died.
    died_at: DateTime<Utc>,
}

#[OpenApi(tag = "Tag::Ops")]
impl DeadJobs {
    /// List dead jobs.
    ///
    /// The last one to die first, of one queue or of all.
    #[oai(
        path = "/ops/dead-jobs",
        method = "get",
        operation_id = "list_dead_jobs"
    )]
    async fn list_dead_jobs(
        &self,
        _operator: Operator,
        /// The queue; all when absent.
        queue: Query<Option<String>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<DeadJobView>>> {
        let page =
            PageRequest::<(DateTime<Utc>, i64)>::new("dead_jobs", limit.0, cursor.0.as_deref())?;
        let mut tx = self.begin().await?;
        let queue = queue.0.as_deref();
        let rows = admin::list_dead(tx.conn(), queue, page.after, page.rows_to_load())
            .await
            .map_err(StoreError::from)?;
        Ok(Json(page.page(rows, |job| (job.died_at, job.id))))
    }

    /// Show a dead job.
    ///
    /// With what it carried and why it died.
    #[oai(
        path = "/ops/dead-jobs/:job_id",
        method = "get",
        operation_id = "get_dead_job"
    )]
    async fn get_dead_job(
        &self,
        _operator: Operator,
        /// The job.
        job_id: Path<i64>,
    ) -> ApiResult<Json<DeadJobView>> {
        let mut tx = self.begin().await?;
        Ok(Json(load(&mut tx, job_id.0).await?.into()))
    }

    /// Replay a dead job.
    ///
    /// It gets all its tries again, once, however often this is asked for. Answers with the job as it was.
    #[oai(
        path = "/ops/dead-jobs/:job_id/replay",
        method = "post",
        operation_id = "replay_dead_job"
    )]
    async fn replay_dead_job(
        &self,
        operator: Operator,
        facts: Facts,
        /// The job.
        job_id: Path<i64>,
    ) -> ApiResult<Json<DeadJobView>> {
        let owner = Owner::operator(&operator, None);
        let record = facts.in_all_control(&self.state, owner).await?;
        let mut tx = self.begin().await?;
        let job = DeadJobView::from(load(&mut tx, job_id.0).await?);
        let replayed = admin::replay_dead(&mut tx, &[job.id])
            .await
            .map_err(StoreError::from)?;
        if replayed.is_empty() {
            return Err(not_replayed(&mut tx, job.id).await);
        }
        finish(record, job.replayed(), tx).await?;
        Ok(Json(job))
    }

    /// Discard a dead job.
    ///
    /// For good: what it was to do is not done.
    #[oai(
        path = "/ops/dead-jobs/:job_id",
        method = "delete",
        operation_id = "discard_dead_job"
    )]
    async fn discard_dead_job(
        &self,
        operator: Operator,
        facts: Facts,
        /// The job.
        job_id: Path<i64>,
    ) -> ApiResult<Done> {
        let owner = Owner::operator(&operator, None);
        let record = facts.in_all_control(&self.state, owner).await?;
        let mut tx = self.begin().await?;
        let job = DeadJobView::from(load(&mut tx, job_id.0).await?);
        let discarded = admin::discard_dead(tx.conn(), &[job.id])
            .await
            .map_err(StoreError::from)?;
        if discarded.is_empty() {
            return Err(missing(GONE));
        }
        let entry = AuditEntry::new("discard_dead_job", "dead_job", &job.id).before(job.as_json());
        finish(record, entry, tx).await?;
        Ok(Done)
    }
}

impl DeadJobs {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    /// System: the engine's tables hold all tenants' jobs.
    async fn begin(&self) -> ApiResult<SystemTx> {
        Ok(self.state.db.system().begin().await?)
    }
}

async fn load(tx: &mut SystemTx, id: i64) -> ApiResult<DeadJob> {
    admin::find_dead(tx.conn(), id)
        .await
        .map_err(StoreError::from)?
        .ok_or_else(|| missing(GONE))
}

/// Why a replay found nothing: somebody was faster, or the work waits already.
async fn not_replayed(tx: &mut SystemTx, id: i64) -> ApiError {
    match load(tx, id).await {
        Ok(_) => ApiError::new(
            ProblemType::JobAlreadyLive,
            "A live job has the same unique key and does the same work. Discard this one, or replay it once that has \
             ended.",
        ),
        Err(error) => error,
    }
}

/// The record of a replay, the same from every door.
pub fn replayed_entry(job: DeadJob) -> AuditEntry {
    DeadJobView::from(job).replayed()
}

impl DeadJobView {
    fn replayed(&self) -> AuditEntry {
        AuditEntry::new("replay_dead_job", "dead_job", &self.id).before(self.as_json())
    }
}

impl From<DeadJob> for DeadJobView {
    fn from(job: DeadJob) -> Self {
        Self {
            id: job.id,
            queue: job.queue,
            kind: job.kind,
            reason: job.reason,
            last_error: job.last_error,
            attempts: job.attempt.into(),
            payload: job.payload,
            unique_key: job.unique_key,
            created_at: job.created_at,
            died_at: job.died_at,
        }
    }
}
