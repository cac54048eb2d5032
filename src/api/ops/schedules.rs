//! Schedules: when each fires next, how its last run fares, and the switches.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use cron::Schedule as Cron;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi};
use serde_json::json;

use super::{finish, missing};
use crate::api::Tag;
use crate::api::change::{Facts, Owner};
use crate::api::problem::{ApiError, ApiResult};
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::domain::audit::AuditEntry;
use crate::jobs::queue::admin::{self, KindState};
use crate::jobs::queue::{NewJob, enqueue};
use crate::store::schedules::{self, RUN_TRIES, ScheduleRow, run_payload};
use crate::store::{StoreError, SystemTx};

/// The operations on schedules.
#[derive(Debug)]
pub struct Schedules {
    state: ApiState,
}

/// How the last run of a schedule fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
enum RunResult {
    /// Its job waits for a worker, or for another try.
    Waiting,
    /// A worker has it.
    Running,
    /// It was done.
    Done,
    /// It was given up; it is among the dead jobs.
    Dead,
}

/// One schedule.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct ScheduleView {
    /// Its name.
    id: String,
    /// Seconds, minutes, hours, day of month, month, day of week; in UTC.
    cron: String,
    /// The job it orders.
    kind: String,
    /// The queue of that job.
    queue: String,
    /// Whether somebody paused it: its ticks pass without effect.
    is_paused: bool,
    /// When it fires next; absent while it is paused.
    next_at: Option<DateTime<Utc>>,
    /// When it last fired.
    last_at: Option<DateTime<Utc>>,
    /// How that run fares.
    last_result: Option<RunResult>,
    /// What its last failure said, while it is tried again or has been given up.
    last_error: Option<String>,
}

/// All schedules.
#[derive(Debug, Object)]
struct ScheduleList {
    /// By name.
    items: Vec<ScheduleView>,
}

#[OpenApi(tag = "Tag::Ops")]
impl Schedules {
    /// List schedules.
    ///
    /// When each fires next, when it fired last and how that run fares.
    #[oai(
        path = "/ops/schedules",
        method = "get",
        operation_id = "list_schedules"
    )]
    async fn list_schedules(&self, _operator: Operator) -> ApiResult<Json<ScheduleList>> {
        // System: schedules are the installation's, and its jobs of all tenants.
        let mut tx = self.state.db.system().begin().await?;
        let items = self.list(&mut tx).await?;
        Ok(Json(ScheduleList { items }))
    }

    /// Run a schedule now.
    ///
    /// Orders its job once, between two ticks, also while it is paused. While its job waits already, that one is it.
    #[oai(
        path = "/ops/schedules/:schedule_id/run",
        method = "post",
        operation_id = "run_schedule"
    )]
    async fn run_schedule(
        &self,
        operator: Operator,
        facts: Facts,
        /// The schedule.
        schedule_id: Path<String>,
    ) -> ApiResult<Json<ScheduleView>> {
        let owner = Owner::operator(&operator, None);
        let record = facts.in_all_control(&self.state, owner).await?;
        let mut tx = self.state.db.system().begin().await?;
        // Its row is held: of several who press at once, one orders the job and the others meet it.
        let row = hold(&mut tx, &schedule_id.0).await?;
        schedules::insert_run(&mut tx, &row.id).await?;
        enqueue(&mut tx, run_of(&row))
            .await
            .map_err(StoreError::from)?;
        let view = self.show(&mut tx, &row.id).await?;
        let entry = AuditEntry::new("run_schedule", "schedule", &row.id);
        finish(record, entry, tx).await?;
        Ok(Json(view))
    }

    /// Pause a schedule.
    ///
    /// Its ticks pass without effect until it is unpaused, also over restarts.
    #[oai(
        path = "/ops/schedules/:schedule_id/pause",
        method = "post",
        operation_id = "pause_schedule"
    )]
    async fn pause_schedule(
        &self,
        operator: Operator,
        facts: Facts,
        /// The schedule.
        schedule_id: Path<String>,
    ) -> ApiResult<Json<ScheduleView>> {
        self.switch(operator, facts, &schedule_id.0, false).await
    }

    /// Unpause a schedule.
    ///
    /// It fires at its next tick; those that passed are not made up for.
    #[oai(
        path = "/ops/schedules/:schedule_id/unpause",
        method = "post",
        operation_id = "unpause_schedule"
    )]
    async fn unpause_schedule(
        &self,
        operator: Operator,
        facts: Facts,
        /// The schedule.
        schedule_id: Path<String>,
    ) -> ApiResult<Json<ScheduleView>> {
        self.switch(operator, facts, &schedule_id.0, true).await
    }
}

impl Schedules {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn switch(
        &self,
        operator: Operator,
        facts: Facts,
        id: &str,
        is_enabled: bool,
    ) -> ApiResult<Json<ScheduleView>> {
        let owner = Owner::operator(&operator, None);
        let record = facts.in_all_control(&self.state, owner).await?;
        let mut tx = self.state.db.system().begin().await?;
        let before = hold(&mut tx, id).await?;
        schedules::save_is_enabled(&mut tx, id, is_enabled).await?;
        let view = self.show(&mut tx, id).await?;
        let action = if is_enabled {
            "unpause_schedule"
        } else {
            "pause_schedule"
        };
        let entry = AuditEntry::new(action, "schedule", &id)
            .before(json!({ "is_paused": !before.is_enabled }))
            .after(json!({ "is_paused": !is_enabled }));
        finish(record, entry, tx).await?;
        Ok(Json(view))
    }

    async fn show(&self, tx: &mut SystemTx, id: &str) -> ApiResult<ScheduleView> {
        let mut views = self.list(tx).await?.into_iter();
        views
            .find(|view| view.id == id)
            .ok_or_else(|| unknown_schedule(id))
    }

    async fn list(&self, tx: &mut SystemTx) -> ApiResult<Vec<ScheduleView>> {
        let rows = schedules::list_schedules(tx).await?;
        let kinds: Vec<_> = rows
            .iter()
            .map(|row| (row.queue.clone(), row.kind.clone()))
            .collect();
        let states = admin::list_kind_states(tx.conn(), &kinds)
            .await
            .map_err(StoreError::from)?;
        Ok(ScheduleView::all(rows, &states, self.state.clock().now()))
    }
}

async fn hold(tx: &mut SystemTx, id: &str) -> ApiResult<ScheduleRow> {
    match schedules::load_for_update(tx, id).await {
        Err(StoreError::NotFound { .. }) => Err(unknown_schedule(id)),
        held => Ok(held?),
    }
}

fn unknown_schedule(id: &str) -> ApiError {
    missing(&format!(
        "There is no schedule {id:?}. GET /api/ops/schedules lists them, once a scheduler has started."
    ))
}

/// The job of a run between two ticks, the same as a tick's.
fn run_of(row: &ScheduleRow) -> NewJob {
    NewJob {
        queue: row.queue.clone(),
        kind: row.kind.clone(),
        lane: None,
        priority: 0,
        delay: None,
        max_attempts: RUN_TRIES,
        unique_key: Some(row.kind.clone()),
        payload: run_payload(),
    }
}

impl ScheduleView {
    /// Schedules as they are shown at `now`, each with how its job fares.
    pub(super) fn all(
        rows: Vec<ScheduleRow>,
        states: &[KindState],
        now: DateTime<Utc>,
    ) -> Vec<Self> {
        let view = |row: ScheduleRow| {
            let state = states.iter().find(|state| state.kind == row.kind);
            Self::new(row, state, now)
        };
        rows.into_iter().map(view).collect()
    }

    fn new(row: ScheduleRow, state: Option<&KindState>, now: DateTime<Utc>) -> Self {
        let cron = Cron::from_str(&row.cron).ok();
        let result = row.fired_at.map(|fired_at| result(state, fired_at));
        let last_error = match result {
            Some(RunResult::Waiting | RunResult::Running) => {
                state.and_then(|state| state.last_error.clone())
            }
            Some(RunResult::Dead) => state.and_then(|state| state.death.clone()),
            Some(RunResult::Done) | None => None,
        };
        Self {
            next_at: cron
                .filter(|_| row.is_enabled)
                .and_then(|cron| cron.after(&now).next()),
            is_paused: !row.is_enabled,
            last_at: row.fired_at,
            last_result: result,
            last_error,
            id: row.id,
            cron: row.cron,
            kind: row.kind,
            queue: row.queue,
        }
    }
}

fn result(state: Option<&KindState>, fired_at: DateTime<Utc>) -> RunResult {
    let Some(state) = state else {
        return RunResult::Done;
    };
    match state.state {
        Some(1) => RunResult::Running,
        Some(_) => RunResult::Waiting,
        None if state.died_at.is_some_and(|at| at >= fired_at) => RunResult::Dead,
        None => RunResult::Done,
    }
}
