//! How fast something may go: what carriers, providers and tenants allow, as buckets of one timestamp each.
//!
//! A bucket is a GCRA: `tat`, the instant at which everything let out so far would have gone at an even pace. Nothing
//! refills it, so there is nothing to forget: two looks at the same row come to the same answer.

pub mod learned;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::channel::{Provider, text_enum};
use super::ids::{CampaignId, TenantId};
use super::senders::SenderKind;

text_enum! {
    /// Whose rate or quota it is. The words are stored.
    BucketKind {
        /// One sender's number or address.
        Sender = "sender",
        /// A provider account, shared by all its tenants.
        Account = "account",
        /// A campaign's own brake.
        Campaign = "campaign",
        /// What a tenant pays for.
        Plan = "plan",
    }
}

/// Unevenness that is made up for: a tick that comes so late still uses the whole rate.
const JITTER_SECS: f64 = 0.1;

/// What a sum of fractions may be off by; far below one unit.
const ROUNDING: f64 = 1e-6;

/// One rate that a lane keeps to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Names the bucket in the whole cell: `sender:twilio:+15005550006`.
    pub name: String,
    /// Whose rate it is.
    pub kind: BucketKind,
    /// Cost units a second: segments for text messages, messages for email. Above zero.
    pub rate_per_sec: f64,
}

impl Rule {
    /// What may go at once after a rest: one, and what an unpunctual tick has to catch up with.
    pub fn burst(&self) -> f64 {
        1.0 + self.rate_per_sec * JITTER_SECS
    }

    /// Whose calls are counted by it: the provider account, if it is one's.
    pub fn account_ref(&self) -> Option<&str> {
        self.name.strip_prefix(ACCOUNT_PREFIX)
    }
}

/// How the names of accounts' buckets begin.
pub const ACCOUNT_PREFIX: &str = "account:";

/// What is known of a lane that decides how fast it may go.
#[derive(Debug, Clone, PartialEq)]
pub struct LanePace {
    /// Whose lane it is.
    pub tenant_id: TenantId,
    /// Its campaign, and the campaign's own pace.
    pub campaign: Option<(CampaignId, Option<f64>)>,
    /// Who carries its messages out.
    pub provider: Provider,
    /// The provider account.
    pub account_ref: String,
    /// The sender's address.
    pub address: String,
    /// What the tenant says its sender may do.
    pub sender_per_sec: Option<f64>,
    /// What the tenant's plan allows.
    pub plan_per_sec: Option<f64>,
}

impl LanePace {
    /// Every rule that the lane keeps to.
    pub fn rules(&self) -> Vec<Rule> {
        let rule = |kind, name: String, rate_per_sec: Option<f64>| {
            rate_per_sec.map(|rate_per_sec| Rule {
                name: format!("{kind}:{name}"),
                kind,
                rate_per_sec,
            })
        };
        let provider = self.provider;
        let sender = sender_per_sec(self.sender_per_sec, provider, &self.address);
        [
            rule(
                BucketKind::Sender,
                format!("{provider}:{}", self.address),
                sender,
            ),
            rule(
                BucketKind::Account,
                self.account_ref.clone(),
                account_per_sec(self.provider),
            ),
            self.campaign
                .and_then(|(id, pace)| rule(BucketKind::Campaign, id.to_string(), pace)),
            rule(
                BucketKind::Plan,
                self.tenant_id.to_string(),
                self.plan_per_sec,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The rule that limits the lane: the slowest, if any.
    pub fn limit(&self) -> Option<Rule> {
        self.rules().into_iter().reduce(|slowest, rule| {
            if rule.rate_per_sec < slowest.rate_per_sec {
                rule
            } else {
                slowest
            }
        })
    }

    /// Judges a campaign's own brake.
    ///
    /// # Errors
    /// [`PaceRefusal`] when it is none, or when something else is slower anyway.
    pub fn brake(&self, per_sec: f64) -> Result<(), PaceRefusal> {
        if !(PACE_MIN..=PACE_MAX).contains(&per_sec) {
            return Err(PaceRefusal::OutOfRange);
        }
        let others = Self {
            campaign: None,
            ..self.clone()
        };
        match others.limit() {
            Some(rule) if rule.rate_per_sec < per_sec => Err(PaceRefusal::AboveLimit {
                kind: rule.kind,
                rate_per_sec: rule.rate_per_sec,
            }),
            _ => Ok(()),
        }
    }
}

/// The slowest brake: one segment in a hundred seconds.
const PACE_MIN: f64 = 0.01;
/// The fastest brake that is one.
const PACE_MAX: f64 = 10_000.0;

/// Why a pace is refused.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum PaceRefusal {
    /// Zero, negative, or no number that is a pace.
    #[error("a pace is {PACE_MIN} to {PACE_MAX} segments a second; pause the campaign to stop it")]
    OutOfRange,
    /// Something else is slower.
    #[error(
        "its {kind} gives {rate_per_sec} segments a second, so that a faster pace has no effect; choose at most that"
    )]
    AboveLimit {
        /// What is slower.
        kind: BucketKind,
        /// How fast that is.
        rate_per_sec: f64,
    },
}

/// How fast a sender goes: as its tenant stated, else as its kind does. The simulated ones take what they get.
pub fn sender_per_sec(stated: Option<f64>, provider: Provider, address: &str) -> Option<f64> {
    stated.or_else(|| match provider {
        Provider::Demo => None,
        Provider::Twilio | Provider::AwsSes => SenderKind::of(address).default_per_sec(),
    })
}

/// The ceiling of a whole account: Twilio refuses more than 2,000 messages a second (error 63017).
fn account_per_sec(provider: Provider) -> Option<f64> {
    match provider {
        Provider::Twilio => Some(2_000.0),
        Provider::AwsSes | Provider::Demo => None,
    }
}

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
    /// Nothing goes before.
    pub closed_until: Option<DateTime<Utc>>,
    /// How many calls may be under way at once, of an account.
    pub calls: Option<Calls>,
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
        let ahead = self.tat.map_or(0.0, |tat| secs(tat - now).max(0.0));
        let left = self.rule.burst() - ahead * self.rule.rate_per_sec;
        let left = (left + ROUNDING).floor().max(0.0) as i64;
        // A message costs one at least, so that no more calls begin than this.
        self.calls.map_or(left, |calls| left.min(calls.left()))
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
        let from = self.tat.map_or(now, |tat| tat.max(now));
        self.tat = Some(from + after(cost as f64 / self.rule.rate_per_sec));
    }

    /// When the next unit may go.
    pub fn ready_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let mut open_at = self.closed_until.map_or(now, |until| until.max(now));
        if self.calls.is_some_and(|calls| calls.left() == 0) {
            open_at = open_at.max(now + CALLS_RETRY);
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
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn bucket(rate_per_sec: f64) -> Bucket {
        Bucket {
            rule: Rule {
                name: "sender:x".into(),
                kind: BucketKind::Sender,
                rate_per_sec,
            },
            tat: None,
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

    #[test]
    fn a_lane_keeps_to_every_rate_that_is_stated_and_to_the_carriers() {
        let pace = LanePace {
            tenant_id: TenantId(Uuid::nil()),
            campaign: Some((CampaignId(Uuid::nil()), Some(50.0))),
            provider: Provider::Twilio,
            account_ref: "twilio:AC1".into(),
            address: "+15005550006".into(),
            sender_per_sec: None,
            plan_per_sec: Some(100.0),
        };
        let rules = pace.rules();
        let found: Vec<_> = rules.iter().map(|r| (r.kind, r.rate_per_sec)).collect();
        assert_eq!(
            found,
            [
                (BucketKind::Sender, 1.0),
                (BucketKind::Account, 2_000.0),
                (BucketKind::Campaign, 50.0),
                (BucketKind::Plan, 100.0),
            ]
        );
        let demo = LanePace {
            provider: Provider::Demo,
            campaign: None,
            plan_per_sec: None,
            ..pace
        };
        assert_eq!(demo.rules(), []);
    }

    #[test]
    fn a_brake_is_a_number_that_slows_something_down() {
        let pace = LanePace {
            tenant_id: TenantId(Uuid::nil()),
            campaign: Some((CampaignId(Uuid::nil()), Some(0.5))),
            provider: Provider::Twilio,
            account_ref: "twilio:AC1".into(),
            address: "+15005550006".into(),
            sender_per_sec: Some(30.0),
            plan_per_sec: None,
        };
        assert_eq!(pace.limit().unwrap().kind, BucketKind::Campaign);
        assert_eq!(pace.brake(30.0), Ok(()));
        for wrong in [0.0, -1.0, 0.001, 10_001.0, f64::NAN, f64::INFINITY] {
            assert_eq!(pace.brake(wrong), Err(PaceRefusal::OutOfRange), "{wrong}");
        }
        let refusal = pace.brake(31.0).unwrap_err();
        assert!(
            refusal.to_string().contains("its sender gives 30 segments"),
            "{refusal}"
        );
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
