//! A campaign: one content for one audience, and what may be done with it when.
//!
//! `draft → scheduled → sending ⇄ paused → completed | cancelled`; one whose scheduled start is refused has `failed`, and
//! may be mended and sent like a draft. The start is decided here, every other step in [`switches`].

mod send_at;
mod switches;

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Class, text_enum};
use super::ids::{CampaignId, ImportId, ListId, SenderId, TemplateVersionId, TenantId};
use super::import::ImportStatus;

pub use self::send_at::{SendAt, SendAtRefusal};
pub use self::switches::{CampaignEdit, Switch, SwitchRefusal};

text_enum! {
    /// Where a campaign is.
    CampaignStatus {
        /// Being written.
        Draft = "draft",
        /// Starts at a set time.
        Scheduled = "scheduled",
        /// Going out.
        Sending = "sending",
        /// Stopped for now; nothing new begins.
        Paused = "paused",
        /// Nothing waits, is being sent or in doubt.
        Completed = "completed",
        /// Stopped for good.
        Cancelled = "cancelled",
        /// Could not be started at its time.
        Failed = "failed",
    }
}

impl CampaignStatus {
    /// Whether nothing of it was ever sent, and a start may be tried.
    pub fn is_startable(self) -> bool {
        matches!(self, Self::Draft | Self::Scheduled | Self::Failed)
    }
}

/// Whom a campaign is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Audience {
    /// Every contact of the tenant.
    Everybody,
    /// Every contact that one upload named.
    Import {
        /// The upload.
        import_id: ImportId,
    },
    /// Every contact that stands on one of these lists; who stands on several is one person.
    Lists {
        /// The lists, each once.
        list_ids: Vec<ListId>,
    },
}

impl Audience {
    /// Everybody on these lists.
    pub fn lists(mut list_ids: Vec<ListId>) -> Self {
        list_ids.sort_unstable();
        list_ids.dedup();
        Self::Lists { list_ids }
    }

    /// The lists it names.
    pub fn list_ids(&self) -> &[ListId] {
        match self {
            Self::Everybody | Self::Import { .. } => &[],
            Self::Lists { list_ids } => list_ids,
        }
    }
}

/// A campaign as its row holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub id: CampaignId,
    /// What people call it.
    pub name: String,
    /// How it reaches people.
    pub channel: Channel,
    /// What kind of traffic it is.
    pub class: Class,
    /// Where it is.
    pub status: CampaignStatus,
    /// Where its messages come from; chosen at the start when absent.
    pub sender_id: Option<SenderId>,
    /// What it says.
    pub content_id: Option<TemplateVersionId>,
    /// Whom it is written to.
    pub audience: Audience,
    /// When it starts by itself, or did.
    pub send_at: Option<DateTime<Utc>>,
    /// A message that waited so long is dropped.
    pub expires_after: Duration,
    /// In whole milliseconds; part of every message's id, so it never changes once set.
    pub started_at: Option<DateTime<Utc>>,
    /// Since when it has been paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What a start depends on besides the campaign itself.
#[derive(Debug, Clone, Default)]
pub struct StartFacts {
    /// The sender to use: the campaign's own, else the channel's default.
    pub sender_id: Option<SenderId>,
    /// Whether the campaign names a sender that was retired.
    pub is_sender_retired: bool,
    /// The upload it is written to, while its rows are not all read: people would be missing.
    pub unfinished_import: Option<ImportStatus>,
    /// Whether a list it is written to was deleted since: people would be missing.
    pub is_list_gone: bool,
    /// Whether anybody in the audience has an address on the channel.
    pub has_recipients: bool,
    /// Variables without a fall-back that no contact of the tenant has.
    pub unknown_variables: Vec<String>,
}

/// Why a campaign does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartRefusal {
    /// It was sent before.
    #[error("the campaign is {status} already; create a new one to write to these people again")]
    AlreadySent {
        /// Where it is.
        status: CampaignStatus,
    },
    /// It says nothing.
    #[error("the campaign has no template; choose one first")]
    NoContent,
    /// Nothing to send it from.
    #[error("there is no active {channel} sender; add one first")]
    NoSender {
        /// The channel it lacks.
        channel: Channel,
    },
    /// What it was to be sent from is out of use.
    #[error("the campaign's sender was retired; choose another one")]
    SenderRetired,
    /// The people of the upload are not all there yet.
    #[error("the import is {status}; start it and send once it has completed")]
    ImportUnfinished {
        /// Where the import is.
        status: ImportStatus,
    },
    /// A list is not there any more.
    #[error("a list of the audience was deleted; choose the audience again")]
    ListGone,
    /// Nobody would get it.
    #[error("nobody in the audience has an address for {channel}; import contacts first")]
    EmptyAudience {
        /// The channel they lack an address for.
        channel: Channel,
    },
    /// The content names what no contact has.
    #[error("no contact of the audience has {}; mend the template or import the column", list(.names))]
    UnknownVariables {
        /// The variables, as written in the template.
        names: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("{{{{ {name} }}}}"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Campaign {
    /// How long a message may wait unless its campaign says otherwise.
    pub const EXPIRES_AFTER: Duration = Duration::from_hours(72);

    /// A draft of a bulk campaign; what it says and to whom may be chosen later.
    pub fn draft(
        (tenant_id, id): (TenantId, CampaignId),
        name: &str,
        channel: Channel,
        content_id: Option<TemplateVersionId>,
        audience: Audience,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            tenant_id,
            id,
            name: name.into(),
            channel,
            class: Class::Bulk,
            status: CampaignStatus::Draft,
            sender_id: None,
            content_id,
            audience,
            send_at: None,
            expires_after: Self::EXPIRES_AFTER,
            started_at: None,
            paused_at: None,
            finished_at: None,
            failure_reason: None,
            created_at: now,
        }
    }

    /// The campaign as it is once it has started.
    pub fn start(self, facts: StartFacts, now: DateTime<Utc>) -> Result<Self, StartRefusal> {
        if !self.status.is_startable() {
            return Err(StartRefusal::AlreadySent {
                status: self.status,
            });
        }
        if self.content_id.is_none() {
            return Err(StartRefusal::NoContent);
        }
        if facts.is_sender_retired {
            return Err(StartRefusal::SenderRetired);
        }
        let Some(sender_id) = facts.sender_id else {
            return Err(StartRefusal::NoSender {
                channel: self.channel,
            });
        };
        if let Some(status) = facts.unfinished_import {
            return Err(StartRefusal::ImportUnfinished { status });
        }
        if facts.is_list_gone {
            return Err(StartRefusal::ListGone);
        }
        if !facts.has_recipients {
            return Err(StartRefusal::EmptyAudience {
                channel: self.channel,
            });
        }
        if !facts.unknown_variables.is_empty() {
            return Err(StartRefusal::UnknownVariables {
                names: facts.unknown_variables,
            });
        }
        Ok(Self {
            status: CampaignStatus::Sending,
            sender_id: Some(sender_id),
            // The id of a message holds milliseconds; the row must not know more.
            started_at: Some(now.trunc_subsecs(3)),
            // Sent by hand before its time: that time means nothing any more.
            send_at: self.send_at.filter(|at| *at <= now),
            finished_at: None,
            failure_reason: None,
            ..self
        })
    }
}

#[cfg(test)]
mod tests;
