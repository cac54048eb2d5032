//! The engine of one process: what its queues share, how it starts and how it stops.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backend::PgBackend;
use super::counters::{Counters, Totals};
use super::fetch::{Fetcher, Hatch};
use super::ticket::Desk;
use super::wake::{Announcements, Ear, Switchboard};
use super::{Tuning, complete, lease, sweep};
use crate::clock::Clock;

/// What the engine is handed.
pub struct EngineConfig {
    /// Connections that plan each statement anew (`plan_cache_mode = force_custom_plan`): the claim needs a plan
    /// that knows its limit.
    pub claim_pool: PgPool,
    /// Connections for everything else.
    pub system_pool: PgPool,
    /// A way in without a transaction pooler, for LISTEN and NOTIFY.
    pub direct: PgConnectOptions,
    /// What committed transactions of this process announce.
    pub announcements: Announcements,
    /// The name of this start of this process, in the names of its workers. Never a stable one.
    pub incarnation: String,
    /// For jobs that are pushed with an absolute time.
    pub clock: Clock,
    /// Waits and bounds.
    pub tuning: Tuning,
}

/// One queue as this process serves it.
#[derive(Debug, Clone)]
pub struct QueueSpec {
    /// The queue's name.
    pub queue: String,
    /// Jobs of it that may be claimed and not ended at once, each by its weight; 1 or more.
    pub concurrency: usize,
    /// What a job counts for.
    pub weight: Weight,
    /// Whether its lanes take turns. Without, it is first in, first out, and much faster.
    pub claims_in_turns: bool,
}

/// For how many a job counts, by its payload: one that does the work of several takes the slots of several, so that no process
/// claims more than it can do while another has nothing.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// Of one job, 1 or more.
    pub of: fn(&Value) -> usize,
    /// Of any.
    pub most: usize,
}

impl Weight {
    /// Each counts for one.
    pub const ONE: Self = Self { of: |_| 1, most: 1 };
}

/// The running engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(super) core: Arc<Core>,
}

/// What all tasks of the engine share.
pub(super) struct Core {
    pub(super) claim_pool: PgPool,
    pub(super) system_pool: PgPool,
    pub(super) incarnation: String,
    pub(super) clock: Clock,
    pub(super) tuning: Tuning,
    pub(super) board: Switchboard,
    pub(super) desk: Arc<Desk>,
    pub(super) counters: Counters,
    /// Cancelled when no more may be claimed.
    pub(super) stopping: CancellationToken,
    /// Cancelled when nothing is left to do.
    pub(super) ended: CancellationToken,
    /// Held by the statement that writes to many rows this process has: the completer's does not lock them in
    /// order first, which would double its cost, and must not meet the renewal's.
    pub(super) own_rows: tokio::sync::Mutex<()>,
    hatches: Mutex<Vec<Arc<Hatch>>>,
    fetchers: Mutex<JoinSet<()>>,
    lease_number: AtomicI64,
}

/// What a drain left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Handlers that did not end in time; they were cancelled and their jobs given back.
    pub cancelled: usize,
    /// Jobs whose ending the database did not take in time; they run again when their leases are over.
    pub unwritten: usize,
}

impl Engine {
    /// Starts the tasks that all queues share. Nothing is claimed before [`Engine::backend`].
    pub fn start(config: EngineConfig) -> Self {
        let ended = CancellationToken::new();
        let board = Switchboard::start(
            config.direct.clone(),
            config.announcements,
            &config.tuning,
            ended.clone(),
        );
        board.listen(config.direct, &config.tuning, ended.clone());
        let (desk, endings) = Desk::new();
        let core = Arc::new(Core {
            claim_pool: config.claim_pool,
            system_pool: config.system_pool,
            incarnation: config.incarnation,
            clock: config.clock,
            tuning: config.tuning,
            board,
            desk,
            counters: Counters::default(),
            stopping: CancellationToken::new(),
            ended,
            own_rows: tokio::sync::Mutex::default(),
            hatches: Mutex::default(),
            fetchers: Mutex::default(),
            lease_number: AtomicI64::new(new_lease_number()),
        });
        core.spawn(complete::run(Arc::clone(&core), endings));
        core.spawn(lease::run(Arc::clone(&core)));
        core.spawn(sweep::promote_due(Arc::clone(&core)));
        core.spawn(sweep::rescue_expired(Arc::clone(&core)));
        Self { core }
    }

    /// Begins to claim for a queue, and hands out the backend an apalis worker takes its jobs from.
    pub fn backend(&self, spec: QueueSpec) -> PgBackend {
        let hatch = Hatch::new(&spec);
        self.core.hatches().push(Arc::clone(&hatch));
        if self.core.stopping.is_cancelled() {
            hatch.close();
        }
        let queue = spec.queue.clone();
        let fetcher = Fetcher::new(Arc::clone(&self.core), Arc::clone(&hatch), spec);
        // Not bound to `ended`: it ends by itself, and gives back what it has just claimed.
        self.core.fetchers().spawn(fetcher.run());
        PgBackend::new(Arc::clone(&self.core), hatch, queue)
    }

    /// Somebody who waits for what is announced under a topic that need not be a queue.
    pub fn ear(&self, topic: &str) -> Ear {
        self.core.board.ear(topic)
    }

    /// Says that `queue` has work from `lowest_id` on; for jobs whose transaction did not announce them.
    pub fn announce(&self, queue: &str, lowest_id: i64) {
        self.core.board.announce(queue, lowest_id);
    }

    /// What was done since the start.
    pub fn totals(&self) -> Totals {
        self.core.counters.totals()
    }

    /// Resolves when a drain begins.
    pub async fn stopping(&self) {
        self.core.stopping.cancelled().await;
    }

    /// Stops: claims no more, gives back what was not started, waits up to `limit` for the handlers that run,
    /// cancels and gives back the rest, and writes every ending down.
    pub async fn drain(&self, limit: Duration) -> Drained {
        let core = &self.core;
        core.stopping.cancel();
        for hatch in core.hatches().iter() {
            hatch.close();
        }
        let patience = tokio::time::timeout(limit, core.desk.until_idle()).await;
        let cancelled = if patience.is_err() {
            core.desk.running()
        } else {
            0
        };
        core.desk.cancel_all();
        let mut fetchers = std::mem::take(&mut *core.fetchers());
        let flush = async {
            // What a claim that was under way brings in goes back as well.
            while fetchers.join_next().await.is_some() {}
            core.desk.until_empty().await;
        };
        let flush = tokio::time::timeout(core.tuning.flush_max, flush).await;
        let unwritten = if flush.is_err() { core.desk.len() } else { 0 };
        // What was given back waits for others. Later than this a poll of theirs finds it as soon.
        let _ = tokio::time::timeout(core.tuning.poll_min, core.board.until_told()).await;
        core.ended.cancel();
        Drained {
            cancelled,
            unwritten,
        }
    }
}

impl Core {
    /// The number of the leases claimed from now on: 63 random bits, never a name.
    pub(super) fn lease_number(&self) -> i64 {
        self.lease_number.load(Ordering::Acquire)
    }

    pub(super) fn renumber_lease(&self) {
        self.lease_number
            .store(new_lease_number(), Ordering::Release);
    }

    fn hatches(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Hatch>>> {
        self.hatches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetchers(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.fetchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task => {}
            }
        });
    }
}

fn new_lease_number() -> i64 {
    rand::random::<i64>() & i64::MAX
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("incarnation", &self.core.incarnation)
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

/// Tells the other processes of the installation what this one's transactions announce, in a process that
/// serves no queue itself. Ends when it is dropped.
#[derive(Debug)]
pub struct Announcer {
    board: Switchboard,
    ended: CancellationToken,
}

impl Announcer {
    /// Starts to tell.
    pub fn start(direct: PgConnectOptions, announcements: Announcements, tuning: &Tuning) -> Self {
        let ended = CancellationToken::new();
        let board = Switchboard::start(direct, announcements, tuning, ended.clone());
        Self { board, ended }
    }

    /// Tells that `topic` has work from `lowest_id` on.
    pub fn announce(&self, topic: &str, lowest_id: i64) {
        self.board.announce(topic, lowest_id);
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}
