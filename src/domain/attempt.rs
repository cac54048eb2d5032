//! An attempt: a committed permission to make one provider call, and what came of it.

use std::time::Duration;

use super::UnknownWord;
use super::message::{DropReason, Phase};
use super::status::Status;

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum AttemptState {
    /// Permission committed; the call may be happening.
    Open = 0,
    /// The provider has it.
    Accepted = 1,
    /// Its owner is finished with it and does not know.
    Doubt = 2,
    /// The provider certainly did not take it.
    Refused = 3,
    /// We certainly wrote no byte.
    Aborted = 4,
    /// Looked for, and not there.
    NotSent = 5,
    /// No verdict was reached; a person decides.
    Parked = 6,
}

impl AttemptState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::Accepted,
        Self::Doubt,
        Self::Refused,
        Self::Aborted,
        Self::NotSent,
        Self::Parked,
    ];

    /// The word shown in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Accepted => "accepted",
            Self::Doubt => "doubt",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::NotSent => "not_sent",
            Self::Parked => "parked",
        }
    }
}

impl From<AttemptState> for i16 {
    fn from(state: AttemptState) -> Self {
        state as Self
    }
}

impl TryFrom<i16> for AttemptState {
    type Error = UnknownWord;

    fn try_from(stored: i16) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|state| *state as i16 == stored)
            .ok_or_else(|| UnknownWord {
                kind: "AttemptState",
                word: stored.to_string(),
            })
    }
}

/// What became of one call. Whatever is unclear is [`CallOutcome::Doubt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// The provider has it.
    Taken {
        /// The provider's id of the message.
        provider_message_id: String,
        /// What it says of it now.
        status: Status,
    },
    /// It will never take it.
    Refused {
        /// The provider's error code.
        code: String,
    },
    /// It did not take it, and may later.
    Later {
        /// The provider's error code.
        code: String,
        /// How long it asked us to wait, or our own backoff.
        after: Duration,
    },
    /// No byte left us.
    Aborted {
        /// What kept us.
        reason: String,
    },
    /// The request went out and no clear answer came back.
    Doubt {
        /// What we saw instead.
        reason: String,
    },
}

/// What the answer of `begin` means for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Call now.
    Begun,
    /// A like call is live; the message was deferred.
    Busy,
    /// Paused, halted or stopped; the message is back in the backlog.
    Held,
    /// Its sending window is over; the caller defers it to the next one.
    WindowClosed,
    /// The recipient opted out; the caller drops it.
    OptedOut,
    /// It waited too long; the caller drops it.
    Expired,
    /// Its campaign was cancelled; the caller drops it.
    Cancelled,
    /// Somebody else has it, or it is done.
    Gone,
}

impl std::str::FromStr for Verdict {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Ok(match word {
            "begun" => Self::Begun,
            "busy" => Self::Busy,
            "held" => Self::Held,
            "window_closed" => Self::WindowClosed,
            "opted_out" => Self::OptedOut,
            "expired" => Self::Expired,
            "cancelled" => Self::Cancelled,
            "gone" => Self::Gone,
            _ => {
                return Err(UnknownWord {
                    kind: "Verdict",
                    word: word.into(),
                });
            }
        })
    }
}

/// Where an outcome takes a message and its attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The attempt's state.
    pub state: AttemptState,
    /// The message's phase.
    pub phase: Phase,
    /// Why it will not be sent, when it is dropped.
    pub drop_reason: Option<DropReason>,
    /// How long it waits, when it is deferred.
    pub wait: Option<Duration>,
    /// The error code to store.
    pub error_code: Option<String>,
}

/// Attempts that end in "later" before a message is given up.
pub const ATTEMPTS_MAX: i16 = 12;

/// Where `outcome` takes a message that is in `phase`; none when the message has moved on and only the attempt records
/// it.
///
/// A certain yes counts even for a parked message: the evidence came late.
pub fn settle(outcome: &CallOutcome, phase: Phase, attempt_no: i16) -> Option<Settlement> {
    let is_ours = match outcome {
        CallOutcome::Taken { .. } => {
            matches!(phase, Phase::Sending | Phase::InDoubt | Phase::Parked)
        }
        _ => matches!(phase, Phase::Sending | Phase::InDoubt),
    };
    is_ours.then(|| {
        let to = |state, phase| Settlement {
            state,
            phase,
            drop_reason: None,
            wait: None,
            error_code: outcome.error_code().map(Into::into),
        };
        match outcome {
            CallOutcome::Taken { .. } => to(AttemptState::Accepted, Phase::HandedOver),
            CallOutcome::Refused { .. } => Settlement {
                drop_reason: Some(DropReason::Refused),
                ..to(AttemptState::Refused, Phase::Dropped)
            },
            CallOutcome::Later { .. } if attempt_no >= ATTEMPTS_MAX => Settlement {
                drop_reason: Some(DropReason::Expired),
                ..to(AttemptState::Refused, Phase::Dropped)
            },
            CallOutcome::Later { after, .. } => Settlement {
                wait: Some(*after),
                ..to(AttemptState::Refused, Phase::Deferred)
            },
            CallOutcome::Aborted { .. } => to(AttemptState::Aborted, Phase::Queued),
            CallOutcome::Doubt { .. } => to(AttemptState::Doubt, Phase::InDoubt),
        }
    })
}

impl CallOutcome {
    /// The attempt's state that this outcome is stored as.
    pub fn state(&self) -> AttemptState {
        match self {
            Self::Taken { .. } => AttemptState::Accepted,
            Self::Refused { .. } | Self::Later { .. } => AttemptState::Refused,
            Self::Aborted { .. } => AttemptState::Aborted,
            Self::Doubt { .. } => AttemptState::Doubt,
        }
    }

    /// The provider's error code, or what we saw instead of an answer.
    pub fn error_code(&self) -> Option<&str> {
        match self {
            Self::Taken { .. } => None,
            Self::Refused { code } | Self::Later { code, .. } => Some(code),
            Self::Aborted { reason } | Self::Doubt { reason } => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::channel::Channel;

    fn taken() -> CallOutcome {
        let status = Status::parse(Channel::Sms, "queued").unwrap();
        CallOutcome::Taken {
            provider_message_id: "DM1".into(),
            status,
        }
    }

    fn later() -> CallOutcome {
        CallOutcome::Later {
            code: "20429".into(),
            after: Duration::from_secs(7),
        }
    }

    fn phase_after(outcome: &CallOutcome) -> Option<Phase> {
        settle(outcome, Phase::Sending, 1).map(|settlement| settlement.phase)
    }

    #[test]
    fn each_outcome_leads_to_its_phase() {
        let doubt = CallOutcome::Doubt {
            reason: "reset".into(),
        };
        let aborted = CallOutcome::Aborted {
            reason: "dns".into(),
        };
        let refused = CallOutcome::Refused {
            code: "21211".into(),
        };

        assert_eq!(phase_after(&taken()), Some(Phase::HandedOver));
        assert_eq!(phase_after(&refused), Some(Phase::Dropped));
        assert_eq!(phase_after(&later()), Some(Phase::Deferred));
        assert_eq!(phase_after(&aborted), Some(Phase::Queued));
        assert_eq!(phase_after(&doubt), Some(Phase::InDoubt));
    }

    #[test]
    fn only_a_certain_yes_moves_a_parked_message() {
        assert!(settle(&taken(), Phase::Parked, 1).is_some());
        assert!(settle(&later(), Phase::Parked, 1).is_none());
        assert!(settle(&taken(), Phase::Dropped, 1).is_none());
    }

    #[test]
    fn a_message_that_was_put_off_too_often_is_given_up() {
        let last = settle(&later(), Phase::Sending, ATTEMPTS_MAX).unwrap();
        assert_eq!(last.drop_reason, Some(DropReason::Expired));
    }
}
