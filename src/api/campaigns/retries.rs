//! What failed of a campaign, sent anew.

use std::collections::BTreeMap;

use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use crate::api::Tag;
use crate::api::change::{Once, Turn};
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::reply::{Accepted, AsJson};
use crate::api::state::ApiState;
use crate::delivery::retries::{RetryError, order_rest, retry_failed};
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::campaign::CampaignStatus;
use crate::domain::ids::{CampaignId, MessageId};
use crate::store::campaigns;

/// The operation that sends failed messages anew.
#[derive(Debug)]
pub struct CampaignRetries {
    state: ApiState,
}

/// What is sent anew.
#[derive(Debug, Object)]
struct RetriedCampaign {
    /// The campaign.
    campaign_id: CampaignId,
    /// Its status now: one that had completed goes on.
    status: CampaignStatus,
    /// People who get a new message, of the first 2,000 that had failed.
    retried: i64,
    /// People among these who do not, by reason: `permanent` (the provider says that they cannot be reached so),
    /// `suppressed`, `no_consent`, `erased`.
    left_out: BTreeMap<String, i64>,
    /// Whether these were all. The others follow by themselves within seconds.
    is_complete: bool,
}

#[OpenApi(tag = "Tag::Campaigns")]
impl CampaignRetries {
    /// Retry what failed.
    ///
    /// Everybody whose newest message has failed, at the provider or for lack of time, gets a new one with the same text; the
    /// failed one stays as it is and names it. People count by the newest. Who cannot be reached, opted out or took consent
    /// back is left out. Asking again retries what has failed since.
    #[oai(
        path = "/campaigns/:campaign_id/retry-failed",
        method = "post",
        operation_id = "retry_failed_messages"
    )]
    async fn retry_failed_messages(
        &self,
        actor: Actor,
        once: Once,
        /// The campaign.
        campaign_id: Path<CampaignId>,
    ) -> ApiResult<Accepted<RetriedCampaign>> {
        actor.require(Permission::SendCampaigns)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let (ids, clock) = ((actor.tenant_id, campaign_id.0), self.state.clock());
        let tx = change.tx();
        let asked_at = clock.now();
        let from = (MessageId(Uuid::nil()), asked_at);
        let retried = retry_failed(tx, ids, from, clock).await?;
        order_rest(tx, ids, &retried, asked_at).await?;
        let campaign = campaigns::load_campaign(tx.conn(), actor.tenant_id, ids.1).await?;
        let left_out = retried
            .left_out
            .iter()
            .map(|(reason, people)| (reason.as_str().to_owned(), *people));
        let view = RetriedCampaign {
            campaign_id: ids.1,
            status: campaign.status,
            retried: retried.messages,
            left_out: left_out.collect(),
            is_complete: retried.rest_after.is_none(),
        };
        let entry = AuditEntry::new("retry_failed_messages", "campaign", &view.campaign_id)
            .after(view.as_json());
        change.commit(entry, Accepted(view)).await
    }
}

impl CampaignRetries {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<RetryError> for ApiError {
    fn from(error: RetryError) -> Self {
        match error {
            RetryError::Refused(refusal) => refusal.into(),
            RetryError::Retired(refusal) => Self::unchanged(
                ProblemType::SenderRetired,
                &format_args!(
                    "{refusal}: make a new campaign with another sender for those who were not reached"
                ),
            ),
            RetryError::Store(error) => error.into(),
        }
    }
}
