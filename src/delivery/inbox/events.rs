//! Events on their way in: many callers, one durable commit, and a hint for the fold after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::delivery::batch::{BatchSpec, Batcher};
use crate::domain::orders::FoldProviderEvents;
use crate::jobs::queue::enqueue;
use crate::store::provider_events::{NewEvent, insert_events};
use crate::store::{Db, StoreResult};

/// As `begin`: 64 events a commit.
const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: Duration::from_millis(3),
    parallel: 2,
};
/// A fold that was ordered takes what comes meanwhile; the schedule orders one a second besides.
const HINT_EVERY: Duration = Duration::from_millis(100);

/// The raw inbox of this process. Clones share it.
#[derive(Debug, Clone)]
pub struct EventInbox {
    batcher: Batcher<NewEvent, bool>,
}

impl EventInbox {
    /// Starts it.
    pub fn spawn(db: Db) -> Self {
        let shared = Arc::new((db, AtomicU64::new(0)));
        let batcher = Batcher::spawn(BATCH, move |events: Vec<NewEvent>| {
            let shared = shared.clone();
            async move {
                let (db, hinted_ms) = &*shared;
                let is_stored = match store(db, &events).await {
                    Ok(added) => {
                        if added > 0 {
                            hint(db, hinted_ms).await;
                        }
                        true
                    }
                    Err(error) => {
                        tracing::warn!(%error, events = events.len(), "events not stored");
                        false
                    }
                };
                events.iter().map(|_| is_stored).collect()
            }
        });
        Self { batcher }
    }

    /// Stores an event. True once it is durable, or was before; false when it has to come again.
    pub async fn accept(&self, event: NewEvent) -> bool {
        self.batcher.ask(event).await.unwrap_or(false)
    }
}

async fn store(db: &Db, events: &[NewEvent]) -> StoreResult<u64> {
    let mut tx = db.batch().begin().await?;
    let added = insert_events(&mut tx, events).await?;
    tx.commit().await?;
    Ok(added)
}

/// Orders a fold, unless one was ordered just now. In a transaction of its own: orders with one key wait for each other.
async fn hint(db: &Db, hinted_ms: &AtomicU64) {
    let now_ms = Clock::boottime().as_millis() as u64;
    let last_ms = hinted_ms.load(Ordering::Acquire);
    let is_due = now_ms.saturating_sub(last_ms) >= HINT_EVERY.as_millis() as u64;
    let is_mine = is_due
        && hinted_ms
            .compare_exchange(last_ms, now_ms, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
    if !is_mine {
        return;
    }
    let order = async {
        let mut tx = db.batch().begin().await?;
        enqueue(&mut tx, FoldProviderEvents::default()).await?;
        tx.commit().await
    };
    if let Err(error) = order.await {
        tracing::warn!(%error, "no hint for the fold; the schedule orders it");
    }
}
