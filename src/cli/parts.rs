//! The parts that a process may run beside each other, and how they end together.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::installation::Installation;
use super::signals::Signals;
use crate::api::front::Front;
use crate::api::state::ApiState;
use crate::api::{self, health};
use crate::config::Config;
use crate::jobs::queue::{Announcer, Tuning};
use crate::jobs::worker::{Worker, WorkerOptions, announcements};
use crate::store::Db;
use crate::{schedules, telemetry};

/// How long handlers and requests under way may take after the first signal.
const DRAIN: Duration = Duration::from_secs(10);
/// How long connections may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Open files that the API wants: as many streams as it takes, and room for the rest.
const OPEN_FILES_WANTED: u64 = 8_192;

/// What a process shall run.
#[derive(Debug)]
pub(super) struct Parts {
    /// The API, on this socket, behind this front.
    pub(super) api: Option<(TcpListener, Front)>,
    /// Health and metrics, on this one.
    pub(super) admin: TcpListener,
    /// Jobs.
    pub(super) worker: Option<WorkerOptions>,
    /// Schedules.
    pub(super) scheduler: bool,
}

/// Running parts.
#[derive(Debug)]
pub(super) struct Running {
    db: Db,
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    worker: Option<Worker>,
    _announcer: Option<Announcer>,
}

/// Takes an address, or says how to choose another.
pub(super) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))
}

/// Where a listener is reached from this machine.
pub(super) fn url(listener: &TcpListener) -> Result<String> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Ok(format!("http://{address}"))
}

/// Lets the process open more files than the usual 1,024: each stream that is read is one.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(OPEN_FILES_WANTED);
        if soft < wanted {
            setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is: fewer streams can be read at once");
    }
}

/// What the configuration says of the installation's front.
pub(super) fn front(config: &Config) -> Front {
    Front {
        public_url: config.public_url.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
    }
}

/// How a worker of this installation is started; `roles` run beside it in its process.
pub(super) fn worker_options(installation: &Installation, roles: &[&str]) -> WorkerOptions {
    WorkerOptions {
        mac_key: installation.mac_key.clone(),
        holds: installation.holds,
        providers: installation.providers.clone(),
        concurrency: None,
        queues: Vec::new(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

impl Running {
    /// Starts the parts.
    pub(super) async fn start(installation: &Installation, parts: Parts) -> Result<Self> {
        let metrics = telemetry::init_metrics()?;
        let db = installation.db.clone();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let admin = api::run(
            health::admin(db.clone(), metrics),
            parts.admin,
            stop.clone(),
        );
        tasks.spawn(async move { admin.await.context("the admin address failed") });
        if let Some((listener, front)) = parts.api {
            raise_open_files();
            let serve = api::serve(
                ApiState::new(db.clone(), installation.mac_key.clone())
                    .behind(front)
                    .with_keys(installation.providers.keys.clone()),
                listener,
                stop.clone(),
            );
            tasks.spawn(async move { serve.await.context("the API failed") });
        }
        if parts.scheduler {
            let scheduler = schedules::run(db.clone(), stop.clone());
            tasks.spawn(async move {
                scheduler.await;
                Ok(())
            });
        }
        let (worker, announcer) = if let Some(options) = parts.worker {
            (Some(Worker::start(db.clone(), options).await), None)
        } else {
            // Workers are in other processes: they hear of new jobs by this.
            let heard = announcements(&db);
            let announcer = Announcer::start(db.direct_options(), heard, &Tuning::default());
            (None, Some(announcer))
        };
        Ok(Self {
            db,
            stop,
            tasks,
            worker,
            _announcer: announcer,
        })
    }

    /// Runs until a signal, then ends in order, or at once when the second one comes.
    pub(super) async fn until(mut self, signals: &Signals) -> Result<()> {
        tokio::select! {
            () = signals.end.cancelled() => {}
            ended = self.tasks.join_next() => {
                let ended = ended.map_or(Ok(Ok(())), |task| task);
                ended.context("a part of the program panicked")??;
                bail!("a part of the program ended by itself");
            }
        }
        tracing::info!("stopping: waits for what is under way, a second signal ends it at once");
        let now = signals.now.clone();
        tokio::select! {
            () = self.drain() => tracing::info!("stopped"),
            () = now.cancelled() => tracing::warn!("stopped at once"),
        }
        Ok(())
    }

    async fn drain(mut self) {
        self.stop.cancel();
        if let Some(worker) = self.worker.take() {
            worker.drain(DRAIN).await;
        }
        while self.tasks.join_next().await.is_some() {}
        // A connection that fell silent would never be given back.
        let _ = tokio::time::timeout(CLOSE_MAX, self.db.close()).await;
    }
}
