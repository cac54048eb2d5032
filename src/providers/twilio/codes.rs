//! What Twilio's error codes mean besides for the one message: for its sender, its account, their rates, and for another try.
//!
//! Sources: the error pages of these numbers; 30004, 30410, 63024 and 63032 from general knowledge.

use std::time::Duration;

use crate::domain::channel::Channel;
use crate::domain::feedback::{Again, Feedback, Halting, Meaning};
use crate::domain::rate::BucketKind;
use crate::domain::rate::learned::Signal;

const fn mins(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// Codes that say that the message will never reach this person, or that it must not.
const NEVER: &[&str] = &[
    // Not a number, not a mobile, not reachable from this sender.
    "21211", "21612", "21614", "21635", // Opted out or blocked.
    "21610", "30004", "63014", // No such handset, a landline.
    "30005", "30006", // Pumping protection, a known litigator.
    "30450",
    "30640", // WhatsApp: no address, outside the window, bad content, not to this user.
    "63003", "63016", "63021", "63024", "63032", "63049", // What we asked was no message.
    "21602", "21603", "21604", "21617",
];

/// The person asked the carrier for no more.
const OPTED_OUT: &str = "21610";
/// The person blocked the sender in WhatsApp.
const BLOCKED: &str = "63014";

/// Too many requests at once.
pub(super) const TOO_MANY_REQUESTS: &str = "20429";
/// The sender's queue at the provider, which holds ten hours of messages, is full.
const QUEUE_FULL: &str = "21611";

/// Codes that condemn the account: its credentials, an account that is not active, one that is not there.
const OF_ACCOUNT: &[&str] = &["20003", "20005", "20404"];
/// Codes that condemn the sender and not the account's credentials: it is not ours, its service has no number, it is no
/// WhatsApp sender.
const OF_SENDER: &[&str] = &["21212", "21606", "21703", "21704", "63007"];

/// What a code means.
pub fn meaning(code: &str) -> Meaning {
    let only = |again| Meaning {
        feedback: None,
        again,
    };
    let halt = |rest, reason, again| Meaning {
        feedback: Some(Feedback::Halt(Halting {
            is_account: false,
            rest,
            reason,
        })),
        again,
    };
    let halt_account = |rest, reason, again| Meaning {
        feedback: Some(Feedback::Halt(Halting {
            is_account: true,
            rest,
            reason,
        })),
        again,
    };
    let slow = |whose, signal, again| Meaning {
        feedback: Some(Feedback::Slow { whose, signal }),
        again,
    };
    match code {
        TOO_MANY_REQUESTS | "63017" => slow(
            BucketKind::Account,
            Signal::Throttled,
            Again::After(mins(5)),
        ),
        QUEUE_FULL | "30001" => halt(
            Some(mins(10)),
            "the provider's queue of this sender is full; it goes on by itself once some of it has gone out",
            Again::After(mins(15)),
        ),
        "30002" => halt_account(
            None,
            "the provider suspended the account; settle it there, then lift the halt",
            Again::ByHand,
        ),
        "30003" => only(Again::After(mins(4 * 60))),
        "30008" => only(Again::After(mins(60))),
        "30022" => slow(
            BucketKind::Sender,
            Signal::RateExceeded,
            Again::After(mins(10)),
        ),
        "30023" => slow(BucketKind::Sender, Signal::CapReached, Again::NextDay),
        "30024" => halt(
            Some(mins(60)),
            "the carriers do not know this sender yet; if that lasts, look at its registration",
            Again::After(mins(4 * 60)),
        ),
        "30032" => halt(
            None,
            "the toll-free number is not verified; have it verified at the provider, then lift the halt",
            Again::ByHand,
        ),
        "30034" => halt(
            None,
            "the number is in no approved 10DLC campaign; register it, then lift the halt",
            Again::ByHand,
        ),
        "30036" => only(Again::After(mins(1))),
        "30410" | "30500" => only(Again::After(mins(30))),
        // Quiet hours: half a day later it is another time.
        "30610" => only(Again::After(mins(12 * 60))),
        "63007" => halt(
            None,
            "the number is no WhatsApp sender of this account; mend it there, then lift the halt",
            Again::ByHand,
        ),
        "63018" => slow(
            BucketKind::Sender,
            Signal::RateExceeded,
            Again::After(mins(24 * 60)),
        ),
        "63038" => halt_account(
            Some(mins(60)),
            "the account has sent as much as it may within 24 hours",
            Again::After(mins(24 * 60)),
        ),
        code if NEVER.contains(&code) => only(Again::Never),
        _ => Meaning::UNKNOWN,
    }
}

/// Whether a refusal condemns the account or the sender, and not the message.
pub(super) fn condemns(code: &str) -> bool {
    OF_ACCOUNT.contains(&code) || OF_SENDER.contains(&code)
}

/// Whether a refusal says that this was too fast, and that nothing was accepted.
pub(super) fn is_throttle(code: &str) -> bool {
    matches!(code, TOO_MANY_REQUESTS | QUEUE_FULL)
}

/// Whether a refusal says that the account itself is not let in, and not one of its senders alone.
pub fn refuses_account(code: &str) -> bool {
    !OF_SENDER.contains(&code)
}

/// Whether a failure on this channel says that the person wants nothing more on it, which counts for all messages to come.
pub fn is_opt_out(channel: Channel, code: &str) -> bool {
    match channel {
        Channel::Sms => code == OPTED_OUT,
        Channel::Whatsapp => code == OPTED_OUT || code == BLOCKED,
        Channel::Email => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_sheet_means_what_it_says_there() {
        let rest = |code| match meaning(code).feedback {
            Some(Feedback::Halt(halting)) => Some((halting.is_account, halting.rest)),
            _ => None,
        };
        let signal = |code| match meaning(code).feedback {
            Some(Feedback::Slow { whose, signal }) => Some((whose, signal)),
            _ => None,
        };
        for code in ["30001", "21611"] {
            assert_eq!(rest(code), Some((false, Some(mins(10)))), "{code}");
        }
        for code in ["30032", "30034", "63007"] {
            assert_eq!(rest(code), Some((false, None)), "{code}");
        }
        assert_eq!(rest("30002"), Some((true, None)));
        assert_eq!(
            signal("20429"),
            Some((BucketKind::Account, Signal::Throttled))
        );
        assert_eq!(
            signal("30022"),
            Some((BucketKind::Sender, Signal::RateExceeded))
        );
        assert_eq!(
            signal("30023"),
            Some((BucketKind::Sender, Signal::CapReached))
        );
        for code in NEVER {
            assert_eq!(
                meaning(code),
                Meaning {
                    feedback: None,
                    again: Again::Never
                },
                "{code}"
            );
        }
        assert_eq!(meaning("30003").again, Again::After(mins(240)));
        assert_eq!(meaning("30007"), Meaning::UNKNOWN);
        assert_eq!(meaning("99999"), Meaning::UNKNOWN);
    }

    #[test]
    fn an_opt_out_is_one_on_its_own_channel() {
        let on = |code| {
            Channel::ALL
                .iter()
                .copied()
                .filter(move |on| is_opt_out(*on, code))
        };
        assert!(on(OPTED_OUT).eq([Channel::Sms, Channel::Whatsapp]));
        assert!(on(BLOCKED).eq([Channel::Whatsapp]));
        for code in ["30003", "30004", "21211", ""] {
            assert_eq!(on(code).count(), 0, "{code}");
        }
        for code in [OPTED_OUT, BLOCKED] {
            assert_eq!(meaning(code).again, Again::Never, "{code}");
        }
    }

    #[test]
    fn a_sender_that_is_not_ours_says_nothing_of_the_account() {
        for code in ["20003", "20005", "20404", "no_credentials"] {
            assert!(refuses_account(code), "{code}");
        }
        for code in ["21212", "21606", "21703", "21704", "63007"] {
            assert!(!refuses_account(code), "{code}");
            assert!(condemns(code), "{code}");
        }
    }
}
