//! `serve`: the API, its page, and the admin address.

use clap::Args;
use serde_json::json;

use super::installation::Installation;
use super::output::print;
use super::parts::{Parts, Running, front, listen, url};
use super::signals::Signals;
use crate::config::Config;

/// The API and its page.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let signals = Signals::listen()?;
        let installation = Installation::open(config).await?;
        let api = listen(config.listen, "--listen").await?;
        let admin = listen(config.admin_listen, "--admin-listen").await?;
        let (api_url, admin_url) = (url(&api)?, url(&admin)?);
        let parts = Parts {
            api: Some((api, front(config))),
            admin,
            worker: None,
            scheduler: false,
        };
        let running = Running::start(&installation, parts).await?;
        print(
            json,
            &json!({ "url": api_url, "admin_url": admin_url }),
            || format!("API on {api_url}; health and /metrics on {admin_url}"),
        )?;
        running.until(&signals).await
    }
}
