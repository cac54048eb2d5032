//! The seven words people are shown, for one message; `counts` has them for a whole campaign.

use super::channel::text_enum;
use super::message::{DropReason, Phase};
use super::status::{End, Status};

text_enum! {
    /// Where a message is, as people are told.
    ShownState {
        /// Its turn comes.
        Waiting = "waiting",
        /// It is being handed over, or the answer is being looked up.
        Sending = "sending",
        /// The provider has it; whether it arrives is open.
        Sent = "sent",
        /// It arrived, as far as the provider says.
        Delivered = "delivered",
        /// It will never arrive.
        Failed = "failed",
        /// It needs a decision.
        Parked = "parked",
        /// A rule of ours stopped it.
        Skipped = "skipped",
    }
}

impl ShownState {
    /// The word for a message in `phase`, of which the provider said `status`.
    pub fn of(phase: Phase, drop_reason: Option<DropReason>, status: Option<Status>) -> Self {
        match (phase, drop_reason) {
            (Phase::Deferred | Phase::Queued | Phase::Released, _) => Self::Waiting,
            (Phase::Sending | Phase::InDoubt, _) => Self::Sending,
            (Phase::Parked, _) => Self::Parked,
            (Phase::Dropped, None | Some(DropReason::Refused)) => Self::Failed,
            (Phase::Dropped, Some(_)) => Self::Skipped,
            (Phase::HandedOver, _) => match status.and_then(Status::end) {
                None => Self::Sent,
                Some(End::Delivered) => Self::Delivered,
                Some(End::Failed) => Self::Failed,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::channel::Channel;

    #[test]
    fn what_the_provider_says_counts_once_it_has_the_message() {
        let said = |word| Some(Status::parse(Channel::Sms, word).unwrap());
        let cases = [
            (Phase::Deferred, None, None, ShownState::Waiting),
            (Phase::Released, None, None, ShownState::Waiting),
            (Phase::InDoubt, None, None, ShownState::Sending),
            (Phase::HandedOver, None, None, ShownState::Sent),
            (Phase::HandedOver, None, said("sent"), ShownState::Sent),
            (
                Phase::HandedOver,
                None,
                said("delivered"),
                ShownState::Delivered,
            ),
            (Phase::HandedOver, None, said("read"), ShownState::Delivered),
            (
                Phase::HandedOver,
                None,
                said("undelivered"),
                ShownState::Failed,
            ),
            (
                Phase::Dropped,
                Some(DropReason::Refused),
                None,
                ShownState::Failed,
            ),
            (
                Phase::Dropped,
                Some(DropReason::OptedOut),
                None,
                ShownState::Skipped,
            ),
            (Phase::Parked, None, None, ShownState::Parked),
        ];
        for (phase, reason, status, shown) in cases {
            assert_eq!(ShownState::of(phase, reason, status), shown, "{phase:?}");
        }
    }
}
