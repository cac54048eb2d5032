//! Connections: a pool for each kind of work, since a connection keeps how long it may be busy and how it plans.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::broadcast;

use super::{Announcement, DbOptions, timelines, tx};
use crate::clock::Clock;
use crate::clock::answer::answered_within;

/// Announcements that wait for a slow listener; the oldest go first, and a poll makes up for them.
const ANNOUNCEMENTS_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Pools {
    pub(super) control_app: PgPool,
    pub(super) control_system: PgPool,
    pub(super) cell_app: PgPool,
    pub(super) cell_system: PgPool,
    pub(super) batch: PgPool,
    pub(super) tick: PgPool,
    pub(super) claim: PgPool,
    pub(super) cell_direct: PgConnectOptions,
    pub(super) announcer: broadcast::Sender<Announcement>,
    pub(super) clock: Clock,
}

/// A name of PostgreSQL's configuration, and its value.
type Setting = (&'static str, &'static str);

/// How long a pool's connection may be busy; a stopped process must not hold others up for longer.
struct Patience {
    idle_in_transaction: Duration,
    extra: &'static [&'static [Setting]],
    /// Its connections ask which server they reached.
    is_sending: bool,
    /// Whether a connection is tried before its use. That is a round trip; without it the first use after the database went
    /// away fails.
    is_tried: bool,
    /// Whether a commit waits until the disk has it.
    is_durable: bool,
}

const REQUEST: Patience = Patience {
    idle_in_transaction: Duration::from_secs(5),
    extra: &[],
    is_sending: false,
    is_tried: true,
    is_durable: true,
};
/// For statements that name every row by its key: the only good plan is the nested loop over indexes, also while the week's
/// partition is new and the planner believes it empty. No bitmap: only a plain index scan forgets dead entries, and the small
/// partial indexes of the path are nothing but these after a while. One plan for all arguments: each connection would plan
/// each statement for the first five anew, over all partitions.
const BY_INDEX: &[Setting] = &[
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];
/// Begin and finish hold a campaign's lock: a process stopped inside them may hold up a pause this long.
const BATCH: Patience = Patience {
    idle_in_transaction: Duration::from_secs(2),
    extra: &[BY_INDEX],
    is_sending: true,
    ..REQUEST
};
/// Statements as [`BATCH`]'s, up to twenty ticks a second. The leader takes its term anew when one fails.
///
/// A tick need not wait until the disk has it: the log is written in order, so whatever begins a message that was let out
/// makes the letting-out durable with it. A crash takes back what nobody had begun, with its jobs and what it drew of rates.
const TICK: Patience = Patience {
    is_sending: false,
    is_tried: false,
    is_durable: false,
    ..BATCH
};
/// What is ready is read in the order of its index, from the low end on. A queue is empty whenever the vacuum of an idle
/// installation looks at it, and a planner that goes by that would fetch all that is ready and sort it, for each claim.
const CLAIM: Patience = Patience {
    extra: &[BY_INDEX, &[("enable_sort", "off")]],
    is_sending: false,
    ..BATCH
};

impl Pools {
    /// No connection is opened before the first statement.
    pub(super) fn new(options: &DbOptions, clock: Clock) -> Self {
        let max = options.pool_connections_max;
        let schema_first = options.schema_first.as_deref();
        let pool = |options: &PgConnectOptions, schema, role, patience: &Patience, max| {
            let path = search_path(schema_first, schema);
            make_pool(
                with_session(options, &path, role, patience),
                max,
                &clock,
                patience,
            )
        };
        let (announcer, _) = broadcast::channel(ANNOUNCEMENTS_MAX);
        Self {
            control_app: pool(&options.control, "control", APP, &REQUEST, max.min(4)),
            control_system: pool(&options.control, "control", SYSTEM, &REQUEST, max.min(4)),
            cell_app: pool(&options.cell, "cell", APP, &REQUEST, max),
            cell_system: pool(&options.cell, "cell", SYSTEM, &REQUEST, max),
            batch: pool(&options.cell, "cell", SYSTEM, &BATCH, max),
            // One ticks; the other is for when the first got no answer.
            tick: pool(&options.cell, "cell", SYSTEM, &TICK, 2),
            claim: pool(&options.cell, "cell", SYSTEM, &CLAIM, max.min(4)),
            cell_direct: with_session(
                &options.cell_direct,
                &search_path(None, "cell"),
                SYSTEM,
                &REQUEST,
            ),
            announcer,
            clock,
        }
    }
}

const APP: &str = "engageninja_app";
const SYSTEM: &str = "engageninja_system";

/// Where the names in a statement are looked up.
fn search_path(first: Option<&str>, schema: &str) -> String {
    match first {
        Some(first) => format!("{first},pg_catalog,{schema},public"),
        None => format!("{schema},public"),
    }
}

fn with_session(
    options: &PgConnectOptions,
    search_path: &str,
    role: &str,
    patience: &Patience,
) -> PgConnectOptions {
    let idle_ms = patience.idle_in_transaction.as_millis().to_string();
    options
        .clone()
        .application_name("engageninja")
        .options([
            ("role", role),
            ("search_path", search_path),
            ("statement_timeout", "15000"),
            ("lock_timeout", "2000"),
            ("idle_in_transaction_session_timeout", &idle_ms),
            ("timezone", "UTC"),
            ("jit", "off"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ])
        .options((!patience.is_durable).then_some(("synchronous_commit", "off")))
        .options(patience.extra.concat())
}

fn make_pool(
    options: PgConnectOptions,
    connections_max: u32,
    clock: &Clock,
    patience: &Patience,
) -> PgPool {
    let clock = clock.clone();
    let is_sending = patience.is_sending;
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_mins(1))
        .test_before_acquire(patience.is_tried)
        .after_connect(move |conn, _| {
            Box::pin(async move {
                if is_sending && !timelines::check_timeline(conn).await? {
                    tracing::error!(
                        "the database is in quarantine: no call begins; `engageninja timeline list` says more"
                    );
                }
                Ok(())
            })
        })
        .before_acquire(move |conn, _| {
            let clock = clock.clone();
            Box::pin(async move {
                tx::set_clock_offset(conn, &clock).await?;
                Ok(true)
            })
        })
        // Nobody waits any more for what it was asked last. A dead one is closed then, and another may be opened.
        .after_release(|conn, _| {
            Box::pin(async move {
                answered_within(tx::WORD_MAX, conn.flush()).await?;
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}
