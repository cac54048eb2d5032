//! Attempts whose outcome nobody told: what one look at such an attempt may conclude.
//!
//! A yes counts at once. A no takes all of it: an owner that can call no more, two complete and empty answers of the
//! provider that both came after that, and enough time for a late request and for the provider's own list. Whatever is less
//! is looked at again, and at last left to a person.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::channel::text_enum;
use super::holds::Holds;

/// Clocks of provider and database may differ by this much: what was made for an attempt was made at most so long before it.
pub const SKEW_BEFORE: Duration = Duration::from_mins(5);
/// And at most so long after its deadline. No less than before it: the provider's clock may as well be ahead, and what a closed
/// socket had left to send is sent again by the kernel for minutes. No like call is made before there is a verdict.
pub const SKEW_AFTER: Duration = SKEW_BEFORE;

/// Whether the process that was permitted to call may still do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It said that it is finished, with this attempt or altogether.
    Finished,
    /// Its lock is free, and only its death can have freed it.
    Gone,
    /// Its lock is free, and a restart of the database may have freed it.
    GoneOrCutOff,
    /// It holds its lock, running or stopped.
    Alive,
}

text_enum! {
    /// What a tenant wants of a message that was certainly not sent.
    OnNotSent {
        /// It is sent again.
        Resend = "resend",
        /// A person decides.
        Park = "park",
    }
}

text_enum! {
    /// What a tenant wants of a message of which nobody knows.
    OnUnresolved {
        /// A person decides.
        Park = "park",
        /// It is sent again: a loss is worse than a double.
        Resend = "resend",
    }
}

text_enum! {
    /// What a person decides of a parked message.
    Decision {
        /// The provider has it.
        ItWasSent = "it_was_sent",
        /// It is sent again; the person may get it twice.
        SendAgain = "send_again",
        /// It is not sent.
        GiveUp = "give_up",
    }
}

/// One attempt in doubt, as it stands when it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Suspect {
    /// When its permission was given.
    pub started_at: DateTime<Utc>,
    /// When its owner had to be finished.
    pub deadline: DateTime<Utc>,
    /// When its request was signed, where a signature ends it.
    pub signed_at: Option<DateTime<Utc>>,
    /// The first empty look-up since its owner can call no more.
    pub first_empty_look_at: Option<DateTime<Utc>>,
    /// Whether its owner may still call.
    pub owner: Owner,
    /// Whether it is an email.
    pub is_email: bool,
}

/// What the provider showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// One message that can only be this attempt's.
    It,
    /// Several of which each could be. `live_calls` allows no two alike, so a person looks at this, whatever the tenant wants of
    /// what nobody knows.
    Several,
    /// All there is, and it is not among it.
    Nothing,
    /// Less than a proof: not all was shown, something like it was there, or nobody answered.
    Unsure,
    /// It cannot be asked and reports by itself; whether the path of its reports is proven alive by a younger attempt.
    Silence {
        /// Whether a report of a younger attempt has come.
        is_path_alive: bool,
    },
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// The provider has it.
    Sent,
    /// It never got it, and never will.
    NotSent,
    /// The provider has several of which each could be it: sent again, it would be one more.
    Ambiguous,
    /// Nobody knows.
    Unresolved {
        /// For the people who decide.
        reason: &'static str,
    },
    /// Not yet.
    LookAgain {
        /// When.
        at: DateTime<Utc>,
        /// The first of the empty look-ups that count so far.
        first_empty_look_at: Option<DateTime<Utc>>,
    },
}

impl Suspect {
    /// What a look at `now` that showed `seen` comes to.
    pub fn conclude(&self, seen: &Seen, now: DateTime<Utc>, holds: &Holds) -> Conclusion {
        let first_empty = self.first_empty_after(seen, now);
        match seen {
            Seen::It => return Conclusion::Sent,
            Seen::Several => return Conclusion::Ambiguous,
            Seen::Nothing if self.is_proven_by_look_ups(first_empty, now, holds) => {
                return Conclusion::NotSent;
            }
            Seen::Silence { is_path_alive }
                if self.is_proven_by_silence(*is_path_alive, now, holds) =>
            {
                return Conclusion::NotSent;
            }
            Seen::Nothing | Seen::Unsure | Seen::Silence { .. } => {}
        }
        if now >= self.started_at + self.patience(holds) {
            return Conclusion::Unresolved {
                reason: match self.owner {
                    Owner::Alive => "its worker is stopped and may still call",
                    _ => "the provider never showed whether it has it",
                },
            };
        }
        Conclusion::LookAgain {
            at: self.next_look(first_empty, now, holds),
            first_empty_look_at: first_empty,
        }
    }

    /// An empty look-up counts once the owner can call no more: what came before proves nothing.
    fn first_empty_after(&self, seen: &Seen, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match seen {
            _ if self.owner == Owner::Alive => None,
            Seen::Nothing => self.first_empty_look_at.or(Some(now)),
            _ => self.first_empty_look_at,
        }
    }

    fn is_proven_by_look_ups(
        &self,
        first_empty: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        holds: &Holds,
    ) -> bool {
        self.owner != Owner::Alive
            && first_empty.is_some_and(|first| now >= first + holds.look_apart)
            && now >= self.deadline + self.hold(holds)
    }

    /// No late request can succeed any more, and its report would have come.
    fn is_proven_by_silence(&self, is_path_alive: bool, now: DateTime<Utc>, holds: &Holds) -> bool {
        // Signed at the latest when the attempt had to be over.
        let signed_at = self.signed_at.unwrap_or(self.deadline);
        is_path_alive && now >= signed_at + holds.signature
    }

    fn hold(&self, holds: &Holds) -> std::time::Duration {
        match self.owner {
            Owner::GoneOrCutOff => holds.not_sent_after_restart,
            Owner::Finished | Owner::Gone | Owner::Alive => holds.not_sent,
        }
    }

    fn patience(&self, holds: &Holds) -> std::time::Duration {
        if self.is_email {
            holds.unresolved_email
        } else {
            holds.unresolved
        }
    }

    /// The next look of the ladder, or the one that completes a proof, whichever is first.
    fn next_look(
        &self,
        first_empty: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        holds: &Holds,
    ) -> DateTime<Utc> {
        let ladder = holds.looks.iter().map(|after| self.deadline + *after);
        let proof = first_empty
            .map(|first| (first + holds.look_apart).max(self.deadline + self.hold(holds)));
        // An owner that lives may die at any time, and only then the proof begins. A proof that is due lacks one answer, for
        // which the ladder's next step would be minutes late.
        let soon = (self.owner == Owner::Alive || proof.is_none_or(|at| at <= now))
            .then(|| now + holds.look_again);
        let last = self.started_at + self.patience(holds);
        ladder
            .chain(proof)
            .chain(soon)
            .chain([last])
            .filter(|at| *at > now)
            .min()
            .unwrap_or(now + TimeDelta::from_std(holds.look_again).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
