//! Figures: what was measured, in which unit, and what it has to be.

use std::time::Duration;

use serde::Serialize;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// One of these, or what lies between.
    Between(f64, f64),
}

impl Bar {
    /// Whether a value is what it has to be. What is not a number is not.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
            Self::Between(from, to) => (from..=to).contains(&value),
        }
    }
}

/// One measured thing, once per round.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured, and its unit.
    pub what: String,
    /// The median of the rounds.
    pub median: f64,
    /// Each round's.
    pub values: Vec<f64>,
    /// What the median has to be, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bar: Option<Bar>,
}

impl Figure {
    /// A figure of at least one round.
    pub fn new(what: impl Into<String>, values: Vec<f64>, bar: Option<Bar>) -> Self {
        Self {
            what: what.into(),
            median: quantile(&values, 0.5),
            values,
            bar,
        }
    }
}

/// The value that a share `q` of the values does not exceed; not a number for none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * q).floor() as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((quantile(&values, 0.5) - 51.0).abs() < f64::EPSILON);
        assert!((quantile(&values, 0.99) - 100.0).abs() < f64::EPSILON);
        assert!((quantile(&values, 1.0) - 100.0).abs() < f64::EPSILON);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_bar_is_met_where_it_lies_and_by_no_figure_that_is_none() {
        assert!(Bar::AtLeast(0.7).is_met(0.7) && !Bar::AtLeast(0.7).is_met(0.69));
        assert!(Bar::AtMost(3.0).is_met(3.0) && !Bar::AtMost(3.0).is_met(3.1));
        let between = Bar::Between(2.85, 3.15);
        assert!(between.is_met(2.85) && between.is_met(3.15));
        assert!(!between.is_met(2.84) && !between.is_met(3.16) && !between.is_met(f64::NAN));
        assert!(!Bar::AtLeast(0.7).is_met(f64::NAN) && !Bar::AtMost(3.0).is_met(f64::NAN));
    }
}
