//! Live numbers: what is watched is read once per process, at most four times a second, however many watch.
//!
//! One statement reads every watched campaign of every tenant, so its counts are exact and cost the same for one
//! watcher and for a thousand. Nobody watches: nothing is read. A watcher that is slow misses snapshots, never the
//! newest one, and holds nobody up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::ids::{CampaignId, TenantId};
use crate::store::campaign_counts::{self, CountSnapshot};
use crate::store::{Db, StoreResult};

/// The time between two reads.
const PERIOD: Duration = Duration::from_millis(250);
/// The time between two reads while the database does not answer.
const PERIOD_IN_TROUBLE: Duration = Duration::from_secs(2);
/// Watchers of one process at most.
const WATCHERS_MAX: usize = 2_000;

type Key = (TenantId, CampaignId);
/// The newest snapshot; none before the first read.
pub type Snapshots = watch::Receiver<Option<Arc<CountSnapshot>>>;

/// Hands snapshots to whoever watches. Clones share everything.
#[derive(Debug, Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    watched: Mutex<Watched>,
    reads: AtomicU64,
}

#[derive(Debug, Default)]
struct Watched {
    campaigns: HashMap<Key, watch::Sender<Option<Arc<CountSnapshot>>>>,
    is_read: bool,
}

/// This process has as many watchers as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {WATCHERS_MAX} watchers already")]
pub struct TooManyWatchers;

impl Live {
    /// On the databases of this process.
    pub fn new(db: Db) -> Self {
        Self {
            inner: Arc::new(Inner {
                db,
                watched: Mutex::default(),
                reads: AtomicU64::new(0),
            }),
        }
    }

    /// Snapshots of a campaign from now on, for as long as the receiver is kept.
    ///
    /// # Errors
    /// [`TooManyWatchers`] of one process.
    pub fn watch_campaign(
        &self,
        tenant_id: TenantId,
        campaign_id: CampaignId,
    ) -> Result<Snapshots, TooManyWatchers> {
        let mut watched = self.inner.watched();
        let watchers: usize = watched
            .campaigns
            .values()
            .map(watch::Sender::receiver_count)
            .sum();
        if watchers >= WATCHERS_MAX {
            return Err(TooManyWatchers);
        }
        let receiver = watched
            .campaigns
            .entry((tenant_id, campaign_id))
            .or_insert_with(|| watch::channel(None).0)
            .subscribe();
        if !watched.is_read {
            watched.is_read = true;
            tokio::spawn(read_until_nobody_watches(self.inner.clone()));
        }
        Ok(receiver)
    }

    /// How often the database was read since the process started.
    pub fn reads(&self) -> u64 {
        self.inner.reads.load(Ordering::Relaxed)
    }

    /// Whether anything is being read.
    pub fn is_reading(&self) -> bool {
        self.inner.watched().is_read
    }
}

impl Inner {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody still watches; when that is nothing, the reading ends with this call.
    fn keys(&self) -> Vec<Key> {
        let mut watched = self.watched();
        watched
            .campaigns
            .retain(|_, sender| sender.receiver_count() > 0);
        watched.is_read = !watched.campaigns.is_empty();
        watched.campaigns.keys().copied().collect()
    }

    async fn read(&self, keys: &[Key]) -> StoreResult<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        // All tenants at once: the one read for all watchers. Each watcher was let in by its own tenant before.
        let mut tx = self.db.system().begin().await?;
        let snapshots = campaign_counts::list_snapshots(tx.conn(), keys).await?;
        drop(tx);
        let watched = self.watched();
        for snapshot in snapshots {
            let key = (snapshot.tenant_id, snapshot.campaign_id);
            if let Some(sender) = watched.campaigns.get(&key) {
                sender.send_if_modified(|newest| {
                    let is_news = newest.as_deref() != Some(&snapshot);
                    if is_news {
                        *newest = Some(Arc::new(snapshot));
                    }
                    is_news
                });
            }
        }
        Ok(())
    }
}

async fn read_until_nobody_watches(inner: Arc<Inner>) {
    let mut is_in_trouble = false;
    loop {
        let started = Instant::now();
        let keys = inner.keys();
        if keys.is_empty() {
            return;
        }
        let period = match inner.read(&keys).await {
            Ok(()) => {
                is_in_trouble = false;
                PERIOD
            }
            Err(error) => {
                if !is_in_trouble {
                    tracing::warn!(%error, "live numbers cannot be read; trying on");
                }
                is_in_trouble = true;
                PERIOD_IN_TROUBLE
            }
        };
        tokio::time::sleep_until(started + period).await;
    }
}
