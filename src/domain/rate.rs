//! How fast something may go: what carriers, providers and tenants allow, as buckets of one timestamp each.
//!
//! A bucket is a GCRA: `tat`, the instant at which everything let out so far would have gone at an even pace. Nothing
//! refills it, so there is nothing to forget: two looks at the same row come to the same answer.

pub mod brand;
pub mod bucket;
pub mod learned;
pub mod plan;

use self::brand::BrandGrant;
use super::channel::{Provider, text_enum};
use super::ids::{CampaignId, TenantId};
use super::senders::SenderKind;

text_enum! {
    /// Whose rate or quota it is. The words are stored.
    BucketKind {
        /// One sender's number or address.
        Sender = "sender",
        /// A brand as US carriers know it, shared by all its numbers.
        Brand = "brand",
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

/// One rate that a lane keeps to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Names the bucket in the whole cell: `sender:twilio:+15005550006`.
    pub name: String,
    /// Whose rate it is.
    pub kind: BucketKind,
    /// Cost units a second: segments for text messages, messages for email; of a brand, messages. Above zero.
    pub rate_per_sec: f64,
    /// Cost units a day, of a brand; the day ends at midnight on the Pacific coast.
    pub day_cap: Option<i64>,
}

impl Rule {
    /// What may go at once after a rest: one, and what an unpunctual tick has to catch up with.
    pub fn burst(&self) -> f64 {
        Self::burst_of(self.rate_per_sec)
    }

    /// The same of a rate.
    pub fn burst_of(rate_per_sec: f64) -> f64 {
        1.0 + rate_per_sec * JITTER_SECS
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
    /// What the provider allows the account, where it is not what it allows everybody.
    pub account_per_sec: Option<f64>,
    /// What the tenant says its sender may do.
    pub sender_per_sec: Option<f64>,
    /// What carriers grant the sender's brand, where they know it.
    pub brand: Option<BrandGrant>,
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
                day_cap: None,
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
            self.brand.as_ref().and_then(BrandGrant::rule),
            rule(
                BucketKind::Account,
                self.account_ref.clone(),
                self.account_per_sec
                    .or_else(|| account_per_sec(self.provider)),
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::BrandId;

    #[test]
    fn a_lane_keeps_to_every_rate_that_is_stated_and_to_the_carriers() {
        let pace = LanePace {
            tenant_id: TenantId(Uuid::nil()),
            campaign: Some((CampaignId(Uuid::nil()), Some(50.0))),
            provider: Provider::Twilio,
            account_ref: "twilio:AC1".into(),
            account_per_sec: None,
            address: "+15005550006".into(),
            sender_per_sec: None,
            brand: Some(BrandGrant {
                messages_per_sec: Some(75.0),
                ..BrandGrant::unknown(BrandId(Uuid::nil()))
            }),
            plan_per_sec: Some(100.0),
        };
        let rules = pace.rules();
        let found: Vec<_> = rules.iter().map(|r| (r.kind, r.rate_per_sec)).collect();
        assert_eq!(
            found,
            [
                (BucketKind::Sender, 1.0),
                (BucketKind::Brand, 75.0),
                (BucketKind::Account, 2_000.0),
                (BucketKind::Campaign, 50.0),
                (BucketKind::Plan, 100.0),
            ]
        );
        let demo = LanePace {
            provider: Provider::Demo,
            campaign: None,
            brand: None,
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
            account_per_sec: None,
            address: "+15005550006".into(),
            sender_per_sec: Some(30.0),
            brand: None,
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
}
