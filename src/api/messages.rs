//! Single messages: where each is, what it says, what was tried.

mod send;
mod timeline;

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use self::send::NewMessage;
use self::timeline::Timeline;
use super::Tag;
use super::body::Body;
use super::change::{Once, Turn};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Accepted;
use super::state::ApiState;
use crate::delivery::single::send_message;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, ContactId, MessageId};
use crate::domain::shown::ShownState;
use crate::domain::status::Status;
use crate::store::campaigns;
use crate::store::contacts;
use crate::store::message_events;
use crate::store::message_views::{self, AttemptRow, BodyRow, MessageRow};

/// Decisions, and reports, of one timeline at most.
const ENTRIES_MAX: i64 = 200;

/// The operations on messages.
#[derive(Debug)]
pub struct Messages {
    state: ApiState,
}

/// One message.
#[derive(Debug, Clone, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct MessageView {
    /// Its id.
    id: MessageId,
    /// The campaign it belongs to.
    campaign_id: Option<CampaignId>,
    /// Whom it is for.
    contact_id: Option<ContactId>,
    /// How it reaches them.
    channel: Channel,
    /// Number or email address; absent once it is erased.
    to: Option<String>,
    /// Where it is, in the words people are shown.
    state: ShownState,
    /// Where it is with us, in the engine's words.
    phase: String,
    /// Since when.
    phase_at: DateTime<Utc>,
    /// Why it is not sent.
    drop_reason: Option<String>,
    /// What the provider says of it, in the provider's own word.
    status: Option<String>,
    /// When the provider said it.
    status_at: Option<DateTime<Utc>>,
    /// The provider's code for what went wrong.
    error_code: Option<String>,
    /// What it is billed as; 1 on other channels than SMS.
    segments: i32,
    /// Calls made for it.
    attempts: i32,
    /// It is not sent when it waits longer.
    expires_at: DateTime<Utc>,
    /// The failed message that it takes the place of.
    retry_of: Option<MessageId>,
    /// The message that took its place, by which the person is counted.
    retried_by: Option<MessageId>,
}

/// One message with its text and what was tried.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct MessageDetail {
    /// The message.
    message: MessageView,
    /// The text as this person gets it; absent once it is erased or past its time.
    content: Option<MessageContent>,
    /// Each call that was permitted, in order.
    attempts: Vec<AttemptView>,
}

/// A text as it was rendered.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct MessageContent {
    /// The subject, of emails.
    subject: Option<String>,
    /// The text.
    body: Option<String>,
    /// The HTML, of emails.
    html: Option<String>,
}

/// One permitted call to a provider, and what came of it.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct AttemptView {
    /// Counted from 1.
    attempt_no: i32,
    /// `open`, `accepted`, `doubt`, `refused`, `aborted`, `not_sent` or `parked`.
    state: String,
    /// Who was called.
    provider: String,
    /// When it was permitted.
    started_at: DateTime<Utc>,
    /// The provider's HTTP status.
    http_status: Option<i32>,
    /// The provider's code for what went wrong.
    error_code: Option<String>,
    /// The provider's id of the message.
    provider_message_id: Option<String>,
    /// When its outcome became known.
    resolved_at: Option<DateTime<Utc>>,
}

#[OpenApi(tag = "Tag::Messages")]
impl Messages {
    /// List messages.
    ///
    /// Of one campaign in the order of its audience, or to one contact with the newest first: name one of the two.
    #[oai(path = "/messages", method = "get", operation_id = "list_messages")]
    async fn list_messages(
        &self,
        actor: Actor,
        /// Messages of this campaign.
        campaign_id: Query<Option<CampaignId>>,
        /// Messages to this contact.
        contact_id: Query<Option<ContactId>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<MessageView>>> {
        actor.require(Permission::ReadMessages)?;
        let cursor = cursor.0.as_deref();
        match (campaign_id.0, contact_id.0) {
            (Some(id), None) => self.list_of_campaign(&actor, id, limit.0, cursor).await,
            (None, Some(id)) => self.list_of_contact(&actor, id, limit.0, cursor).await,
            _ => Err(name_one()),
        }
    }

    /// Send a message.
    ///
    /// To one contact or one address, from a template or a text. Answers once it is on its way; what becomes of it is at
    /// `/messages/{message_id}`.
    #[oai(path = "/messages", method = "post", operation_id = "send_message")]
    async fn send_message(
        &self,
        actor: Actor,
        once: Once,
        body: Body<NewMessage>,
    ) -> ApiResult<Accepted<MessageView>> {
        actor.require(Permission::SendMessages)?;
        let single = body.0.parse(&actor)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let (tx, state) = (change.tx(), &self.state);
        let id = send_message(tx, &state.mac_key, state.clock(), &single).await?;
        let message = message_views::load_message(tx, actor.tenant_id, id).await?;
        let entry = AuditEntry::new("send_message", "message", &id);
        change.commit(entry, Accepted(message.into())).await
    }

    /// Show what happened to a message.
    ///
    /// Decisions, calls and what the provider said, in order of time.
    #[oai(
        path = "/messages/:message_id/timeline",
        method = "get",
        operation_id = "get_message_timeline"
    )]
    async fn get_message_timeline(
        &self,
        actor: Actor,
        /// The message.
        message_id: Path<MessageId>,
    ) -> ApiResult<Json<Timeline>> {
        actor.require(Permission::ReadMessages)?;
        let (tenant_id, id) = (actor.tenant_id, message_id.0);
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        let message = message_views::load_message(&mut tx, tenant_id, id).await?;
        let events = message_events::list_events(&mut tx, tenant_id, id, ENTRIES_MAX).await?;
        let attempts = message_views::list_attempts(&mut tx, tenant_id, id).await?;
        let reports = message_views::list_reports(&mut tx, tenant_id, id, ENTRIES_MAX).await?;
        Ok(Json(Timeline::new(&message, events, attempts, reports)))
    }

    /// Show a message.
    ///
    /// With its text as this person gets it, and each call made for it.
    #[oai(
        path = "/messages/:message_id",
        method = "get",
        operation_id = "get_message"
    )]
    async fn get_message(
        &self,
        actor: Actor,
        /// The message.
        message_id: Path<MessageId>,
    ) -> ApiResult<Json<MessageDetail>> {
        actor.require(Permission::ReadMessages)?;
        let (tenant_id, id) = (actor.tenant_id, message_id.0);
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        let message = message_views::load_message(&mut tx, tenant_id, id).await?;
        let content = message_views::find_body(&mut tx, tenant_id, id).await?;
        let attempts = message_views::list_attempts(&mut tx, tenant_id, id).await?;
        Ok(Json(MessageDetail {
            message: message.into(),
            content: content.map(MessageContent::from),
            attempts: attempts.into_iter().map(AttemptView::from).collect(),
        }))
    }
}

impl Messages {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn list_of_campaign(
        &self,
        actor: &Actor,
        id: CampaignId,
        limit: Option<i64>,
        cursor: Option<&str>,
    ) -> ApiResult<Json<Page<MessageView>>> {
        let page = PageRequest::<MessageId>::new("messages-of-campaign", limit, cursor)?;
        let (tenant_id, rows) = (actor.tenant_id, page.rows_to_load());
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        // Somebody else's campaign is not an empty one.
        campaigns::load_campaign(tx.conn(), tenant_id, id).await?;
        let rows =
            message_views::list_of_campaign(&mut tx, tenant_id, id, page.after, rows).await?;
        Ok(Json(page.page(rows, |message| message.id)))
    }

    async fn list_of_contact(
        &self,
        actor: &Actor,
        id: ContactId,
        limit: Option<i64>,
        cursor: Option<&str>,
    ) -> ApiResult<Json<Page<MessageView>>> {
        let page = PageRequest::<MessageId>::new("messages-of-contact", limit, cursor)?;
        let (tenant_id, rows) = (actor.tenant_id, page.rows_to_load());
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        contacts::load_contact(&mut tx, tenant_id, id).await?;
        let rows = message_views::list_of_contact(&mut tx, tenant_id, id, page.after, rows).await?;
        Ok(Json(page.page(rows, |message| message.id)))
    }
}

fn name_one() -> ApiError {
    ApiError::new(
        ProblemType::InvalidParameter,
        "Name either 'campaign_id' or 'contact_id', and not both.",
    )
    .with_field("campaign_id", "name either campaign_id or contact_id")
}

impl From<MessageRow> for MessageView {
    fn from(row: MessageRow) -> Self {
        // A word of a newer version beside this one is shown as it is; what it means, nobody here knows.
        let said = row
            .status
            .as_deref()
            .and_then(|word| Status::parse(row.channel, word).ok());
        Self {
            id: row.id,
            campaign_id: row.campaign_id,
            contact_id: row.contact_id,
            channel: row.channel,
            to: row.address,
            state: ShownState::of(row.phase, row.drop_reason, said),
            phase: row.phase.as_str().to_owned(),
            phase_at: row.phase_at,
            drop_reason: row.drop_reason.map(|reason| reason.as_str().to_owned()),
            status: row.status,
            status_at: row.status_at,
            error_code: row.error_code,
            segments: row.segments.into(),
            attempts: row.attempts.into(),
            retry_of: row.retry_of,
            retried_by: row.retried_by,
            expires_at: row.expires_at,
        }
    }
}

impl From<BodyRow> for MessageContent {
    fn from(row: BodyRow) -> Self {
        Self {
            subject: row.subject,
            body: row.body,
            html: row.html,
        }
    }
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        Self {
            attempt_no: row.attempt_no.into(),
            state: row.state.as_str().to_owned(),
            provider: row.provider,
            started_at: row.started_at,
            http_status: row.http_status.map(i32::from),
            error_code: row.error_code,
            provider_message_id: row.provider_message_id,
            resolved_at: row.resolved_at,
        }
    }
}
