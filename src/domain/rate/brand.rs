//! What US carriers grant a registered brand: messages a second by its class, segments a day by its trust score.
//!
//! Source: Twilio, "Message throughput (MPS) and trust scores for A2P 10DLC": AT&T counts messages a second by the class of
//! the campaign, T-Mobile segments a day by the brand, shared by all its numbers.

use super::{BucketKind, Rule};
use crate::domain::channel::text_enum;
use crate::domain::ids::BrandId;

text_enum! {
    /// How AT&T classes what a brand sends. The words are stored.
    AttClass {
        /// A: declared use, high trust score.
        A = "A",
        /// B: mixed use, high trust score.
        B = "B",
        /// C: declared use, middle trust score.
        C = "C",
        /// D: mixed use, middle trust score.
        D = "D",
        /// E: declared use, low trust score.
        E = "E",
        /// F: mixed use, low trust score.
        F = "F",
        /// T: a small business without a score.
        T = "T",
    }
}

impl AttClass {
    fn messages_per_sec(self) -> f64 {
        match self {
            Self::A | Self::B => 60.0,
            Self::C | Self::D => 10.0,
            Self::E | Self::F => 1.0,
            Self::T => 0.2,
        }
    }
}

/// What carriers grant one brand; what nobody knows limits nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BrandGrant {
    /// Which brand.
    pub id: BrandId,
    /// Messages a second, where they are told apart from its class.
    pub messages_per_sec: Option<f64>,
    /// Its class.
    pub att_class: Option<AttClass>,
    /// Segments a day, where they are told apart from its trust score.
    pub day_segments_max: Option<i64>,
    /// Its trust score, 0 to 100.
    pub trust_score: Option<i16>,
}

/// A brand of which only the day is known goes as fast as Twilio takes messages of an account.
const FASTEST_PER_SEC: f64 = 2_000.0;

impl BrandGrant {
    /// A brand of which nothing is known.
    pub fn unknown(id: BrandId) -> Self {
        Self {
            id,
            messages_per_sec: None,
            att_class: None,
            day_segments_max: None,
            trust_score: None,
        }
    }

    /// The rule that all its senders keep to. Nobody tells whose customer a number is, so that every segment counts against
    /// T-Mobile's day.
    pub fn rule(&self) -> Option<Rule> {
        let by_class = self.att_class.map(AttClass::messages_per_sec);
        let rate_per_sec = self.messages_per_sec.or(by_class);
        let by_score = self.trust_score.map(day_segments_by_score);
        let day_cap = self.day_segments_max.or(by_score);
        (rate_per_sec.is_some() || day_cap.is_some()).then(|| Rule {
            name: format!("{}:{}", BucketKind::Brand, self.id),
            kind: BucketKind::Brand,
            rate_per_sec: rate_per_sec.unwrap_or(FASTEST_PER_SEC),
            day_cap,
        })
    }
}

fn day_segments_by_score(score: i16) -> i64 {
    match score {
        75.. => 200_000,
        50..=74 => 40_000,
        25..=49 => 10_000,
        _ => 2_000,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_stated_goes_before_class_and_score() {
        let nothing = BrandGrant::unknown(BrandId(Uuid::nil()));
        assert_eq!(nothing.rule(), None);

        let limits = |grant: BrandGrant| {
            let rule = grant.rule().unwrap();
            (rule.rate_per_sec, rule.day_cap)
        };
        let classed = BrandGrant {
            att_class: Some(AttClass::D),
            trust_score: Some(49),
            ..nothing
        };
        assert_eq!(limits(classed), (10.0, Some(10_000)));
        let stated = BrandGrant {
            messages_per_sec: Some(4.5),
            day_segments_max: Some(3_000),
            ..classed
        };
        assert_eq!(limits(stated), (4.5, Some(3_000)));
        let scored = BrandGrant {
            trust_score: Some(75),
            ..nothing
        };
        assert_eq!(limits(scored), (2_000.0, Some(200_000)));
    }
}
