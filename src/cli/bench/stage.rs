//! Where a bench plays: a durable server of its own, and a database for each measure.

use std::path::PathBuf;

use secrecy::ExposeSecret;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::processes::Setting;
use crate::cli::data_dir::Keys;
use crate::cli::installation::Installation;
use crate::config::{Config, Environment, Surroundings};
use crate::dev::postgres::{self, Launch};
use crate::store::bench::tidy;
use crate::store::migrate::{ensure_database, migrate};
use crate::store::{DbOptions, StoreResult};

/// As a database under such load is set up. By default there would be a checkpoint twice a minute, and after each of them the
/// first change of a page writes the whole page to the log.
const SETTINGS: [(&str, &str); 2] = [("max_wal_size", "8GB"), ("checkpoint_timeout", "15min")];

/// A running server; its data go when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    running: Option<postgres::Server>,
    dir: PathBuf,
    config: Config,
}

/// One database with its schema, keys of its own, and how processes find it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) installation: Installation,
    pub(super) setting: Setting,
    options: DbOptions,
}

impl Server {
    pub(super) async fn start(config: &Config) -> anyhow::Result<Self> {
        let dir =
            std::env::temp_dir().join(format!("engageninja-bench-{}", Uuid::new_v4().simple()));
        let surroundings = Surroundings::read();
        let launch = Launch {
            pg_bin: config.pg_bin.clone(),
            path: surroundings.path,
            runtime_dir: surroundings.runtime_dir,
            settings: SETTINGS
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
            ..Launch::new(&dir)
        };
        let mut started = Self {
            running: None,
            dir,
            config: Config {
                environment: Some(Environment::Development),
                ..config.clone()
            },
        };
        started.running = Some(spawn_blocking(move || launch.start()).await??);
        Ok(started)
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(server) = self.running.take() {
            spawn_blocking(|| server.stop()).await??;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A measure that failed leaves the server running: first it ends, then its data go.
        drop(self.running.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Stage {
    /// A new database of this name.
    pub(super) async fn open(server: &Server, name: &str) -> anyhow::Result<Self> {
        let running = server
            .running
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("the bench's server has stopped"))?;
        ensure_database(&running.options("postgres"), name).await?;
        let options = DbOptions::single(&running.options(name));
        migrate(&options.control, &options.cell).await?;
        let keys = Keys::generate();
        let installation = Installation::open_on(&server.config, &options, &keys).await?;
        let ring = keys.ring.as_ref().map_or("", |ring| ring.expose_secret());
        let setting = Setting::new(&options.cell, keys.mac_key.expose_secret(), ring)?;
        Ok(Self {
            installation,
            setting,
            options,
        })
    }

    /// Lets the database sweep up what filling it left behind, before it is measured.
    pub(super) async fn tidy(&self) -> StoreResult<()> {
        tidy(&self.options.cell).await
    }

    pub(super) async fn close(self) {
        self.installation.db.close().await;
    }
}
