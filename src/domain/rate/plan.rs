//! What a tenant pays for: how fast it goes, and its share where tenants take turns.

use super::{PACE_MAX, PACE_MIN};

/// The share of most tenants.
pub const WEIGHT_USUAL: i16 = 1;
/// The largest share.
const WEIGHT_MAX: i16 = 100;

/// A tenant's plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Segments a second (emails: messages), over everything it sends; none where the plan sets no limit.
    pub segments_per_sec: Option<f64>,
    /// Messages that it is let out for each one of a tenant of weight 1, while both have a backlog: 1 to 100.
    pub weight: i16,
}

/// Why a plan is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefusal {
    /// Zero, negative, or no number that is a pace.
    #[error(
        "must be {PACE_MIN} to {PACE_MAX} segments a second, or absent for no limit; suspend the tenant to stop it"
    )]
    Pace,
    /// No share.
    #[error("must be {WEIGHT_USUAL} to {WEIGHT_MAX}; {WEIGHT_USUAL} is usual")]
    Weight,
}

impl PlanRefusal {
    /// The field that is wrong.
    pub fn field(self) -> &'static str {
        match self {
            Self::Pace => "segments_per_sec",
            Self::Weight => "weight",
        }
    }
}

impl Plan {
    /// Judges what somebody asks for.
    ///
    /// # Errors
    /// [`PlanRefusal`] for what is no pace or no share.
    pub fn new(segments_per_sec: Option<f64>, weight: Option<i16>) -> Result<Self, PlanRefusal> {
        let weight = weight.unwrap_or(WEIGHT_USUAL);
        if segments_per_sec.is_some_and(|pace| !(PACE_MIN..=PACE_MAX).contains(&pace)) {
            return Err(PlanRefusal::Pace);
        }
        if !(WEIGHT_USUAL..=WEIGHT_MAX).contains(&weight) {
            return Err(PlanRefusal::Weight);
        }
        Ok(Self {
            segments_per_sec,
            weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_pace_or_none_and_a_share() {
        let usual = Plan {
            segments_per_sec: None,
            weight: 1,
        };
        assert_eq!(Plan::new(None, None), Ok(usual));
        assert!(Plan::new(Some(0.01), Some(100)).is_ok());
        for pace in [0.0, -1.0, 0.009, 10_001.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Plan::new(Some(pace), None), Err(PlanRefusal::Pace));
        }
        for weight in [0, -1, 101] {
            assert_eq!(Plan::new(None, Some(weight)), Err(PlanRefusal::Weight));
        }
    }
}
