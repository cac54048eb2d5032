//! Senders: the numbers, WhatsApp senders and mail identities that messages come from.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::Tag;
use super::body::Body;
use super::change::{Facts, Once, Turn};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{AsJson, Created, Done};
use super::state::ApiState;
use crate::delivery::senders::{
    SenderEdit, SenderError, SenderWanted, add_sender, edit_sender, lift_halt, retire_sender,
};
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{CampaignId, SenderId};
use crate::domain::senders::{SenderKind, SenderState};
use crate::store::halts::Halt;
use crate::store::senders::{self, SenderRow};

/// The operations on senders.
#[derive(Debug)]
pub struct Senders {
    state: ApiState,
}

/// A sender to add.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewSender {
    /// What it carries.
    channel: Channel,
    /// A whole number with its country code (`+12025550123`), for text messages also a short code; for email the address.
    #[oai(validator(min_length = 1, max_length = 320))]
    address: String,
    /// Twilio's pool of numbers that chooses one of them for each message: `MG…`.
    messaging_service_sid: Option<String>,
    /// How fast it may go, in segments a second (emails: messages); what its kind does when absent.
    segments_per_sec: Option<f64>,
    /// Whether its channel uses it when nobody says otherwise. The first sender of a channel is.
    is_default: Option<bool>,
}

/// What to change of a sender; what is absent stays.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct SenderChange {
    /// How fast it may go, in segments a second (emails: messages). Holds within a second, also for what is under way.
    segments_per_sec: Option<f64>,
    /// `true`: its channel uses it from now on. To take that from it, give it to another one.
    is_default: Option<bool>,
}

/// Where messages come from.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct SenderView {
    /// Its id.
    id: SenderId,
    /// What it carries.
    channel: Channel,
    /// Its address.
    address: String,
    /// What kind of address it is.
    kind: SenderKind,
    /// Who carries its messages out.
    provider: Provider,
    /// With which account at the provider.
    account: String,
    /// The provider's pool that chooses one.
    messaging_service_sid: Option<String>,
    /// Whether its channel uses it when nobody says otherwise.
    is_default: bool,
    /// Where it is.
    state: SenderState,
    /// How fast it may go, in segments a second (emails: messages); absent where nothing but its account and the tenant's
    /// plan limits it.
    segments_per_sec: Option<f64>,
    /// The highest rate that can be stated for its kind.
    segments_per_sec_max: f64,
    /// Why it must not send for now; absent when it may.
    halt: Option<HaltView>,
    /// Until when it goes at half its rate: a carrier said that it was exceeded.
    slowed_until: Option<DateTime<Utc>>,
    /// Until when nothing goes: a carrier takes no more before.
    closed_until: Option<DateTime<Utc>>,
    /// Campaigns that are sending from it, or paused.
    running_campaigns: i64,
    /// When it was added.
    created_at: DateTime<Utc>,
}

/// Why nothing begins behind a sender.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct HaltView {
    /// What happened, and what to do.
    reason: String,
    /// The provider's code, or ours.
    code: Option<String>,
    /// Since when.
    since: DateTime<Utc>,
    /// Until when; absent when it lasts until somebody lifts it, or for good when the sender was retired.
    until: Option<DateTime<Utc>>,
}

/// A sender that was taken out of use.
#[derive(Debug, Object)]
struct RetiredSender {
    /// The sender as it is now.
    sender: SenderView,
    /// Campaigns that were sending from it. They are paused, say so, and cannot go on: cancel them.
    paused_campaigns: Vec<CampaignId>,
}

#[OpenApi(tag = "Tag::Senders")]
impl Senders {
    /// Add a sender.
    ///
    /// It belongs to the provider account that the tenant has connected for the channel. An address is one sender's alone,
    /// over all tenants, so that a reply to it finds one tenant.
    #[oai(path = "/senders", method = "post", operation_id = "create_sender")]
    async fn create_sender(
        &self,
        actor: Actor,
        once: Once,
        body: Body<NewSender>,
    ) -> ApiResult<Created<SenderView>> {
        actor.require(Permission::ManageSenders)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let wanted = SenderWanted {
            channel: body.0.channel,
            address: body.0.address,
            messaging_service_sid: body.0.messaging_service_sid,
            per_sec: body.0.segments_per_sec,
            is_default: body.0.is_default.unwrap_or(false),
        };
        let view = SenderView::from(add_sender(change.tx(), actor.tenant_id, wanted).await?);
        let entry = AuditEntry::new("create_sender", "sender", &view.id).after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List senders.
    ///
    /// The newest first, retired ones too.
    #[oai(path = "/senders", method = "get", operation_id = "list_senders")]
    async fn list_senders(
        &self,
        actor: Actor,
        /// Of this channel alone.
        channel: Query<Option<Channel>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<SenderView>>> {
        actor.require(Permission::ReadSenders)?;
        let page = PageRequest::<SenderId>::new("senders", limit.0, cursor.0.as_deref())?;
        let (wanted, rows) = ((None, channel.0), page.rows_to_load());
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows =
            senders::list_senders(&mut tx, actor.tenant_id, wanted, page.after, rows).await?;
        Ok(Json(page.page(rows, |row| row.sender.id)))
    }

    /// Show a sender.
    ///
    /// With its rate, and with why it must not send, if it must not.
    #[oai(
        path = "/senders/:sender_id",
        method = "get",
        operation_id = "get_sender"
    )]
    async fn get_sender(
        &self,
        actor: Actor,
        /// The sender.
        sender_id: Path<SenderId>,
    ) -> ApiResult<Json<SenderView>> {
        actor.require(Permission::ReadSenders)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let row = senders::load_row(&mut tx, actor.tenant_id, sender_id.0).await?;
        Ok(Json(row.into()))
    }

    /// Change a sender.
    ///
    /// Its rate, also while campaigns send from it, and whether it is its channel's default. Its address stays: another
    /// address is another sender.
    #[oai(
        path = "/senders/:sender_id",
        method = "patch",
        operation_id = "update_sender"
    )]
    async fn update_sender(
        &self,
        actor: Actor,
        facts: Facts,
        /// The sender.
        sender_id: Path<SenderId>,
        body: Body<SenderChange>,
    ) -> ApiResult<Json<SenderView>> {
        actor.require(Permission::ManageSenders)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let tx = change.tx();

        let before = senders::load_for_update(tx, actor.tenant_id, sender_id.0).await?;
        if before.is_default && body.0.is_default == Some(false) {
            return Err(keeps_default());
        }
        let edit = SenderEdit {
            per_sec: body.0.segments_per_sec,
            becomes_default: body.0.is_default.unwrap_or(false),
        };
        let after = edit_sender(tx, actor.tenant_id, &before, edit).await?;
        let changed = |row: &SenderRow| json!({ "segments_per_sec": row.per_sec(), "is_default": row.is_default });
        let entry = AuditEntry::new("update_sender", "sender", &sender_id.0)
            .before(changed(&before))
            .after(changed(&after));
        change.finish(entry).await?;
        Ok(Json(after.into()))
    }

    /// Retire a sender.
    ///
    /// For good: it begins nothing new and cannot be chosen any more. Campaigns that were sending from it are paused and
    /// cannot go on; single messages that wait for it are dropped. Its address may be added anew.
    #[oai(
        path = "/senders/:sender_id/retire",
        method = "post",
        operation_id = "retire_sender"
    )]
    async fn retire_sender(
        &self,
        actor: Actor,
        facts: Facts,
        /// The sender.
        sender_id: Path<SenderId>,
    ) -> ApiResult<Json<RetiredSender>> {
        actor.require(Permission::ManageSenders)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let (tenant_id, id) = (actor.tenant_id, sender_id.0);
        let clock = self.state.clock();
        let paused = retire_sender(change.tx(), tenant_id, id, clock).await?;
        for campaign in &paused {
            let after = json!({ "status": campaign.status, "retired_sender": id });
            change
                .record(&AuditEntry::new("pause_campaign", "campaign", &campaign.id).after(after))
                .await?;
        }
        let sender = senders::load_row(change.tx(), tenant_id, id).await?;
        let view = RetiredSender {
            sender: sender.into(),
            paused_campaigns: paused.iter().map(|campaign| campaign.id).collect(),
        };
        let entry = AuditEntry::new("retire_sender", "sender", &id).after(view.as_json());
        change.finish(entry).await?;
        Ok(Json(view))
    }

    /// Lift a sender's halt.
    ///
    /// Before its time, once what halted it is mended. What waits behind the sender goes on within a second; if the provider
    /// still refuses it, it is halted again.
    #[oai(
        path = "/senders/:sender_id/halt",
        method = "delete",
        operation_id = "lift_sender_halt"
    )]
    async fn lift_sender_halt(
        &self,
        actor: Actor,
        facts: Facts,
        /// The sender.
        sender_id: Path<SenderId>,
    ) -> ApiResult<Done> {
        actor.require(Permission::ManageSenders)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let tx = change.tx();
        let sender = senders::load_for_update(tx, actor.tenant_id, sender_id.0).await?;
        if !lift_halt(tx, actor.tenant_id, &sender).await? {
            return Err(ApiError::new(
                ProblemType::SenderNotHalted,
                "The sender is not halted; there is nothing to lift.",
            ));
        }
        let halt = sender.halt.map(HaltView::from);
        let entry = AuditEntry::new("lift_sender_halt", "sender", &sender_id.0)
            .before(halt.map(|halt| halt.as_json()).unwrap_or_default());
        change.finish(entry).await?;
        Ok(Done)
    }
}

impl Senders {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

fn keeps_default() -> ApiError {
    ApiError::unchanged_by_field(
        ProblemType::InvalidBody,
        "is_default",
        "a channel keeps its default; make another sender the default instead",
    )
}

impl From<SenderError> for ApiError {
    fn from(error: SenderError) -> Self {
        match error {
            SenderError::Address(refusal) => {
                Self::unchanged_by_field(ProblemType::InvalidAddress, "address", &refusal)
            }
            SenderError::Rate(refusal) => {
                Self::unchanged_by_field(ProblemType::InvalidRate, "segments_per_sec", &refusal)
            }
            SenderError::MessagingService => {
                Self::unchanged_by_field(ProblemType::InvalidBody, "messaging_service_sid", &error)
            }
            SenderError::NoAccount { .. } => {
                Self::unchanged_by_field(ProblemType::ChannelNotConnected, "channel", &error)
            }
            SenderError::Retired(refusal) => Self::unchanged(ProblemType::SenderRetired, &refusal),
            SenderError::Store(error) => error.into(),
        }
    }
}

impl From<Halt> for HaltView {
    fn from(halt: Halt) -> Self {
        Self {
            reason: halt.reason,
            code: halt.code,
            since: halt.since,
            until: halt.until,
        }
    }
}

impl From<SenderRow> for SenderView {
    fn from(row: SenderRow) -> Self {
        let (kind, segments_per_sec) = (row.kind(), row.per_sec());
        let sender = row.sender;
        Self {
            id: sender.id,
            channel: sender.channel,
            address: sender.address,
            kind,
            provider: sender.provider,
            account: sender.account_ref,
            messaging_service_sid: row.messaging_service_sid,
            is_default: row.is_default,
            state: row.state,
            segments_per_sec,
            segments_per_sec_max: kind.ceiling_per_sec(),
            halt: row.halt.map(HaltView::from),
            slowed_until: row.slowed_until,
            closed_until: row.closed_until,
            running_campaigns: row.running_campaigns,
            created_at: row.created_at,
        }
    }
}
