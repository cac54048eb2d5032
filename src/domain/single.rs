//! One message that somebody sends by itself: what it must bring, and what the law asks.
//!
//! A message that somebody waits for (`txn`) needs no consent; one of many (`bulk`) does. Whoever opted out gets neither.

use super::channel::{Channel, Class};
use super::content::ContentRefusal;
use super::segments::BodyRefusal;
use super::template::RenderRefusal;
use super::templates::TemplateArchived;

/// What a single message depends on besides its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleFacts {
    /// Whether the address opted out of the channel.
    pub is_suppressed: bool,
    /// Whether a contact with the address agreed to be written to on the channel, as the tenant's policy asks.
    pub has_consent: bool,
}

/// Why a single message is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SingleRefusal {
    /// Nothing to send it from.
    #[error("there is no active {channel} sender; add one, or name another")]
    NoSender {
        /// The channel it lacks.
        channel: Channel,
    },
    /// The contact cannot be reached so.
    #[error("the contact has no address for {channel}")]
    NoAddress {
        /// The channel.
        channel: Channel,
    },
    /// What was written is no address.
    #[error("the address cannot be used: {reason}")]
    BadAddress {
        /// Why not.
        reason: String,
    },
    /// Nobody may write to it.
    #[error("the address opted out of {channel}, or is suppressed for another reason")]
    Suppressed {
        /// The channel.
        channel: Channel,
    },
    /// Bulk needs consent.
    #[error("nobody with this address agreed to bulk messages by {channel}")]
    NoConsent {
        /// The channel.
        channel: Channel,
    },
    /// The template is for another channel.
    #[error("the template is written for {template}, not for {asked}")]
    OtherChannel {
        /// The template's.
        template: Channel,
        /// The message's.
        asked: Channel,
    },
    /// The template is for nothing new.
    #[error(transparent)]
    Archived(#[from] TemplateArchived),
    /// The text is no text of this channel.
    #[error(transparent)]
    Content(#[from] ContentRefusal),
    /// The text cannot be rendered for this person.
    #[error(transparent)]
    Render(#[from] RenderRefusal),
    /// The text is too long.
    #[error(transparent)]
    Body(#[from] BodyRefusal),
}

impl SingleFacts {
    /// Goes on only when the message may be sent.
    ///
    /// # Errors
    /// [`SingleRefusal::Suppressed`] whatever its class, [`SingleRefusal::NoConsent`] for bulk.
    pub fn allow(self, channel: Channel, class: Class) -> Result<(), SingleRefusal> {
        if self.is_suppressed {
            return Err(SingleRefusal::Suppressed { channel });
        }
        match class {
            Class::Bulk if !self.has_consent => Err(SingleRefusal::NoConsent { channel }),
            Class::Bulk | Class::Txn => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_needs_consent_and_nothing_goes_to_whoever_opted_out() {
        let channel = Channel::Sms;
        let no_consent = Err(SingleRefusal::NoConsent { channel });
        let suppressed = Err(SingleRefusal::Suppressed { channel });
        let cases = [
            (false, false, Class::Txn, Ok(())),
            (false, false, Class::Bulk, no_consent),
            (false, true, Class::Bulk, Ok(())),
            (true, true, Class::Bulk, suppressed.clone()),
            (true, true, Class::Txn, suppressed),
        ];
        for (is_suppressed, has_consent, class, wanted) in cases {
            let facts = SingleFacts {
                is_suppressed,
                has_consent,
            };
            assert_eq!(facts.allow(channel, class), wanted, "{facts:?} {class}");
        }
    }
}
