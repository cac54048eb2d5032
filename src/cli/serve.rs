//! `serve`: the API, its page, and the admin address.

use anyhow::Context;
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::installation::Installation;
use super::signals::stop_on_signal;
use crate::api::state::ApiState;
use crate::api::{self, health};
use crate::config::Config;
use crate::jobs::queue::{Announcer, Tuning};
use crate::jobs::worker::announcements;
use crate::telemetry::init_metrics;

/// The API and its page.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let stop = stop_on_signal()?;
        let installation = Installation::open(config).await?;
        let db = installation.db.clone();
        // Workers are in other processes: they hear of new jobs by this.
        let _announcer =
            Announcer::start(db.direct_options(), announcements(&db), &Tuning::default());
        let admin = tokio::spawn(serve_admin(
            config.clone(),
            installation.clone(),
            stop.clone(),
        ));
        serve_api(config, &installation, stop.clone()).await?;
        stop.cancel();
        admin.await?
    }
}

/// Serves the public port until `stop`.
pub(super) async fn serve_api(
    config: &Config,
    installation: &Installation,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(config.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "API listens");
    let state = ApiState::new(installation.db.clone());
    Ok(api::serve(state, listener, stop).await?)
}

/// Serves health and metrics on the admin address until `stop`.
pub(super) async fn serve_admin(
    config: Config,
    installation: Installation,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics: PrometheusHandle = init_metrics()?;
    let listener = bind(config.admin_listen).await?;
    Ok(api::run(health::admin(installation.db, metrics), listener, stop).await?)
}

/// A listener, or a line that says what to do.
pub(super) async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; choose another address with --listen or --admin-listen"
        )
    })
}
