//! `worker`: carries out jobs, and stands for the release leadership.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::installation::{Installation, Misconfigured};
use super::serve::serve_admin;
use super::signals::stop_on_signal;
use crate::config::Config;
use crate::jobs::registry::QUEUES;
use crate::jobs::worker::{Worker, WorkerOptions};
use crate::schedules;

/// How long handlers may run on once the process shall stop.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Carries out jobs.
#[derive(Debug, Args)]
pub(super) struct WorkerCommand {
    /// Further roles of this process.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    with: Vec<Role>,
    /// Queues to serve [default: all].
    #[arg(long, value_delimiter = ',', value_name = "QUEUE", value_parser = queue_name)]
    jobs: Vec<String>,
    /// Messages this process sends at once, 1 to 4096 [default: 256].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: Option<u16>,
}

/// What may run beside a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Cron.
    Scheduler,
}

fn queue_name(text: &str) -> Result<String, String> {
    let names: Vec<&str> = QUEUES.iter().map(|line| line.name).collect();
    if names.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "there is no queue {text:?}; there are {}",
            names.join(", ")
        ))
    }
}

impl WorkerCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let stop = stop_on_signal()?;
        let installation = Installation::open(config).await?;
        let mut options = worker_options(&installation);
        options.concurrency = self.concurrency.map(Into::into);
        options.queues = self.jobs;
        let with_scheduler = self.with.contains(&Role::Scheduler);
        if with_scheduler {
            options.roles.push("scheduler".into());
        }
        let admin = tokio::spawn(serve_admin(
            config.clone(),
            installation.clone(),
            stop.clone(),
        ));
        if with_scheduler {
            tokio::spawn(schedules::run(installation.db.clone(), stop.clone()));
        }
        work(&installation, options, stop.clone()).await;
        admin
            .await?
            .map_err(|error| Misconfigured(format!("{error:#}")).into())
    }
}

/// How a worker of this installation is started.
pub(super) fn worker_options(installation: &Installation) -> WorkerOptions {
    WorkerOptions {
        mac_key: installation.mac_key.clone(),
        holds: installation.holds,
        concurrency: None,
        queues: Vec::new(),
        roles: Vec::new(),
    }
}

/// Works until `stop`, then drains.
pub(super) async fn work(
    installation: &Installation,
    options: WorkerOptions,
    stop: CancellationToken,
) {
    let worker = Worker::start(installation.db.clone(), options).await;
    stop.cancelled().await;
    worker.drain(DRAIN_MAX).await;
}
