//! `worker`: carries out jobs, and stands for the release leadership.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::installation::Installation;
use super::output::print;
use super::parts::{Parts, Running, listen, url, worker_options};
use super::signals::Signals;
use crate::config::Config;
use crate::jobs::registry::QUEUES;

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

pub(super) fn queue_name(text: &str) -> Result<String, String> {
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
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let signals = Signals::listen()?;
        let installation = Installation::open(config).await?;
        let admin = listen(config.admin_listen, "--admin-listen").await?;
        let admin_url = url(&admin)?;
        let scheduler = self.with.contains(&Role::Scheduler);
        let roles: &[&str] = if scheduler { &["scheduler"] } else { &[] };
        let mut options = worker_options(&installation, roles);
        options.concurrency = self.concurrency.map(Into::into);
        options.queues.clone_from(&self.jobs);
        let parts = Parts {
            api: None,
            admin,
            worker: Some(options),
            scheduler,
        };
        let running = Running::start(&installation, parts).await?;
        let queues = if self.jobs.is_empty() {
            QUEUES.iter().map(|line| line.name.to_owned()).collect()
        } else {
            self.jobs
        };
        let value = json!({ "admin_url": admin_url, "queues": queues, "scheduler": scheduler });
        print(json, &value, || {
            format!(
                "works on {}; health and /metrics on {admin_url}",
                queues.join(", ")
            )
        })?;
        running.until(&signals).await
    }
}
