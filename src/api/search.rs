//! One field that finds anything: people, campaigns, lists, templates and messages.

use chrono::{DateTime, Utc};
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::contacts::country_of;
use super::problem::{ApiError, ApiResult, ProblemType};
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::campaign::CampaignStatus;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, ContactId, ListId, MessageId, TemplateId};
use crate::domain::search::Sought;
use crate::domain::shown::ShownState;
use crate::domain::status::Status;
use crate::store::search::{
    self, FoundCampaign, FoundContact, FoundList, FoundMessage, FoundTemplate,
};

/// The operation that finds anything.
#[derive(Debug)]
pub struct Search {
    state: ApiState,
}

/// What was found; ten of each kind at most.
#[derive(Debug, Object)]
struct SearchResults {
    /// By number first, then by email address, then by name.
    contacts: Vec<FoundContactView>,
    /// By name.
    campaigns: Vec<FoundCampaignView>,
    /// By name.
    lists: Vec<FoundListView>,
    /// By name.
    templates: Vec<FoundTemplateView>,
    /// By id, or the newest to whom a number or an email address belongs; the newest first.
    messages: Vec<FoundMessageView>,
}

/// A person that was found.
#[derive(Debug, Object)]
#[oai(rename = "FoundContact", skip_serializing_if_is_none)]
struct FoundContactView {
    /// Its id.
    id: ContactId,
    /// Given name.
    first_name: Option<String>,
    /// Family name.
    last_name: Option<String>,
    /// Number, E.164.
    phone: Option<String>,
    /// Address as written.
    email: Option<String>,
}

/// A campaign that was found.
#[derive(Debug, Object)]
#[oai(rename = "FoundCampaign")]
struct FoundCampaignView {
    /// Its id.
    id: CampaignId,
    /// What people call it.
    name: String,
    /// How it reaches people.
    channel: Channel,
    /// Where it is.
    status: CampaignStatus,
}

/// A list that was found.
#[derive(Debug, Object)]
#[oai(rename = "FoundList")]
struct FoundListView {
    /// Its id.
    id: ListId,
    /// What people call it.
    name: String,
}

/// A template that was found.
#[derive(Debug, Object)]
#[oai(rename = "FoundTemplate")]
struct FoundTemplateView {
    /// Its id.
    id: TemplateId,
    /// What people call it.
    name: String,
    /// The channel it is written for.
    channel: Channel,
}

/// A message that was found.
#[derive(Debug, Object)]
#[oai(rename = "FoundMessage", skip_serializing_if_is_none)]
struct FoundMessageView {
    /// Its id.
    id: MessageId,
    /// The campaign it belongs to.
    campaign_id: Option<CampaignId>,
    /// What people call that.
    campaign_name: Option<String>,
    /// Whom it is for.
    contact_id: Option<ContactId>,
    /// How it reaches them.
    channel: Channel,
    /// Number or email address; absent once it is erased.
    to: Option<String>,
    /// Where it is, in the words people are shown.
    state: ShownState,
    /// Since when.
    phase_at: DateTime<Utc>,
}

#[OpenApi(tag = "Tag::Search")]
impl Search {
    /// Find anything.
    ///
    /// By the beginning of a name (contacts, campaigns, lists, templates); by a number or its beginning, E.164 or as the
    /// tenant's country writes it; by the beginning of an email address; by the id of anything; by the id that a provider
    /// gave a message. With a number or an email address come the newest messages to whom it belongs.
    #[oai(path = "/search", method = "get", operation_id = "search_everything")]
    async fn search_everything(
        &self,
        actor: Actor,
        /// What to look for. No character has a special meaning.
        #[oai(validator(min_length = 1, max_length = 200))]
        q: Query<String>,
    ) -> ApiResult<Json<SearchResults>> {
        for permission in [
            Permission::ReadContacts,
            Permission::ReadCampaigns,
            Permission::ReadTemplates,
            Permission::ReadMessages,
        ] {
            actor.require(permission)?;
        }
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let country = country_of(&mut tx, &actor).await?;
        let sought = Sought::read(&q.0, country).ok_or_else(nothing_sought)?;
        let found = search::find_all(&mut tx, actor.tenant_id, &sought).await?;
        Ok(Json(found.into()))
    }
}

impl Search {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

fn nothing_sought() -> ApiError {
    ApiError::new(
        ProblemType::InvalidParameter,
        "Say in 'q' what to look for: a name, a number, an email address or an id, or the beginning of one.",
    )
    .with_field("q", "holds nothing to look for")
}

fn all<R, V: From<R>>(rows: Vec<R>) -> Vec<V> {
    rows.into_iter().map(V::from).collect()
}

impl From<search::Found> for SearchResults {
    fn from(found: search::Found) -> Self {
        Self {
            contacts: all(found.contacts),
            campaigns: all(found.campaigns),
            lists: all(found.lists),
            templates: all(found.templates),
            messages: all(found.messages),
        }
    }
}

impl From<FoundContact> for FoundContactView {
    fn from(contact: FoundContact) -> Self {
        Self {
            id: contact.id,
            first_name: contact.first_name,
            last_name: contact.last_name,
            phone: contact.phone_e164,
            email: contact.email,
        }
    }
}

impl From<FoundCampaign> for FoundCampaignView {
    fn from(campaign: FoundCampaign) -> Self {
        Self {
            id: campaign.id,
            name: campaign.name,
            channel: campaign.channel,
            status: campaign.status,
        }
    }
}

impl From<FoundList> for FoundListView {
    fn from(list: FoundList) -> Self {
        Self {
            id: list.id,
            name: list.name,
        }
    }
}

impl From<FoundTemplate> for FoundTemplateView {
    fn from(template: FoundTemplate) -> Self {
        Self {
            id: template.id,
            name: template.name,
            channel: template.channel,
        }
    }
}

impl From<FoundMessage> for FoundMessageView {
    fn from(message: FoundMessage) -> Self {
        let said = message
            .status
            .as_deref()
            .and_then(|word| Status::parse(message.channel, word).ok());
        let (campaign_id, campaign_name) = message.campaign.unzip();
        Self {
            id: message.id,
            campaign_id,
            campaign_name,
            contact_id: message.contact_id,
            channel: message.channel,
            to: message.address,
            state: ShownState::of(message.phase, message.drop_reason, said),
            phase_at: message.phase_at,
        }
    }
}
