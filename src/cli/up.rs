//! `up`: everything in one process, for first steps and small installations.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::installation::{DATABASE, Installation, Keys, Socket, database_options, write_private};
use super::key::create_key;
use super::serve::{serve_admin, serve_api};
use super::signals::stop_on_signal;
use super::worker::{work, worker_options};
use crate::config::{Config, Surroundings};
use crate::crypto::password::{hash_password, random_token};
use crate::dev::postgres::{Launch, Server};
use crate::dev::seed::{DEMO_EMAIL, seed_demo};
use crate::domain::actor::Role;
use crate::domain::ids::TenantId;
use crate::schedules;
use crate::store::DbOptions;
use crate::store::migrate::{ensure_database, migrate};
use crate::telemetry::{self, LogTarget};

/// How often the embedded server is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Everything in one process, with a PostgreSQL of its own and a demo tenant.
#[derive(Debug, Args)]
pub(super) struct Up {
    /// Start without the demo tenant.
    #[arg(long)]
    no_demo: bool,
}

/// What a newcomer needs to sign in; kept in the data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Credentials {
    url: String,
    email: String,
    password: String,
    api_key: String,
    tenant_id: TenantId,
}

impl Up {
    pub(super) async fn run(self, config: Config, json: bool) -> anyhow::Result<()> {
        let stop = stop_on_signal()?;
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("cannot make {}", config.data_dir.display()))?;
        let log = config.data_dir.join("engageninja.log");
        let format = config.log_format.parse().map_err(anyhow::Error::msg)?;
        telemetry::init_log(&config.log, format, LogTarget::File(log))?;

        let (server, options) = start_database(&config).await?;
        let applied = migrate(&options.control, &options.cell).await?;
        let keys = Keys::of_or_new(&config)?;
        let installation = Installation::open_on(&config, &options, &keys).await?;
        let credentials = if self.no_demo {
            None
        } else {
            Some(credentials(&config, &installation).await?)
        };
        let services = Services::start(&config, &installation, &stop);
        services.answer(config.listen).await?;
        show(
            &config,
            json,
            server.as_ref(),
            applied.len(),
            credentials.as_ref(),
        )?;
        let server = watch(server, &stop).await?;
        services.end().await?;
        installation.db.close().await;
        if let Some(server) = server {
            spawn_blocking(|| server.stop()).await??;
        }
        Ok(())
    }
}

/// The embedded server, unless another database is configured.
async fn start_database(config: &Config) -> anyhow::Result<(Option<Server>, DbOptions)> {
    if config.database_url.is_some() {
        return Ok((None, database_options(config)?));
    }
    let surroundings = Surroundings::read();
    let launch = Launch {
        pg_bin: config.pg_bin.clone(),
        path: surroundings.path,
        runtime_dir: surroundings.runtime_dir,
        ..Launch::new(&config.data_dir)
    };
    let server = spawn_blocking(move || launch.start()).await??;
    ensure_database(&server.options("postgres"), DATABASE).await?;
    let options = server.options(DATABASE);
    Socket::write(&config.data_dir, &options)?;
    Ok((Some(server), DbOptions::single(&options)))
}

/// The demo tenant and how to sign in to it; made on the first start, and made whole when that one was killed.
async fn credentials(config: &Config, installation: &Installation) -> anyhow::Result<Credentials> {
    let path = config.data_dir.join("credentials.json");
    let url = format!("http://{}", config.listen);
    if let Ok(text) = std::fs::read_to_string(&path) {
        let kept: Credentials = serde_json::from_str(&text).with_context(|| {
            format!("{} cannot be read; delete it to start anew", path.display())
        })?;
        return Ok(Credentials { url, ..kept });
    }
    let password = random_token();
    let secret = secrecy::SecretString::from(password.clone());
    let hash = spawn_blocking(move || hash_password(&secret)).await??;
    let tenant_id = seed_demo(&installation.db, &installation.mac_key, &hash).await?;
    let api_key = create_key(&installation.db, tenant_id, "first steps", Role::Admin).await?;
    let made = Credentials {
        url,
        email: DEMO_EMAIL.into(),
        password,
        api_key,
        tenant_id,
    };
    write_private(&path, &serde_json::to_string_pretty(&made)?)?;
    Ok(made)
}

/// The programs that `up` runs in its process.
struct Services {
    api: tokio::task::JoinHandle<anyhow::Result<()>>,
    admin: tokio::task::JoinHandle<anyhow::Result<()>>,
    scheduler: tokio::task::JoinHandle<()>,
    worker: tokio::task::JoinHandle<()>,
}

impl Services {
    fn start(config: &Config, installation: &Installation, stop: &CancellationToken) -> Self {
        let mut options = worker_options(installation);
        options.roles = vec!["api".into(), "scheduler".into()];
        let (config, installation) = (config.clone(), installation.clone());
        let api = {
            let (config, installation, stop) = (config.clone(), installation.clone(), stop.clone());
            async move { serve_api(&config, &installation, stop).await }
        };
        Self {
            api: tokio::spawn(api),
            admin: tokio::spawn(serve_admin(config, installation.clone(), stop.clone())),
            scheduler: tokio::spawn(schedules::run(installation.db.clone(), stop.clone())),
            worker: {
                let stop = stop.clone();
                tokio::spawn(async move { work(&installation, options, stop).await })
            },
        }
    }

    /// Waits until the API takes connections, or one of the listeners has failed.
    async fn answer(&self, address: SocketAddr) -> anyhow::Result<()> {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            anyhow::ensure!(
                !self.api.is_finished() && !self.admin.is_finished(),
                "cannot listen on {address}; choose other addresses with --listen and --admin-listen"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn end(self) -> anyhow::Result<()> {
        self.worker.await?;
        self.scheduler.await?;
        self.admin.await??;
        self.api.await?
    }
}

/// Until the process is to stop. An embedded server that ends by itself ends `up` too: the next start recovers it.
async fn watch(
    mut server: Option<Server>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Server>> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(server),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Some(server) = &mut server
            && server.has_ended()
        {
            let log = server.log().display().to_string();
            anyhow::bail!(
                "PostgreSQL ended by itself; {log} says why, `engageninja up` starts it again"
            );
        }
    }
}

fn show(
    config: &Config,
    json: bool,
    server: Option<&Server>,
    migrations: usize,
    credentials: Option<&Credentials>,
) -> anyhow::Result<()> {
    if json {
        let line = match credentials {
            Some(credentials) => serde_json::to_string(credentials)?,
            None => serde_json::json!({ "url": format!("http://{}", config.listen) }).to_string(),
        };
        println!("{line}");
        return Ok(());
    }
    if let Some(server) = server {
        let taken = if server.was_taken_over() {
            ", taken over from a killed start"
        } else {
            ""
        };
        let dir = server.database_dir().display();
        println!(
            "  ✓ PostgreSQL {} ready (data in {dir}; socket only{taken})",
            server.version()
        );
    }
    println!("  ✓ schema up to date ({migrations} migrations applied now)");
    println!(
        "  ✓ API and page  http://{}   documentation: /api/docs",
        config.listen
    );
    println!(
        "  ✓ worker, scheduler; health and /metrics on http://{}",
        config.admin_listen
    );
    if let Some(credentials) = credentials {
        println!(
            "  ✓ demo tenant «Dojo Coffee»: messages are simulated, nothing leaves this machine"
        );
        println!();
        println!("    sign in    {}", credentials.email);
        println!("    password   {}", credentials.password);
        println!("    API key    {}", credentials.api_key);
        println!();
        println!("  Open the page: «Spring sale» is going out right now.");
    }
    println!(
        "  Log: {}",
        config.data_dir.join("engageninja.log").display()
    );
    println!(
        "  Stop: Ctrl-C (drains; again Ctrl-C = now). Data stays; `make clean-data` removes it."
    );
    Ok(())
}
