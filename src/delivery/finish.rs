//! Finish: what came of calls, stored for many at once, in one commit with the completion of the jobs whose last messages they
//! are.
//!
//! The outcome is true whoever owns the job: a fence that finds nothing never rolls it back. The database being away loses
//! nothing: the batch is kept and tried again while the process lives.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::batch::{BatchSpec, Batcher, LINGER};
use super::begin::retry_deadlocks;
use super::feedback::FeedbackHeard;
use super::outcomes::{self, Known};
use crate::clock::answer::answered;
use crate::domain::attempt::CallOutcome;
use crate::domain::holds::Holds;
use crate::domain::ids::MessageKey;
use crate::jobs::queue::Fence;
use crate::providers::twilio::codes::is_opt_out;
use crate::store::suppressions::suppress_recipients;
use crate::store::{Db, StoreError, StoreResult};

/// As `begin`: 64 outcomes a commit. Answers come one by one, and nobody waits for what is recorded: twice the wait makes
/// batches half as many.
const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: LINGER.saturating_mul(2),
    parallel: 4,
};
/// Between two tries while the database is away.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// What came of one permission.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    /// What came of it.
    pub(super) known: Known,
    /// The job that looked at the message, where it was the last one that the job had left.
    pub(super) fence: Option<Fence>,
}

/// The batcher of outcomes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    batcher: Batcher<Finished, ()>,
}

impl Finish {
    pub(super) fn spawn(db: Db, holds: &Holds) -> Self {
        let (db, halt) = (Arc::new(db), holds.halt);
        let batcher = Batcher::spawn(BATCH, move |finished: Vec<Finished>| {
            let db = db.clone();
            async move {
                record_until_stored(&db, &finished, halt).await;
                finished.iter().map(|_| ()).collect()
            }
        });
        Self { batcher }
    }

    /// Returns once the outcome is stored and the job completed. False when that cannot be known any more.
    pub(super) async fn record(&self, finished: Finished) -> bool {
        self.batcher.ask(finished).await.is_some()
    }
}

async fn record_until_stored(db: &Db, finished: &[Finished], halt: Duration) {
    loop {
        match retry_deadlocks(|| answered(record(db, finished, halt))).await {
            Ok(()) => return,
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(%error, outcomes = finished.len(), "outcomes wait for the database");
            }
            Err(error) => {
                tracing::error!(%error, outcomes = finished.len(), "outcomes not stored");
                // One that cannot be stored keeps no other back.
                if finished.len() > 1 {
                    let each = finished.chunks(1);
                    join_all(each.map(|one| Box::pin(record_until_stored(db, one, halt)))).await;
                    return;
                }
            }
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

/// Stores outcomes and completes their jobs, in one transaction. A sender whose account was refused rests for `halt`.
async fn record(db: &Db, finished: &[Finished], halt: Duration) -> StoreResult<()> {
    let mut tx = db.batch().begin().await?;
    let known: Vec<Known> = finished.iter().map(|one| one.known.clone()).collect();
    let closed = outcomes::record(&mut tx, &known).await?;
    let mut heard = FeedbackHeard::default();
    // What committed without an answer comes here again, and was counted then.
    for one in known.iter().filter(|one| one.is_among(&closed)) {
        heard.answer(one, halt);
    }
    heard.save(&mut tx).await?;
    let opted_out: Vec<(MessageKey, String)> = known.iter().filter_map(opt_out).collect();
    suppress_recipients(&mut tx, &opted_out).await?;
    // A fence that finds nothing belongs to a run that lost its lease; the outcome is true all the same.
    let fences: Vec<Fence> = finished.iter().filter_map(|one| one.fence).collect();
    if !fences.is_empty() {
        Fence::complete_many(tx.conn(), &fences).await?;
    }
    tx.commit().await
}

/// The message whose recipient opted out at the provider, and with which code: it shall not be asked again for anybody.
fn opt_out(known: &Known) -> Option<(MessageKey, String)> {
    match &known.outcome {
        CallOutcome::Refused { code } if is_opt_out(known.channel, code) => {
            Some((known.key, code.clone()))
        }
        _ => None,
    }
}
