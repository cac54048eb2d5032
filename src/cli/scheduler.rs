//! `scheduler`: orders jobs by time.

use clap::Args;
use serde_json::json;

use super::installation::Installation;
use super::output::print;
use super::parts::{Parts, Running, listen, url};
use super::signals::Signals;
use crate::config::Config;
use crate::schedules::table::SCHEDULES;

/// Orders jobs by time.
#[derive(Debug, Args)]
pub(super) struct Scheduler {}

impl Scheduler {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let signals = Signals::listen()?;
        let installation = Installation::open(config).await?;
        let admin = listen(config.admin_listen, "--admin-listen").await?;
        let admin_url = url(&admin)?;
        let parts = Parts {
            api: None,
            admin,
            worker: None,
            scheduler: true,
        };
        let running = Running::start(&installation, parts).await?;
        let count = SCHEDULES.len();
        print(
            json,
            &json!({ "admin_url": admin_url, "schedules": count }),
            || format!("{count} schedules; health and /metrics on {admin_url}"),
        )?;
        running.until(&signals).await
    }
}
