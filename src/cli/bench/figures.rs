//! Figures as a table for people.

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

fn bar_of(figure: &Figure) -> String {
    let Some(bar) = figure.bar else {
        return String::new();
    };
    let (words, value) = match bar {
        Bar::AtLeast(value) => ("at least", value),
        Bar::AtMost(value) => ("at most", value),
    };
    let missed = if bar.is_met(figure.median) {
        ""
    } else {
        ", MISSED"
    };
    format!("{words} {}{missed}", short(value))
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
        let table = print_figures(&[
            Figure::new("kept", vec![0.8], Some(Bar::AtLeast(0.7))),
            Figure::new("missed", vec![0.6], Some(Bar::AtLeast(0.7))),
            Figure::new("free", vec![1_000.4], None),
        ]);

        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("at least 0.70"), "{table}");
        assert!(lines[2].ends_with("at least 0.70, MISSED"), "{table}");
        assert!(lines[3].ends_with("1000"), "{table}");
    }
}
