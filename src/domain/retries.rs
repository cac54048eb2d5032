//! Which failed messages are sent once more, and as what people are counted then.

use super::channel::text_enum;
use super::counts::{CountDelta, CountWord};
use super::feedback::Again;
use super::message::{DropReason, Phase};

/// Times one message is sent anew, at most: its step has twelve bits.
const STEPS_MAX: i16 = 4095;

/// Why a message was dropped that may be sent anew: the person can be reached, it was we who did not.
pub const RETRIED_DROPS: [DropReason; 3] =
    [DropReason::Refused, DropReason::Expired, DropReason::Window];

text_enum! {
    /// Why a failed message is not sent anew.
    LeftOut {
        /// The provider says that this person cannot be reached so.
        Permanent = "permanent",
        /// The person opted out meanwhile.
        Suppressed = "suppressed",
        /// Nobody has consent for this person any more.
        NoConsent = "no_consent",
        /// Its address or its text was erased.
        Erased = "erased",
    }
}

/// What decides over another try for one message that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Where it is with us.
    pub phase: Phase,
    /// Why it was dropped, when it was.
    pub drop_reason: Option<DropReason>,
    /// What its error code says of another try.
    pub again: Again,
    /// How often it was sent anew before.
    pub step: i16,
    /// Whether its address is suppressed.
    pub is_suppressed: bool,
    /// Whether there is consent, where it needs some.
    pub has_consent: bool,
    /// Whether address and text are still there.
    pub is_whole: bool,
}

impl Failure {
    /// Judges another try.
    ///
    /// # Errors
    /// [`LeftOut`] says why there is none.
    pub fn judge(&self) -> Result<(), LeftOut> {
        // Who waited too long was never refused: the code is of an earlier delay.
        let is_refusal = self
            .drop_reason
            .is_none_or(|reason| reason == DropReason::Refused);
        if is_refusal && self.again == Again::Never || self.step >= STEPS_MAX {
            return Err(LeftOut::Permanent);
        }
        if self.is_suppressed {
            return Err(LeftOut::Suppressed);
        }
        if !self.has_consent {
            return Err(LeftOut::NoConsent);
        }
        if !self.is_whole {
            return Err(LeftOut::Erased);
        }
        Ok(())
    }

    /// How the counts change when a new message takes its place: the person is counted by that one alone.
    pub fn replaced(&self) -> CountDelta {
        let mut delta = CountDelta::default();
        let place = CountWord::of(self.phase, self.drop_reason);
        delta.shift(place, CountWord::Queued, 1);
        if self.phase == Phase::HandedOver {
            // It was counted as failed among those handed over.
            delta.add(CountWord::Failed, -1);
        }
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            phase: Phase::HandedOver,
            drop_reason: None,
            again: Again::ByHand,
            step: 0,
            is_suppressed: false,
            has_consent: true,
            is_whole: true,
        }
    }

    #[test]
    fn what_may_reach_the_person_is_sent_anew_and_nothing_else() {
        let never = Failure {
            again: Again::Never,
            ..failure()
        };
        let cases = [
            (failure(), Ok(())),
            (never, Err(LeftOut::Permanent)),
            (
                Failure {
                    step: STEPS_MAX,
                    ..failure()
                },
                Err(LeftOut::Permanent),
            ),
            (
                Failure {
                    phase: Phase::Dropped,
                    drop_reason: Some(DropReason::Refused),
                    ..never
                },
                Err(LeftOut::Permanent),
            ),
            (
                Failure {
                    phase: Phase::Dropped,
                    drop_reason: Some(DropReason::Expired),
                    ..never
                },
                Ok(()),
            ),
            (
                Failure {
                    is_suppressed: true,
                    ..failure()
                },
                Err(LeftOut::Suppressed),
            ),
            (
                Failure {
                    has_consent: false,
                    ..failure()
                },
                Err(LeftOut::NoConsent),
            ),
            (
                Failure {
                    is_whole: false,
                    ..failure()
                },
                Err(LeftOut::Erased),
            ),
        ];
        for (failure, wanted) in cases {
            assert_eq!(failure.judge(), wanted, "{failure:?}");
        }
    }

    #[test]
    fn the_person_is_counted_by_the_new_message_alone() {
        let mut wanted = CountDelta::default();
        wanted
            .add(CountWord::HandedOver, -1)
            .add(CountWord::Failed, -1)
            .add(CountWord::Queued, 1);
        assert_eq!(failure().replaced(), wanted);
        let dropped = Failure {
            phase: Phase::Dropped,
            drop_reason: Some(DropReason::Expired),
            ..failure()
        };
        let mut wanted = CountDelta::default();
        wanted.shift(CountWord::DroppedExpired, CountWord::Queued, 1);
        assert_eq!(dropped.replaced(), wanted);
    }
}
