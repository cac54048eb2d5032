//! What a provider says of a message: its own words, merged by rank.
//!
//! Callbacks come twice, late and out of order. The merge is a maximum, so any order and any number of repeats give
//! the same row.

use super::UnknownWord;
use super::channel::Channel;

/// A provider's word for a message, with its place in the lattice.
///
/// Sources: Twilio's message status values
/// (<https://www.twilio.com/docs/messaging/api/message-resource#message-status-values>), SES event types
/// (<https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    word: &'static str,
    rank: i16,
    end: Option<End>,
}

/// How a message ended, in the provider's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// It reached the person.
    Delivered,
    /// It did not.
    Failed,
}

const fn going(word: &'static str, rank: i16) -> Status {
    Status {
        word,
        rank,
        end: None,
    }
}

const fn delivered(word: &'static str, rank: i16) -> Status {
    Status {
        word,
        rank,
        end: Some(End::Delivered),
    }
}

const fn failed(word: &'static str, rank: i16) -> Status {
    Status {
        word,
        rank,
        end: Some(End::Failed),
    }
}

/// Twilio's words, for SMS and WhatsApp.
const TEXT: &[Status] = &[
    Status::ACCEPTED,
    going("scheduled", 10),
    going("queued", 20),
    going("sending", 30),
    going("sent", 40),
    failed("failed", 50),
    failed("canceled", 50),
    failed("undelivered", 60),
    delivered("partially_delivered", 65),
    delivered("delivered", 70),
    delivered("read", 80),
];

/// SES's words. A permanent bounce stands above a delivery: late bounces are real.
const EMAIL: &[Status] = &[
    Status::ACCEPTED,
    going("Send", 20),
    going("DeliveryDelay", 30),
    failed("RenderingFailure", 50),
    failed("Reject", 50),
    failed("Bounce (Transient)", 60),
    delivered("Delivery", 70),
    failed("Bounce (Permanent)", 80),
];

impl Status {
    /// The first word on every channel: the provider has it.
    pub const ACCEPTED: Self = going("accepted", 10);

    /// The status a provider's word stands for on a channel.
    ///
    /// # Errors
    /// [`UnknownWord`] for a word that the provider's documents do not have.
    pub fn parse(channel: Channel, word: &str) -> Result<Self, UnknownWord> {
        let words = match channel {
            Channel::Sms | Channel::Whatsapp => TEXT,
            Channel::Email => EMAIL,
        };
        words
            .iter()
            .find(|status| status.word == word)
            .copied()
            .ok_or_else(|| UnknownWord {
                kind: "Status",
                word: word.into(),
            })
    }

    /// The words on a channel that say that a message did not reach the person.
    pub fn failed_words(channel: Channel) -> Vec<&'static str> {
        let words = match channel {
            Channel::Sms | Channel::Whatsapp => TEXT,
            Channel::Email => EMAIL,
        };
        let failed = words.iter().filter(|word| word.end == Some(End::Failed));
        failed.map(|status| status.word).collect()
    }

    /// The provider's word, as stored.
    pub const fn as_str(self) -> &'static str {
        self.word
    }

    /// Its place in the lattice, 10 to 80.
    pub const fn rank(self) -> i16 {
        self.rank
    }

    /// How the message ended, if this is an end.
    pub const fn end(self) -> Option<End> {
        self.end
    }

    /// What we believe of a message after a provider said `heard`.
    ///
    /// Callbacks arrive late, twice and out of order, so this only ever moves forward: a delivered message stays
    /// delivered when `sent` arrives afterwards. Of two words with one rank the alphabet decides, so that order does
    /// not.
    #[must_use]
    pub fn advance(self, heard: Self) -> Self {
        if (self.rank, self.word) < (heard.rank, heard.word) {
            heard
        } else {
            self
        }
    }

    /// Two ends of different kind on one message: a person should look.
    pub fn conflicts_with(self, heard: Self) -> bool {
        matches!((self.end, heard.end), (Some(a), Some(b)) if a != b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_order_and_any_repeats_give_the_same_status(
            mut heard in prop::collection::vec(0..TEXT.len(), 1..12),
            email in any::<bool>(),
        ) {
            let words = if email { EMAIL } else { TEXT };
            heard.retain(|at| *at < words.len());
            prop_assume!(!heard.is_empty());
            let merge = |order: &[usize]| {
                order.iter().map(|at| words[*at]).reduce(Status::advance).unwrap()
            };

            let forward = merge(&heard);
            let mut backward = heard.clone();
            backward.reverse();
            backward.extend(&heard);

            prop_assert_eq!(forward, merge(&backward));
        }
    }

    #[test]
    fn a_delivered_message_stays_delivered() {
        let parse = |word| Status::parse(Channel::Sms, word).unwrap();

        assert_eq!(
            parse("delivered").advance(parse("sent")),
            parse("delivered")
        );
        assert!(parse("undelivered").conflicts_with(parse("delivered")));
        assert!(!parse("sent").conflicts_with(parse("delivered")));
    }

    #[test]
    fn a_permanent_bounce_wins_over_a_delivery() {
        let parse = |word| Status::parse(Channel::Email, word).unwrap();

        assert_eq!(
            parse("Delivery").advance(parse("Bounce (Permanent)")).end(),
            Some(End::Failed)
        );
        assert!(Status::parse(Channel::Email, "delivered").is_err());
    }
}
