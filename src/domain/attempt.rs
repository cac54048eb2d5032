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

/// What became of one call, as its owner or the resolver says. Whatever is unclear to the owner is
/// [`CallOutcome::Doubt`].
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
        /// How long it asked us to wait, where it did.
        asked: Option<Duration>,
        /// How long the message waits: as asked, else our own backoff; never beyond its time.
        after: Duration,
    },
    /// The account or the sender may not send; the message waits until it may.
    Halted {
        /// The provider's error code.
        code: String,
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
    /// It was looked for and is certainly not there.
    NotSent {
        /// What follows.
        then: Afterwards,
    },
    /// It was looked for, and nobody can say.
    Unresolved {
        /// For the people who decide.
        reason: String,
        /// What follows.
        then: Afterwards,
    },
}

/// What follows when an attempt ends without the provider having the message for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// The message is sent again.
    SendAgain,
    /// A person decides.
    Park,
}

impl Afterwards {
    fn phase(self) -> Phase {
        match self {
            Self::SendAgain => Phase::Queued,
            Self::Park => Phase::Parked,
        }
    }
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

/// From this attempt on, a message whose call was given back waits: the provider cannot be reached, or the machine is
/// too busy to call in time, and trying at once would keep it so.
const ABORTS_AT_ONCE: i16 = 3;
/// The longest of these waits.
const ABORT_WAIT_MAX: Duration = Duration::from_mins(5);

/// Half a second, doubled with each attempt.
fn abort_wait(attempt_no: i16) -> Duration {
    let doublings = u32::from((attempt_no - ABORTS_AT_ONCE).unsigned_abs()).min(16);
    (Duration::from_millis(500) * (1 << doublings)).min(ABORT_WAIT_MAX)
}

/// Where `outcome` of an attempt takes a message that is in `phase`; none when the message has moved on and only the
/// attempt records it. `is_newest` says whether the message has no later attempt.
///
/// A certain yes counts whatever became of the message meanwhile: the evidence came late. Everything else is for the
/// newest attempt to say, and only while nobody settled it.
pub fn settle(
    outcome: &CallOutcome,
    phase: Phase,
    is_newest: bool,
    attempt_no: i16,
) -> Option<Settlement> {
    let is_ours = match outcome {
        CallOutcome::Taken { .. } => phase != Phase::HandedOver,
        _ => is_newest && matches!(phase, Phase::Sending | Phase::InDoubt),
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
            // However often: who goes too fast has not failed. What ends it is the message's own time.
            CallOutcome::Later { after, .. } => Settlement {
                wait: Some(*after),
                ..to(AttemptState::Refused, Phase::Deferred)
            },
            CallOutcome::Aborted { .. } if attempt_no >= ABORTS_AT_ONCE => Settlement {
                wait: Some(abort_wait(attempt_no)),
                ..to(AttemptState::Aborted, Phase::Deferred)
            },
            CallOutcome::Halted { .. } => to(AttemptState::Refused, Phase::Queued),
            CallOutcome::Aborted { .. } => to(AttemptState::Aborted, Phase::Queued),
            CallOutcome::Doubt { .. } => to(AttemptState::Doubt, Phase::InDoubt),
            CallOutcome::NotSent { then } => to(AttemptState::NotSent, then.phase()),
            CallOutcome::Unresolved { then, .. } => to(AttemptState::Parked, then.phase()),
        }
    })
}

impl CallOutcome {
    /// The attempt's state that this outcome is stored as.
    pub fn state(&self) -> AttemptState {
        match self {
            Self::Taken { .. } => AttemptState::Accepted,
            Self::Refused { .. } | Self::Later { .. } | Self::Halted { .. } => {
                AttemptState::Refused
            }
            Self::Aborted { .. } => AttemptState::Aborted,
            Self::Doubt { .. } => AttemptState::Doubt,
            Self::NotSent { .. } => AttemptState::NotSent,
            Self::Unresolved { .. } => AttemptState::Parked,
        }
    }

    /// Whether it is certain that the provider took nothing: it said so, or nothing left us.
    pub fn is_surely_unsent(&self) -> bool {
        matches!(
            self.state(),
            AttemptState::Refused | AttemptState::Aborted | AttemptState::NotSent
        )
    }

    /// The provider's error code, or what we saw instead of an answer.
    pub fn error_code(&self) -> Option<&str> {
        match self {
            Self::Taken { .. } | Self::NotSent { .. } => None,
            Self::Refused { code } | Self::Later { code, .. } | Self::Halted { code } => Some(code),
            Self::Aborted { reason } | Self::Doubt { reason } | Self::Unresolved { reason, .. } => {
                Some(reason)
            }
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
            asked: None,
            after: Duration::from_secs(7),
        }
    }

    fn phase_after(outcome: &CallOutcome) -> Option<Phase> {
        settle(outcome, Phase::Sending, true, 1).map(|settlement| settlement.phase)
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
        let halted = CallOutcome::Halted {
            code: "20003".into(),
        };
        assert_eq!(phase_after(&halted), Some(Phase::Queued));
        assert_eq!(phase_after(&doubt), Some(Phase::InDoubt));
    }

    #[test]
    fn only_a_certain_yes_moves_a_message_that_somebody_settled() {
        for phase in [
            Phase::Parked,
            Phase::Queued,
            Phase::Released,
            Phase::Dropped,
        ] {
            let late = settle(&taken(), phase, true, 1).unwrap();
            assert_eq!(late.phase, Phase::HandedOver);
            assert!(settle(&later(), phase, true, 1).is_none());
        }
        // A second one changes nothing, and alarms.
        assert!(settle(&taken(), Phase::HandedOver, true, 2).is_none());
    }

    #[test]
    fn an_older_attempt_says_nothing_but_a_certain_yes() {
        assert!(settle(&later(), Phase::Sending, false, 1).is_none());
        assert!(settle(&taken(), Phase::Sending, false, 1).is_some());
    }

    #[test]
    fn a_verdict_sends_again_or_leaves_it_to_a_person() {
        let not_sent = |then| phase_after(&CallOutcome::NotSent { then });
        let unresolved = |then| {
            let reason = "silence".into();
            phase_after(&CallOutcome::Unresolved { reason, then })
        };
        assert_eq!(not_sent(Afterwards::SendAgain), Some(Phase::Queued));
        assert_eq!(not_sent(Afterwards::Park), Some(Phase::Parked));
        assert_eq!(unresolved(Afterwards::Park), Some(Phase::Parked));
        assert_eq!(unresolved(Afterwards::SendAgain), Some(Phase::Queued));
    }

    #[test]
    fn a_call_that_is_given_back_again_and_again_is_tried_less_and_less_often() {
        let aborted = CallOutcome::Aborted {
            reason: "dns".into(),
        };
        let wait = |attempt_no| {
            settle(&aborted, Phase::Sending, true, attempt_no)
                .unwrap()
                .wait
        };
        assert_eq!(wait(2), None);
        assert_eq!(wait(3), Some(Duration::from_millis(500)));
        assert_eq!(wait(5), Some(Duration::from_secs(2)));
        assert_eq!(wait(i16::MAX), Some(ABORT_WAIT_MAX));
    }

    #[test]
    fn a_message_that_is_put_off_waits_however_often() {
        for attempt_no in [1, 12, 13, i16::MAX] {
            let put_off = settle(&later(), Phase::Sending, true, attempt_no).unwrap();
            assert_eq!(put_off.phase, Phase::Deferred, "{attempt_no}");
            assert_eq!(put_off.wait, Some(Duration::from_secs(7)), "{attempt_no}");
        }
    }
}
