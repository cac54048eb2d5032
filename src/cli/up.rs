//! `up`: everything on this machine, from an empty directory to a campaign on its way.
//!
//! What it makes it makes once: a step that was interrupted is finished by the next start. The data
//! directory is held for as long as it runs, so a second `up` on it is refused; a server that a killed one left
//! behind is taken over.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::net::TcpListener;

use super::data_dir::{Credentials, DataDir};
use super::installation::{DATABASE, Installation, database_options, keys};
use super::key::create_key;
use super::output::print;
use super::parts::{Parts, Running, front, listen, url, worker_options};
use super::signals::Signals;
use super::user::{NewPerson, add_user, make_platform_admin, set_password};
use crate::config::{Config, Environment, Surroundings};
use crate::delivery::campaigns::start_campaign;
use crate::delivery::demo_seed;
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::postgres::{self, Launch, Server};
use crate::domain::actor::Role;
use crate::domain::demo_seed::{CAMPAIGN, CONTACTS};
use crate::domain::ids::TenantId;
use crate::jobs::registry::QUEUES;
use crate::schedules::table::SCHEDULES;
use crate::store::control::directory;
use crate::store::migrate::{ensure_database, migrate};
use crate::store::{Db, DbOptions, StoreError};
use crate::telemetry::{self, LogTarget};

const DEMO_NAME: &str = "Dojo Coffee";
const DEMO_SLUG: &str = "dojo-coffee";
const DEMO_EMAIL: &str = "demo@example.test";

/// How often the embedded server is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Run everything on this machine.
#[derive(Debug, Args)]
pub(super) struct Up {
    /// Make no demo tenant.
    #[arg(long)]
    no_demo: bool,
}

/// Holds the data directory, and the server in it unless another is used.
enum Hold {
    Server(Server),
    Lock { _lock: std::fs::File },
}

impl Up {
    pub(super) async fn run(self, mut config: Config, json: bool) -> Result<()> {
        let signals = Signals::listen()?;
        // Whoever brings up everything at once takes first steps, unless told otherwise.
        config.environment = config.environment.or(Some(Environment::Development));
        let mut steps = Steps::new(!json);
        let hold = take_data_dir(&config, &mut steps).await?;
        init_log(&config, json)?;
        let program = self.run_on(&config, json, &hold, &signals, &mut steps);
        let done = match &hold {
            Hold::Server(server) => tokio::select! {
                done = program => done,
                failure = watch(server) => Err(failure),
            },
            Hold::Lock { .. } => program.await,
        };
        if let Hold::Server(server) = hold {
            tokio::task::spawn_blocking(|| server.stop()).await??;
        }
        done
    }

    async fn run_on(
        &self,
        config: &Config,
        json: bool,
        hold: &Hold,
        signals: &Signals,
        steps: &mut Steps,
    ) -> Result<()> {
        let options = match hold {
            Hold::Server(server) => {
                ensure_database(&server.options("postgres"), DATABASE).await?;
                DbOptions::single(&server.options(DATABASE))
            }
            Hold::Lock { .. } => database_options(config)?,
        };
        let applied = migrate(&options.control, &options.cell).await?;
        steps.done(&format!(
            "schema up to date: {} migrations applied now",
            applied.len()
        ));
        let data_dir = DataDir::new(&config.data_dir);
        if config.mac_key.is_none() {
            data_dir.ensure_keys()?;
        }
        let installation = Installation::open_on(config, &options, &keys(config)?).await?;

        let api = listen(config.listen, "--listen").await?;
        let admin = listen_admin(config.admin_listen).await?;
        let (api_url, admin_url) = (url(&api)?, url(&admin)?);
        let credentials = if self.no_demo {
            None
        } else {
            let credentials = ensure_demo(&installation, &data_dir, &api_url).await?;
            steps.done(&format!(
                "demo tenant «{DEMO_NAME}»: {CONTACTS} contacts, messages are simulated"
            ));
            Some(credentials)
        };
        let parts = Parts {
            api: Some((api, front(config))),
            admin,
            worker: Some(worker_options(&installation, &["api", "scheduler"])),
            scheduler: true,
        };
        let running = Running::start(&installation, parts).await?;
        match &credentials {
            Some(credentials) => print(json, credentials, || {
                block(credentials, &data_dir, &admin_url)
            })?,
            None => print(json, &json!({ "url": api_url }), || {
                format!("  ✓ API    {api_url}\n  Next: engageninja tenant demo \"My shop\"\n{STOP}")
            })?,
        }
        running.until(signals).await
    }
}

/// Starts the embedded server, or only takes the directory when the settings name another.
async fn take_data_dir(config: &Config, steps: &mut Steps) -> Result<Hold> {
    if config.database_url.is_some() {
        let lock = postgres::lock_data_dir(&config.data_dir)?;
        return Ok(Hold::Lock { _lock: lock });
    }
    let surroundings = Surroundings::read();
    let launch = Launch {
        pg_bin: config.pg_bin.clone(),
        path: surroundings.path,
        runtime_dir: surroundings.runtime_dir,
        ..Launch::new(&config.data_dir)
    };
    let server = tokio::task::spawn_blocking(move || launch.start()).await??;
    let how = if server.was_taken_over() {
        "taken over"
    } else {
        "ready"
    };
    steps.done(&format!(
        "PostgreSQL {} {how}: data in {}, private socket",
        server.version(),
        server.database_dir().display()
    ));
    Ok(Hold::Server(server))
}

/// Comes back only when the server has ended by itself.
async fn watch(server: &Server) -> anyhow::Error {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !server.is_running() {
            return anyhow!(
                "PostgreSQL ended by itself; see {}, then run `engageninja up` again",
                server.log().display()
            );
        }
    }
}

/// People at a terminal see the block, and find the log in a file.
fn init_log(config: &Config, json: bool) -> Result<()> {
    let target = if std::io::stdout().is_terminal() && !json {
        LogTarget::File(DataDir::new(&config.data_dir).log())
    } else {
        LogTarget::Stderr {
            colors: !Surroundings::read().no_color,
        }
    };
    let format = config.log_format.parse().map_err(anyhow::Error::msg)?;
    telemetry::init_log(&config.log, format, target)?;
    Ok(())
}

/// The admin address is for machines of the operator: whoever just tries the product need not clear it.
async fn listen_admin(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            listen(SocketAddr::new(address.ip(), 0), "--admin-listen").await
        }
        bound => bound.with_context(|| format!("cannot listen on {address}")),
    }
}

/// The demo tenant with all it begins with, and the way in. Kept credentials that still fit are given again.
async fn ensure_demo(
    installation: &Installation,
    data_dir: &DataDir,
    url: &str,
) -> Result<Credentials> {
    let db = &installation.db;
    if let Some(kept) = data_dir.read_credentials()?
        && is_tenant(db, &kept.tenant_id).await?
    {
        let credentials = Credentials {
            url: url.into(),
            ..kept.clone()
        };
        if credentials != kept {
            data_dir.write_credentials(&credentials)?;
        }
        return Ok(credentials);
    }
    let tenant_id = ensure_demo_tenant(db, DEMO_NAME, DEMO_SLUG).await?;
    fill(installation, tenant_id).await?;
    let demo = NewPerson {
        email: DEMO_EMAIL,
        name: "Demo",
        password: None,
    };
    let made = add_user(db, Some((tenant_id, Role::Owner)), demo).await?;
    let password = match made {
        Some(password) => password,
        // Made by a start that was killed before it could keep the password.
        None => set_password(db, DEMO_EMAIL, None).await?,
    };
    // Whoever starts an installation for the first time shall see all of it.
    make_platform_admin(db, DEMO_EMAIL).await?;
    let (_, api_key) = create_key(db, tenant_id, "first steps", Role::Admin).await?;
    let credentials = Credentials {
        url: url.into(),
        email: DEMO_EMAIL.into(),
        password: password.expose_secret().into(),
        api_key,
        tenant_id: tenant_id.to_string(),
    };
    data_dir.write_credentials(&credentials)?;
    Ok(credentials)
}

async fn is_tenant(db: &Db, id: &str) -> Result<bool> {
    let Ok(id) = id.parse() else {
        bail!("credentials.json is damaged; remove it");
    };
    let mut tx = db.control_system().begin().await?;
    match directory::load_tenant(&mut tx, id).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// People, templates and a campaign that is sending, in one transaction.
async fn fill(installation: &Installation, tenant_id: TenantId) -> Result<()> {
    let (db, mac_key) = (&installation.db, &installation.mac_key);
    let mut tx = db.control_system().begin().await?;
    let version = directory::load_tenant(&mut tx, tenant_id).await?.version;
    drop(tx);
    let clock = db.clock();
    let mut tx = db.cell(tenant_id).begin().await?;
    let filled = demo_seed::fill(&mut tx, tenant_id, version, mac_key, clock.now()).await?;
    let Some(campaign_id) = filled else {
        return Ok(());
    };
    start_campaign(&mut tx, tenant_id, campaign_id, clock)
        .await
        .context("the demo campaign did not start")?;
    tx.commit().await?;
    Ok(())
}

/// What people see while it starts.
struct Steps {
    is_shown: bool,
    since: Instant,
}

impl Steps {
    fn new(is_shown: bool) -> Self {
        Self {
            is_shown,
            since: Instant::now(),
        }
    }

    fn done(&mut self, what: &str) {
        if self.is_shown {
            println!("  ✓ {what}  ({:.1} s)", self.since.elapsed().as_secs_f64());
        }
        self.since = Instant::now();
    }
}

/// The rest of what people see.
fn block(credentials: &Credentials, data_dir: &DataDir, admin_url: &str) -> String {
    let queues: Vec<&str> = QUEUES.iter().map(|line| line.name).collect();
    let Credentials {
        url,
        email,
        password,
        api_key,
        ..
    } = credentials;
    format!(
        "  ✓ worker     {}; health and /metrics on {admin_url}\n  \
         ✓ scheduler  {} schedules\n  \
         ✓ API        {url}\n\n    \
         sign in    {email} / {password}\n    \
         API key    {api_key}\n    \
         kept in    {}\n\n  \
         Try:  open {url}: «{}» is going out right now\n        \
         curl -s {url}/api/campaigns -H 'authorization: Bearer {api_key}'\n        \
         {url}/api/docs\n{STOP}",
        queues.join(" · "),
        SCHEDULES.len(),
        data_dir.credentials().display(),
        CAMPAIGN,
    )
}

const STOP: &str = "  Stop: Ctrl-C (waits for what is under way, again Ctrl-C = now). Data stays; `make clean-data` removes it.";
