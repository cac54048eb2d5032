//! Transactions: whose they are, and what they announce when they commit.

use std::marker::PhantomData;

use sqlx::{PgConnection, Postgres, Transaction, query};
use tokio::sync::broadcast;

use super::{Announcement, StoreResult};
use crate::clock::Clock;
use crate::domain::ids::TenantId;

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

/// An open transaction. Dropped without [`Tx::commit`], it changes nothing.
#[derive(Debug)]
pub struct Tx<K> {
    inner: Transaction<'static, Postgres>,
    announcements: Vec<Announcement>,
    announcer: broadcast::Sender<Announcement>,
    kind: PhantomData<K>,
}

impl<K> Tx<K> {
    pub(super) async fn open(
        inner: Transaction<'static, Postgres>,
        tenant_id: Option<TenantId>,
        announcer: broadcast::Sender<Announcement>,
    ) -> StoreResult<Self> {
        let mut tx = Self {
            inner,
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
        &mut self.inner
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
        self.inner.commit().await?;
        for announcement in self.announcements {
            // Nobody listens in a process without workers of its own.
            let _ = self.announcer.send(announcement);
        }
        Ok(())
    }
}

impl Tx<System> {
    /// Gives its locks back before anything else is done. One that is dropped does so a moment later.
    pub async fn rollback(self) -> StoreResult<()> {
        Ok(self.inner.rollback().await?)
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
