//! A campaign's numbers as people and programs get them, by request and by stream.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::Object;

use super::events::pump::LiveEvent;
use super::senders::HaltView;
use crate::domain::campaign::CampaignStatus;
use crate::domain::counts::{CountWord, Counts};
use crate::domain::rate::{BucketKind, LanePace};
use crate::live::topic::{Content, Snapshot};
use crate::store::campaign_counts::CountSnapshot;
use crate::store::{StoreError, StoreResult};

/// How far a campaign is: a whole snapshot, exact for the moment it was read.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct CampaignProgress {
    /// Where the campaign is.
    pub status: CampaignStatus,
    /// Grows with every change of the numbers; show the snapshot with the highest.
    pub version: i64,
    /// Everybody the audience named, those left out too. The seven numbers sum to it.
    pub audience: i64,
    /// Where these people are.
    pub counts: ProgressCounts,
    /// How many of the delivered ones are known to have been read.
    pub read: i64,
    /// How many of those being sent have a call without a clear answer, which is being looked up.
    pub checking: i64,
    /// Why people were skipped, and how many for each reason.
    pub skipped_by_reason: BTreeMap<String, i64>,
    /// How fast it may go, in segments a second (emails: messages); absent where nothing limits it.
    pub allowed_per_sec: Option<f64>,
    /// What limits it to that.
    pub limited_by: Option<BucketKind>,
    /// Why its sender must not send, so that nothing of it begins; absent when it may.
    pub halt: Option<HaltView>,
}

/// Where the people of an audience are; each is counted once.
#[derive(Debug, Clone, PartialEq, Object)]
pub struct ProgressCounts {
    /// It arrived, as far as the provider says.
    pub delivered: i64,
    /// The provider has it; whether it arrives is open.
    pub sent: i64,
    /// It is being handed over.
    pub sending: i64,
    /// Its turn comes.
    pub waiting: i64,
    /// It needs a decision.
    pub parked: i64,
    /// It will never arrive.
    pub failed: i64,
    /// It was never due: left out at the start, or stopped by a rule.
    pub skipped: i64,
}

impl CampaignProgress {
    /// Of a campaign that nobody is in yet.
    pub fn empty(status: CampaignStatus) -> Self {
        Self::new(status, 0, &Counts::default())
    }

    /// What a snapshot means, in the words people are shown.
    pub fn with_status(status: CampaignStatus, snapshot: &CountSnapshot) -> Self {
        let limit = snapshot.pace.as_ref().and_then(LanePace::limit);
        let is_open = matches!(status, CampaignStatus::Sending | CampaignStatus::Paused);
        Self {
            allowed_per_sec: limit.as_ref().map(|rule| rule.rate_per_sec),
            limited_by: limit.map(|rule| rule.kind),
            // What has ended waits for nothing.
            halt: snapshot
                .halt
                .clone()
                .filter(|_| is_open)
                .map(HaltView::from),
            ..Self::new(status, snapshot.version, &snapshot.counts)
        }
    }

    fn new(status: CampaignStatus, version: i64, counts: &Counts) -> Self {
        let groups = counts.groups();
        Self {
            status,
            version,
            audience: counts.get(CountWord::Audience),
            counts: ProgressCounts {
                delivered: groups.delivered,
                sent: groups.sent,
                sending: groups.sending,
                waiting: groups.waiting,
                parked: groups.parked,
                failed: groups.failed,
                skipped: groups.skipped,
            },
            read: counts.get(CountWord::Read),
            checking: counts.get(CountWord::InDoubt),
            skipped_by_reason: counts
                .skipped()
                .into_iter()
                .map(|(reason, people)| (reason.to_owned(), people))
                .collect(),
            allowed_per_sec: None,
            limited_by: None,
            halt: None,
        }
    }
}

impl LiveEvent for CampaignProgress {
    fn of(snapshot: &Snapshot, _: DateTime<Utc>) -> Option<Self> {
        match &snapshot.content {
            Content::Campaign(counts) => Self::try_from(counts).ok(),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        "campaign"
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl TryFrom<&CountSnapshot> for CampaignProgress {
    type Error = StoreError;

    fn try_from(snapshot: &CountSnapshot) -> StoreResult<Self> {
        Ok(Self::with_status(snapshot.status.parse()?, snapshot))
    }
}
