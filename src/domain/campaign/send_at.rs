//! When a campaign shall start: an instant, or a time on the tenant's clock.
//!
//! A time on a clock may not exist, or exist twice, where summer time begins or ends. Neither is guessed: people are told,
//! with the instants that they may have meant.

use std::str::FromStr;

use chrono::{DateTime, Months, NaiveDateTime, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;

/// How far ahead a start may lie: beyond this it is a slip of the pen.
const AHEAD_MAX: Months = Months::new(12);

/// A start as somebody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendAt {
    /// At an instant: `2026-12-01T09:00:00-05:00`.
    Instant(DateTime<Utc>),
    /// When the tenant's clock shows this: `2026-12-01T09:00`.
    Local(NaiveDateTime),
}

/// Why a campaign cannot start then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendAtRefusal {
    /// It is no time.
    #[error(
        "{text:?} is no time; write 2026-12-01T09:00:00-05:00, or 2026-12-01T09:00 for the clock of your tenant"
    )]
    Unreadable {
        /// What was written.
        text: String,
    },
    /// It is over.
    #[error("{} is over; choose a time to come, or send the campaign now", instant(*.at))]
    Past {
        /// The time.
        at: DateTime<Utc>,
    },
    /// It is too far away.
    #[error("{} is more than a year away; choose an earlier time", instant(*.at))]
    TooFar {
        /// The time.
        at: DateTime<Utc>,
    },
    /// Summer time begins: the clock jumps over it.
    #[error(
        "{local} does not exist in {zone}, where the clock is put forward then; choose a time before or after"
    )]
    Gap {
        /// The time on the clock.
        local: NaiveDateTime,
        /// The tenant's zone.
        zone: Tz,
    },
    /// Summer time ends: the clock shows it twice.
    #[error(
        "{local} comes twice in {zone}, where the clock is put back then; write {} for the first or {} for the second",
        with_offset(*.first), with_offset(*.second)
    )]
    Overlap {
        /// The time on the clock.
        local: NaiveDateTime,
        /// The tenant's zone.
        zone: Tz,
        /// The first instant at which the clock shows it.
        first: DateTime<Tz>,
        /// The second one.
        second: DateTime<Tz>,
    },
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn with_offset(at: DateTime<Tz>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, false)
}

impl FromStr for SendAt {
    type Err = SendAtRefusal;

    fn from_str(text: &str) -> Result<Self, SendAtRefusal> {
        let text = text.trim();
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Instant(at.to_utc()));
        }
        ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
            .map(Self::Local)
            .ok_or_else(|| SendAtRefusal::Unreadable { text: text.into() })
    }
}

impl SendAt {
    /// The instant that is meant in a zone, if a campaign may start then.
    pub fn resolve(self, zone: Tz, now: DateTime<Utc>) -> Result<DateTime<Utc>, SendAtRefusal> {
        let at = match self {
            Self::Instant(at) => at,
            Self::Local(local) => on_the_clock(local, zone)?,
        };
        if at <= now {
            return Err(SendAtRefusal::Past { at });
        }
        if now
            .checked_add_months(AHEAD_MAX)
            .is_some_and(|last| at > last)
        {
            return Err(SendAtRefusal::TooFar { at });
        }
        Ok(at)
    }
}

fn on_the_clock(local: NaiveDateTime, zone: Tz) -> Result<DateTime<Utc>, SendAtRefusal> {
    match zone.from_local_datetime(&local) {
        chrono::LocalResult::Single(at) => Ok(at.to_utc()),
        chrono::LocalResult::None => Err(SendAtRefusal::Gap { local, zone }),
        chrono::LocalResult::Ambiguous(first, second) => Err(SendAtRefusal::Overlap {
            local,
            zone,
            first,
            second,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_YORK: Tz = chrono_tz::America::New_York;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn resolve(text: &str, zone: Tz) -> Result<DateTime<Utc>, SendAtRefusal> {
        text.parse::<SendAt>()?
            .resolve(zone, at("2026-02-01T12:00:00Z"))
    }

    #[test]
    fn an_instant_is_taken_as_it_is_and_a_local_time_is_the_tenants() {
        let cases = [
            ("2026-02-01T12:00:01Z", "2026-02-01T12:00:01Z"),
            ("2026-06-01T09:00:00-04:00", "2026-06-01T13:00:00Z"),
            ("2026-06-01T09:00", "2026-06-01T13:00:00Z"),
            ("2026-12-01T09:00:30", "2026-12-01T14:00:30Z"),
            // The last minute before the gap, the first after it, and those around the overlap.
            ("2026-03-08T01:59", "2026-03-08T06:59:00Z"),
            ("2026-03-08T03:00", "2026-03-08T07:00:00Z"),
            ("2026-11-01T00:59", "2026-11-01T04:59:00Z"),
            ("2026-11-01T02:00", "2026-11-01T07:00:00Z"),
            // With its offset, an hour of the overlap is one of two.
            ("2026-11-01T01:30:00-05:00", "2026-11-01T06:30:00Z"),
            ("2027-02-01T12:00:00Z", "2027-02-01T12:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, NEW_YORK), Ok(at(expected)), "{text}");
        }
        let berlin = resolve("2026-06-01T09:00", chrono_tz::Europe::Berlin);
        assert_eq!(berlin, Ok(at("2026-06-01T07:00:00Z")));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        let cases = [
            ("tomorrow", "is no time"),
            ("2026-02-30T09:00", "is no time"),
            ("2026-12-01", "is no time"),
            ("2026-02-01T12:00:00Z", "is over"),
            ("2026-02-01T06:59", "is over"),
            ("2027-02-01T12:00:01Z", "more than a year"),
            ("2026-03-08T02:00", "does not exist in America/New_York"),
            ("2026-03-08T02:59:59", "does not exist in America/New_York"),
            (
                "2026-11-01T01:30",
                "write 2026-11-01T01:30:00-04:00 for the first or 2026-11-01T01:30:00-05:00 for the second",
            ),
        ];
        for (text, expected) in cases {
            let said = resolve(text, NEW_YORK).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
