//! Our queue engine beside others, in one process on one durable PostgreSQL: the same jobs, that do nothing, are enqueued
//! and drained by two workers, timed to the last completion that is committed.
//!
//! Contenders take turns, each round in a new database, so that what a machine does to one it does to all.

mod contenders;
mod stage;

use anyhow::Context;
use clap::Parser;
use engageninja::dev::figures::quantile;

use contenders::{Contender, Round};
use stage::Stage;

/// Times our queue engine and others at the same work.
#[derive(Debug, Parser)]
struct Arguments {
    /// Jobs of one round.
    #[arg(long, default_value = "100000", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Rounds; each figure is their median.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stage = Stage::start().await?;
    let mut played: Vec<Vec<Round>> = vec![Vec::new(); Contender::ALL.len()];
    for round in 1..=arguments.rounds {
        for (contender, rounds) in Contender::ALL.iter().zip(&mut played) {
            let database = stage.open("contender").await?;
            let done = contender.play(&database, arguments.jobs as usize).await;
            let done = done.with_context(|| format!("{} in round {round}", contender.name()))?;
            eprintln!(
                "round {round}, {}: {:.0} enqueued/s, {:.0} drained/s",
                contender.name(),
                done.enqueued_per_sec,
                done.drained_per_sec
            );
            rounds.push(done);
            stage.close("contender").await?;
        }
    }
    stage.stop().await?;
    print_table(&played);
    Ok(())
}

/// The first contender is ours. A ratio is the median of the rounds' ratios, not that of the medians.
fn print_table(played: &[Vec<Round>]) {
    println!(
        "{:<24} {:>12} {:>12} {:>12} {:>12}  ours is",
        "", "enqueued/s", "ours : its", "drained/s", "ours : its"
    );
    let ours = &played[0];
    for (contender, rounds) in Contender::ALL.iter().zip(played) {
        let median = |of: fn(&Round) -> f64| {
            let values: Vec<f64> = rounds.iter().map(of).collect();
            quantile(&values, 0.5)
        };
        let ratio = |of: fn(&Round) -> f64| {
            let pairs = ours.iter().zip(rounds);
            let ratios: Vec<f64> = pairs.map(|(ours, its)| of(ours) / of(its)).collect();
            quantile(&ratios, 0.5)
        };
        let drained = ratio(|round| round.drained_per_sec);
        println!(
            "{:<24} {:>12.0} {:>12.2} {:>12.0} {:>12.2}  {}",
            contender.name(),
            median(|round| round.enqueued_per_sec),
            ratio(|round| round.enqueued_per_sec),
            median(|round| round.drained_per_sec),
            drained,
            match contender {
                Contender::Ours => "",
                _ if drained > 1.0 => "ahead",
                _ => "BEHIND",
            }
        );
    }
}
