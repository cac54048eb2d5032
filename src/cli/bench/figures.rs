//! Figures: what was measured, in which unit, and what it has to be.

use std::time::Duration;

use serde::Serialize;

use crate::cli::output::table;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// One measured thing, once per round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    /// What was measured, and its unit.
    pub(super) what: String,
    /// The median of the rounds.
    pub(super) median: f64,
    /// Each round's.
    pub(super) values: Vec<f64>,
    /// What the median has to be, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bar: Option<Bar>,
}

impl Figure {
    /// A figure of at least one round.
    pub(super) fn new(what: impl Into<String>, values: Vec<f64>, bar: Option<Bar>) -> Self {
        Self {
            what: what.into(),
            median: quantile(&values, 0.5),
            values,
            bar,
        }
    }
}

/// The value that a share `q` of the values does not exceed; not a number for none.
pub(super) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * q).floor() as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// A time in milliseconds.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The figures as a table for people.
pub(super) fn print_figures(figures: &[Figure]) -> String {
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|figure| {
            let bar = match figure.bar {
                Some(Bar::AtLeast(bar)) => format!("at least {}", short(bar)),
                Some(Bar::AtMost(bar)) => format!("at most {}", short(bar)),
                None => String::new(),
            };
            vec![figure.what.clone(), short(figure.median), bar]
        })
        .collect();
    table(&["what", "median", "bar"], &rows)
}

fn short(value: f64) -> String {
    if value.abs() < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
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
}
