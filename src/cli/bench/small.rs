//! How soon tenants with little to send get through while others have long backlogs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::Scale;
use super::fairness::WARM_UP;
use super::fill::{PATIENCE, backlog};
use super::processes::{start_senders, stop_all};
use super::stage::Stage;
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure, millis, quantile};
use crate::domain::ids::{MessageKey, TenantId};
use crate::domain::message::Phase;
use crate::store::bench::{count_taken, list_phases};
use crate::store::{Db, StoreResult};

/// Backlogs of all who have one, in rounds of the scale.
const TIMES: u32 = 10;
/// Tenants that are filled at once.
const FILL_AT_ONCE: usize = 8;
/// Between two small tenants.
const ARRIVE_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at the messages of small ones.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Who sends beside whom.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    /// Tenants that share the backlog.
    backlogged: u32,
    /// Tenants that come one after another.
    small: u32,
    /// Messages of each of these.
    small_messages: u32,
}

/// 999 tenants with ten messages each, beside one with all of the backlog.
pub(super) async fn beside_one(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let crowd = Crowd {
        backlogged: 1,
        small: 999,
        small_messages: 10,
    };
    measure(stage, scale, crowd).await
}

/// Tenants with one message each, beside ten thousand who share the backlog.
pub(super) async fn beside_many(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let crowd = Crowd {
        backlogged: 10_000,
        small: 999,
        small_messages: 1,
    };
    measure(stage, scale, crowd).await
}

async fn measure(stage: &Stage, scale: &Scale, crowd: Crowd) -> anyhow::Result<Vec<Figure>> {
    let db = &stage.installation.db;
    let each = (scale.contacts.saturating_mul(TIMES) / crowd.backlogged).max(1);
    let filling = stream::iter(0..crowd.backlogged).map(async |n| {
        let tenant_id = tenant(db, "large", n).await?;
        backlog(stage, tenant_id, each, "Large").await?;
        anyhow::Ok(tenant_id)
    });
    let large: Vec<TenantId> = filling.buffer_unordered(FILL_AT_ONCE).try_collect().await?;
    let mut small = Vec::new();
    for n in 0..crowd.small {
        small.push(tenant(db, "small", n).await?);
    }
    let workers = start_senders(&stage.setting, scale.workers).await?;
    // Who comes new goes ahead once. Those with a backlog have, so that it is no longer new.
    let started = Instant::now();
    while taken(db, &large).await?.contains(&0) {
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "the first round takes too long"
        );
        tokio::time::sleep(WARM_UP).await;
    }
    let watched = watch(stage, small, crowd.small_messages).await?;
    let taken: i64 = taken(db, &large).await?.iter().sum();
    stop_all(workers).await?;
    let all = i64::from(each) * i64::from(crowd.backlogged);
    anyhow::ensure!(
        taken < all,
        "the backlog ran out; give it more with --contacts"
    );
    let of = |what: &str, times: &[f64], bar| {
        let beside = match crowd.backlogged {
            1 => format!("one with {each} waiting"),
            many => format!("{many} with {each} waiting each"),
        };
        Figure::new(
            format!("a small tenant beside {beside}, {what}, p99 in ms"),
            vec![quantile(times, 0.99)],
            Some(Bar::AtMost(bar)),
        )
    };
    Ok(vec![
        of("let out", &watched.released, 250.0),
        of("handed over", &watched.handed_over, 750.0),
    ])
}

/// What the provider took of each tenant.
async fn taken(db: &Db, tenants: &[TenantId]) -> StoreResult<Vec<i64>> {
    let mut tx = db.system().begin().await?;
    count_taken(&mut tx, tenants).await
}

async fn tenant(db: &Db, word: &str, n: u32) -> anyhow::Result<TenantId> {
    let slug = format!("{word}-{n}");
    Ok(ensure_demo_tenant(db, &slug, &slug).await?)
}

/// Has one tenant after another send its messages, and follows these.
async fn watch(stage: &Stage, small: Vec<TenantId>, messages: u32) -> anyhow::Result<Watched> {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let arriving = async {
        let mut next = Instant::now();
        for tenant_id in small {
            tokio::time::sleep_until(next.into()).await;
            let keys = backlog(stage, tenant_id, messages, "Small").await?;
            arrived.send((keys, Instant::now()))?;
            next += ARRIVE_EVERY;
        }
        drop(arrived);
        anyhow::Ok(())
    };
    // Beside the arrivals, since each of them takes longer than there is between two looks.
    let watching = async {
        let mut watched = Watched::default();
        while !arrivals.is_closed() || !arrivals.is_empty() || !watched.waiting.is_empty() {
            while let Ok((keys, since)) = arrivals.try_recv() {
                watched.add(&keys, since);
            }
            watched.look(&stage.installation.db).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(watched)
    };
    let ((), watched) = tokio::try_join!(arriving, watching)?;
    Ok(watched)
}

/// Messages that are looked at until they are handed over.
#[derive(Debug, Default)]
struct Watched {
    /// Since when each is there, and whether it was let out.
    waiting: HashMap<MessageKey, (Instant, bool)>,
    released: Vec<f64>,
    handed_over: Vec<f64>,
}

impl Watched {
    fn add(&mut self, keys: &[MessageKey], since: Instant) {
        self.waiting
            .extend(keys.iter().map(|key| (*key, (since, false))));
    }

    async fn look(&mut self, db: &Db) -> StoreResult<()> {
        let keys: Vec<MessageKey> = self.waiting.keys().copied().collect();
        let mut tx = db.system().begin().await?;
        let phases = list_phases(&mut tx, &keys).await?;
        drop(tx);
        for (key, phase) in phases {
            let Some((since, is_released)) = self.waiting.get_mut(&key) else {
                continue;
            };
            let age = millis(since.elapsed());
            if !matches!(phase, Phase::Queued | Phase::Deferred) && !*is_released {
                *is_released = true;
                self.released.push(age);
            }
            if phase == Phase::HandedOver {
                self.handed_over.push(age);
            }
            // The provider refuses some; those are not waited for.
            if matches!(phase, Phase::HandedOver | Phase::Dropped | Phase::Parked) {
                self.waiting.remove(&key);
            }
        }
        Ok(())
    }
}
