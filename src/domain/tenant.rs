//! A tenant: a customer of the installation.

use std::fmt;

use super::channel::text_enum;

text_enum! {
    /// Whether a tenant may do anything.
    TenantStatus {
        /// It may.
        Active = "active",
        /// An operator stopped it: nothing of it begins, nobody of it gets in.
        Suspended = "suspended",
        /// It goes to another cell.
        Moving = "moving",
        /// It is over.
        Closed = "closed",
    }
}

text_enum! {
    /// Why the rows of a demo tenant are deleted.
    Clearing {
        /// It begins anew.
        Reset = "reset",
        /// It goes for good.
        Remove = "remove",
    }
}

text_enum! {
    /// What bulk messages need besides a contact.
    ConsentPolicy {
        /// Consent of each person for the channel.
        Required = "required",
        /// The tenant vouches for the people it imports.
        Attested = "attested",
    }
}

/// Whether a word may stand for a tenant in addresses: small letters, digits and hyphens, at most 63, no hyphen first.
pub fn is_slug(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && !text.starts_with('-') && text.chars().all(is_word)
}

/// The hours in which bulk messages leave, in the recipient's time: within the law's, or narrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendingWindow {
    start_minute: u16,
    end_minute: u16,
}

/// Why hours are no sending window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowRefusal {
    /// Not a time of day.
    #[error("a time of day is like 09:30")]
    NotATime,
    /// The law's hours are narrower.
    #[error("the law allows {LAW}; a tenant may narrow that and never widen it")]
    OutsideTheLaw,
    /// Nothing would leave.
    #[error("the window must be open for an hour at least, and end after it starts")]
    TooShort,
}

/// Calls and texts for sales leave at no other hours.
///
/// Source: 47 CFR § 64.1200(c)(1): before 8 a.m. or after 9 p.m. at the called party's location.
pub const LAW: SendingWindow = SendingWindow {
    start_minute: 8 * 60,
    end_minute: 21 * 60,
};

/// A shorter window would let a campaign wait for days.
const MINUTES_MIN: u16 = 60;

impl SendingWindow {
    /// Reads two times of day.
    ///
    /// # Errors
    /// [`WindowRefusal`] when they are none, or outside the law's hours.
    pub fn read(start: &str, end: &str) -> Result<Self, WindowRefusal> {
        let window = Self {
            start_minute: minute_of_day(start)?,
            end_minute: minute_of_day(end)?,
        };
        if window.end_minute < window.start_minute + MINUTES_MIN {
            return Err(WindowRefusal::TooShort);
        }
        if window.start_minute < LAW.start_minute || window.end_minute > LAW.end_minute {
            return Err(WindowRefusal::OutsideTheLaw);
        }
        Ok(window)
    }

    /// When it opens: `09:00`.
    pub fn start(self) -> String {
        time_of_day(self.start_minute)
    }

    /// When it closes.
    pub fn end(self) -> String {
        time_of_day(self.end_minute)
    }
}

impl fmt::Display for SendingWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.start(), self.end())
    }
}

fn minute_of_day(text: &str) -> Result<u16, WindowRefusal> {
    let (hour, minute) = text.split_once(':').ok_or(WindowRefusal::NotATime)?;
    Ok(number(hour, 23)? * 60 + number(minute, 59)?)
}

/// Two digits, at most `max`.
fn number(part: &str, max: u16) -> Result<u16, WindowRefusal> {
    let is_written_out = part.len() == 2 && part.bytes().all(|c| c.is_ascii_digit());
    let number: Option<u16> = part.parse().ok();
    number
        .filter(|number| is_written_out && *number <= max)
        .ok_or(WindowRefusal::NotATime)
}

fn time_of_day(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::WindowRefusal::{NotATime, OutsideTheLaw, TooShort};
    use super::*;

    #[test]
    fn a_slug_is_a_word_of_an_address() {
        for slug in ["dojo", "dojo-coffee", "7up"] {
            assert!(is_slug(slug), "{slug}");
        }
        let long = "a".repeat(64);
        for text in ["", "-dojo", "Dojo", "dojo coffee", "café", &long] {
            assert!(!is_slug(text), "{text}");
        }
    }

    #[test]
    fn a_window_narrows_the_law_and_never_widens_it() {
        let cases = [
            ("08:00", "21:00", None),
            ("09:30", "17:45", None),
            ("12:00", "13:00", None),
            ("07:59", "21:00", Some(OutsideTheLaw)),
            ("08:00", "21:01", Some(OutsideTheLaw)),
            ("12:00", "12:59", Some(TooShort)),
            ("20:00", "09:00", Some(TooShort)),
            ("8:00", "21:00", Some(NotATime)),
            ("+8:00", "21:00", Some(NotATime)),
            ("08:60", "21:00", Some(NotATime)),
            ("24:00", "21:00", Some(NotATime)),
            ("morning", "21:00", Some(NotATime)),
        ];
        for (start, end, refusal) in cases {
            let read = SendingWindow::read(start, end);
            assert_eq!(read.err(), refusal, "{start} to {end}");
        }
        let window = SendingWindow::read("09:30", "17:45").unwrap();
        assert_eq!(window.to_string(), "09:30 to 17:45");
    }
}
