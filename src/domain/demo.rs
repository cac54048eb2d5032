//! What becomes of a message that the demo provider is handed: decided by its id alone, so that it comes out the same
//! however often, and in whichever process, it is asked.

use std::time::Duration;

use super::channel::Channel;
use super::ids::MessageId;
use super::status::Status;

/// The fate of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The demo provider never takes it.
    Refused {
        /// An error code as the real provider would give.
        code: &'static str,
    },
    /// It takes it, and reports until an end.
    Taken {
        /// How it ends.
        end: Ending,
    },
}

/// How a message that was taken ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It arrives.
    Delivered,
    /// It does not.
    Undelivered,
}

/// Of a thousand messages, so many are refused …
const REFUSED_PER_MILLE: u64 = 10;
/// … and so many more are taken and do not arrive.
const UNDELIVERED_PER_MILLE: u64 = 30;

impl Fate {
    /// The fate of a message on a channel.
    pub fn of(message_id: MessageId, channel: Channel) -> Self {
        match scatter(message_id) % 1000 {
            share if share < REFUSED_PER_MILLE => Self::Refused {
                code: refusal_code(channel),
            },
            share if share < REFUSED_PER_MILLE + UNDELIVERED_PER_MILLE => Self::Taken {
                end: Ending::Undelivered,
            },
            _ => Self::Taken {
                end: Ending::Delivered,
            },
        }
    }
}

fn refusal_code(channel: Channel) -> &'static str {
    match channel {
        // "Invalid 'To' Phone Number", https://www.twilio.com/docs/api/errors/21211
        Channel::Sms | Channel::Whatsapp => "21211",
        Channel::Email => "MessageRejected",
    }
}

/// The demo provider's first word for a message it took.
pub const fn first_word(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms | Channel::Whatsapp => "queued",
        Channel::Email => "accepted",
    }
}

/// The word that follows `word`, and after how long it is said; none after the last.
pub fn next_word(
    message_id: MessageId,
    channel: Channel,
    word: &str,
) -> Option<(&'static str, Duration)> {
    let Fate::Taken { end } = Fate::of(message_id, channel) else {
        return None;
    };
    let (sent, delivered, undelivered) = match channel {
        Channel::Sms | Channel::Whatsapp => ("sent", "delivered", "undelivered"),
        Channel::Email => ("Send", "Delivery", "Bounce (Permanent)"),
    };
    let next = match (word, end) {
        (word, _) if word == first_word(channel) => sent,
        (word, Ending::Delivered) if word == sent => delivered,
        (word, Ending::Undelivered) if word == sent => undelivered,
        _ => return None,
    };
    // A second to send, up to a dozen to arrive: long enough to watch.
    let spread_ms = scatter(message_id) >> 20;
    let after_ms = if next == sent {
        500 + spread_ms % 1_500
    } else {
        1_000 + spread_ms % 11_000
    };
    Some((next, Duration::from_millis(after_ms)))
}

/// The error code that goes with a word.
pub fn error_code(channel: Channel, status: Status) -> Option<&'static str> {
    match (channel, status.as_str()) {
        // "Unreachable destination handset", https://www.twilio.com/docs/api/errors/30003
        (Channel::Sms | Channel::Whatsapp, "undelivered") => Some("30003"),
        (Channel::Email, "Bounce (Permanent)") => Some("Bounce"),
        _ => None,
    }
}

/// 64 bits that differ much between neighbouring ids. The finaliser of `SplitMix64`.
fn scatter(message_id: MessageId) -> u64 {
    let (high, low) = message_id.0.as_u64_pair();
    let mut x = high ^ low.rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::CampaignId;
    use crate::domain::message::campaign_message_id;

    fn ids() -> impl Iterator<Item = MessageId> {
        let started_at = DateTime::from_timestamp_millis(1_764_000_000_000).unwrap();
        (0..20_000)
            .map(move |p| campaign_message_id(started_at, CampaignId(Uuid::from_u128(5)), 0, p))
    }

    #[test]
    fn neighbours_in_an_audience_have_different_fates_in_the_stated_shares() {
        let refused =
            ids().filter(|id| matches!(Fate::of(*id, Channel::Sms), Fate::Refused { .. }));
        let refused = refused.count();
        assert!(
            (140..260).contains(&refused),
            "{refused} of 20000 refused, 200 expected"
        );
    }

    #[test]
    fn every_story_ends_with_an_end() {
        for channel in Channel::ALL.iter().copied() {
            for id in ids().take(500) {
                let mut word = first_word(channel);
                let mut steps = 0;
                while let Some((next, _)) = next_word(id, channel, word) {
                    assert!(Status::parse(channel, next).is_ok());
                    word = next;
                    steps += 1;
                }
                let is_taken = matches!(Fate::of(id, channel), Fate::Taken { .. });
                assert_eq!(steps, if is_taken { 2 } else { 0 });
            }
        }
    }
}
