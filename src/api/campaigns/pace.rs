//! A campaign's own brake, which may be changed while it runs.

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use crate::api::Tag;
use crate::api::body::Body;
use crate::api::change::Facts;
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::ids::{CampaignId, TenantId};
use crate::domain::rate::{BucketKind, LanePace, PaceRefusal};
use crate::store::{LANES, StoreError, TenantTx, campaigns, lanes};

/// The operations on a campaign's pace.
#[derive(Debug)]
pub struct CampaignPaces {
    state: ApiState,
}

/// A brake to set or to take off.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewPace {
    /// Segments a second (emails: messages); absent takes the brake off.
    per_sec: Option<f64>,
}

/// How fast a campaign may go.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct PaceView {
    /// Its own brake, in segments a second; absent when it has none.
    per_sec: Option<f64>,
    /// How fast it may go with everything it draws on; absent where nothing limits it.
    allowed_per_sec: Option<f64>,
    /// What limits it to that.
    limited_by: Option<BucketKind>,
}

#[OpenApi(tag = "Tag::Campaigns")]
impl CampaignPaces {
    /// Show a campaign's pace.
    ///
    /// Its own brake, and what limits it at present.
    #[oai(
        path = "/campaigns/:campaign_id/pace",
        method = "get",
        operation_id = "get_campaign_pace"
    )]
    async fn get_campaign_pace(
        &self,
        actor: Actor,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Json<PaceView>> {
        actor.require(Permission::ReadCampaigns)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let pace = load(&mut tx, actor.tenant_id, campaign_id.0).await?;
        Ok(Json(pace.into()))
    }

    /// Change a campaign's pace.
    ///
    /// Also while it runs; it holds within a second. A brake that is faster than its sender, account or plan is refused with
    /// what they give, since it would change nothing.
    #[oai(
        path = "/campaigns/:campaign_id/pace",
        method = "put",
        operation_id = "set_campaign_pace"
    )]
    async fn set_campaign_pace(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
        body: Body<NewPace>,
    ) -> ApiResult<Json<PaceView>> {
        actor.require(Permission::SendCampaigns)?;
        let (tenant_id, id, per_sec) = (actor.tenant_id, campaign_id.0, body.0.per_sec);
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let tx = change.tx();

        let before = load(tx, tenant_id, id).await?;
        if let Some(per_sec) = per_sec {
            before.brake(per_sec)?;
        }
        campaigns::save_pace(tx, tenant_id, id, per_sec).await?;
        lanes::look_at_lanes(tx.conn(), tenant_id, None, Some(id)).await?;
        tx.announce(LANES, 0);
        let after = load(tx, tenant_id, id).await?;
        let entry = AuditEntry::new("set_campaign_pace", "campaign", &id)
            .before(json!({ "per_sec": own(&before) }))
            .after(json!({ "per_sec": per_sec }));
        change.finish(entry).await?;
        Ok(Json(after.into()))
    }
}

impl CampaignPaces {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// A draft goes as fast as the sender that it would get, and may lack one still.
async fn load(tx: &mut TenantTx, tenant_id: TenantId, id: CampaignId) -> ApiResult<LanePace> {
    campaigns::load_pace(tx.conn(), tenant_id, id)
        .await
        .map_err(|error| match error {
            StoreError::NotFound {
                what: campaigns::SENDER,
            } => ApiError::new(
                ProblemType::NoSender,
                "The campaign's channel has no sender yet, so that nothing says how fast it may go. Nothing was changed. \
                 Add one at POST /api/senders, then ask again.",
            ),
            error => error.into(),
        })
}

fn own(pace: &LanePace) -> Option<f64> {
    pace.campaign.and_then(|(_, per_sec)| per_sec)
}

impl From<LanePace> for PaceView {
    fn from(pace: LanePace) -> Self {
        let limit = pace.limit();
        Self {
            per_sec: own(&pace),
            allowed_per_sec: limit.as_ref().map(|rule| rule.rate_per_sec),
            limited_by: limit.map(|rule| rule.kind),
        }
    }
}

impl From<PaceRefusal> for ApiError {
    fn from(refusal: PaceRefusal) -> Self {
        Self::unchanged_by_field(ProblemType::InvalidPace, "per_sec", &refusal)
    }
}
