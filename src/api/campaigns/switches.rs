//! What starts a campaign and what stops it, each a step from one status to another.

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::{CampaignView, show};
use crate::api::Tag;
use crate::api::body::Body;
use crate::api::change::{Change, Facts, Once, Turn};
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::reply::Accepted;
use crate::api::state::ApiState;
use crate::delivery::campaigns::{
    StartError, SwitchError, Switched, cancel_campaign, count_in_flight, pause_campaign,
    resume_campaign, schedule_campaign, start_campaign, unschedule_campaign,
};
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::campaign::{
    CampaignStatus, SendAt, SendAtRefusal, StartRefusal, Switch, SwitchRefusal,
};
use crate::domain::ids::CampaignId;
use crate::store::tx::Tenant;

/// The operations that start and stop campaigns.
#[derive(Debug)]
pub struct CampaignSwitches {
    state: ApiState,
}

/// When a campaign shall start.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct CampaignSchedule {
    /// An instant, `2026-12-01T09:00:00-05:00`, or a time on the clock of the tenant's zone, `2026-12-01T09:00`; within the
    /// next year. A time that the clock skips or shows twice, where summer time begins or ends, is refused.
    #[oai(validator(min_length = 1, max_length = 40))]
    send_at: String,
}

/// What a pause or a cancellation found.
#[derive(Debug, Object)]
struct StoppedCampaign {
    /// The status now.
    status: CampaignStatus,
    /// Calls that were under way and cannot be called back. Nothing new begins from the answer on.
    in_flight: i64,
}

#[OpenApi(tag = "Tag::Campaigns")]
impl CampaignSwitches {
    /// Send a campaign.
    ///
    /// Answers once it is on its way; who gets it is frozen a moment later. Follow it at `…/status` or `…/sse`. A scheduled
    /// one starts now instead.
    #[oai(
        path = "/campaigns/:campaign_id/send",
        method = "post",
        operation_id = "send_campaign"
    )]
    async fn send_campaign(
        &self,
        actor: Actor,
        once: Once,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Accepted<CampaignView>> {
        actor.require(Permission::SendCampaigns)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();
        let clock = self.state.clock();
        let started = start_campaign(tx, actor.tenant_id, campaign_id.0, clock).await?;
        let view = show(tx, started).await?;
        let entry = AuditEntry::new("send_campaign", "campaign", &view.id)
            .after(json!({ "status": view.progress.status }));
        change.commit(entry, Accepted(view)).await
    }

    /// Schedule a campaign.
    ///
    /// It starts by itself, within seconds of its time. If it cannot start then, it has failed and says why; mend it and
    /// send or schedule it again. Scheduling a scheduled one moves it.
    #[oai(
        path = "/campaigns/:campaign_id/schedule",
        method = "post",
        operation_id = "schedule_campaign"
    )]
    async fn schedule_campaign(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
        body: Body<CampaignSchedule>,
    ) -> ApiResult<Json<CampaignView>> {
        actor.require(Permission::SendCampaigns)?;
        let send_at: SendAt = body.0.send_at.parse()?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let clock = self.state.clock();
        let id = campaign_id.0;
        let switched = schedule_campaign(change.tx(), actor.tenant_id, id, send_at, clock).await?;
        Ok(Json(finish(change, "schedule_campaign", switched).await?))
    }

    /// Unschedule a campaign.
    ///
    /// It is a draft again.
    #[oai(
        path = "/campaigns/:campaign_id/unschedule",
        method = "post",
        operation_id = "unschedule_campaign"
    )]
    async fn unschedule_campaign(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<CampaignView>> {
        actor.require(Permission::SendCampaigns)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let switched = unschedule_campaign(change.tx(), actor.tenant_id, campaign_id.0).await?;
        Ok(Json(finish(change, "unschedule_campaign", switched).await?))
    }

    /// Pause a campaign.
    ///
    /// No call begins after the answer, which says how many were under way.
    #[oai(
        path = "/campaigns/:campaign_id/pause",
        method = "post",
        operation_id = "pause_campaign"
    )]
    async fn pause_campaign(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<StoppedCampaign>> {
        actor.require(Permission::SendCampaigns)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let clock = self.state.clock();
        let switched = pause_campaign(change.tx(), actor.tenant_id, campaign_id.0, clock).await?;
        let view = finish(change, "pause_campaign", switched).await?;
        Ok(Json(self.stopped(&actor, &view).await?))
    }

    /// Resume a campaign.
    ///
    /// A paused one goes on where it stopped.
    #[oai(
        path = "/campaigns/:campaign_id/resume",
        method = "post",
        operation_id = "resume_campaign"
    )]
    async fn resume_campaign(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<CampaignView>> {
        actor.require(Permission::SendCampaigns)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let switched = resume_campaign(change.tx(), actor.tenant_id, campaign_id.0).await?;
        Ok(Json(finish(change, "resume_campaign", switched).await?))
    }

    /// Cancel a campaign.
    ///
    /// For good: no call begins after the answer, which says how many were under way; whoever still waits is skipped.
    #[oai(
        path = "/campaigns/:campaign_id/cancel",
        method = "post",
        operation_id = "cancel_campaign"
    )]
    async fn cancel_campaign(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<StoppedCampaign>> {
        actor.require(Permission::SendCampaigns)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let clock = self.state.clock();
        let switched = cancel_campaign(change.tx(), actor.tenant_id, campaign_id.0, clock).await?;
        let view = finish(change, "cancel_campaign", switched).await?;
        Ok(Json(self.stopped(&actor, &view).await?))
    }
}

impl CampaignSwitches {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    /// Read after the commit: from then on the number only falls.
    async fn stopped(&self, actor: &Actor, view: &CampaignView) -> ApiResult<StoppedCampaign> {
        Ok(StoppedCampaign {
            status: view.progress.status,
            in_flight: count_in_flight(&self.state.db, actor.tenant_id, view.id).await?,
        })
    }
}

/// Records a step with what it led to and makes it durable.
async fn finish(
    mut change: Change<Tenant>,
    action: &'static str,
    switched: Switched,
) -> ApiResult<CampaignView> {
    let Switched { before, campaign } = switched;
    let after = json!({ "status": campaign.status, "send_at": campaign.send_at });
    let view = show(change.tx(), campaign).await?;
    let entry = AuditEntry::new(action, "campaign", &view.id)
        .before(json!({ "status": before }))
        .after(after);
    change.finish(entry).await?;
    Ok(view)
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            StartError::Refused(refusal) => {
                let problem = match &refusal {
                    StartRefusal::AlreadySent { .. } => ProblemType::CampaignAlreadySent,
                    StartRefusal::NoContent => ProblemType::CampaignWithoutTemplate,
                    StartRefusal::NoSender { .. } => ProblemType::NoSender,
                    StartRefusal::SenderRetired => ProblemType::SenderRetired,
                    StartRefusal::ImportUnfinished { .. } => ProblemType::ImportUnfinished,
                    StartRefusal::ListGone => ProblemType::Unprocessable,
                    StartRefusal::EmptyAudience { .. } => ProblemType::EmptyAudience,
                    StartRefusal::UnknownVariables { .. } => ProblemType::UnknownVariable,
                };
                Self::unchanged(problem, &refusal)
            }
        }
    }
}

impl From<SwitchError> for ApiError {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Store(error) => error.into(),
            SwitchError::Time(refusal) => refusal.into(),
            SwitchError::Refused(refusal) => refusal.into(),
            SwitchError::SenderRetired => Self::unchanged(ProblemType::SenderRetired, &error),
        }
    }
}

impl From<SwitchRefusal> for ApiError {
    fn from(refusal: SwitchRefusal) -> Self {
        let problem = match refusal.switch {
            Switch::Edit => ProblemType::CampaignNotDraft,
            Switch::Schedule => ProblemType::CampaignAlreadySent,
            Switch::Unschedule => ProblemType::CampaignNotScheduled,
            Switch::Pause => ProblemType::CampaignNotSending,
            Switch::Resume => ProblemType::CampaignNotPaused,
            Switch::Reopen if refusal.status.is_startable() => ProblemType::CampaignNotSent,
            Switch::Cancel | Switch::Reopen => ProblemType::CampaignEnded,
        };
        Self::unchanged(problem, &refusal)
    }
}

impl From<SendAtRefusal> for ApiError {
    fn from(refusal: SendAtRefusal) -> Self {
        Self::unchanged_by_field(ProblemType::InvalidSendAt, "send_at", &refusal)
    }
}
