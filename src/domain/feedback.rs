//! What an error code says besides of its message: of the sender, its account and their rates, and whether the same message
//! is worth another try.

use std::time::Duration;

use super::rate::BucketKind;
use super::rate::learned::Signal;

/// What an error code says of what the message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// A sender must not send.
    Halt(Halting),
    /// A rate was too high.
    Slow {
        /// Whose rate: the sender's, with all others of its brand, or the account's.
        whose: BucketKind,
        /// What it says of it.
        signal: Signal,
    },
}

/// Why a sender must not send, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halting {
    /// Whether every sender of the tenant's account is meant, and not this one alone.
    pub is_account: bool,
    /// For how long; none until somebody lifts it.
    pub rest: Option<Duration>,
    /// For people: what happened, and what to do.
    pub reason: &'static str,
}

/// Whether a message that failed is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// This person cannot be reached so, or does not want to be.
    Never,
    /// When a person says so.
    ByHand,
    /// Once more by itself after this long, where the tenant allows it.
    After(Duration),
    /// The same on the carriers' next day.
    NextDay,
}

/// What one error code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// What it says of sender, account or rate.
    pub feedback: Option<Feedback>,
    /// Whether the message is worth another try.
    pub again: Again,
}

impl Meaning {
    /// A code that says something of this one message alone, and is not in any table.
    pub const UNKNOWN: Self = Self {
        feedback: None,
        again: Again::ByHand,
    };
}

/// Refusals of an account's credentials in a row after which all its senders rest.
pub const REFUSALS_MAX: i32 = 5;
