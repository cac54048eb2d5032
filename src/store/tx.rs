//! Transactions: whose they are, and what they announce when they commit.

use std::marker::PhantomData;
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, query, raw_sql};
use tokio::sync::broadcast;

use super::{Announcement, StoreResult};
use crate::clock::Clock;
use crate::clock::answer::answered_within;
use crate::domain::ids::TenantId;

/// How long an answer may take that waits for no lock and no disk.
pub(super) const WORD_MAX: Duration = Duration::from_secs(5);

/// One tenant, in the cell.
#[derive(Debug)]
pub enum Tenant {}
/// All tenants, in the cell.
#[derive(Debug)]
pub enum System {}
/// The schema `control`.
#[derive(Debug)]
pub enum Control {}

/// A transaction of one tenant; row-level security shows it no other's rows.
pub type TenantTx = Tx<Tenant>;
/// A transaction that sees the cell of all tenants.
pub type SystemTx = Tx<System>;
/// A transaction in `control`.
pub type ControlTx = Tx<Control>;

/// A connection inside a transaction. Dropped, it goes back to its pool once the server has ended that transaction; when the
/// server does not say so in time, the connection is closed.
type Open = ScopeGuard<PoolConnection<Postgres>, fn(PoolConnection<Postgres>)>;

/// Begins one. Whoever waits here may be stopped, and a connection whose BEGIN was cut off is inside a transaction all the same:
/// the next one's statements would be answered and never committed.
pub(super) async fn begin(connection: PoolConnection<Postgres>) -> Result<Open, sqlx::Error> {
    let mut open: Open = scopeguard::guard(connection, |connection| {
        tokio::spawn(roll_back(connection));
    });
    answered_within(WORD_MAX, say(&mut open, "BEGIN")).await?;
    Ok(open)
}

async fn roll_back(mut connection: PoolConnection<Postgres>) {
    let ended = answered_within(WORD_MAX, say(&mut connection, "ROLLBACK")).await;
    if ended.is_err() {
        // Not back to the pool, which would wait for a dead one for as long as the kernel does.
        drop(connection.detach());
    }
}

async fn say(connection: &mut PgConnection, word: &'static str) -> Result<(), sqlx::Error> {
    raw_sql(word).execute(connection).await?;
    Ok(())
}

/// Ends one by COMMIT or ROLLBACK; its connection is the pool's again.
async fn end(mut open: Open, word: &'static str) -> StoreResult<()> {
    say(&mut open, word).await?;
    drop(ScopeGuard::into_inner(open));
    Ok(())
}

/// An open transaction. Dropped without [`Tx::commit`], it changes nothing.
#[derive(Debug)]
pub struct Tx<K> {
    open: Open,
    announcements: Vec<Announcement>,
    announcer: broadcast::Sender<Announcement>,
    kind: PhantomData<K>,
}

impl<K> Tx<K> {
    pub(super) async fn open(
        open: Open,
        tenant_id: Option<TenantId>,
        announcer: broadcast::Sender<Announcement>,
    ) -> StoreResult<Self> {
        let mut tx = Self {
            open,
            announcements: Vec::new(),
            announcer,
            kind: PhantomData,
        };
        if let Some(tenant_id) = tenant_id {
            // Not `SET LOCAL`, which takes no parameter.
            query!(
                "SELECT set_config('app.tenant_id', $1, true)",
                tenant_id.to_string()
            )
            .fetch_one(tx.conn())
            .await?;
        }
        Ok(tx)
    }

    /// The connection, for a statement of `store` or the queue's door.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.open
    }

    /// Says, once this has committed, that somebody has work. Nobody hears of it after a rollback, and
    /// nobody is woken before the rows can be seen.
    pub fn announce(&mut self, topic: &str, lowest_id: i64) {
        match self
            .announcements
            .iter_mut()
            .find(|known| known.topic == topic)
        {
            Some(known) => known.lowest_id = known.lowest_id.min(lowest_id),
            None => self.announcements.push(Announcement {
                topic: topic.into(),
                lowest_id,
            }),
        }
    }

    /// Makes it durable, then tells whoever waits.
    pub async fn commit(self) -> StoreResult<()> {
        end(self.open, "COMMIT").await?;
        for announcement in self.announcements {
            // Nobody listens in a process without workers of its own.
            let _ = self.announcer.send(announcement);
        }
        Ok(())
    }

    /// Gives its locks back before anything else is done. One that is dropped does so a moment later.
    pub async fn rollback(self) -> StoreResult<()> {
        end(self.open, "ROLLBACK").await
    }
}

/// Gives a connection the offset of the clock, where there is one: a session keeps what it started with.
pub(super) async fn set_clock_offset(
    conn: &mut PgConnection,
    clock: &Clock,
) -> Result<(), sqlx::Error> {
    let offset = clock.offset();
    if offset.is_zero() {
        return Ok(());
    }
    let text = format!(
        "{} microseconds",
        offset.num_microseconds().unwrap_or_default()
    );
    query!(
        "SELECT set_config('engageninja.clock_offset', $1, false)",
        text
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}
