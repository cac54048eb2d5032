//! What the list of a provider account tells of a server that has forgotten calls: which message each of them was, and
//! whether calls may begin again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::doubt::{SKEW_AFTER, SKEW_BEFORE};
use super::holds::Holds;
use super::ids::MessageKey;
use super::status::Status;

/// A server that lacks more than this lacks more than calls: a backup that was restored. Living processes remember their
/// calls for as long.
pub const FORGOTTEN_MAX: Duration = Duration::from_mins(10);

/// From when on an account is listed for a server that was first met at `seen_at`.
pub fn listed_since(seen_at: DateTime<Utc>) -> DateTime<Utc> {
    seen_at - FORGOTTEN_MAX - SKEW_BEFORE
}

/// A message that a provider account has sent and that no attempt is known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What the provider calls it.
    pub provider_message_id: String,
    /// The sender's address.
    pub from: String,
    /// The person's address.
    pub to: String,
    /// The text.
    pub body: String,
    /// When the provider made it.
    pub created_at: DateTime<Utc>,
    /// What the provider says of it now.
    pub status: Status,
    /// Its error code, where it has one.
    pub error_code: Option<String>,
}

/// A message of ours that is not known to be with the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which message.
    pub key: MessageKey,
    /// Its newest attempt; 0 when none is known.
    pub attempt_no: i16,
    /// From when until when that attempt may have called, when nobody has told what came of it.
    pub live: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The sender's address; none where the provider chooses it.
    pub from: Option<String>,
    /// The person's address.
    pub to: String,
    /// The text as it is sent.
    pub body: String,
}

/// A listed message, and the message of ours that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which message.
    pub key: MessageKey,
    /// The attempt that it was.
    pub attempt_no: i16,
    /// Whether that attempt is known and open; it was forgotten otherwise.
    pub is_live: bool,
    /// What the provider has.
    pub listed: Listed,
}

/// What a list came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// What is ours.
    pub claims: Vec<Claim>,
    /// How many are none of ours.
    pub unknown: usize,
    /// How many went to a person for whom a message of the same sender waits, and say something else: perhaps ours,
    /// rewritten on the way.
    pub unsure: usize,
}

/// Finds the message of ours that each listed one is: the same person, the same words.
///
/// Of several that are alike each listed message takes one, so that as many are left to send as were not sent: first those
/// with an open attempt that fits its time, then the oldest.
pub fn match_listed(mut listed: Vec<Listed>, mut waiting: Vec<Waiting>) -> Matched {
    listed.sort_by_key(|one| one.created_at);
    waiting.sort_by_key(|one| (one.live.is_none(), one.live, one.key.id, one.key));
    let mut alike: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for (place, one) in waiting.iter().enumerate() {
        let words = (one.to.as_str(), one.body.as_str());
        alike.entry(words).or_default().push(place);
    }
    let mut claimed = HashSet::new();
    let mut matched = Matched::default();
    let mut others = Vec::new();
    for one in listed {
        let places = alike.get(&(one.to.as_str(), one.body.as_str()));
        let place = places.into_iter().flatten().copied().find(|place| {
            !claimed.contains(place) && waiting.get(*place).is_some_and(|it| it.may_be(&one))
        });
        let Some(it) = place.and_then(|place| waiting.get(place)) else {
            others.push(one);
            continue;
        };
        claimed.extend(place);
        matched.claims.push(Claim {
            key: it.key,
            attempt_no: it.attempt_no + i16::from(it.live.is_none()),
            is_live: it.live.is_some(),
            listed: one,
        });
    }
    let mut left: HashMap<&str, Vec<&Waiting>> = HashMap::new();
    for (place, one) in waiting.iter().enumerate() {
        if !claimed.contains(&place) {
            left.entry(&one.to).or_default().push(one);
        }
    }
    for one in &others {
        let mut for_them = left.get(one.to.as_str()).into_iter().flatten();
        if for_them.any(|waiting| waiting.is_from(&one.from)) {
            matched.unsure += 1;
        } else {
            matched.unknown += 1;
        }
    }
    matched
}

impl Waiting {
    /// Whether the call that made `listed` can have been for this message.
    fn may_be(&self, listed: &Listed) -> bool {
        let (from, until) = match self.live {
            Some((started_at, deadline)) => (started_at, deadline + SKEW_AFTER),
            None => (made_at(self.key), DateTime::<Utc>::MAX_UTC),
        };
        (from - SKEW_BEFORE..=until).contains(&listed.created_at)
    }

    /// Whether this is, or may be, the sender's address.
    fn is_from(&self, address: &str) -> bool {
        self.from.as_ref().is_none_or(|from| from == address)
    }
}

/// No message is older than its id says, to the millisecond.
fn made_at(key: MessageKey) -> DateTime<Utc> {
    let millis = key.id.0.as_u64_pair().0 >> 16;
    DateTime::from_timestamp_millis(millis as i64).unwrap_or(DateTime::UNIX_EPOCH)
}

/// How far the list of an account was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first whole list since which nothing of ours was found.
    pub first_at: Option<DateTime<Utc>>,
    /// The last whole list.
    pub listed_at: Option<DateTime<Utc>>,
    /// The last try.
    pub tried_at: Option<DateTime<Utc>>,
    /// How many in the last list are perhaps ours.
    pub unsure: usize,
    /// Why the last try showed no whole list.
    pub error: Option<String>,
}

impl Progress {
    /// After a list that was asked for at `at` and in which `found` were ours.
    #[must_use]
    pub fn after(self, at: DateTime<Utc>, found: usize, unsure: usize) -> Self {
        // What one list shows late, the next may show later: the wait begins anew.
        let first_at = self.first_at.filter(|_| found == 0).unwrap_or(at);
        Self {
            first_at: Some(first_at),
            listed_at: Some(at),
            tried_at: Some(at),
            unsure,
            error: None,
        }
    }

    /// After a try at `at` that showed no whole list. What was seen before stays seen.
    #[must_use]
    pub fn failed(self, at: DateTime<Utc>, error: String) -> Self {
        Self {
            tried_at: Some(at),
            error: Some(error),
            ..self
        }
    }

    /// Whether the account is to be listed at `now`.
    pub fn is_due(&self, now: DateTime<Utc>, holds: &Holds) -> bool {
        self.tried_at.is_none_or(|at| at + holds.look_apart <= now)
    }

    /// Whether two whole lists far enough apart showed nothing more of ours.
    fn is_complete(&self, holds: &Holds) -> bool {
        let apart = self.first_at.zip(self.listed_at);
        self.error.is_none() && apart.is_some_and(|(first, last)| first + holds.look_apart <= last)
    }
}

/// What is known of a server in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// When it was first met.
    pub seen_at: DateTime<Utc>,
    /// The last that it knows of the server before it.
    pub recovered_to: Option<DateTime<Utc>>,
    /// Whether a server of the same cluster was released before: then it was its standby, or its backup.
    pub is_of_known_cluster: bool,
}

/// Why a server stays in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// Living processes may still write down what they know.
    #[error("processes that live on are writing down what they called")]
    Journals,
    /// Another cluster.
    #[error("it is another cluster, not a standby of one that was released: an operator decides")]
    OtherCluster,
    /// Nothing says how old it is.
    #[error("nothing says how much it has forgotten: an operator decides")]
    UnknownAge,
    /// It lacks more than lists can tell.
    #[error(
        "it knows nothing of the {minutes} minutes before it was met, as a restored backup: an operator decides"
    )]
    OldCopy {
        /// How many minutes it lacks.
        minutes: i64,
    },
    /// An account shows no whole list.
    #[error("account {account_ref} cannot be listed: {reason}")]
    Unlisted {
        /// The provider account.
        account_ref: String,
        /// Why not.
        reason: String,
    },
    /// A message may be ours and may be not.
    #[error(
        "account {account_ref} has sent {messages} messages that may be ours, in other words: an operator decides"
    )]
    Unsure {
        /// The provider account.
        account_ref: String,
        /// How many.
        messages: usize,
    },
    /// A list may show more of what was sent.
    #[error("account {account_ref} is listed again in a moment")]
    Lists {
        /// The provider account.
        account_ref: String,
    },
}

impl Server {
    /// Whether living processes have had their time at `now`. Before, nobody else says what a call was: what a process
    /// remembers is exact.
    pub fn has_heard_journals(&self, now: DateTime<Utc>, holds: &Holds) -> bool {
        self.seen_at + holds.not_sent <= now
    }

    /// Why calls may not begin on it yet; none when everything that it has forgotten was found.
    pub fn why_held(
        &self,
        now: DateTime<Utc>,
        accounts: &[(String, Progress)],
        holds: &Holds,
    ) -> Option<Held> {
        if !self.is_of_known_cluster {
            return Some(Held::OtherCluster);
        }
        let Some(recovered_to) = self.recovered_to else {
            return Some(Held::UnknownAge);
        };
        let lacks = self.seen_at - recovered_to;
        if lacks > TimeDelta::from_std(FORGOTTEN_MAX).unwrap_or_default() {
            return Some(Held::OldCopy {
                minutes: lacks.num_minutes(),
            });
        }
        if !self.has_heard_journals(now, holds) {
            return Some(Held::Journals);
        }
        // What asks for a person comes before what time alone brings.
        let held = |wanted: fn(&Held) -> bool| {
            let mut reasons = accounts
                .iter()
                .filter_map(|(account, progress)| progress.why_held(account, holds).filter(wanted));
            reasons.next()
        };
        held(|reason| !matches!(reason, Held::Lists { .. })).or_else(|| held(|_| true))
    }
}

impl Progress {
    fn why_held(&self, account_ref: &str, holds: &Holds) -> Option<Held> {
        let account_ref = account_ref.to_owned();
        if let Some(reason) = self.error.clone() {
            return Some(Held::Unlisted {
                account_ref,
                reason,
            });
        }
        if self.unsure > 0 {
            let messages = self.unsure;
            return Some(Held::Unsure {
                account_ref,
                messages,
            });
        }
        (!self.is_complete(holds)).then_some(Held::Lists { account_ref })
    }
}

#[cfg(test)]
mod tests;
