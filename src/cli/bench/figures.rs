//! Figures as a table for people, and which of them missed their bars.

use crate::cli::output::table;
use crate::dev::figures::{Bar, Figure};

/// One line per figure; a bar that is missed says so.
pub(super) fn print_figures(figures: &[Figure]) -> String {
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|figure| vec![figure.what.clone(), short(figure.median), bar_of(figure)])
        .collect();
    table(&["what", "median", "bar"], &rows)
}

/// A line for each figure of a measure that missed its bar.
pub(super) fn missed_bars(measure: &str, figures: &[Figure]) -> Vec<String> {
    let missed = figures.iter().filter_map(|figure| {
        let bar = figure.bar.filter(|bar| !bar.is_met(figure.median))?;
        let (what, median) = (&figure.what, short(figure.median));
        Some(format!("{measure}: {what}: {median}, not {}", words(bar)))
    });
    missed.collect()
}

fn bar_of(figure: &Figure) -> String {
    let Some(bar) = figure.bar else {
        return String::new();
    };
    let missed = if bar.is_met(figure.median) {
        ""
    } else {
        ", MISSED"
    };
    format!("{}{missed}", words(bar))
}

fn words(bar: Bar) -> String {
    match bar {
        Bar::AtLeast(value) => format!("at least {}", short(value)),
        Bar::AtMost(value) => format!("at most {}", short(value)),
        Bar::Between(from, to) => format!("{} to {}", short(from), short(to)),
    }
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
    fn a_missed_bar_is_told() {
        let figures = [
            Figure::new("kept", vec![0.8], Some(Bar::AtLeast(0.7))),
            Figure::new("missed", vec![0.6], Some(Bar::AtLeast(0.7))),
            Figure::new("free", vec![1_000.4], None),
            Figure::new("beside it", vec![3.2], Some(Bar::Between(2.85, 3.15))),
        ];

        let table = print_figures(&figures);
        let missed = missed_bars("pause", &figures);

        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("at least 0.70"), "{table}");
        assert!(lines[2].ends_with("at least 0.70, MISSED"), "{table}");
        assert!(lines[3].ends_with("1000"), "{table}");
        assert!(lines[4].ends_with("2.85 to 3.15, MISSED"), "{table}");
        assert_eq!(
            missed,
            [
                "pause: missed: 0.60, not at least 0.70",
                "pause: beside it: 3.20, not 2.85 to 3.15"
            ]
        );
    }
}
