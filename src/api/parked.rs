//! Parked messages: nobody could prove whether they were sent, and a person decides.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::Tag;
use super::body::Body;
use super::change::Facts;
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::state::ApiState;
use crate::delivery::resolve::decide::{DecideError, decide_campaign, decide_message};
use crate::domain::actor::{Actor, Operator, Permission};
use crate::domain::audit::{AuditEntry, Reason, ReasonRefusal};
use crate::domain::channel::Channel;
use crate::domain::doubt::Decision;
use crate::domain::ids::{CampaignId, MessageId, MessageKey, TenantId};
use crate::store::parked::{ParkedRow, list_parked};

/// The operations on parked messages.
#[derive(Debug)]
pub struct Parked {
    state: ApiState,
}

/// What a person decides, and why.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct DecisionBody {
    /// What follows.
    decision: Decision,
    /// Why; it is kept in the audit.
    #[oai(validator(min_length = 3, max_length = 500))]
    reason: String,
}

/// A decision that was taken.
#[derive(Debug, Object)]
struct Decided {
    /// What follows.
    decision: Decision,
    /// Over how many messages. A campaign with more than 5,000 parked ones takes several requests.
    messages: i64,
    /// Of a campaign that is sent again: how many messages stay parked since they are past their time. Say that they were
    /// sent, or give them up.
    expired: i64,
}

/// A message of which nobody knows whether it was sent.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct ParkedView {
    /// Whose message it is.
    tenant_id: TenantId,
    /// The message.
    message_id: MessageId,
    /// The campaign it belongs to.
    campaign_id: Option<CampaignId>,
    /// How it reaches the person.
    channel: Channel,
    /// Since when it is parked.
    parked_at: DateTime<Utc>,
    /// It cannot be sent again after this.
    expires_at: DateTime<Utc>,
    /// Who was to be called.
    provider: String,
    /// Which call it was, counted from 1.
    attempt_no: i32,
    /// `parked`, or `not_sent` where the tenant wants to be asked.
    attempt_state: String,
    /// When the call was permitted.
    started_at: DateTime<Utc>,
    /// How often the provider was asked.
    look_ups: i32,
    /// Why nobody knows.
    reason: Option<String>,
}

#[OpenApi]
impl Parked {
    /// Decide over a parked message.
    ///
    /// That it was sent, that it is to be sent again, or that it is given up. A message that was settled meanwhile is left
    /// alone, and the answer says so.
    #[oai(
        path = "/messages/:message_id/decide",
        method = "post",
        operation_id = "decide_message",
        tag = "Tag::Messages"
    )]
    async fn decide_message(
        &self,
        actor: Actor,
        facts: Facts,
        /// The message.
        message_id: Path<MessageId>,
        body: Body<DecisionBody>,
    ) -> ApiResult<Json<Decided>> {
        actor.require(Permission::DecideMessages)?;
        let (id, decision) = (message_id.0, body.0.decision);
        let reason: Reason = body.0.reason.parse()?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        decide_message(change.tx(), actor.tenant_id, id, decision).await?;
        let entry = AuditEntry::new("decide_message", "message", &id)
            .after(json!({ "decision": decision, "reason": reason }));
        change.finish(entry).await?;
        Ok(Json(Decided {
            decision,
            messages: 1,
            expired: 0,
        }))
    }

    /// Decide over a campaign's parked messages.
    ///
    /// All alike. What is sent again takes a completed campaign back to sending; what is past its time is not, and stays
    /// parked.
    #[oai(
        path = "/campaigns/:campaign_id/decide-parked",
        method = "post",
        operation_id = "decide_parked_messages",
        tag = "Tag::Campaigns"
    )]
    async fn decide_parked_messages(
        &self,
        actor: Actor,
        facts: Facts,
        /// The campaign.
        campaign_id: Path<CampaignId>,
        body: Body<DecisionBody>,
    ) -> ApiResult<Json<Decided>> {
        actor.require(Permission::DecideMessages)?;
        let (id, decision) = (campaign_id.0, body.0.decision);
        let reason: Reason = body.0.reason.parse()?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let decided = decide_campaign(change.tx(), actor.tenant_id, id, decision).await?;
        let entry = AuditEntry::new("decide_parked_messages", "campaign", &id).after(json!({
            "decision": decision, "reason": reason, "messages": decided.messages, "expired": decided.expired,
        }));
        change.finish(entry).await?;
        Ok(Json(Decided {
            decision,
            messages: decided.messages as i64,
            expired: decided.expired,
        }))
    }

    /// List parked messages.
    ///
    /// Of all tenants, with what is known of each.
    #[oai(
        path = "/ops/parked",
        method = "get",
        operation_id = "list_parked_messages",
        tag = "Tag::Ops"
    )]
    async fn list_parked_messages(
        &self,
        _operator: Operator,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ParkedView>>> {
        let cursor = cursor.0.as_deref();
        let page = PageRequest::<(TenantId, MessageId)>::new("parked", limit.0, cursor)?;
        let after = page
            .after
            .map(|(tenant_id, id)| MessageKey { tenant_id, id });
        // System: an operator looks at all tenants.
        let mut tx = self.state.db.system().begin().await?;
        let rows = list_parked(&mut tx, after, page.rows_to_load()).await?;
        Ok(Json(page.page(rows, |row| (row.key.tenant_id, row.key.id))))
    }
}

impl Parked {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<ParkedRow> for ParkedView {
    fn from(row: ParkedRow) -> Self {
        Self {
            tenant_id: row.key.tenant_id,
            message_id: row.key.id,
            campaign_id: row.campaign_id,
            channel: row.channel,
            parked_at: row.parked_at,
            expires_at: row.expires_at,
            provider: row.provider,
            attempt_no: row.attempt_no.into(),
            attempt_state: row.attempt_state.as_str().to_owned(),
            started_at: row.started_at,
            look_ups: row.look_ups.into(),
            reason: row.reason,
        }
    }
}

impl From<ReasonRefusal> for ApiError {
    fn from(refusal: ReasonRefusal) -> Self {
        Self::invalid_field("reason", &refusal.to_string())
    }
}

impl From<DecideError> for ApiError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::NotParked { phase } => Self::new(
                ProblemType::MessageNotParked,
                format!(
                    "Only a parked message can be decided; this one is {} by now. Load it again to see what settled it.",
                    phase.as_str()
                ),
            ),
            DecideError::Expired => Self::new(
                ProblemType::MessageExpired,
                "The message is past its time and cannot be sent again; say that it was sent, or give it up.",
            ),
            DecideError::Refused(refusal) => refusal.into(),
            DecideError::Retired(refusal) => Self::unchanged(
                ProblemType::SenderRetired,
                &format_args!("{refusal}. Say that the message was sent, or give it up"),
            ),
            DecideError::Store(error) => error.into(),
        }
    }
}
