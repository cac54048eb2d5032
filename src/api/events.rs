//! The tenant's stream: what somebody watches of it, by topic, in one connection.

pub mod pump;
mod topics;

use chrono::{DateTime, Utc};
use poem_openapi::param::Query;
use poem_openapi::{Object, OpenApi, Union};

use self::pump::{LiveEvent, LiveStream, stream};
use self::topics::topics_of;
use super::Tag;
use super::imports::views::ImportView;
use super::messages::MessageView;
use super::problem::{ApiError, ApiResult};
use super::progress::CampaignProgress;
use super::state::ApiState;
use super::stats::StatsView;
use crate::domain::actor::Actor;
use crate::domain::channel::Channel;
use crate::domain::ids::CampaignId;
use crate::live::WatchError;
use crate::live::topic::{Content, RunningCampaign, Snapshot, Topic};

/// The operation that streams what a tenant watches.
#[derive(Debug)]
pub struct Events {
    state: ApiState,
}

/// What happened, as a whole: nothing needs the events before it. The name of the event is its `kind`, its id the
/// `version`.
#[derive(Debug, Clone, Union)]
#[oai(discriminator_name = "kind", one_of)]
enum TenantEvent {
    /// Of the topic `home`.
    #[oai(mapping = "home")]
    Home(HomeEvent),
    /// Of the topic `campaigns`.
    #[oai(mapping = "campaigns")]
    Campaigns(CampaignsEvent),
    /// Of a topic `campaign:<id>`.
    #[oai(mapping = "campaign")]
    Campaign(CampaignEvent),
    /// Of a topic `import:<id>`.
    #[oai(mapping = "import")]
    Import(ImportEvent),
    /// Of a topic `message:<id>`.
    #[oai(mapping = "message")]
    Message(MessageEvent),
}

/// The numbers of the home page.
#[derive(Debug, Clone, Object)]
struct HomeEvent {
    /// Show the event with the highest, the last of these that came.
    version: i64,
    /// As `get_stats` answers them.
    stats: StatsView,
}

/// The campaigns that run.
#[derive(Debug, Clone, Object)]
struct CampaignsEvent {
    /// Show the event with the highest, the last of these that came.
    version: i64,
    /// Those that send or are paused, the newest first; a campaign that is missing has ended. 100 at most.
    items: Vec<RunningCampaignView>,
}

/// A campaign that runs.
#[derive(Debug, Clone, Object)]
#[oai(rename = "RunningCampaign")]
struct RunningCampaignView {
    /// Its id.
    id: CampaignId,
    /// What people call it.
    name: String,
    /// How it reaches people.
    channel: Channel,
    /// How far it is.
    progress: CampaignProgress,
}

/// How far one campaign is.
#[derive(Debug, Clone, Object)]
struct CampaignEvent {
    /// Show the event with the highest, the last of these that came.
    version: i64,
    /// Which one.
    campaign_id: CampaignId,
    /// As `get_campaign_status` answers it.
    progress: CampaignProgress,
}

/// How far one import is.
#[derive(Debug, Clone, Object)]
struct ImportEvent {
    /// Show the event with the highest, the last of these that came.
    version: i64,
    /// As `get_import` answers it.
    import: ImportView,
}

/// Where one message is.
#[derive(Debug, Clone, Object)]
struct MessageEvent {
    /// Show the event with the highest, the last of these that came.
    version: i64,
    /// As `list_messages` answers it; its timeline is read again when it moves.
    message: MessageView,
}

#[OpenApi(tag = "Tag::Stats")]
impl Events {
    /// Follow what happens.
    ///
    /// A stream of events of the topics that are named: the present state of each at once, then each change of it.
    /// Campaigns, imports and messages by id move at most four times a second, the others once. A client that comes back
    /// has missed nothing. The stream ends after 15 minutes, and when a reader takes nothing for 30 seconds.
    #[oai(path = "/events", method = "get", operation_id = "stream_events")]
    async fn stream_events(
        &self,
        actor: Actor,
        /// What to watch, parted by commas, 20 at most: `home`, `campaigns` (those that run), `campaign:<id>`,
        /// `import:<id>`, `message:<id>`.
        #[oai(validator(min_length = 1, max_length = 2000))]
        topics: Query<String>,
    ) -> ApiResult<LiveStream<TenantEvent>> {
        let topics = topics_of(&topics.0, &actor)?;
        let watch = self.state.live.watch(&topics).await?;
        Ok(stream(&self.state, watch))
    }
}

impl Events {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Missing(topic) => Self::not_found(topic.kind().as_str()),
            WatchError::TooMany | WatchError::Unread(_) => Self::unavailable(5).with_source(error),
        }
    }
}

impl LiveEvent for TenantEvent {
    fn of(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Self> {
        let version = snapshot.version;
        Some(match &snapshot.content {
            Content::Home(numbers) => Self::Home(HomeEvent {
                version,
                stats: StatsView::new(Some(&numbers.hours), now),
            }),
            Content::Campaigns(running) => Self::Campaigns(CampaignsEvent {
                version,
                items: running.iter().filter_map(RunningCampaignView::of).collect(),
            }),
            Content::Campaign(counts) => Self::Campaign(CampaignEvent {
                version,
                campaign_id: counts.campaign_id,
                progress: CampaignProgress::try_from(counts).ok()?,
            }),
            Content::Import(import) => Self::Import(ImportEvent {
                version,
                import: ImportView::from((**import).clone()),
            }),
            Content::Message(message) => Self::Message(MessageEvent {
                version,
                message: MessageView::from(message.clone()),
            }),
            Content::Operations(_) => return None,
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Home(_) => "home",
            Self::Campaigns(_) => "campaigns",
            Self::Campaign(_) => "campaign",
            Self::Import(_) => "import",
            Self::Message(_) => "message",
        }
    }

    fn version(&self) -> i64 {
        match self {
            Self::Home(event) => event.version,
            Self::Campaigns(event) => event.version,
            Self::Campaign(event) => event.version,
            Self::Import(event) => event.version,
            Self::Message(event) => event.version,
        }
    }
}

impl RunningCampaignView {
    /// A status of a newer version beside this one is left out: the campaign's own page tells.
    fn of(campaign: &RunningCampaign) -> Option<Self> {
        Some(Self {
            id: campaign.head.id,
            name: campaign.head.name.clone(),
            channel: campaign.head.channel,
            progress: CampaignProgress::try_from(&campaign.counts).ok()?,
        })
    }
}
