//! A campaign: one content for one audience, and what may be done with it when.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Class, text_enum};
use super::ids::{CampaignId, ImportId, ListId, SenderId, TemplateVersionId, TenantId};
use super::import::ImportStatus;

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
        /// Could not be started.
        Failed = "failed",
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

/// Lists of one audience, at most.
pub const AUDIENCE_LISTS_MAX: usize = 50;

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

/// Why a campaign is not paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only a campaign that is sending can be paused; this one is {status}")]
pub struct PauseRefusal {
    /// Where it is.
    pub status: CampaignStatus,
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
        if self.status != CampaignStatus::Draft {
            return Err(StartRefusal::AlreadySent {
                status: self.status,
            });
        }
        if self.content_id.is_none() {
            return Err(StartRefusal::NoContent);
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
            ..self
        })
    }

    /// The campaign as it is while nothing new may begin.
    pub fn pause(self, now: DateTime<Utc>) -> Result<Self, PauseRefusal> {
        if self.status != CampaignStatus::Sending {
            return Err(PauseRefusal {
                status: self.status,
            });
        }
        Ok(Self {
            status: CampaignStatus::Paused,
            paused_at: Some(now),
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn draft() -> Campaign {
        let ids = (TenantId(Uuid::from_u128(1)), CampaignId(Uuid::from_u128(2)));
        let content_id = Some(TemplateVersionId(Uuid::from_u128(3)));
        Campaign::draft(
            ids,
            "Spring sale",
            Channel::Sms,
            content_id,
            Audience::Everybody,
            now(),
        )
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_764_000_000_123_456).unwrap()
    }

    fn facts() -> StartFacts {
        StartFacts {
            sender_id: Some(SenderId(Uuid::from_u128(4))),
            unfinished_import: None,
            is_list_gone: false,
            has_recipients: true,
            unknown_variables: Vec::new(),
        }
    }

    #[test]
    fn a_started_campaign_knows_its_sender_and_a_whole_millisecond() {
        let started = draft().start(facts(), now()).unwrap();

        assert_eq!(started.status, CampaignStatus::Sending);
        assert_eq!(started.sender_id, facts().sender_id);
        assert_eq!(
            started.started_at.unwrap().timestamp_subsec_micros(),
            123_000
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let refusal = |campaign: Campaign, facts| campaign.start(facts, now()).unwrap_err();

        assert_eq!(
            refusal(
                Campaign {
                    content_id: None,
                    ..draft()
                },
                facts()
            ),
            StartRefusal::NoContent
        );
        assert_eq!(
            refusal(
                draft(),
                StartFacts {
                    sender_id: None,
                    ..facts()
                }
            ),
            StartRefusal::NoSender {
                channel: Channel::Sms
            }
        );
        assert_eq!(
            refusal(
                draft(),
                StartFacts {
                    has_recipients: false,
                    ..facts()
                }
            ),
            StartRefusal::EmptyAudience {
                channel: Channel::Sms
            }
        );
        let running = StartFacts {
            unfinished_import: Some(ImportStatus::Running),
            has_recipients: false,
            ..facts()
        };
        assert!(
            refusal(draft(), running)
                .to_string()
                .contains("import is running")
        );
        let gone = StartFacts {
            is_list_gone: true,
            ..facts()
        };
        assert_eq!(refusal(draft(), gone), StartRefusal::ListGone);
        let unknown = StartFacts {
            unknown_variables: vec!["tear".into()],
            ..facts()
        };
        assert!(refusal(draft(), unknown).to_string().contains("{{ tear }}"));
    }

    #[test]
    fn a_list_that_is_named_twice_is_one_list() {
        let id = |n| ListId(Uuid::from_u128(n));
        let audience = Audience::lists(vec![id(2), id(1), id(2)]);
        assert_eq!(audience.list_ids(), [id(1), id(2)]);
        let stored = serde_json::to_string(&audience).unwrap();
        assert!(stored.contains(r#""kind":"lists""#), "{stored}");
        assert_eq!(serde_json::from_str::<Audience>(&stored).unwrap(), audience);
    }

    #[test]
    fn only_a_draft_starts_and_only_a_sending_one_pauses() {
        let started = draft().start(facts(), now()).unwrap();
        assert!(draft().pause(now()).is_err());
        assert_eq!(
            started.clone().start(facts(), now()).unwrap_err(),
            StartRefusal::AlreadySent {
                status: CampaignStatus::Sending
            }
        );

        let paused = started.pause(now()).unwrap();
        assert_eq!(paused.status, CampaignStatus::Paused);
        assert!(paused.pause(now()).is_err());
    }
}
