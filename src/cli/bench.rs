//! `bench`: how fast this machine imports, expands, sends and takes callbacks, on a durable PostgreSQL of the bench's own.
//!
//! Work is done by processes as in an installation; this one only asks and watches. Each figure is the median of the rounds,
//! and each measure has a new database. A missed bar fails the command once every figure is told.

mod fairness;
mod figures;
mod fill;
mod pacing;
mod path;
mod pause;
mod paused;
mod processes;
mod release;
mod small;
mod stage;
mod twilio;
mod webhooks;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use self::figures::{missed_bars, print_figures};
use self::stage::{Server, Stage};
use crate::config::Config;
use crate::dev::bench_queue::{self, snapshot};
use crate::dev::figures::Figure;

/// Measures this machine's speed on a database of the bench's own.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// What to measure.
    #[arg(value_name = "MEASURE", default_value = "path")]
    measures: Vec<Measure>,
    #[command(flatten)]
    scale: Scale,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, Args)]
struct Scale {
    /// Contacts, messages or jobs of one round.
    #[arg(long, default_value = "100000", value_name = "N", value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    contacts: u32,
    /// Rounds; each figure is their median. 3 when absent, 5 pairs for the queue.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=21))]
    rounds: Option<u8>,
    /// Worker processes that send.
    #[arg(long, default_value = "2", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    workers: u8,
    /// How long the reader of `snapshot` holds its picture.
    #[arg(long, default_value = "600", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    hold_secs: u32,
}

impl Scale {
    fn rounds(&self) -> u8 {
        self.rounds.unwrap_or(3)
    }

    fn queue(&self) -> bench_queue::Plan {
        bench_queue::Plan {
            jobs: self.contacts as usize,
            // The bars are medians of five pairs.
            pairs: self.rounds.unwrap_or(5).into(),
        }
    }

    fn snapshot(&self) -> snapshot::Plan {
        snapshot::Plan {
            jobs: self.contacts as usize,
            bursts: self.rounds().into(),
            lasts: Duration::from_secs(self.hold_secs.into()),
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Import, expansion and demo sends.
    Path,
    /// The queue engine against plain SQL, with a long backlog and in many lanes; takes some minutes.
    Queue,
    /// The queue engine while a reader holds a snapshot; takes as long as that, and two minutes.
    Snapshot,
    /// Sends over HTTP to the stand-in for Twilio, without callbacks and with two for each.
    Twilio,
    /// Small tenants beside one with a long backlog, shares by weight and by lanes, and what turns and paces cost.
    Fairness,
    /// The first part of `fairness` alone.
    Small,
    /// Tenants with one message each beside ten thousand with a backlog.
    Crowd,
    /// Three workers at the rate of one sender, and of an account that two tenants share; takes two minutes.
    Pacing,
    /// A hundred pauses of a campaign that is going out, some of them while a worker stands still.
    Pause,
    /// A lane beside a paused campaign, and beside messages for the morning, of the same tenant.
    Paused,
    /// The release tick over a long backlog.
    Release,
    /// Callbacks of the provider, taken in and stored.
    Webhooks,
}

impl Bench {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let server = Server::start(config).await?;
        let mut measured = serde_json::Map::new();
        let mut missed = Vec::new();
        for measure in &self.measures {
            let word = measure.to_possible_value();
            let name = word.as_ref().map_or("", |word| word.get_name());
            let stage = Stage::open(&server, name).await?;
            let figures = self.measure(*measure, &stage).await?;
            if !json {
                println!("{}\n", print_figures(&figures));
            }
            missed.extend(missed_bars(name, &figures));
            measured.insert(name.into(), json!(figures));
            stage.close().await;
        }
        server.stop().await?;
        if json {
            println!(
                "{}",
                json!({ "contacts": self.scale.contacts, "measures": measured })
            );
        }
        anyhow::ensure!(missed.is_empty(), "bars missed: {}", missed.join("; "));
        Ok(())
    }

    async fn measure(&self, measure: Measure, stage: &Stage) -> anyhow::Result<Vec<Figure>> {
        let scale = &self.scale;
        let db = &stage.installation.db;
        match measure {
            Measure::Path => path::measure(stage, scale).await,
            Measure::Queue => Ok(bench_queue::run(db, &scale.queue()).await?),
            Measure::Snapshot => Ok(snapshot::run(db, &scale.snapshot()).await?),
            Measure::Twilio => twilio::measure(stage, scale).await,
            Measure::Fairness => fairness::measure(stage, scale).await,
            Measure::Small => small::beside_one(stage, scale).await,
            Measure::Crowd => small::beside_many(stage, scale).await,
            Measure::Pacing => pacing::measure(stage).await,
            Measure::Pause => pause::measure(stage, scale).await,
            Measure::Paused => paused::measure(stage, scale).await,
            Measure::Release => release::measure(stage, scale).await,
            Measure::Webhooks => webhooks::measure(stage, scale).await,
        }
    }
}
