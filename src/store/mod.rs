//! Every SQL statement of the product, one function each, and the ways to reach the database.
//!
//! There are two schemas and no statement crosses them: [`Db::control`] (who may sign in, which cell a
//! tenant lives in) and [`Db::cell`] (everything of one tenant). [`Db::system`] sees the cell of all
//! tenants; its users are few, and each call site says why.

pub mod attempts;
pub mod audience;
pub mod audit;
pub mod bench;
mod brands;
pub mod buckets;
pub mod campaign_counts;
pub mod campaigns;
pub mod cancellations;
pub mod checkup;
pub mod consents;
pub mod contact_search;
pub mod contact_variables;
pub mod contacts;
pub mod control;
pub mod credentials;
pub mod demo_ledger;
pub mod doubts;
pub mod halts;
pub mod history;
pub mod idempotency;
pub mod imports;
pub mod incarnations;
pub mod lanes;
pub mod lists;
pub mod mappings;
pub mod message_events;
pub mod message_hours;
pub mod message_views;
pub mod messages;
pub mod migrate;
pub mod orphans;
pub mod parked;
pub mod partitions;
mod pools;
pub mod provider_events;
pub mod reconcile_provider;
pub mod release;
pub mod retries;
pub mod schedules;
pub mod search;
pub mod senders;
pub mod settings;
pub mod startup;
pub mod statuses;
pub mod suppressions;
pub mod templates;
pub mod tenants;
pub mod timelines;
pub mod tx;
pub mod watched;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::sync::broadcast;

use crate::clock::Clock;
use crate::domain::ids::TenantId;

use self::pools::Pools;
pub use tx::{ControlTx, SystemTx, TenantTx, Tx};

/// Why a store function could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The row is not there, or belongs to somebody else.
    #[error("{what} not found")]
    NotFound {
        /// The thing that was looked for, as users call it.
        what: &'static str,
    },
    /// A constraint of the schema refused the change; the name is part of the API.
    #[error("refused by {constraint}")]
    Constraint {
        /// The constraint's name.
        constraint: String,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A guarded write met a row that had moved on.
    #[error("{what} changed meanwhile")]
    Moved {
        /// The thing that moved.
        what: &'static str,
    },
    /// The database cannot be reached, or does not answer in time. Worth another try.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// Two transactions waited for each other; this one was ended. Worth another try.
    #[error("deadlock")]
    Deadlock(#[source] sqlx::Error),
    /// A row holds what this version does not understand.
    #[error("unreadable row: {0}")]
    Unreadable(String),
    /// Anything else the database says.
    #[error("database error")]
    Database(#[source] sqlx::Error),
}

/// What every store function returns.
pub type StoreResult<T> = Result<T, StoreError>;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                    Self::Unreadable(error.to_string())
                }
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_) => Self::Unavailable(error),
                other => Self::Database(other),
            };
        };
        // 08: connection; 57P: shut down or crashed; 53: out of connections or memory; 55P03, 57014: a
        // time-out of ours; 25P03: stopped too long inside a transaction; 25P04: a transaction that took too long.
        match database.code().as_deref() {
            Some("40P01") => Self::Deadlock(error),
            Some(code)
                if code.starts_with("08")
                    || code.starts_with("57P")
                    || code.starts_with("53")
                    || matches!(code, "55P03" | "57014" | "25P03" | "25P04") =>
            {
                Self::Unavailable(error)
            }
            _ => match database.constraint() {
                Some(name) => Self::Constraint {
                    constraint: name.to_owned(),
                    source: error,
                },
                None => Self::Database(error),
            },
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<crate::domain::UnknownWord> for StoreError {
    fn from(word: crate::domain::UnknownWord) -> Self {
        Self::Unreadable(word.to_string())
    }
}

impl StoreError {
    /// Whether the same may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Deadlock(_))
    }

    /// Whether a statement was ended because it took too long: it will not be faster the next time.
    pub fn is_statement_too_long(&self) -> bool {
        let Self::Unavailable(error) = self else {
            return false;
        };
        let database = error.as_database_error();
        let code = database.and_then(sqlx::error::DatabaseError::code);
        code.as_deref() == Some("57014")
    }

    /// Whether one row of those that were asked for may be the cause, so that the others may pass without it: also one that
    /// somebody else holds locked (55P03). Nobody's own is the quarantine of the server (EN), a server that takes no writes (25),
    /// and what it does not understand or know (26, 42).
    pub fn may_be_of_one_row(&self) -> bool {
        let is_of_all = |code: String| {
            ["25", "26", "42", "EN"]
                .iter()
                .any(|class| code.starts_with(class))
        };
        self.is_locked_out() || !self.is_transient() && !self.sqlstate().is_some_and(is_of_all)
    }

    /// Whether somebody else held a lock for longer than we wait; nothing was done then.
    fn is_locked_out(&self) -> bool {
        self.sqlstate().as_deref() == Some("55P03")
    }

    /// What the database calls the fault, five letters and digits; never a value.
    pub fn sqlstate(&self) -> Option<String> {
        let (Self::Constraint { source: error, .. }
        | Self::Unavailable(error)
        | Self::Deadlock(error)
        | Self::Database(error)) = self
        else {
            return None;
        };
        let database = error.as_database_error()?;
        database.code().map(std::borrow::Cow::into_owned)
    }

    /// Whether what was asked may have been done all the same, and only the answer was lost.
    pub fn is_answer_lost(&self) -> bool {
        let never_asked = |error: &sqlx::Error| {
            matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed)
        };
        matches!(self, Self::Unavailable(error) if !never_asked(error)) && !self.is_locked_out()
    }

    /// The constraint that refused, if one did.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Constraint { constraint, .. } => Some(constraint),
            _ => None,
        }
    }
}

/// Checks that a guarded write touched as many rows as it had to.
///
/// # Errors
/// [`StoreError::Moved`] when it did not.
pub fn affected(
    done: &sqlx::postgres::PgQueryResult,
    rows: u64,
    what: &'static str,
) -> StoreResult<()> {
    if done.rows_affected() == rows {
        Ok(())
    } else {
        Err(StoreError::Moved { what })
    }
}

/// A duration as PostgreSQL takes it.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: duration.as_micros() as i64,
    }
}

/// How to reach the databases; made by `config`.
#[derive(Debug, Clone)]
pub struct DbOptions {
    /// The cell, through a transaction pooler if there is one.
    pub cell: PgConnectOptions,
    /// The cell without a pooler between: LISTEN and the incarnation's lock.
    pub cell_direct: PgConnectOptions,
    /// Where the schema `control` lives.
    pub control: PgConnectOptions,
    /// Connections a pool of this process may open, 1 or more.
    pub pool_connections_max: u32,
    /// A schema in which names are looked up before all others, PostgreSQL's own included. An installation has none; a
    /// test puts operators there that take conditions out of statements.
    pub schema_first: Option<String>,
}

impl DbOptions {
    /// Everything in one database, as in the default installation.
    pub fn single(options: &PgConnectOptions) -> Self {
        Self {
            cell: options.clone(),
            cell_direct: options.clone(),
            control: options.clone(),
            pool_connections_max: 16,
            schema_first: None,
        }
    }
}

/// What a committed transaction tells the rest of the installation: somebody has work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Who is meant: a queue's name, or [`LANES`].
    pub topic: String,
    /// The lowest new id, 0 when it does not matter.
    pub lowest_id: i64,
}

/// The topic of the release leader.
pub const LANES: &str = "lanes";

/// The ways into the database. Clones share the pools.
#[derive(Debug, Clone)]
pub struct Db {
    pools: Arc<Pools>,
}

impl Db {
    /// Makes the pools. No connection is opened before the first statement.
    pub fn new(options: &DbOptions, clock: Clock) -> Self {
        Self {
            pools: Arc::new(Pools::new(options, clock)),
        }
    }

    /// One tenant's part of the cell.
    pub fn cell(&self, tenant_id: TenantId) -> Scope<'_, tx::Tenant> {
        Scope::new(self, &self.pools.cell_app, Some(tenant_id))
    }

    /// One tenant's part of `control`: its members, its keys.
    pub fn control(&self, tenant_id: TenantId) -> Scope<'_, tx::Control> {
        Scope::new(self, &self.pools.control_app, Some(tenant_id))
    }

    /// All of `control`, for what comes before a tenant is known: signing in, looking up a key.
    pub fn control_system(&self) -> Scope<'_, tx::Control> {
        Scope::new(self, &self.pools.control_system, None)
    }

    /// The cell of all tenants.
    pub fn system(&self) -> Scope<'_, tx::System> {
        Scope::new(self, &self.pools.cell_system, None)
    }

    /// As [`Db::system`], on the connections of begin and finish, which are given back sooner.
    pub fn batch(&self) -> Scope<'_, tx::System> {
        Scope::new(self, &self.pools.batch, None)
    }

    /// As [`Db::batch`], on the one connection of the release's ticks, which is not tried before its use.
    pub fn tick(&self) -> Scope<'_, tx::System> {
        Scope::new(self, &self.pools.tick, None)
    }

    /// The pool of the queue engine's claims.
    pub fn claim_pool(&self) -> PgPool {
        self.pools.claim.clone()
    }

    /// All tenants' pool, for statements that choose their plan themselves.
    pub fn system_pool(&self) -> PgPool {
        self.pools.cell_system.clone()
    }

    /// The pool of statements that name their rows by key and go through indexes whatever the planner believes: begin, in
    /// autocommit, and the queue engine's beside its claims.
    pub fn batch_pool(&self) -> PgPool {
        self.pools.batch.clone()
    }

    /// For connections that must not go through a transaction pooler: LISTEN, and session locks.
    pub fn direct_options(&self) -> PgConnectOptions {
        self.pools.cell_direct.clone()
    }

    /// What transactions of this process announced when they committed, from now on.
    pub fn announcements(&self) -> broadcast::Receiver<Announcement> {
        self.pools.announcer.subscribe()
    }

    /// The clock that every statement of these pools agrees with.
    pub fn clock(&self) -> &Clock {
        &self.pools.clock
    }

    /// Ends every pool, waiting for what is in use.
    pub async fn close(&self) {
        let pools = &self.pools;
        for pool in [
            &pools.control_app,
            &pools.control_system,
            &pools.cell_app,
            &pools.cell_system,
            &pools.batch,
            &pools.tick,
            &pools.claim,
        ] {
            pool.close().await;
        }
    }
}

/// A way into one schema as one role.
#[derive(Debug)]
pub struct Scope<'a, K> {
    db: &'a Db,
    pool: &'a PgPool,
    tenant_id: Option<TenantId>,
    kind: std::marker::PhantomData<K>,
}

impl<'a, K> Scope<'a, K> {
    fn new(db: &'a Db, pool: &'a PgPool, tenant_id: Option<TenantId>) -> Self {
        Self {
            db,
            pool,
            tenant_id,
            kind: std::marker::PhantomData,
        }
    }

    /// Opens a transaction, with the tenant set where there is one.
    pub async fn begin(&self) -> StoreResult<Tx<K>> {
        let open = tx::begin(self.pool.acquire().await?).await?;
        Tx::open(open, self.tenant_id, self.db.pools.announcer.clone()).await
    }
}
