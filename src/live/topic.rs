//! What can be watched, what is seen of it, and the statements that read everything of one kind at once.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::domain::ids::{CampaignId, ImportId, MessageKey, TenantId};
use crate::domain::import::Import;
use crate::jobs::queue::admin::{self, KindState, QueueCounts};
use crate::store::campaign_counts::{self, CountSnapshot};
use crate::store::incarnations::{self, OpenIncarnation};
use crate::store::message_hours::{self, HourSnapshot};
use crate::store::message_views::{self, MessageRow};
use crate::store::schedules::{self, ScheduleRow};
use crate::store::watched::RunningHead;
use crate::store::{Db, StoreError, StoreResult, SystemTx, imports, watched};

/// Running campaigns of one tenant at most; the newest.
const RUNNING_MAX: i64 = 100;

/// What can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The numbers of a tenant's home page.
    Home(TenantId),
    /// The campaigns of a tenant that run.
    Campaigns(TenantId),
    /// How far one campaign is.
    Campaign(TenantId, CampaignId),
    /// How far one import is.
    Import(TenantId, ImportId),
    /// Where one message is.
    Message(MessageKey),
    /// Queues, schedules and workers of the installation.
    Operations,
}

/// What topics of one kind have in common: a statement, and a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// See [`Topic::Home`].
    Home,
    /// See [`Topic::Campaigns`].
    Campaigns,
    /// See [`Topic::Campaign`].
    Campaign,
    /// See [`Topic::Import`].
    Import,
    /// See [`Topic::Message`].
    Message,
    /// See [`Topic::Operations`].
    Operations,
}

impl TopicKind {
    /// Every kind, in the order it is declared.
    pub const ALL: [Self; 6] = [
        Self::Home,
        Self::Campaigns,
        Self::Campaign,
        Self::Import,
        Self::Message,
        Self::Operations,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Campaigns => "campaigns",
            Self::Campaign => "campaign",
            Self::Import => "import",
            Self::Message => "message",
            Self::Operations => "operations",
        }
    }

    /// The time between two reads. One thing that somebody looks at moves before their eyes; what sums up many things
    /// costs more to read.
    pub(super) const fn period(self) -> Duration {
        match self {
            Self::Campaign | Self::Import | Self::Message => Duration::from_millis(250),
            Self::Home | Self::Campaigns | Self::Operations => Duration::from_secs(1),
        }
    }
}

impl Topic {
    /// What kind it is of.
    pub const fn kind(self) -> TopicKind {
        match self {
            Self::Home(_) => TopicKind::Home,
            Self::Campaigns(_) => TopicKind::Campaigns,
            Self::Campaign(..) => TopicKind::Campaign,
            Self::Import(..) => TopicKind::Import,
            Self::Message(_) => TopicKind::Message,
            Self::Operations => TopicKind::Operations,
        }
    }
}

/// One topic as it was when it was read: all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Of what.
    pub topic: Topic,
    /// Never lower than that of an earlier snapshot of the topic, whichever process read it. Campaigns and the home page
    /// count their changes; the others tell when they were read, in microseconds by the database's clock.
    pub version: i64,
    /// What was read.
    pub content: Content,
}

/// What is seen of a topic.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// See [`Topic::Home`].
    Home(HomeNumbers),
    /// See [`Topic::Campaigns`]; the newest first.
    Campaigns(Vec<RunningCampaign>),
    /// See [`Topic::Campaign`].
    Campaign(CountSnapshot),
    /// See [`Topic::Import`].
    Import(Box<Import>),
    /// See [`Topic::Message`].
    Message(MessageRow),
    /// See [`Topic::Operations`].
    Operations(Operations),
}

/// The numbers of a home page.
#[derive(Debug, Clone, PartialEq)]
pub struct HomeNumbers {
    /// What messages came to.
    pub hours: HourSnapshot,
    /// The hour they were read in: when it is over, the last 24 are others.
    pub this_hour: DateTime<Utc>,
}

/// A campaign that runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningCampaign {
    /// What people call it, and how it reaches them.
    pub head: RunningHead,
    /// How far it is.
    pub counts: CountSnapshot,
}

/// What operators look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Operations {
    /// By name.
    pub queues: Vec<QueueCounts>,
    /// By name.
    pub schedules: Vec<ScheduleRow>,
    /// How the jobs of the schedules fare.
    pub runs: Vec<KindState>,
    /// The newest first.
    pub workers: Vec<OpenIncarnation>,
}

/// Reads topics of one kind, of all tenants, at once. What is not there is missing in the answer.
pub(super) async fn read(db: &Db, kind: TopicKind, topics: &[Topic]) -> StoreResult<Vec<Snapshot>> {
    // All tenants at once: the one read for all watchers. Each watcher was let in by its own tenant before.
    let mut tx = db.system().begin().await?;
    match kind {
        TopicKind::Home => read_home(&mut tx, db, topics).await,
        TopicKind::Campaigns => read_campaigns(&mut tx, topics).await,
        TopicKind::Campaign => read_campaign(&mut tx, topics).await,
        TopicKind::Import => read_imports(&mut tx, topics).await,
        TopicKind::Message => read_messages(&mut tx, topics).await,
        TopicKind::Operations => read_operations(&mut tx).await,
    }
}

/// The keys of the topics that are of one kind.
fn keys<K>(topics: &[Topic], key: impl Fn(Topic) -> Option<K>) -> Vec<K> {
    topics.iter().copied().filter_map(key).collect()
}

async fn read_home(tx: &mut SystemTx, db: &Db, topics: &[Topic]) -> StoreResult<Vec<Snapshot>> {
    let tenant_ids = keys(topics, |topic| match topic {
        Topic::Home(tenant_id) => Some(tenant_id),
        _ => None,
    });
    let now = db.clock().now();
    let this_hour = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
    let mut found = message_hours::list_hours(tx.conn(), &tenant_ids, None).await?;
    Ok(tenant_ids
        .into_iter()
        .map(|tenant_id| {
            let place = found.iter().position(|hours| hours.tenant_id == tenant_id);
            let hours = match place {
                Some(place) => found.swap_remove(place),
                None => HourSnapshot::empty(tenant_id),
            };
            Snapshot {
                topic: Topic::Home(tenant_id),
                version: hours.version,
                content: Content::Home(HomeNumbers { hours, this_hour }),
            }
        })
        .collect())
}

async fn read_campaigns(tx: &mut SystemTx, topics: &[Topic]) -> StoreResult<Vec<Snapshot>> {
    let tenant_ids = keys(topics, |topic| match topic {
        Topic::Campaigns(tenant_id) => Some(tenant_id),
        _ => None,
    });
    let version = read_at(tx).await?;
    let heads = watched::list_running(tx.conn(), &tenant_ids, RUNNING_MAX).await?;
    let ids: Vec<_> = heads.iter().map(|head| (head.tenant_id, head.id)).collect();
    let mut counts = campaign_counts::list_snapshots(tx.conn(), &ids).await?;
    let mut running: Vec<RunningCampaign> = heads
        .into_iter()
        .filter_map(|head| {
            let is_of_it = |counts: &CountSnapshot| counts.campaign_id == head.id;
            let place = counts.iter().position(is_of_it)?;
            let counts = counts.swap_remove(place);
            Some(RunningCampaign { head, counts })
        })
        .collect();
    Ok(tenant_ids
        .into_iter()
        .map(|tenant_id| {
            let is_theirs = |campaign: &mut RunningCampaign| campaign.head.tenant_id == tenant_id;
            Snapshot {
                topic: Topic::Campaigns(tenant_id),
                version,
                content: Content::Campaigns(running.extract_if(.., is_theirs).collect()),
            }
        })
        .collect())
}

async fn read_campaign(tx: &mut SystemTx, topics: &[Topic]) -> StoreResult<Vec<Snapshot>> {
    let ids = keys(topics, |topic| match topic {
        Topic::Campaign(tenant_id, id) => Some((tenant_id, id)),
        _ => None,
    });
    let found = campaign_counts::list_snapshots(tx.conn(), &ids).await?;
    let snapshots = found.into_iter().map(|counts| Snapshot {
        topic: Topic::Campaign(counts.tenant_id, counts.campaign_id),
        version: counts.version,
        content: Content::Campaign(counts),
    });
    Ok(snapshots.collect())
}

async fn read_imports(tx: &mut SystemTx, topics: &[Topic]) -> StoreResult<Vec<Snapshot>> {
    let ids = keys(topics, |topic| match topic {
        Topic::Import(tenant_id, id) => Some((tenant_id, id)),
        _ => None,
    });
    let version = read_at(tx).await?;
    let found = imports::list_by_key(tx.conn(), &ids).await?;
    let snapshots = found.into_iter().map(|import| Snapshot {
        topic: Topic::Import(import.tenant_id, import.id),
        version,
        content: Content::Import(Box::new(import)),
    });
    Ok(snapshots.collect())
}

async fn read_messages(tx: &mut SystemTx, topics: &[Topic]) -> StoreResult<Vec<Snapshot>> {
    let ids = keys(topics, |topic| match topic {
        Topic::Message(key) => Some(key),
        _ => None,
    });
    let version = read_at(tx).await?;
    let found = message_views::list_by_key(tx.conn(), &ids).await?;
    let snapshots = found.into_iter().map(|message| Snapshot {
        topic: Topic::Message(MessageKey {
            tenant_id: message.tenant_id,
            id: message.id,
        }),
        version,
        content: Content::Message(message),
    });
    Ok(snapshots.collect())
}

async fn read_operations(tx: &mut SystemTx) -> StoreResult<Vec<Snapshot>> {
    let version = read_at(tx).await?;
    let queues = admin::list_queues(tx.conn())
        .await
        .map_err(StoreError::from)?;
    let schedules = schedules::list_schedules(tx).await?;
    let kinds: Vec<_> = schedules
        .iter()
        .map(|schedule| (schedule.queue.clone(), schedule.kind.clone()))
        .collect();
    let runs = admin::list_kind_states(tx.conn(), &kinds)
        .await
        .map_err(StoreError::from)?;
    let workers = incarnations::list_open(tx.conn()).await?;
    Ok(vec![Snapshot {
        topic: Topic::Operations,
        version,
        content: Content::Operations(Operations {
            queues,
            schedules,
            runs,
            workers,
        }),
    }])
}

/// Taken before what it is the version of: a later one never stands for an older content of the same process.
async fn read_at(tx: &mut SystemTx) -> StoreResult<i64> {
    Ok(watched::load_now(tx.conn()).await?.timestamp_micros())
}
