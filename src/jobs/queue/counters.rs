//! What the engine did since it was started: for the metrics endpoint, and for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry;

/// Totals of this process since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Jobs claimed.
    pub claimed: u64,
    /// Jobs completed by the engine; those that a handler completed itself are not among them.
    pub done: u64,
    /// Jobs rescheduled: retried, snoozed or given back.
    pub again: u64,
    /// Jobs that went to the dead jobs.
    pub dead: u64,
    /// Scheduled jobs made ready.
    pub promoted: u64,
    /// Jobs taken back from workers that gave no sign of life.
    pub rescued: u64,
    /// Leases lost while a handler ran.
    pub lost: u64,
    /// Endings that found their job moved on.
    pub missed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    claimed: AtomicU64,
    done: AtomicU64,
    again: AtomicU64,
    dead: AtomicU64,
    promoted: AtomicU64,
    rescued: AtomicU64,
    lost: AtomicU64,
    missed: AtomicU64,
}

impl Counters {
    pub(super) fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            claimed: read(&self.claimed),
            done: read(&self.done),
            again: read(&self.again),
            dead: read(&self.dead),
            promoted: read(&self.promoted),
            rescued: read(&self.rescued),
            lost: read(&self.lost),
            missed: read(&self.missed),
        }
    }

    pub(super) fn claimed(&self, queue: &str, jobs: u64) {
        self.claimed.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_CLAIMED_TOTAL, "queue" => queue.to_owned())
            .increment(jobs);
    }

    pub(super) fn done(&self, jobs: u64) {
        self.done.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_DONE_TOTAL).increment(jobs);
    }

    pub(super) fn again(&self, jobs: u64) {
        self.again.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_RESCHEDULED_TOTAL).increment(jobs);
    }

    pub(super) fn dead(&self, jobs: u64) {
        self.dead.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_DEAD_TOTAL).increment(jobs);
    }

    pub(super) fn promoted(&self, jobs: u64) {
        self.promoted.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_PROMOTED_TOTAL).increment(jobs);
    }

    pub(super) fn rescued(&self, jobs: u64) {
        self.rescued.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_RESCUED_TOTAL).increment(jobs);
    }

    pub(super) fn lost(&self, jobs: u64) {
        self.lost.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_LEASES_LOST_TOTAL).increment(jobs);
    }

    pub(super) fn missed(&self, jobs: u64) {
        self.missed.fetch_add(jobs, Ordering::Relaxed);
        metrics::counter!(telemetry::JOBS_FENCE_MISSED_TOTAL).increment(jobs);
    }
}
