//! An attempt: a committed permission to make one provider call, and what came of it.

use std::time::Duration;

use super::UnknownWord;
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
