//! Every wait and every bound of the engine, with the reason it has this size.

use std::time::Duration;

/// What a process may be told about pace. The defaults are the ones to use; tests run the same rules faster.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// How long a claim is ours without a sign of life.
    pub lease: Duration,
    /// How often all leases of the process are renewed: three chances before one is over.
    pub renew_every: Duration,
    /// How often expired leases are looked for; with the lease it bounds how late a dead worker's job runs.
    pub sweep_every: Duration,
    /// After an outage, how long the sweeper leaves living workers to renew first.
    pub sweep_grace: Duration,
    /// How often due jobs are made ready; bounds how late `run_at` is kept.
    pub promote_every: Duration,
    /// The quickest look at a queue nobody announced anything for.
    pub poll_min: Duration,
    /// The slowest one. Spread out, so that many processes do not look at once.
    pub poll_max: Duration,
    /// The shortest time between two NOTIFYs of this process: each takes a lock of the whole database.
    pub notify_gap: Duration,
    /// How often the low water falls to 0, the sweeper looks at all leases and the promoter at all due jobs: a
    /// net for wake-ups that were lost. Less often where that takes long.
    pub net_every: Duration,
    /// How long a claim waits for more room when less than half of the queue's is free.
    pub claim_linger: Duration,
    /// How long the completer waits for company.
    pub complete_linger: Duration,
    /// First wait after a database error.
    pub retry_min: Duration,
    /// Longest wait between two tries while the database is away.
    pub retry_max: Duration,
    /// How long a lease may look lost before its handler is cancelled: the handler may just have completed its
    /// job in its own transaction and not said so yet.
    pub lost_grace: Duration,
    /// How long a drain waits for the last completions once the handlers have ended.
    pub flush_max: Duration,
    /// A job that was started this often and never ended kills its process; it is dead.
    pub starts_max: i16,
    /// Runs after which a job is set aside under which the database goes away each time.
    pub cut_offs_max: i16,
}

/// The least that a statement may take over the rows of this process.
const OWN_ROWS_MIN: Duration = Duration::from_secs(5);

impl Tuning {
    /// How long a statement may hold all rows of this process: a renewal waits for it, and two of them go into what a lease
    /// lasts beyond one renewal.
    pub(super) fn own_rows_max(&self) -> Duration {
        self.renew_every.max(OWN_ROWS_MIN)
    }

    /// The defaults around another lease.
    pub fn leasing_for(lease: Duration) -> Self {
        let usual = Self::default();
        Self {
            lease,
            renew_every: lease / 3,
            sweep_grace: usual.sweep_grace.min(lease),
            ..usual
        }
    }

    /// As the defaults, for another lease: what has to happen within one is scaled with it, what
    /// depends on how long a connection takes to come back is not.
    pub fn with_lease(lease: Duration) -> Self {
        let usual = Self::default();
        let scale = lease.as_secs_f64() / usual.lease.as_secs_f64();
        let at_most = |usual: Duration| usual.mul_f64(scale.min(1.0));
        Self {
            sweep_every: at_most(usual.sweep_every),
            retry_min: at_most(usual.retry_min),
            retry_max: at_most(usual.retry_max),
            lost_grace: at_most(usual.lost_grace),
            ..Self::leasing_for(lease)
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            renew_every: Duration::from_secs(10),
            sweep_every: Duration::from_millis(500),
            sweep_grace: Duration::from_secs(5),
            promote_every: Duration::from_millis(50),
            poll_min: Duration::from_millis(250),
            poll_max: Duration::from_secs(1),
            notify_gap: Duration::from_millis(7),
            net_every: Duration::from_secs(30),
            claim_linger: Duration::from_millis(2),
            complete_linger: Duration::from_millis(2),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(1),
            lost_grace: Duration::from_millis(500),
            flush_max: Duration::from_secs(5),
            starts_max: 10,
            cut_offs_max: 100,
        }
    }
}

/// Jobs of one claim.
pub(super) const CLAIM_MAX: usize = 1_000;
/// Lanes of one claim. Where more have something, each comes less often and gets more at a time: to find a lane costs twice
/// what it costs to take a job of it.
pub(super) const LANES_MAX: i64 = 64;
/// Looks at everything take one part in so many of the time, at most.
pub(super) const NET_PART: u32 = 100;
/// Completions of one statement.
pub(super) const COMPLETE_MAX: usize = 5_000;
/// Completions that wait for the database before the process stops claiming.
pub(super) const COMPLETIONS_WAITING_MAX: usize = 20_000;
/// From this many on, the completer does not wait for company.
pub(super) const COMPLETE_ENOUGH: usize = 200;
/// Rows of one promotion or one sweep.
pub(super) const SWEEP_MAX: i64 = 1_000;
/// Leases renewed by one statement.
pub(super) const RENEW_MAX: usize = 5_000;
/// Bytes kept of an error; more helps nobody.
pub(super) const REASON_BYTES_MAX: usize = 2_000;
/// Priorities of one queue whose low water is remembered; with more it is not.
pub(super) const PRIORITIES_MAX: usize = 16;
/// How far back of its last look the sweeper and the promoter look again: rows that somebody held locked, or
/// whose transaction took this long, are not lost until the net.
pub(super) const LOOK_BACK_SECS: f64 = 20.0;
