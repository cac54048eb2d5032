//! Events on their way in: many callers, one durable commit, and a hint for the fold after it.
//!
//! What says something of an attempt we know is merged in that very commit, and nobody writes its row again. The rest waits
//! for the fold, and so does everything while more comes than can be merged at once: a full batch is stored only. A batch holds
//! events of many tenants: one that cannot be stored is refused alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Named, StatusReport, lock, merge_locked};
use crate::clock::Clock;
use crate::clock::answer::answered;
use crate::delivery::batch::{BatchSpec, Batcher};
use crate::delivery::begin::retry_deadlocks;
use crate::domain::channel::Channel;
use crate::domain::ids::MessageKey;
use crate::domain::orders::FoldProviderEvents;
use crate::domain::status::Status;
use crate::jobs::queue::enqueue;
use crate::store::provider_events::{NewEvent, insert_events};
use crate::store::statuses::Heard;
use crate::store::{Db, StoreResult};
use crate::telemetry;

/// As `begin`: 64 events a commit. The provider waits for each answer and has only so many requests open, so that a wait
/// here slows all that it has to tell: what comes while a batch is written makes the next one large enough.
const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: Duration::from_millis(1),
    parallel: 4,
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
                let taken = take_in(db, &events).await;
                if taken.waiting > 0 {
                    hint(db, hinted_ms).await;
                }
                taken.is_stored
            }
        });
        Self { batcher }
    }

    /// Stores an event. True once it is durable, or was before; false when it has to come again.
    pub async fn accept(&self, event: NewEvent) -> bool {
        self.batcher.ask(event).await.unwrap_or(false)
    }
}

/// What became of events on their way in.
#[derive(Debug, Default)]
struct TakenIn {
    /// Of each, whether it is durable.
    is_stored: Vec<bool>,
    /// How many wait for the fold.
    waiting: usize,
}

/// Stores events in one transaction, or one by one when one of them spoils it for all.
async fn take_in(db: &Db, events: &[NewEvent]) -> TakenIn {
    match answered(store(db, events)).await {
        Ok(waiting) => TakenIn {
            is_stored: vec![true; events.len()],
            waiting,
        },
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, events = events.len(), "events not stored");
            TakenIn {
                is_stored: vec![false; events.len()],
                waiting: 0,
            }
        }
        Err(error) => {
            tracing::warn!(%error, events = events.len(), "events are stored one by one");
            take_in_each(db, events).await
        }
    }
}

async fn take_in_each(db: &Db, events: &[NewEvent]) -> TakenIn {
    let mut taken = TakenIn::default();
    for event in events {
        match answered(store(db, std::slice::from_ref(event))).await {
            Ok(waiting) => {
                taken.waiting += waiting;
                taken.is_stored.push(true);
            }
            // The database went away: the others would wait for it in vain, each for its time.
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "events not stored");
                break;
            }
            Err(error) => {
                tracing::error!(message.id = %event.key.id, %error, "an event cannot be stored");
                taken.is_stored.push(false);
            }
        }
    }
    taken.is_stored.resize(events.len(), false);
    taken
}

/// Stores events, merged where that can be, all of them or none. Answers how many wait for the fold.
async fn store(db: &Db, events: &[NewEvent]) -> StoreResult<usize> {
    if events.len() < BATCH.items_max {
        match retry_deadlocks(|| store_merged(db, events)).await {
            Ok(waiting) => return Ok(waiting),
            // Whatever keeps them from being merged must not keep them from being stored.
            Err(error) => tracing::warn!(%error, events = events.len(), "events not merged yet"),
        }
    }
    let mut tx = db.batch().begin().await?;
    insert_events(&mut tx, events, &vec![false; events.len()]).await?;
    tx.commit().await?;
    Ok(events.len())
}

async fn store_merged(db: &Db, events: &[NewEvent]) -> StoreResult<usize> {
    let mut tx = db.batch().begin().await?;
    let heard = lock(&mut tx, events.iter().map(|event| event.key)).await?;
    let reports = reports(events, &heard);
    let is_folded: Vec<bool> = reports.iter().map(Option::is_some).collect();
    insert_events(&mut tx, events, &is_folded).await?;
    let reports: Vec<StatusReport> = reports.into_iter().flatten().collect();
    merge_locked(&mut tx, heard, &reports).await?;
    tx.commit().await?;
    metrics::counter!(telemetry::EVENTS_FOLDED_TOTAL, "state" => "heard")
        .increment(reports.len() as u64);
    Ok(events.len() - reports.len())
}

/// What each event says; none of an attempt that we do not know of.
fn reports(events: &[NewEvent], heard: &[Heard]) -> Vec<Option<StatusReport>> {
    let known: HashMap<MessageKey, &Heard> = heard.iter().map(|one| (one.key, one)).collect();
    let report = |event: &NewEvent| {
        let heard = known.get(&event.key)?;
        let is_known = heard.attempts.contains(&event.attempt_id);
        is_known.then(|| report(event, heard.channel))?
    };
    events.iter().map(report).collect()
}

/// What an event says; none when its word is none that we know, which the fold tells.
fn report(event: &NewEvent, channel: Channel) -> Option<StatusReport> {
    Some(StatusReport {
        key: event.key,
        attempt: Some(Named {
            attempt_id: event.attempt_id,
            provider_message_id: event.provider_message_id.clone(),
        }),
        status: Status::parse(channel, &event.status).ok()?,
        error_code: event.error_code().map(Into::into),
    })
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
    if let Err(error) = answered(order).await {
        tracing::warn!(%error, "no hint for the fold; the schedule orders it");
    }
}
