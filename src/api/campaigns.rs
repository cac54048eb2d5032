//! Campaigns: made, changed, and followed by request or by stream. What starts and stops them is in [`switches`].

pub mod pace;
pub mod retries;
pub mod switches;

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::audience::{AudienceView, require_audience};
use super::body::{Body, named};
use super::change::{Facts, Once, Turn};
use super::events::pump::{LiveStream, stream};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::progress::CampaignProgress;
use super::reply::{AsJson, Created};
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::campaign::{Audience, Campaign, CampaignEdit};
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, SenderId, TemplateId, TemplateVersionId};
use crate::domain::senders::{SenderRetired, SenderState};
use crate::domain::templates::Template;
use crate::live::topic::Topic;
use crate::store::campaign_counts::{self, CountSnapshot};
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

/// What to change of a draft.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct CampaignChange {
    /// What people call it.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
    /// What it says: the template's current version. With a template of another channel, the campaign's channel changes,
    /// too.
    template_id: Option<TemplateId>,
    /// Whom it is written to.
    audience: Option<AudienceView>,
    /// Where its messages come from.
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
    /// When it starts by itself, or did.
    send_at: Option<DateTime<Utc>>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was started.
    started_at: Option<DateTime<Utc>>,
    /// Since when it has been paused.
    paused_at: Option<DateTime<Utc>>,
    /// When it ended.
    finished_at: Option<DateTime<Utc>>,
    /// Why it could not be started at its time, and what to do.
    failure_reason: Option<String>,
    /// How far it is.
    progress: CampaignProgress,
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
        named(&body.0.name)?;
        let audience = body.0.audience.parse()?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();

        let template = load_template(tx, &actor, body.0.template_id).await?;
        require_parts(tx, &actor, Some(&audience), body.0.sender_id).await?;
        let now = self.state.clock().now();
        let campaign = draft(&actor, &body.0, &template, audience, now);
        campaigns::insert_campaign(tx, &campaign, actor.user_id()).await?;
        let progress = CampaignProgress::empty(campaign.status);
        let view = CampaignView::new(campaign, progress);
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

    /// Change a draft.
    ///
    /// What is absent stays; a campaign that failed to start is a draft again.
    #[oai(
        path = "/campaigns/:campaign_id",
        method = "patch",
        operation_id = "update_campaign"
    )]
    async fn update_campaign(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
        body: Body<CampaignChange>,
    ) -> ApiResult<Json<CampaignView>> {
        actor.require(Permission::WriteCampaigns)?;
        let name = body.0.name.as_deref().map(named).transpose()?;
        let audience = body
            .0
            .audience
            .as_ref()
            .map(AudienceView::parse)
            .transpose()?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let tx = change.tx();

        let campaign =
            campaigns::load_for_update(tx.conn(), actor.tenant_id, campaign_id.0).await?;
        let progress = CampaignProgress::empty(campaign.status);
        let before = CampaignView::new(campaign.clone(), progress).as_json();
        require_parts(tx, &actor, audience.as_ref(), body.0.sender_id).await?;
        let content = match body.0.template_id {
            Some(id) => Some(load_template(tx, &actor, id).await?),
            None => None,
        };
        let edit = CampaignEdit {
            name: name.map(str::to_owned),
            content: content.map(|template| (template.version.id, template.channel)),
            audience,
            sender_id: body.0.sender_id,
        };
        let edited = campaign.edit(edit)?;
        campaigns::save_campaign(tx, &edited).await?;
        let view = show(tx, edited).await?;
        let entry = AuditEntry::new("update_campaign", "campaign", &view.id)
            .before(before)
            .after(view.as_json());
        change.finish(entry).await?;
        Ok(Json(view))
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
    ) -> ApiResult<LiveStream<CampaignProgress>> {
        actor.require(Permission::ReadCampaigns)?;
        let topic = Topic::Campaign(actor.tenant_id, campaign_id.0);
        let watch = self.state.live.watch(&[topic]).await?;
        Ok(stream(&self.state, watch))
    }
}

impl Campaigns {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// The template that a campaign is to say.
async fn load_template(tx: &mut TenantTx, actor: &Actor, id: TemplateId) -> ApiResult<Template> {
    let template = templates::load_template(tx, actor.tenant_id, id)
        .await
        .map_err(|error| unknown_part(error, "template_id"))?;
    template.require_usable()?;
    Ok(template)
}

/// What else a campaign names must be there and be the tenant's.
async fn require_parts(
    tx: &mut TenantTx,
    actor: &Actor,
    audience: Option<&Audience>,
    sender_id: Option<SenderId>,
) -> ApiResult<()> {
    if let Some(audience) = audience {
        require_audience(tx, actor.tenant_id, audience).await?;
    }
    if let Some(sender_id) = sender_id {
        let sender = senders::load_row(tx, actor.tenant_id, sender_id)
            .await
            .map_err(|error| unknown_part(error, "sender_id"))?;
        if sender.state == SenderState::Retired {
            return Err(retired_sender());
        }
    }
    Ok(())
}

/// A thing that the body names and that is not there, or is somebody else's.
pub(super) fn unknown_part(error: StoreError, field: &str) -> ApiError {
    let StoreError::NotFound { what } = error else {
        return error.into();
    };
    unknown_field(what, field)
}

fn retired_sender() -> ApiError {
    ApiError::unchanged(ProblemType::SenderRetired, &SenderRetired)
        .with_field("sender_id", "names a sender that was retired")
}

/// The same by the thing's name.
pub(super) fn unknown_field(what: &str, field: &str) -> ApiError {
    ApiError::new(
        ProblemType::Unprocessable,
        format!("There is no {what} with the id in '{field}'. Nothing was changed."),
    )
    .with_field(field, format!("names no {what} of your tenant"))
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
        let progress = CampaignProgress::with_status(campaign.status, &snapshot);
        Self::new(campaign, progress)
    }
}

impl CampaignView {
    fn new(campaign: Campaign, progress: CampaignProgress) -> Self {
        Self {
            id: campaign.id,
            name: campaign.name,
            channel: campaign.channel,
            audience: campaign.audience.into(),
            template_version_id: campaign.content_id,
            sender_id: campaign.sender_id,
            send_at: campaign.send_at,
            created_at: campaign.created_at,
            started_at: campaign.started_at,
            paused_at: campaign.paused_at,
            finished_at: campaign.finished_at,
            failure_reason: campaign.failure_reason,
            progress,
        }
    }
}
