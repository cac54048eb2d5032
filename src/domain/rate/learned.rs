//! What answers and reports teach about a rate, beside its rule: a bucket that is slowed or closed for a while, and how many
//! calls of an account may be under way at once.

use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::America::Los_Angeles;

use crate::domain::channel::text_enum;

text_enum! {
    /// What an answer or a report says of a rate. The words are stored.
    Signal {
        /// Too many calls at once. Nothing was accepted.
        Throttled = "throttled",
        /// The carrier got messages faster than it granted.
        RateExceeded = "rate_exceeded",
        /// The carrier takes no more on the day of the call.
        CapReached = "cap_reached",
        /// The provider never got what the day's quota was charged for.
        GivenBack = "given_back",
    }
}

/// A signal, and when it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// What was said.
    pub signal: Signal,
    /// When; of what speaks of a day's quota, when the call began that it speaks of: it may be told on the next day.
    pub at: DateTime<Utc>,
    /// Segments that are given back.
    pub cost: i64,
    /// How long the provider asked to wait, where it did.
    pub retry_after: Option<Duration>,
}

/// How long a rate that was exceeded is halved.
const SLOWED_FOR: TimeDelta = TimeDelta::seconds(60);
/// How long an account rests after it was throttled, unless the provider says how long.
const REST: Duration = Duration::from_secs(1);
/// How long it rests at most on a provider's word: then one message asks again. The message that was refused waits as long
/// as it was told all the same.
const REST_MAX: Duration = Duration::from_mins(15);

/// What was learned of one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Learned {
    /// Nothing goes before.
    pub closed_until: Option<DateTime<Utc>>,
    /// It goes at half its rate until then.
    pub slowed_until: Option<DateTime<Utc>>,
    /// How many calls may be under way at once, of an account.
    pub calls: Option<CallLimit>,
}

impl Learned {
    /// What is known after a signal. Signals may come twice and late: none makes a limit looser than it was.
    #[must_use]
    pub fn hear(mut self, heard: &Heard) -> Self {
        match heard.signal {
            Signal::Throttled => {
                let rest = heard.retry_after.unwrap_or(REST).min(REST_MAX);
                self.close(heard.at + delta(rest));
                self.calls = self.calls.map(|calls| calls.halved(heard.at));
            }
            Signal::RateExceeded => {
                let until = heard.at + SLOWED_FOR;
                self.slowed_until = Some(self.slowed_until.map_or(until, |old| old.max(until)));
            }
            Signal::CapReached => self.close(next_midnight_pacific(heard.at)),
            // The day's count knows it.
            Signal::GivenBack => {}
        }
        self
    }

    /// The part of its rate that a bucket has now.
    pub fn share(&self, now: DateTime<Utc>) -> f64 {
        if self.slowed_until.is_some_and(|until| until > now) {
            0.5
        } else {
            1.0
        }
    }

    fn close(&mut self, until: DateTime<Utc>) {
        self.closed_until = Some(self.closed_until.map_or(until, |old| old.max(until)));
    }
}

/// How many calls of an account may be under way at once: one more with each second, half as many when the provider says
/// that they were too many.
///
/// Twilio does not publish its limit; its refusal (429, 20429) is the only word on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CallLimit {
    /// So many at `since`.
    pub calls: f64,
    /// From then on one more with each second.
    pub since: DateTime<Utc>,
    /// When it was halved last.
    pub halved_at: Option<DateTime<Utc>>,
}

impl CallLimit {
    /// Calls at once of an account that nothing is known of.
    pub const START: f64 = 10.0;
    /// Calls at once, at most.
    pub const MOST: f64 = 50.0;
    /// Refusals that belong to one moment halve it once: each of ten calls under way brings its own.
    const MOMENT: TimeDelta = TimeDelta::seconds(1);

    /// Of an account that nothing is known of.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            calls: Self::START,
            since: now,
            halved_at: None,
        }
    }

    /// Calls at once, 1 or more.
    pub fn at(&self, now: DateTime<Utc>) -> i64 {
        self.exact(now) as i64
    }

    fn exact(&self, now: DateTime<Utc>) -> f64 {
        let grown_secs = (now - self.since).num_milliseconds().max(0) as f64 / 1e3;
        (self.calls + grown_secs).clamp(1.0, Self::MOST)
    }

    fn halved(self, at: DateTime<Utc>) -> Self {
        if self.halved_at.is_some_and(|last| at < last + Self::MOMENT) {
            return self;
        }
        Self {
            calls: (self.exact(at) / 2.0).max(1.0),
            since: at,
            halved_at: Some(at),
        }
    }
}

/// The next midnight on the Pacific coast of the US, where carriers begin their day.
///
/// Source: Twilio's error page 30023: the daily cap of a brand is reset at midnight Pacific.
pub fn next_midnight_pacific(at: DateTime<Utc>) -> DateTime<Utc> {
    let tomorrow = at.with_timezone(&Los_Angeles).date_naive().succ_opt();
    let midnight = tomorrow.map(|day| day.and_time(NaiveTime::MIN));
    midnight
        .and_then(|time| Los_Angeles.from_local_datetime(&time).earliest())
        // The coast changes its clocks at two in the morning; every day has a midnight.
        .map_or(at + TimeDelta::days(1), |time| time.with_timezone(&Utc))
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_764_000_000_000 + millis).unwrap()
    }

    fn heard(signal: Signal, millis: i64) -> Heard {
        Heard {
            signal,
            at: at(millis),
            cost: 0,
            retry_after: None,
        }
    }

    fn account() -> Learned {
        Learned {
            calls: Some(CallLimit::new(at(0))),
            ..Learned::default()
        }
    }

    fn calls(learned: &Learned, millis: i64) -> i64 {
        learned.calls.unwrap().at(at(millis))
    }

    #[test]
    fn calls_at_once_grow_by_one_a_second_and_are_halved_once_a_moment() {
        let learned = account();
        assert_eq!(calls(&learned, 0), 10);
        assert_eq!(calls(&learned, 7_900), 17);
        assert_eq!(calls(&learned, 3_600_000), 50);

        let throttled = learned.hear(&heard(Signal::Throttled, 10_000));
        assert_eq!(calls(&throttled, 10_000), 10);
        // The other nine that were under way bring their refusals.
        let same = (1..10).fold(throttled, |learned, n| {
            learned.hear(&heard(Signal::Throttled, 10_000 + n * 50))
        });
        assert_eq!(same.calls, throttled.calls);
        assert_eq!(calls(&same, 15_000), 15);

        let storm = (1..20).fold(same, |learned, n| {
            learned.hear(&heard(Signal::Throttled, 10_000 + n * 1_000))
        });
        assert_eq!(calls(&storm, 29_000), 1);
        assert_eq!(calls(&storm, 29_000 + 49_000), 50);
    }

    #[test]
    fn a_throttled_account_rests_as_long_as_it_is_told_within_reason() {
        let rests = |retry_after| {
            let heard = Heard {
                retry_after,
                ..heard(Signal::Throttled, 0)
            };
            (account().hear(&heard).closed_until.unwrap() - at(0)).num_milliseconds()
        };
        assert_eq!(rests(None), 1_000);
        assert_eq!(rests(Some(Duration::from_secs(7))), 7_000);
        assert_eq!(rests(Some(Duration::ZERO)), 0);
        assert_eq!(rests(Some(Duration::from_hours(24 * 7))), 15 * 60_000);
        assert_eq!(rests(Some(Duration::MAX)), 15 * 60_000);
    }

    fn is_close(share: f64, expected: f64) -> bool {
        (share - expected).abs() < f64::EPSILON
    }

    #[test]
    fn a_rate_that_was_exceeded_is_halved_for_a_minute() {
        let slowed = Learned::default().hear(&heard(Signal::RateExceeded, 0));
        assert!(is_close(slowed.share(at(59_999)), 0.5));
        assert!(is_close(slowed.share(at(60_000)), 1.0));
        assert_eq!(slowed.closed_until, None);
        // A late one takes nothing back.
        let late = slowed.hear(&heard(Signal::RateExceeded, -30_000));
        assert_eq!(late, slowed);
        let again = slowed.hear(&heard(Signal::RateExceeded, 30_000));
        assert!(is_close(again.share(at(89_999)), 0.5));
    }

    #[test]
    fn a_daily_cap_closes_until_midnight_on_the_pacific_coast() {
        let utc = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let cases = [
            ("2026-11-27T12:00:00Z", "2026-11-28T08:00:00Z"),
            ("2026-11-28T07:59:59Z", "2026-11-28T08:00:00Z"),
            ("2026-11-28T08:00:00Z", "2026-11-29T08:00:00Z"),
            // In summer, and across both changes of the clocks.
            ("2026-07-01T12:00:00Z", "2026-07-02T07:00:00Z"),
            ("2026-03-08T09:00:00Z", "2026-03-09T07:00:00Z"),
            ("2026-11-01T08:00:00Z", "2026-11-02T08:00:00Z"),
        ];
        for (at, until) in cases {
            let heard = Heard {
                signal: Signal::CapReached,
                at: utc(at),
                cost: 0,
                retry_after: None,
            };
            let learned = Learned::default().hear(&heard);
            assert_eq!(learned.closed_until, Some(utc(until)), "{at}");
        }
    }
}
