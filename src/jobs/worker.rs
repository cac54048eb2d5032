//! A process that carries jobs out: engine, handlers, delivery and a candidate for the release leadership.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

use super::JobContext;
use super::queue::{Announced, Announcements, Engine, EngineConfig, Tuning, Workers};
use super::registry::{QUEUES, QueueLine, SEND, service};
use crate::crypto::mac::MacKey;
use crate::delivery::incarnation::Myself;
use crate::delivery::{Delivery, release};
use crate::domain::holds::Holds;
use crate::providers::ProviderSettings;
use crate::store::incarnations::NewIncarnation;
use crate::store::{Db, LANES};

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// For addresses and contents.
    pub mac_key: MacKey,
    /// How long things may take.
    pub holds: Holds,
    /// What providers need to know.
    pub providers: ProviderSettings,
    /// Sends of this process at once; the registry's number when absent.
    pub concurrency: Option<usize>,
    /// The queues to serve; all when empty.
    pub queues: Vec<String>,
    /// Further roles of this process, for the list of workers.
    pub roles: Vec<String>,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    engine: Engine,
    delivery: Delivery,
    myself: Myself,
    stop_release: CancellationToken,
    stop_now: CancellationToken,
    release: JoinHandle<()>,
    workers: JoinHandle<()>,
}

impl Worker {
    /// Starts to work. Waits until this process is somebody to the database.
    pub async fn start(db: Db, options: WorkerOptions) -> Self {
        let lines = lines(&options);
        let send = lines.iter().find(|line| line.name == SEND);
        let concurrency = send.map_or(0, |line| line.concurrency);
        let new = describe(&options, concurrency);
        let myself = Myself::start(db.direct_options(), new).await;
        let stop_now = CancellationToken::new();
        let delivery = Delivery::start(
            db.clone(),
            myself.clone(),
            options.holds,
            options.providers.clone(),
            concurrency,
            stop_now.clone(),
        );
        let engine = Engine::start(engine_config(&db, &myself, options.holds.lease));
        let context = JobContext {
            db: db.clone(),
            clock: db.clock().clone(),
            delivery: delivery.clone(),
            mac_key: options.mac_key,
        };
        let mut workers = Workers::new(engine.clone());
        for line in lines {
            let (spec, handlers) = service(line, &context);
            workers = workers.serve(spec, handlers);
        }
        let workers = tokio::spawn(async move {
            if let Err(error) = workers.run().await {
                tracing::error!(%error, "workers stopped out of order");
            }
        });
        let stop_release = CancellationToken::new();
        let bell = Arc::new(Notify::new());
        tokio::spawn(ring(engine.clone(), bell.clone()));
        let leader = release::run(
            db,
            myself.clone(),
            options.holds,
            bell,
            stop_release.clone(),
        );
        let release = tokio::spawn(leader);
        Self {
            engine,
            delivery,
            myself,
            stop_release,
            stop_now,
            release,
            workers,
        }
    }

    /// The engine, for looking at its queues.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// From now on no call is made: permissions are given back, running calls end.
    pub fn stop_calling(&self) {
        self.stop_now.cancel();
    }

    /// Stops in order: claims no more, lets handlers end for up to `limit`, gives the rest back, and lets calls end that are
    /// under way.
    pub async fn drain(self, limit: Duration) {
        self.stop_release.cancel();
        let drained = self.engine.drain(limit).await;
        tracing::info!(
            cancelled = drained.cancelled,
            unwritten = drained.unwritten,
            "drained"
        );
        let _ = self.release.await;
        let _ = self.workers.await;
        self.delivery.end().await;
        self.myself.end().await;
    }
}

/// What committed transactions of this process announce, as the engine hears it.
pub fn announcements(db: &Db) -> Announcements {
    BroadcastStream::new(db.announcements())
        .map(|heard| match heard {
            Ok(announcement) => Announced::Work {
                topic: announcement.topic,
                lowest_id: announcement.lowest_id,
            },
            Err(_) => Announced::Missed,
        })
        .boxed()
}

fn lines(options: &WorkerOptions) -> Vec<QueueLine> {
    QUEUES
        .iter()
        .filter(|line| options.queues.is_empty() || options.queues.iter().any(|q| q == line.name))
        .map(|line| match options.concurrency {
            Some(concurrency) if line.name == SEND => QueueLine {
                concurrency,
                ..*line
            },
            _ => *line,
        })
        .collect()
}

fn engine_config(db: &Db, myself: &Myself, lease: Duration) -> EngineConfig {
    let incarnation = myself.current().map_or(0, |incarnation| incarnation.0);
    EngineConfig {
        claim_pool: db.claim_pool(),
        system_pool: db.batch_pool(),
        direct: db.direct_options(),
        announcements: announcements(db),
        incarnation: incarnation.to_string(),
        clock: db.clock().clone(),
        tuning: Tuning::leasing_for(lease),
    }
}

fn describe(options: &WorkerOptions, concurrency: usize) -> NewIncarnation {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut roles = vec!["worker".to_owned()];
    roles.extend(options.roles.iter().cloned());
    NewIncarnation {
        host: host.unwrap_or_else(|| "unknown".into()),
        pid: std::process::id() as i32,
        boot_id: boot_id.trim().to_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
        roles,
        concurrency: concurrency as i32,
    }
}

/// Rings the leader's bell for every wake of a lane, here or in another process.
async fn ring(engine: Engine, bell: Arc<Notify>) {
    let ear = engine.ear(LANES);
    loop {
        tokio::select! {
            () = ear.heard() => bell.notify_one(),
            () = engine.stopping() => return,
        }
    }
}
