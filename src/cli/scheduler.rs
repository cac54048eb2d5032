//! `scheduler`: orders jobs by time.

use clap::Args;

use super::installation::Installation;
use super::serve::serve_admin;
use super::signals::stop_on_signal;
use crate::config::Config;
use crate::jobs::queue::{Announcer, Tuning};
use crate::jobs::worker::announcements;
use crate::schedules;

/// Orders jobs by time.
#[derive(Debug, Args)]
pub(super) struct Scheduler {}

impl Scheduler {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let stop = stop_on_signal()?;
        let installation = Installation::open(config).await?;
        let db = installation.db.clone();
        let _announcer =
            Announcer::start(db.direct_options(), announcements(&db), &Tuning::default());
        let admin = tokio::spawn(serve_admin(config.clone(), installation, stop.clone()));
        schedules::run(db, stop).await;
        admin.await?
    }
}
