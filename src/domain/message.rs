//! A message: where it is with us, and how its id is made.

use chrono::{DateTime, Utc};
use md5::{Digest, Md5};
use uuid::Uuid;

use super::UnknownWord;
use super::channel::text_enum;
use super::ids::{CampaignId, MessageId};

/// Where a message is with us. What the provider says of it is its [`status`](super::status).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Phase {
    /// Waits for an instant: a window, a retry, a like call.
    Deferred = -1,
    /// In the backlog.
    Queued = 0,
    /// Let out; a job looks at it.
    Released = 1,
    /// An attempt is open.
    Sending = 2,
    /// The call was made and its answer is not known.
    InDoubt = 3,
    /// The provider has it. Final.
    HandedOver = 4,
    /// Nobody knows, and a person decides.
    Parked = 5,
    /// It will not be sent. Final.
    Dropped = 6,
}

impl Phase {
    /// Every phase, in the order of a message's life.
    pub const ALL: [Self; 8] = [
        Self::Deferred,
        Self::Queued,
        Self::Released,
        Self::Sending,
        Self::InDoubt,
        Self::HandedOver,
        Self::Parked,
        Self::Dropped,
    ];

    /// Those in which a message waits: no call is being made.
    pub const WAITING: [Self; 3] = [Self::Deferred, Self::Queued, Self::Released];

    /// The word used in counts and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Queued => "queued",
            Self::Released => "released",
            Self::Sending => "sending",
            Self::InDoubt => "in_doubt",
            Self::HandedOver => "handed_over",
            Self::Parked => "parked",
            Self::Dropped => "dropped",
        }
    }
}

impl From<Phase> for i16 {
    fn from(phase: Phase) -> Self {
        phase as Self
    }
}

impl TryFrom<i16> for Phase {
    type Error = UnknownWord;

    fn try_from(stored: i16) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|phase| *phase as i16 == stored)
            .ok_or_else(|| UnknownWord {
                kind: "Phase",
                word: stored.to_string(),
            })
    }
}

text_enum! {
    /// Why a message will not be sent.
    DropReason {
        /// It waited past its `expires_at`.
        Expired = "expired",
        /// No sending window was left before it expired.
        Window = "window",
        /// The recipient opted out.
        OptedOut = "opted_out",
        /// Its campaign was cancelled.
        Cancelled = "cancelled",
        /// The provider will never take it.
        Refused = "refused",
    }
}

/// The id of one campaign message, the same however often it is computed.
///
/// 48 bits of the start in ms, version 7, 12 bits step, variant, 32 bits audience position, 30 bits of the
/// campaign; with the primary key it makes a repeated chunk of an expansion a no-op. The database has the same
/// function, `campaign_message_id`, and a test compares them.
pub fn campaign_message_id(
    started_at: DateTime<Utc>,
    campaign_id: CampaignId,
    step: u16,
    position: u32,
) -> MessageId {
    let millis = started_at.timestamp_millis() as u64 & 0xFFFF_FFFF_FFFF;
    let high = (millis << 16) | 0x7000 | u64::from(step & 0xFFF);
    let low = (1 << 63) | (u64::from(position) << 30) | campaign_bits(campaign_id);
    MessageId(Uuid::from_u64_pair(high, low))
}

/// The id of the message that takes the place of a failed one: the same with the next step, so that it cannot be made twice.
///
/// Of a single message, whose step is not in its id, these twelve bits are random; the next one is as good.
pub fn retry_id(id: MessageId) -> MessageId {
    let (high, low) = id.0.as_u64_pair();
    let step = (high + 1) & 0xFFF;
    MessageId(Uuid::from_u64_pair((high & !0xFFF) | step, low))
}

/// 30 bits that differ from campaign to campaign. The database takes them from an MD5 of the id's text, so this
/// does too; nothing depends on their being hard to guess.
fn campaign_bits(campaign_id: CampaignId) -> u64 {
    let digest: [u8; 16] = Md5::digest(campaign_id.to_string()).into();
    let [a, b, c, d, ..] = digest;
    u64::from(u32::from_be_bytes([a, b, c, d])) & 0x3FFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_campaign_message_is_a_version_7_uuid_that_sorts_by_position() {
        let started_at = DateTime::from_timestamp_millis(1_764_000_000_000).unwrap();
        let campaign = CampaignId(Uuid::from_u128(7));
        let id = |position| campaign_message_id(started_at, campaign, 0, position);

        assert_eq!(id(0).0.get_version_num(), 7);
        assert!(id(0) < id(1) && id(1) < id(u32::MAX));
        assert_eq!(id(41), id(41));
    }

    #[test]
    fn a_retry_has_the_id_of_the_next_step() {
        let started_at = DateTime::from_timestamp_millis(1_764_000_000_000).unwrap();
        let campaign = CampaignId(Uuid::from_u128(7));
        let id = |step| campaign_message_id(started_at, campaign, step, 41);
        assert_eq!(retry_id(id(0)), id(1));
        assert_eq!(retry_id(retry_id(id(0))), id(2));
        let single = MessageId(Uuid::from_u128(0x019a_0000_0000_7fff_8000_0000_0000_0001));
        assert_eq!(
            retry_id(single),
            MessageId(Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_0001))
        );
    }

    #[test]
    fn every_phase_survives_the_row() {
        for phase in Phase::ALL {
            assert_eq!(Phase::try_from(i16::from(phase)), Ok(phase));
        }
        assert!(Phase::try_from(9).is_err());
    }
}
