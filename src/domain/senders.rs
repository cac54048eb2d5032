//! Senders: which addresses can be one, how fast each kind may go, and what a retired one means.

use std::fmt;

use super::channel::{Channel, text_enum};
use super::email::{EmailAddress, EmailRefusal};

text_enum! {
    /// What kind of sender an address is; it decides how fast messages may leave it.
    SenderKind {
        /// An ordinary number of a country.
        LongCode = "long_code",
        /// A number that costs its callers nothing: +1 800 and its like.
        TollFree = "toll_free",
        /// Five or six digits.
        ShortCode = "short_code",
        /// A WhatsApp sender.
        Whatsapp = "whatsapp",
        /// An identity of a mail provider.
        Email = "email",
    }
}

text_enum! {
    /// Where a sender is, as people are told.
    SenderState {
        /// The provider is still setting it up.
        Provisioning = "provisioning",
        /// Messages may leave it.
        Active = "active",
        /// It must not send for now.
        Halted = "halted",
        /// It sends nothing any more, for good.
        Retired = "retired",
    }
}

/// Area codes of toll-free numbers under country code 1.
///
/// Source: NANPA, "Toll Free Numbers": 800, 833, 844, 855, 866, 877 and 888 are in use.
const TOLL_FREE: [&str; 7] = ["800", "833", "844", "855", "866", "877", "888"];
/// Digits of a short code.
const SHORT_CODE_DIGITS: std::ops::RangeInclusive<usize> = 5..=6;
/// What stands before the number of a WhatsApp sender.
const WHATSAPP: &str = "whatsapp:";
/// The slowest rate: one segment in a hundred seconds.
const RATE_MIN: f64 = 0.01;

impl SenderKind {
    /// The kind of a stored address.
    pub fn of(address: &str) -> Self {
        if address.starts_with(WHATSAPP) {
            return Self::Whatsapp;
        }
        if address.contains('@') {
            return Self::Email;
        }
        match address.strip_prefix("+1") {
            _ if !address.starts_with('+') => Self::ShortCode,
            Some(national) if TOLL_FREE.iter().any(|code| national.starts_with(code)) => {
                Self::TollFree
            }
            _ => Self::LongCode,
        }
    }

    /// Segments a second (emails: messages) that a real sender does unless its tenant states another rate; none where the
    /// account's rate alone counts.
    ///
    /// Sources: Twilio queues one segment a second for a long code outside 10DLC (error page 21611), 3 for toll-free, 100
    /// for a short code and 80 for a WhatsApp sender; second-hand, so they may be stated otherwise.
    pub fn default_per_sec(self) -> Option<f64> {
        match self {
            Self::LongCode => Some(1.0),
            Self::TollFree => Some(3.0),
            Self::ShortCode => Some(100.0),
            Self::Whatsapp => Some(80.0),
            Self::Email => None,
        }
    }

    /// The highest rate that may be stated for a sender of this kind.
    ///
    /// Sources: 225 a second is the most that carriers grant a 10DLC campaign, 25 a toll-free number, 400 a WhatsApp sender;
    /// a short code goes as fast as a whole account may (error 63017).
    pub fn ceiling_per_sec(self) -> f64 {
        match self {
            Self::LongCode => 225.0,
            Self::TollFree => 25.0,
            Self::ShortCode => 2_000.0,
            Self::Whatsapp => 400.0,
            Self::Email => 10_000.0,
        }
    }

    /// Judges a rate that a tenant states.
    ///
    /// # Errors
    /// [`RateRefusal`], with the bounds of this kind.
    pub fn check_rate(self, per_sec: f64) -> Result<(), RateRefusal> {
        if per_sec.is_nan() || per_sec < RATE_MIN {
            return Err(RateRefusal::NoRate);
        }
        let ceiling = self.ceiling_per_sec();
        if per_sec > ceiling {
            return Err(RateRefusal::AboveCeiling {
                kind: self,
                ceiling,
            });
        }
        Ok(())
    }

    fn noun(self) -> &'static str {
        match self {
            Self::LongCode => "a long code",
            Self::TollFree => "a toll-free number",
            Self::ShortCode => "a short code",
            Self::Whatsapp => "a WhatsApp sender",
            Self::Email => "an email sender",
        }
    }
}

/// Why a rate is refused.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum RateRefusal {
    /// Zero, negative, or no number that is a rate.
    #[error(
        "a rate is {RATE_MIN} segments a second or more; retire the sender, or pause its campaigns, to stop it"
    )]
    NoRate,
    /// More than any sender of this kind does.
    #[error("{} does at most {ceiling} segments a second; choose at most that", .kind.noun())]
    AboveCeiling {
        /// Which kind it is.
        kind: SenderKind,
        /// Its ceiling.
        ceiling: f64,
    },
}

/// An address that messages of a channel can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderAddress(String);

impl SenderAddress {
    /// Reads an address as somebody wrote it: E.164 or a short code for text messages, E.164 for WhatsApp, an email address
    /// for email. No country is guessed: a sender is rented under its whole number.
    ///
    /// # Errors
    /// [`AddressRefusal`] says what would be right.
    pub fn read(channel: Channel, written: &str) -> Result<Self, AddressRefusal> {
        let written = written.trim();
        match channel {
            Channel::Sms if is_e164(written) || is_short_code(written) => Ok(Self(written.into())),
            Channel::Sms => Err(AddressRefusal::NotE164),
            Channel::Whatsapp => {
                let number = written.strip_prefix(WHATSAPP).unwrap_or(written);
                if is_e164(number) {
                    Ok(Self(format!("{WHATSAPP}{number}")))
                } else {
                    Err(AddressRefusal::NotWhatsapp)
                }
            }
            // As it is compared: two senders that differ in case only are one.
            Channel::Email => Ok(Self(EmailAddress::read(written)?.normalized().to_owned())),
        }
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of sender it is.
    pub fn kind(&self) -> SenderKind {
        SenderKind::of(&self.0)
    }
}

impl fmt::Display for SenderAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why messages cannot come from an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    /// No number in E.164 and no short code.
    #[error(
        "a sender of text messages is a whole number with its country code, as +12025550123, or a short code of 5 or 6 digits"
    )]
    NotE164,
    /// No number in E.164.
    #[error("a WhatsApp sender is a whole number with its country code, as +12025550123")]
    NotWhatsapp,
    /// No email address.
    #[error(transparent)]
    Email(#[from] EmailRefusal),
}

/// The sender was retired, and something needs one that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sender was retired and sends nothing any more; choose another one")]
pub struct SenderRetired;

/// Source: ITU-T E.164: at most 15 digits, of which the first is not 0.
fn is_e164(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

fn is_short_code(text: &str) -> bool {
    SHORT_CODE_DIGITS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether this can name a pool of senders at the provider.
///
/// Source: Twilio's OpenAPI document `messaging_v1`: `^MG[0-9a-fA-F]{32}$`.
pub fn is_messaging_service(sid: &str) -> bool {
    sid.strip_prefix("MG").is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_its_channel_has_it() {
        let read = |channel, written: &str| {
            SenderAddress::read(channel, written)
                .map(|address| (address.to_string(), address.kind()))
        };
        let fine = |text: &str, kind| Ok((text.to_owned(), kind));
        let cases = [
            (
                Channel::Sms,
                "+12025550123",
                fine("+12025550123", SenderKind::LongCode),
            ),
            (
                Channel::Sms,
                " +18335550123 ",
                fine("+18335550123", SenderKind::TollFree),
            ),
            (
                Channel::Sms,
                "+4915112345678",
                fine("+4915112345678", SenderKind::LongCode),
            ),
            (Channel::Sms, "26246", fine("26246", SenderKind::ShortCode)),
            (
                Channel::Whatsapp,
                "+12025550123",
                fine("whatsapp:+12025550123", SenderKind::Whatsapp),
            ),
            (
                Channel::Whatsapp,
                "whatsapp:+12025550123",
                fine("whatsapp:+12025550123", SenderKind::Whatsapp),
            ),
            (
                Channel::Email,
                "Hello@Cafe.example",
                fine("hello@cafe.example", SenderKind::Email),
            ),
        ];
        for (channel, written, wanted) in cases {
            assert_eq!(read(channel, written), wanted, "{written}");
        }
        for written in [
            "",
            "2025550123",
            "202-555-0123",
            "+0202555012",
            "+1202555",
            "1234",
            "+1 202 555 0123",
            "Cafe",
            "+1202555012345678",
        ] {
            let expected = if written == "+1202555" {
                Ok(SenderKind::LongCode)
            } else {
                Err(AddressRefusal::NotE164)
            };
            assert_eq!(
                read(Channel::Sms, written).map(|(_, kind)| kind),
                expected,
                "{written}"
            );
        }
        assert_eq!(
            read(Channel::Whatsapp, "26246"),
            Err(AddressRefusal::NotWhatsapp)
        );
        assert!(read(Channel::Email, "cafe.example").is_err());
    }

    #[test]
    fn a_rate_is_a_number_that_a_sender_of_the_kind_can_do() {
        for wrong in [0.0, -1.0, 0.009, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(
                SenderKind::LongCode.check_rate(wrong),
                Err(RateRefusal::NoRate),
                "{wrong}"
            );
        }
        for kind in SenderKind::ALL {
            let ceiling = kind.ceiling_per_sec();
            assert_eq!(kind.check_rate(ceiling), Ok(()));
            assert!(kind.check_rate(ceiling + 0.5).is_err(), "{kind}");
            assert!(kind.check_rate(f64::INFINITY).is_err(), "{kind}");
            assert!(
                kind.default_per_sec().is_none_or(|rate| rate <= ceiling),
                "{kind}"
            );
        }
        let refusal = SenderKind::TollFree.check_rate(26.0).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a toll-free number does at most 25 segments a second; choose at most that"
        );
    }

    #[test]
    fn a_messaging_service_is_known_by_its_form() {
        assert!(is_messaging_service("MG0123456789abcdef0123456789ABCDEF"));
        for wrong in ["", "MG", "SM0123456789abcdef0123456789abcdef", "MG0123"] {
            assert!(!is_messaging_service(wrong), "{wrong}");
        }
    }
}
