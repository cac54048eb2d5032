//! One call of one provider: the last checks before it, and what its answer means.

use std::time::Duration;

use rand::Rng;

use super::incarnation::Myself;
use crate::clock::Clock;
use crate::domain::attempt::CallOutcome;
use crate::domain::holds::Holds;
use crate::domain::ids::Incarnation;
use crate::providers::{Provider, SendError, SendReceipt, SendRequest};

/// The first delay after a refusal that may pass; it doubles with each attempt.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_mins(5);

/// Why a permission is given back unused. Checked right before the request: until then no byte has left us.
pub(super) fn reason_to_abort(
    asked_at: Duration,
    permitted_as: Incarnation,
    myself: &Myself,
    is_stopping: bool,
    holds: &Holds,
) -> Option<&'static str> {
    if is_stopping {
        return Some("the worker is stopping");
    }
    // Whoever lost its lock is gone to everybody else, and what it began may be judged; also when it is somebody new by now.
    if myself.current() != Some(permitted_as) {
        return Some("the worker lost its incarnation");
    }
    // A process that slept between commit and call must not call: somebody may have settled the attempt.
    if Clock::boottime().saturating_sub(asked_at) > holds.begin_to_call {
        return Some("too late after the permission");
    }
    None
}

/// Makes the call and says what came of it. Whatever is unclear is doubt.
pub(super) async fn make(
    provider: &dyn Provider,
    request: &SendRequest,
    attempt_no: i16,
    holds: &Holds,
) -> CallOutcome {
    match tokio::time::timeout(holds.call, provider.send(request)).await {
        Ok(answer) => classify(answer, attempt_no, request.validity),
        Err(_) => CallOutcome::Doubt {
            reason: "no answer in time".into(),
        },
    }
}

/// `left` is how long the message is worth sending: whatever the provider asks for, nobody waits longer, since at its end the
/// message is dropped as expired.
fn classify(
    answer: Result<SendReceipt, SendError>,
    attempt_no: i16,
    left: Duration,
) -> CallOutcome {
    match answer {
        Ok(receipt) => CallOutcome::Taken {
            provider_message_id: receipt.provider_message_id,
            status: receipt.status,
        },
        Err(SendError::Rejected { code }) => CallOutcome::Refused { code },
        Err(SendError::Throttled { code, retry_after }) => CallOutcome::Later {
            code,
            asked: retry_after,
            after: retry_after.unwrap_or_else(|| backoff(attempt_no)).min(left),
        },
        Err(SendError::Account { code }) => CallOutcome::Halted { code },
        Err(SendError::Unavailable { reason }) => CallOutcome::Aborted { reason },
        Err(SendError::Uncertain { reason }) => CallOutcome::Doubt { reason },
    }
}

/// Full jitter: anything up to the cap of this attempt.
fn backoff(attempt_no: i16) -> Duration {
    let doublings = u32::from(attempt_no.unsigned_abs())
        .saturating_sub(1)
        .min(16);
    let cap = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    rand::rng().random_range(Duration::ZERO..=cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::channel::Channel;
    use crate::domain::status::Status;

    #[test]
    fn every_answer_means_one_thing() {
        let receipt = SendReceipt {
            provider_message_id: "DM1".into(),
            status: Status::parse(Channel::Sms, "queued").unwrap(),
        };
        let hour = Some(Duration::from_hours(1));
        let left = Duration::from_hours(2);
        let outcome = |answer| classify(answer, 1, left);

        assert!(matches!(outcome(Ok(receipt)), CallOutcome::Taken { .. }));
        assert!(matches!(
            outcome(Err(SendError::Rejected {
                code: "21211".into()
            })),
            CallOutcome::Refused { .. }
        ));
        assert_eq!(
            outcome(Err(SendError::Throttled {
                code: "20429".into(),
                retry_after: hour
            })),
            CallOutcome::Later {
                code: "20429".into(),
                asked: hour,
                after: Duration::from_hours(1)
            }
        );
        let week = Some(Duration::from_hours(24 * 7));
        assert_eq!(
            outcome(Err(SendError::Throttled {
                code: "20429".into(),
                retry_after: week
            })),
            CallOutcome::Later {
                code: "20429".into(),
                asked: week,
                after: left
            }
        );
        assert!(matches!(
            outcome(Err(SendError::Account {
                code: "20003".into()
            })),
            CallOutcome::Halted { .. }
        ));
        assert!(matches!(
            outcome(Err(SendError::Unavailable {
                reason: "dns".into()
            })),
            CallOutcome::Aborted { .. }
        ));
        assert!(matches!(
            outcome(Err(SendError::Uncertain {
                reason: "reset".into()
            })),
            CallOutcome::Doubt { .. }
        ));
    }

    #[test]
    fn the_backoff_never_exceeds_its_cap() {
        for attempt_no in 1..40 {
            assert!(backoff(attempt_no) <= BACKOFF_MAX);
        }
        assert!(backoff(1) <= BACKOFF_MIN);
    }
}
