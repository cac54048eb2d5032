//! Campaigns: made, started, paused, and followed by request or by stream.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::audience::{AudienceView, require_audience};
use super::body::Body;
use super::change::{Once, Turn};
use super::events::{CampaignStream, stream_campaign};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, FieldError, ProblemType};
use super::progress::CampaignProgress;
use super::reply::{Accepted, AsJson, Created};
use super::state::ApiState;
use crate::delivery::campaigns::{PauseError, StartError, pause_campaign, start_campaign};
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::campaign::{Audience, Campaign, CampaignStatus, StartRefusal};
use crate::domain::channel::Channel;
use crate::domain::counts::Counts;
use crate::domain::ids::{CampaignId, SenderId, TemplateId, TemplateVersionId};
use crate::store::campaign_counts::{self, CountSnapshot};
use crate::store::templates::Template;
use crate::store::{StoreError, TenantTx, campaigns, senders, templates};

/// The operations on campaigns.
#[derive(Debug)]
pub struct Campaigns {
    state: ApiState,
}

/// A campaign to make.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewCampaign {
    /// What people call it.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// What it says: the template's current version, which the campaign keeps. The channel is the template's.
    template_id: TemplateId,
    /// Whom it is written to.
    audience: AudienceView,
    /// Where its messages come from; the channel's default when absent.
    sender_id: Option<SenderId>,
}

/// A campaign.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct CampaignView {
    /// Its id.
    id: CampaignId,
    /// What people call it.
    name: String,
    /// How it reaches people.
    channel: Channel,
    /// Whom it is written to.
    audience: AudienceView,
    /// The version of the template it says.
    template_version_id: Option<TemplateVersionId>,
    /// Where its messages come from; chosen at the start.
    sender_id: Option<SenderId>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was started.
    started_at: Option<DateTime<Utc>>,
    /// Since when it has been paused.
    paused_at: Option<DateTime<Utc>>,
    /// When it ended.
    finished_at: Option<DateTime<Utc>>,
    /// Why it failed.
    failure_reason: Option<String>,
    /// How far it is.
    progress: CampaignProgress,
}

/// What a pause found.
#[derive(Debug, Object)]
struct PausedCampaign {
    /// The status now.
    status: CampaignStatus,
    /// Calls that were under way and cannot be called back. Nothing new begins from the answer on.
    in_flight: i64,
}

#[OpenApi(tag = "Tag::Campaigns")]
impl Campaigns {
    /// Make a campaign.
    ///
    /// It is a draft: nothing is sent before `send_campaign`.
    #[oai(path = "/campaigns", method = "post", operation_id = "create_campaign")]
    async fn create_campaign(
        &self,
        actor: Actor,
        once: Once,
        body: Body<NewCampaign>,
    ) -> ApiResult<Created<CampaignView>> {
        actor.require(Permission::WriteCampaigns)?;
        let audience = body.0.audience.parse()?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();

        let template = require_parts(tx, &actor, &body.0, &audience).await?;
        let campaign = draft(
            &actor,
            &body.0,
            &template,
            audience,
            self.state.clock().now(),
        );
        campaigns::insert_campaign(tx, &campaign, actor.user_id()).await?;
        let view = CampaignView::new(campaign, 0, &Counts::default());
        let entry = AuditEntry::new("create_campaign", "campaign", &view.id).after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List campaigns.
    ///
    /// The newest first, each with its numbers.
    #[oai(path = "/campaigns", method = "get", operation_id = "list_campaigns")]
    async fn list_campaigns(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<CampaignView>>> {
        actor.require(Permission::ReadCampaigns)?;
        let page = PageRequest::<CampaignId>::new("campaigns", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows =
            campaigns::list_campaigns(&mut tx, actor.tenant_id, page.after, page.rows_to_load())
                .await?;
        let rows = with_counts(&mut tx, rows).await?;
        Ok(Json(page.page(rows, |(campaign, _)| campaign.id)))
    }

    /// Show a campaign.
    ///
    /// With its numbers.
    #[oai(
        path = "/campaigns/:campaign_id",
        method = "get",
        operation_id = "get_campaign"
    )]
    async fn get_campaign(
        &self,
        actor: Actor,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<CampaignView>> {
        actor.require(Permission::ReadCampaigns)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let campaign = campaigns::load_campaign(tx.conn(), actor.tenant_id, campaign_id.0).await?;
        Ok(Json(show(&mut tx, campaign).await?))
    }

    /// Send a campaign.
    ///
    /// Answers once it is on its way; who gets it is frozen a moment later. Follow it at `…/status` or `…/sse`.
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
        let entry = AuditEntry::new("send_campaign", "campaign", &view.id);
        change.commit(entry, Accepted(view)).await
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
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<PausedCampaign>> {
        actor.require(Permission::SendCampaigns)?;
        let (campaign, in_flight) =
            pause_campaign(&self.state.db, actor.tenant_id, campaign_id.0).await?;
        Ok(Json(PausedCampaign {
            status: campaign.status,
            in_flight,
        }))
    }

    /// Show how far a campaign is.
    ///
    /// The numbers are exact for one moment: they sum to the audience.
    #[oai(
        path = "/campaigns/:campaign_id/status",
        method = "get",
        operation_id = "get_campaign_status"
    )]
    async fn get_campaign_status(
        &self,
        actor: Actor,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<CampaignProgress>> {
        actor.require(Permission::ReadCampaigns)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let snapshot = snapshot(&mut tx, &actor, campaign_id.0).await?;
        Ok(Json(CampaignProgress::try_from(&snapshot)?))
    }

    /// Follow a campaign.
    ///
    /// A stream of events named `campaign`; each is a whole snapshot as `get_campaign_status` answers it, with its
    /// version as id, at most four a second. A client that reconnects gets the newest first.
    #[oai(
        path = "/campaigns/:campaign_id/sse",
        method = "get",
        operation_id = "stream_campaign"
    )]
    async fn stream_campaign(
        &self,
        actor: Actor,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<CampaignStream> {
        actor.require(Permission::ReadCampaigns)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        snapshot(&mut tx, &actor, campaign_id.0).await?;
        drop(tx);
        let snapshots = self
            .state
            .live
            .watch_campaign(actor.tenant_id, campaign_id.0)
            .map_err(|error| ApiError::unavailable(5).with_source(error))?;
        Ok(stream_campaign(snapshots, self.state.streams.clone()))
    }
}

impl Campaigns {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// What a new campaign names must be there and be the tenant's.
async fn require_parts(
    tx: &mut TenantTx,
    actor: &Actor,
    new: &NewCampaign,
    audience: &Audience,
) -> ApiResult<Template> {
    let template = templates::load_template(tx, actor.tenant_id, new.template_id)
        .await
        .map_err(|error| unknown_part(error, "template_id"))?;
    require_audience(tx, actor.tenant_id, audience).await?;
    if let Some(sender_id) = new.sender_id {
        senders::load_sender(tx.conn(), actor.tenant_id, sender_id)
            .await
            .map_err(|error| unknown_part(error, "sender_id"))?;
    }
    Ok(template)
}

/// A thing that the body names and that is not there, or is somebody else's.
pub(super) fn unknown_part(error: StoreError, field: &str) -> ApiError {
    let StoreError::NotFound { what } = error else {
        return error.into();
    };
    ApiError::new(
        ProblemType::Unprocessable,
        format!("There is no {what} with the id in '{field}'. Nothing was changed."),
    )
    .with_errors(vec![FieldError {
        field: field.to_owned(),
        message: format!("names no {what} of your tenant"),
    }])
}

fn draft(
    actor: &Actor,
    new: &NewCampaign,
    template: &Template,
    audience: Audience,
    now: DateTime<Utc>,
) -> Campaign {
    let ids = (actor.tenant_id, CampaignId(Uuid::now_v7()));
    let version_id = Some(template.version.id);
    Campaign {
        sender_id: new.sender_id,
        ..Campaign::draft(
            ids,
            new.name.trim(),
            template.channel,
            version_id,
            audience,
            now,
        )
    }
}

async fn snapshot(tx: &mut TenantTx, actor: &Actor, id: CampaignId) -> ApiResult<CountSnapshot> {
    campaign_counts::list_snapshots(tx.conn(), &[(actor.tenant_id, id)])
        .await?
        .pop()
        .ok_or_else(|| ApiError::not_found("campaign"))
}

async fn show(tx: &mut TenantTx, campaign: Campaign) -> ApiResult<CampaignView> {
    let mut rows = with_counts(tx, vec![campaign]).await?;
    rows.pop()
        .map(CampaignView::from)
        .ok_or_else(|| ApiError::not_found("campaign"))
}

/// Campaigns with their counts; a campaign that went meanwhile goes.
async fn with_counts(
    tx: &mut TenantTx,
    campaigns: Vec<Campaign>,
) -> ApiResult<Vec<(Campaign, CountSnapshot)>> {
    let keys: Vec<_> = campaigns.iter().map(|c| (c.tenant_id, c.id)).collect();
    let mut snapshots = campaign_counts::list_snapshots(tx.conn(), &keys).await?;
    Ok(campaigns
        .into_iter()
        .filter_map(|campaign| {
            let place = snapshots
                .iter()
                .position(|s| s.campaign_id == campaign.id)?;
            Some((campaign, snapshots.swap_remove(place)))
        })
        .collect())
}

impl From<(Campaign, CountSnapshot)> for CampaignView {
    fn from((campaign, snapshot): (Campaign, CountSnapshot)) -> Self {
        Self::new(campaign, snapshot.version, &snapshot.counts)
    }
}

impl CampaignView {
    fn new(campaign: Campaign, version: i64, counts: &Counts) -> Self {
        Self {
            id: campaign.id,
            name: campaign.name,
            channel: campaign.channel,
            audience: campaign.audience.into(),
            template_version_id: campaign.content_id,
            sender_id: campaign.sender_id,
            created_at: campaign.created_at,
            started_at: campaign.started_at,
            paused_at: campaign.paused_at,
            finished_at: campaign.finished_at,
            failure_reason: campaign.failure_reason,
            progress: CampaignProgress::new(campaign.status, version, counts),
        }
    }
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
                    StartRefusal::ImportUnfinished { .. } => ProblemType::ImportUnfinished,
                    StartRefusal::ListGone => ProblemType::Unprocessable,
                    StartRefusal::EmptyAudience { .. } => ProblemType::EmptyAudience,
                    StartRefusal::UnknownVariables { .. } => ProblemType::UnknownVariable,
                };
                Self::new(problem, refused(&refusal))
            }
        }
    }
}

impl From<PauseError> for ApiError {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::Store(error) => error.into(),
            PauseError::Refused(refusal) => {
                Self::new(ProblemType::CampaignNotSending, refused(&refusal))
            }
        }
    }
}

/// A refusal as whole sentences.
fn refused(refusal: &impl std::fmt::Display) -> String {
    format!("Nothing was changed: {refusal}.")
}
