//! What may be done with a campaign besides starting it: a table of steps, and what each makes of it.

use chrono::{DateTime, Utc};

use super::super::channel::Channel;
use super::super::ids::{SenderId, TemplateVersionId};
use super::{Audience, Campaign, CampaignStatus};

/// A step of a campaign that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Change what it says, to whom, from where.
    Edit,
    /// Let it start by itself at a time.
    Schedule,
    /// Make it a draft again.
    Unschedule,
    /// Stop for now.
    Pause,
    /// Go on.
    Resume,
    /// Stop for good.
    Cancel,
    /// Send some of it again.
    Reopen,
}

/// Why a campaign does not take a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}; this one is {status}", .switch.rule())]
pub struct SwitchRefusal {
    /// What was asked for.
    pub switch: Switch,
    /// Where the campaign is.
    pub status: CampaignStatus,
}

/// What to change of a draft; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct CampaignEdit {
    /// What people call it.
    pub name: Option<String>,
    /// What it says, and on which channel.
    pub content: Option<(TemplateVersionId, Channel)>,
    /// Whom it is written to.
    pub audience: Option<Audience>,
    /// Where its messages come from.
    pub sender_id: Option<SenderId>,
}

impl Switch {
    /// The statuses that it may be asked in.
    pub fn from(self) -> &'static [CampaignStatus] {
        use CampaignStatus::{Completed, Draft, Failed, Paused, Scheduled, Sending};
        match self {
            Self::Edit => &[Draft, Failed],
            Self::Schedule => &[Draft, Failed, Scheduled],
            Self::Unschedule => &[Scheduled],
            Self::Pause => &[Sending],
            Self::Resume => &[Paused],
            Self::Cancel => &[Draft, Failed, Scheduled, Sending, Paused],
            Self::Reopen => &[Sending, Paused, Completed],
        }
    }

    fn rule(self) -> &'static str {
        match self {
            Self::Edit => {
                "only a draft can be changed, or a campaign that failed to start; unschedule a scheduled one first"
            }
            Self::Schedule => "only a campaign that was not sent can be scheduled",
            Self::Unschedule => "only a scheduled campaign can be unscheduled",
            Self::Pause => "only a campaign that is sending can be paused",
            Self::Resume => "only a paused campaign can go on",
            Self::Cancel => "only a campaign that has not ended can be cancelled",
            Self::Reopen => {
                "nothing of a campaign that was not sent, or was cancelled, is sent again"
            }
        }
    }
}

impl Campaign {
    /// The draft with some of it changed. One that failed is a draft again.
    pub fn edit(self, edit: CampaignEdit) -> Result<Self, SwitchRefusal> {
        let draft = self.take(Switch::Edit)?;
        let (content_id, channel) = match edit.content {
            Some((version_id, channel)) => (Some(version_id), channel),
            None => (draft.content_id, draft.channel),
        };
        // A sender of another channel stays behind with the channel.
        let kept = draft.sender_id.filter(|_| channel == draft.channel);
        Ok(Self {
            status: CampaignStatus::Draft,
            name: edit.name.unwrap_or(draft.name),
            channel,
            content_id,
            audience: edit.audience.unwrap_or(draft.audience),
            sender_id: edit.sender_id.or(kept),
            send_at: None,
            finished_at: None,
            failure_reason: None,
            ..draft
        })
    }

    /// The campaign as it waits for its time, which [`super::SendAt`] has judged.
    pub fn schedule(self, at: DateTime<Utc>) -> Result<Self, SwitchRefusal> {
        Ok(Self {
            status: CampaignStatus::Scheduled,
            send_at: Some(at),
            finished_at: None,
            failure_reason: None,
            ..self.take(Switch::Schedule)?
        })
    }

    /// The campaign as a draft again.
    pub fn unschedule(self) -> Result<Self, SwitchRefusal> {
        Ok(Self {
            status: CampaignStatus::Draft,
            send_at: None,
            ..self.take(Switch::Unschedule)?
        })
    }

    /// Whether it is to start by itself now.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.status == CampaignStatus::Scheduled && self.send_at.is_some_and(|at| at <= now)
    }

    /// The campaign as it is after a start at its time that was refused.
    #[must_use]
    pub fn fail(self, reason: String, now: DateTime<Utc>) -> Self {
        Self {
            status: CampaignStatus::Failed,
            failure_reason: Some(reason),
            finished_at: Some(now),
            ..self
        }
    }

    /// The campaign as it is while nothing new may begin.
    pub fn pause(self, now: DateTime<Utc>) -> Result<Self, SwitchRefusal> {
        Ok(Self {
            status: CampaignStatus::Paused,
            paused_at: Some(now),
            ..self.take(Switch::Pause)?
        })
    }

    /// The campaign as it goes on.
    pub fn resume(self) -> Result<Self, SwitchRefusal> {
        Ok(Self {
            status: CampaignStatus::Sending,
            paused_at: None,
            ..self.take(Switch::Resume)?
        })
    }

    /// The campaign as it is once it is stopped for good.
    pub fn cancel(self, now: DateTime<Utc>) -> Result<Self, SwitchRefusal> {
        Ok(Self {
            status: CampaignStatus::Cancelled,
            finished_at: Some(now),
            paused_at: None,
            send_at: None,
            ..self.take(Switch::Cancel)?
        })
    }

    /// The campaign as it is while some of it is sent again: a paused one stays paused.
    pub fn reopen(self) -> Result<Self, SwitchRefusal> {
        let campaign = self.take(Switch::Reopen)?;
        if campaign.status != CampaignStatus::Completed {
            return Ok(campaign);
        }
        Ok(Self {
            status: CampaignStatus::Sending,
            finished_at: None,
            ..campaign
        })
    }

    fn take(self, switch: Switch) -> Result<Self, SwitchRefusal> {
        if switch.from().contains(&self.status) {
            Ok(self)
        } else {
            Err(SwitchRefusal {
                switch,
                status: self.status,
            })
        }
    }
}
