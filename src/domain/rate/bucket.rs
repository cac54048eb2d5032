//! What is left of one rate, and of a day's quota where there is one.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::learned::next_midnight_pacific;
use super::{BucketKind, Rule};
use crate::domain::holds::Holds;

/// What a sum of fractions may be off by; far below one unit.
const ROUNDING: f64 = 1e-6;

/// Whether two rates are not the same; one that was stored and read again is.
pub fn is_another_rate(before_per_sec: f64, per_sec: f64) -> bool {
    (before_per_sec - per_sec).abs() > f64::EPSILON * per_sec.abs()
}

/// A rule with what is left of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// The rule.
    pub rule: Rule,
    /// When everything let out so far would have gone at an even pace; none when nothing has gone yet.
    pub tat: Option<DateTime<Utc>>,
    /// What went on the day of the last charge, where a day has a quota.
    pub day: Option<Day>,
    /// Nothing goes before.
    pub closed_until: Option<DateTime<Utc>>,
    /// How many calls may be under way at once, of an account.
    pub calls: Option<Calls>,
}

/// What was let out on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Cost units.
    pub used: i64,
    /// When the day is over.
    pub resets_at: DateTime<Utc>,
}

impl Day {
    /// The same after so much of it was never sent, by calls that began `at` some time. They were let out, and charged, up to a
    /// slot before. Another day's count is over.
    #[must_use]
    pub fn given_back(self, cost: i64, at: DateTime<Utc>) -> Self {
        let is_same_day = next_midnight_pacific(at - Holds::REAL.slot) == self.resets_at;
        let cost = if is_same_day { cost } else { 0 };
        Self {
            used: (self.used - cost).max(0),
            ..self
        }
    }
}

/// Calls of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// Let out and not over, at most.
    pub most: i64,
    /// Let out or made, and not over.
    pub under_way: i64,
}

/// What an account had let out at one look, and what of that is over by the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Let out or made, and not over.
    pub under_way: i64,
    /// Over since the look before.
    pub over: i64,
}

impl Calls {
    /// Whoever makes the calls keeps to `most`. Between two looks an account may get through many times as much; it has twice
    /// of that let out, so that it never waits for the leader, and one that hangs has no more than it can call at once. All
    /// the same it holds `share` of the workers' slots at most.
    fn count(&mut self, traffic: Traffic, share: i64) {
        self.most = (self.most + 2 * traffic.over).min(share);
        self.under_way = traffic.under_way;
    }

    fn left(self) -> i64 {
        (self.most - self.under_way).max(0)
    }
}

/// When a bucket is looked at again whose calls are all under way: with the next tick.
const CALLS_RETRY: TimeDelta = TimeDelta::milliseconds(50);

impl Bucket {
    /// Cost units that may go now. A message may begin while there is one left and overdraw: the debt delays the next.
    pub fn left(&self, now: DateTime<Utc>) -> i64 {
        if self.closed_until.is_some_and(|until| until > now) {
            return 0;
        }
        let left = (self.left_of_burst(now) + ROUNDING).floor().max(0.0) as i64;
        let left = self.left_of_day(now).map_or(left, |day| left.min(day));
        // A message costs one at least, so that no more calls begin than this.
        self.calls.map_or(left, |calls| left.min(calls.left()))
    }

    fn left_of_burst(&self, now: DateTime<Utc>) -> f64 {
        let ahead = self.tat.map_or(0.0, |tat| secs(tat - now).max(0.0));
        self.rule.burst() - ahead * self.rule.rate_per_sec
    }

    /// How much of what may go at once is left: 1 after a rest, 0 while it limits.
    pub fn fill(&self, now: DateTime<Utc>) -> f64 {
        (self.left_of_burst(now) / self.rule.burst()).clamp(0.0, 1.0)
    }

    /// What is left of the day's quota, if there is one.
    fn left_of_day(&self, now: DateTime<Utc>) -> Option<i64> {
        let used = self.today(now).map_or(0, |day| day.used);
        Some((self.rule.day_cap? - used).max(0))
    }

    fn today(&self, now: DateTime<Utc>) -> Option<Day> {
        self.day.filter(|day| day.resets_at > now)
    }

    /// Whether nothing goes before the day is over.
    pub fn is_day_spent(&self, now: DateTime<Utc>) -> bool {
        self.left_of_day(now) == Some(0)
    }

    /// The same after another rate held so far: what was let out beyond it stays let out, in cost and not in time, so that a
    /// faster rate holds at once and a slower one forgives nothing.
    #[must_use]
    pub fn after_rate(mut self, before_per_sec: f64, now: DateTime<Utc>) -> Self {
        let ahead = self.tat.map_or(0.0, |tat| secs(tat - now));
        if ahead > 0.0 && is_another_rate(before_per_sec, self.rule.rate_per_sec) {
            self.tat = Some(now + after(ahead * before_per_sec / self.rule.rate_per_sec));
        }
        self
    }

    /// Counts what is let out of an account, which holds `share` of the workers' slots at most.
    pub fn count_calls(&mut self, traffic: &BTreeMap<String, Traffic>, share: i64) {
        let account_ref = self.rule.account_ref();
        if let (Some(calls), Some(account_ref)) = (&mut self.calls, account_ref) {
            calls.count(traffic.get(account_ref).copied().unwrap_or_default(), share);
        }
    }

    /// Takes what was let out: so many messages of this cost in all.
    pub fn charge(&mut self, cost: i64, messages: i64, now: DateTime<Utc>) {
        if let Some(calls) = &mut self.calls {
            calls.under_way += messages;
        }
        let units = match self.rule.kind {
            // Carriers count a brand's messages each second, and its segments each day.
            BucketKind::Brand => messages,
            _ => cost,
        };
        let from = self.tat.map_or(now, |tat| tat.max(now));
        self.tat = Some(from + after(units as f64 / self.rule.rate_per_sec));
        if self.rule.day_cap.is_some() {
            let mut day = self.today(now).unwrap_or_else(|| Day {
                used: 0,
                resets_at: next_midnight_pacific(now),
            });
            day.used += cost;
            self.day = Some(day);
        }
    }

    /// When the next unit may go.
    pub fn ready_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let mut open_at = self.closed_until.map_or(now, |until| until.max(now));
        if self.calls.is_some_and(|calls| calls.left() == 0) {
            open_at = open_at.max(now + CALLS_RETRY);
        }
        if let Some(day) = self.today(now).filter(|_| self.is_day_spent(now)) {
            open_at = open_at.max(day.resets_at);
        }
        let Some(tat) = self.tat else {
            return open_at;
        };
        let slack = (self.rule.burst() - 1.0) / self.rule.rate_per_sec;
        open_at.max(tat - after(slack - ROUNDING))
    }
}

fn secs(delta: TimeDelta) -> f64 {
    delta.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6
}

fn after(secs: f64) -> TimeDelta {
    TimeDelta::microseconds((secs * 1e6).ceil() as i64)
}

#[cfg(test)]
pub(in crate::domain) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Untouched, of a sender.
    pub(in crate::domain) fn bucket(rate_per_sec: f64) -> Bucket {
        Bucket {
            rule: Rule {
                name: "sender:x".into(),
                kind: BucketKind::Sender,
                rate_per_sec,
                day_cap: None,
            },
            tat: None,
            day: None,
            closed_until: None,
            calls: None,
        }
    }

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_764_000_000_000 + millis).unwrap()
    }

    #[test]
    fn one_a_second_goes_at_once_and_then_once_a_second() {
        let mut bucket = bucket(1.0);
        assert_eq!(bucket.left(at(0)), 1);
        bucket.charge(1, 1, at(0));
        assert_eq!(bucket.left(at(500)), 0);
        assert_eq!(bucket.ready_at(at(0)), at(900));
        assert_eq!(bucket.left(at(900)), 1);
        // Two segments: the debt delays the next.
        bucket.charge(2, 1, at(1000));
        assert_eq!(bucket.left(at(2800)), 0);
        assert_eq!(bucket.left(at(2900)), 1);
    }

    #[test]
    fn a_brand_is_counted_by_messages_each_second_and_by_segments_each_day() {
        let mut brand = bucket(10.0);
        brand.rule.kind = BucketKind::Brand;
        brand.rule.day_cap = Some(7);
        let evening = "2026-11-28T07:59:00Z".parse().unwrap();
        let midnight = "2026-11-28T08:00:00Z".parse().unwrap();

        assert_eq!(brand.left(evening), 2);
        // Two messages of three segments: a fifth of a second, six of the day.
        brand.charge(6, 2, evening);
        assert_eq!(brand.tat, Some(evening + TimeDelta::milliseconds(200)));
        let later = evening + TimeDelta::seconds(1);
        assert_eq!(brand.left(later), 1);
        assert!(!brand.is_day_spent(later));
        brand.charge(3, 1, later);
        let later = evening + TimeDelta::seconds(2);
        assert_eq!((brand.left(later), brand.ready_at(later)), (0, midnight));
        assert!(brand.is_day_spent(later));

        assert_eq!(
            (brand.left(midnight), brand.ready_at(midnight)),
            (2, midnight)
        );
        brand.charge(1, 1, midnight);
        assert_eq!(brand.day.map(|day| day.used), Some(1));
    }

    #[test]
    fn what_was_never_sent_is_given_back_to_its_own_day() {
        let day = Day {
            used: 10,
            resets_at: "2026-11-28T08:00:00Z".parse().unwrap(),
        };
        let used = |cost, at: &str| day.given_back(cost, at.parse().unwrap()).used;
        assert_eq!(used(3, "2026-11-28T07:59:59Z"), 7);
        assert_eq!(used(3, "2026-11-27T08:01:00Z"), 7);
        // Let out, and charged, in the last minute of the day before.
        assert_eq!(used(3, "2026-11-27T08:00:59Z"), 10);
        assert_eq!(used(3, "2026-11-27T07:59:59Z"), 10);
        assert_eq!(used(30, "2026-11-28T07:00:00Z"), 0);
    }

    #[test]
    fn a_closed_bucket_lets_nothing_out_until_its_time() {
        let closed = Bucket {
            closed_until: Some(at(60_000)),
            ..bucket(10.0)
        };
        assert_eq!(closed.left(at(59_999)), 0);
        assert_eq!(closed.ready_at(at(0)), at(60_000));
        assert_eq!(closed.left(at(60_000)), 2);
    }

    #[test]
    fn no_more_calls_begin_than_may_be_under_way() {
        let mut account = Bucket {
            calls: Some(Calls {
                most: 10,
                under_way: 7,
            }),
            ..bucket(2_000.0)
        };
        assert_eq!(account.left(at(0)), 3);
        // Three segments, and one message of them.
        account.charge(3, 1, at(0));
        assert_eq!(account.left(at(0)), 2);
        account.charge(2, 2, at(0));
        assert_eq!(account.left(at(0)), 0);
        assert_eq!(account.ready_at(at(0)), at(50));
        account.charge(9, 9, at(0));
        assert_eq!(account.left(at(0)), 0);
    }

    #[test]
    fn an_account_has_let_out_what_it_can_call_and_twice_what_it_gets_through() {
        let most = |under_way, over, share| {
            let mut calls = Calls {
                most: 10,
                under_way: 0,
            };
            calls.count(Traffic { under_way, over }, share);
            (calls.most, calls.left())
        };
        assert_eq!(most(0, 0, 192), (10, 10));
        assert_eq!(most(10, 0, 192), (10, 0));
        assert_eq!(most(20, 40, 192), (90, 70));
        assert_eq!(most(20, 400, 192), (192, 172));
    }

    #[test]
    fn another_rate_holds_at_once_and_forgives_nothing() {
        let at_rate = |rate_per_sec, tat| Bucket {
            tat: Some(tat),
            ..bucket(rate_per_sec)
        };
        // One segment of a hundred-second rate is let out; at 100 a second it is made up for in a hundredth.
        let faster = at_rate(100.0, at(100_000)).after_rate(0.01, at(0));
        assert_eq!(faster.tat, Some(at(10)));
        let slower = at_rate(0.5, at(2_000)).after_rate(5.0, at(0));
        assert_eq!(slower.tat, Some(at(20_000)));
        let rested = at_rate(0.5, at(-2_000)).after_rate(5.0, at(0));
        assert_eq!(rested.tat, Some(at(-2_000)));
    }

    proptest! {
        /// However a leader looks, no window holds more than its rate and the burst; and a leader that looks often
        /// enough uses the rate.
        #[test]
        fn no_window_holds_more_than_rate_and_burst_and_the_rate_is_used(
            rate in 0.5f64..500.0,
            steps in prop::collection::vec(1i64..90, 200..400),
        ) {
            let mut bucket = bucket(rate);
            let mut now = 0;
            let mut out: Vec<(i64, i64)> = Vec::new();
            for step in steps {
                now += step;
                let left = bucket.left(at(now));
                if left > 0 {
                    bucket.charge(left, left, at(now));
                    out.push((now, left));
                }
            }
            for (first, (from, _)) in out.iter().enumerate() {
                let mut sum = 0;
                for (until, count) in &out[first..] {
                    sum += count;
                    let bound = (until - from) as f64 / 1000.0 * rate + bucket.rule.burst();
                    prop_assert!(sum as f64 <= bound + 0.01, "{sum} > {bound}");
                }
            }
            let total: i64 = out.iter().map(|(_, count)| count).sum();
            let whole = now as f64 / 1000.0 * rate;
            prop_assert!(total as f64 >= whole * 0.98 - 2.0, "{total} of {whole}");
        }
    }
}
