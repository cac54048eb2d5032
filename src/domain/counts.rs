//! How many people of a campaign are where, in the engine's words and in the seven that people are shown.
//!
//! Every person of the audience is counted in exactly one place: not yet turned into a message, in one phase, or
//! skipped. So [`Counts::is_balanced`] holds in every snapshot, because each transaction that moves messages appends
//! its [`CountDelta`] in the same commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::channel::{Channel, text_enum};
use super::ids::CampaignId;
use super::message::{DropReason, Phase};

text_enum! {
    /// One number of a campaign. The words are stored; never change one.
    CountWord {
        /// People the freeze of the audience chose, those left out included.
        Audience = "audience",

        /// In the frozen audience, not yet turned into a message.
        Unexpanded = "unexpanded",

        /// Phase: waits for a time.
        Deferred = "deferred",
        /// Phase: in the backlog.
        Queued = "queued",
        /// Phase: let out, a worker will take it at once.
        Released = "released",
        /// Phase: an attempt is open.
        Sending = "sending",
        /// Phase: an attempt without a known outcome.
        InDoubt = "in_doubt",
        /// Phase: the provider has it.
        HandedOver = "handed_over",
        /// Phase: somebody has to decide.
        Parked = "parked",
        /// Phase dropped: too late.
        DroppedExpired = "dropped_expired",
        /// Phase dropped: no sending window left.
        DroppedWindow = "dropped_window",
        /// Phase dropped: the person opted out meanwhile.
        DroppedOptedOut = "dropped_opted_out",
        /// Phase dropped: the campaign was cancelled.
        DroppedCancelled = "dropped_cancelled",
        /// Phase dropped: the provider will never take it.
        DroppedRefused = "dropped_refused",

        /// Left out: another contact has the same address.
        SkippedDuplicateAddress = "skipped_duplicate_address",
        /// Left out: no address on this channel.
        SkippedNoAddress = "skipped_no_address",
        /// Left out: never agreed.
        SkippedNoConsent = "skipped_no_consent",
        /// Left out: opted out before.
        SkippedSuppressed = "skipped_suppressed",
        /// Left out: the template needs a variable this person lacks.
        SkippedInvalid = "skipped_invalid",

        /// Of those handed over: the provider says it arrived; read ones included.
        Delivered = "delivered",
        /// Of those delivered: the person opened it, where the channel tells.
        Read = "read",
        /// Of those handed over: the provider says it will never arrive.
        Failed = "failed",
    }
}

/// Where a person of the audience is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Total,
    Waiting,
    Sending,
    HandedOver,
    Parked,
    Failed,
    Skipped,
    /// A part of what is counted elsewhere already.
    Part,
}

impl CountWord {
    /// The number that counts the messages of a phase; those dropped by their reason.
    pub fn of(phase: Phase, drop_reason: Option<DropReason>) -> Self {
        match phase {
            Phase::Deferred => Self::Deferred,
            Phase::Queued => Self::Queued,
            Phase::Released => Self::Released,
            Phase::Sending => Self::Sending,
            Phase::InDoubt => Self::InDoubt,
            Phase::HandedOver => Self::HandedOver,
            Phase::Parked => Self::Parked,
            Phase::Dropped => match drop_reason {
                Some(DropReason::Expired) => Self::DroppedExpired,
                Some(DropReason::Window) => Self::DroppedWindow,
                Some(DropReason::OptedOut) => Self::DroppedOptedOut,
                Some(DropReason::Cancelled) => Self::DroppedCancelled,
                Some(DropReason::Refused) | None => Self::DroppedRefused,
            },
        }
    }

    fn place(self) -> Place {
        match self {
            Self::Audience => Place::Total,
            Self::Unexpanded | Self::Deferred | Self::Queued | Self::Released => Place::Waiting,
            Self::Sending | Self::InDoubt => Place::Sending,
            Self::HandedOver => Place::HandedOver,
            Self::Parked => Place::Parked,
            Self::DroppedRefused => Place::Failed,
            // Dropped by a rule of ours: it was never due.
            Self::DroppedExpired
            | Self::DroppedWindow
            | Self::DroppedOptedOut
            | Self::DroppedCancelled
            | Self::SkippedDuplicateAddress
            | Self::SkippedNoAddress
            | Self::SkippedNoConsent
            | Self::SkippedSuppressed
            | Self::SkippedInvalid => Place::Skipped,
            Self::Delivered | Self::Read | Self::Failed => Place::Part,
        }
    }
}

/// Whose counts a message is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountedIn {
    /// Its campaign's.
    Campaign(CampaignId),
    /// Those of the tenant's single messages on a channel.
    Single(Channel),
}

impl CountedIn {
    /// Where a message counts.
    pub fn of(campaign_id: Option<CampaignId>, channel: Channel) -> Self {
        campaign_id.map_or(Self::Single(channel), Self::Campaign)
    }
}

/// What one transaction changes in the counts of one campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CountDelta {
    words: BTreeMap<CountWord, i64>,
}

impl CountDelta {
    /// `people` more in `word`; fewer when negative.
    pub fn add(&mut self, word: CountWord, people: i64) -> &mut Self {
        let sum = self.words.entry(word).or_default();
        *sum += people;
        if *sum == 0 {
            self.words.remove(&word);
        }
        self
    }

    /// `people` went from one place to another.
    pub fn shift(&mut self, from: CountWord, to: CountWord, people: i64) -> &mut Self {
        self.add(from, -people).add(to, people)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (word, people) in &other.words {
            self.add(*word, *people);
        }
    }

    /// Nothing changed: there is no row to write.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

/// The counts of one campaign in one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts {
    words: BTreeMap<CountWord, i64>,
}

impl Counts {
    /// Reads stored words. One that this version does not know was written by a newer one beside us and is left out.
    pub fn from_stored(stored: BTreeMap<String, i64>) -> Self {
        let words = stored
            .into_iter()
            .filter_map(|(word, people)| Some((word.parse().ok()?, people)))
            .collect();
        Self { words }
    }

    /// How many people are in `word`.
    pub fn get(&self, word: CountWord) -> i64 {
        self.words.get(&word).copied().unwrap_or(0)
    }

    /// Nobody waits, nothing is being sent or in doubt. Parked ones wait for a decision and keep nothing open.
    pub fn is_settled(&self) -> bool {
        self.sum(Place::Waiting) == 0 && self.sum(Place::Sending) == 0
    }

    /// Everybody of the audience is counted in exactly one place.
    pub fn is_balanced(&self) -> bool {
        let groups = self.groups();
        let placed = groups.delivered
            + groups.sent
            + groups.sending
            + groups.waiting
            + groups.parked
            + groups.failed
            + groups.skipped;
        placed == self.get(CountWord::Audience)
            && self.words.values().all(|people| *people >= 0)
            && groups.sent >= 0
    }

    /// The seven words of the interface; their sum is the audience.
    pub fn groups(&self) -> CountGroups {
        let delivered = self.get(CountWord::Delivered);
        let failed_later = self.get(CountWord::Failed);
        CountGroups {
            delivered,
            sent: self.sum(Place::HandedOver) - delivered - failed_later,
            sending: self.sum(Place::Sending),
            waiting: self.sum(Place::Waiting),
            parked: self.sum(Place::Parked),
            failed: self.sum(Place::Failed) + failed_later,
            skipped: self.sum(Place::Skipped),
        }
    }

    /// Why people were left out, by reason; reasons nobody was left out for are missing.
    pub fn skipped(&self) -> BTreeMap<&'static str, i64> {
        self.words
            .iter()
            .filter(|(word, people)| word.place() == Place::Skipped && **people != 0)
            .map(|(word, people)| (word.as_str(), *people))
            .collect()
    }

    fn sum(&self, place: Place) -> i64 {
        self.words
            .iter()
            .filter(|(word, _)| word.place() == place)
            .map(|(_, people)| people)
            .sum()
    }
}

/// The seven words that people are shown; in this order in bars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountGroups {
    /// Arrived, as far as the provider says.
    pub delivered: i64,
    /// With the provider, outcome open.
    pub sent: i64,
    /// A call is being made, or its outcome looked up.
    pub sending: i64,
    /// Will be sent.
    pub waiting: i64,
    /// Needs a decision.
    pub parked: i64,
    /// Will never arrive.
    pub failed: i64,
    /// Was never due: left out at the start, or dropped by a rule of ours.
    pub skipped: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, i64)]) -> Counts {
        Counts::from_stored(
            pairs
                .iter()
                .map(|(word, n)| ((*word).to_owned(), *n))
                .collect(),
        )
    }

    /// The stored words and the names that serde writes are the same, so that SQL and Rust may both write them.
    #[test]
    fn every_word_is_stored_as_it_is_read() {
        for word in CountWord::ALL {
            let stored = serde_json::to_value(word).unwrap();
            assert_eq!(stored, word.as_str());
            assert_eq!(word.as_str().parse(), Ok(*word));
        }
    }

    #[test]
    fn a_delta_forgets_what_comes_to_nothing() {
        let mut delta = CountDelta::default();
        delta.shift(CountWord::Queued, CountWord::Released, 5);
        delta.shift(CountWord::Released, CountWord::Queued, 5);
        assert!(delta.is_empty());
    }

    #[test]
    fn the_seven_words_sum_to_the_audience() {
        let counts = counts(&[
            ("audience", 121),
            ("unexpanded", 1),
            ("deferred", 2),
            ("queued", 3),
            ("released", 4),
            ("sending", 5),
            ("in_doubt", 6),
            ("handed_over", 50),
            ("delivered", 30),
            ("read", 10),
            ("failed", 7),
            ("parked", 8),
            ("dropped_refused", 9),
            ("dropped_expired", 10),
            ("dropped_opted_out", 11),
            ("skipped_duplicate_address", 12),
        ]);
        assert!(counts.is_balanced());
        let groups = counts.groups();
        assert_eq!(
            groups,
            CountGroups {
                delivered: 30,
                sent: 13,
                sending: 11,
                waiting: 10,
                parked: 8,
                failed: 16,
                skipped: 33,
            }
        );
        assert!(!counts.is_settled());
    }

    #[test]
    fn somebody_counted_nowhere_is_noticed() {
        assert!(!counts(&[("audience", 2), ("queued", 1)]).is_balanced());
        assert!(!counts(&[("audience", 0), ("queued", 1), ("released", -1)]).is_balanced());
    }

    #[test]
    fn parked_messages_keep_no_campaign_open() {
        assert!(counts(&[("audience", 2), ("parked", 1), ("handed_over", 1)]).is_settled());
    }
}
