//! Finish: what came of calls, stored for many at once, in one commit with the completion of the jobs whose last messages they
//! are.
//!
//! The outcome is true whoever owns the job: a fence that finds nothing never rolls it back. The database being away loses
//! nothing: the batch is kept and tried again while the process lives.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tracing::field::display;

use super::batch::{BatchSpec, Batcher, LINGER, log_left};
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
use crate::store::{Db, StoreResult};

/// As `begin`: 64 outcomes a commit. Answers come one by one, and nobody waits for what is recorded: twice the wait makes
/// batches half as many.
const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: LINGER.saturating_mul(2),
    parallel: 4,
};
/// Between two tries while the database is away.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// Between two tries of one that the database refuses: a person may mend the cause, or evidence settle the attempt.
const TRY_SPOILED_EVERY: Duration = Duration::from_secs(10);

/// What came of one permission.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    /// What came of it.
    pub(super) known: Known,
    /// The job that looked at the message, where it was the last one that the job had left.
    pub(super) fence: Option<Fence>,
}

/// Outcomes that the database refuses and nobody waits for, at most. Whoever has one more waits, so that a fault of all of them
/// stops the calls.
const SPOILED_MAX: usize = 64;

/// The batcher of outcomes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    batcher: Batcher<Finished, bool>,
    spoiled: Arc<Semaphore>,
}

impl Finish {
    pub(super) fn spawn(db: Db, holds: &Holds) -> Self {
        let spoiled = Arc::new(Semaphore::new(SPOILED_MAX));
        let recorder = Recorder {
            db,
            halt: holds.halt,
            spoiled: Arc::clone(&spoiled),
        };
        let batcher = Batcher::spawn(BATCH, move |finished: Vec<Finished>| {
            let recorder = recorder.clone();
            async move { recorder.record_each(finished).await }
        });
        Self { batcher, spoiled }
    }

    /// Outcomes that are known here and that the database refuses.
    pub(super) fn spoiled(&self) -> usize {
        SPOILED_MAX - self.spoiled.available_permits()
    }

    /// Returns once the outcome is stored and the job completed. False when the database refuses it, or when that cannot be known
    /// any more.
    pub(super) async fn record(&self, finished: Finished) -> bool {
        self.batcher.ask(finished).await.unwrap_or(false)
    }
}

/// Stores outcomes; a sender whose account was refused rests for `halt`.
#[derive(Debug, Clone)]
struct Recorder {
    db: Db,
    halt: Duration,
    spoiled: Arc<Semaphore>,
}

impl Recorder {
    /// Stores outcomes, each by itself when one of them spoils it for all; says of each whether it is stored.
    async fn record_each(&self, finished: Vec<Finished>) -> Vec<bool> {
        if self.stored(&finished).await.is_ok() {
            return vec![true; finished.len()];
        }
        join_all(finished.into_iter().map(|one| self.record_one(one))).await
    }

    /// Nobody waits for one that cannot be stored: it is tried again while the process lives, and the job that comes back does
    /// not call again.
    async fn record_one(&self, one: Finished) -> bool {
        let one = [one];
        let Err(error) = self.stored(&one).await else {
            return true;
        };
        log_left(one[0].known.key.id, &error, "an outcome is stored later");
        let Ok(place) = Arc::clone(&self.spoiled).try_acquire_owned() else {
            self.until_stored(&one).await;
            return true;
        };
        let recorder = self.clone();
        tokio::spawn(async move {
            let _place = place;
            recorder.until_stored(&one).await;
        });
        false
    }

    async fn until_stored(&self, finished: &[Finished]) {
        loop {
            tokio::time::sleep(TRY_SPOILED_EVERY).await;
            if self.stored(finished).await.is_ok() {
                return;
            }
        }
    }

    /// Tries until the database answers; its answer is why one of them cannot be stored.
    async fn stored(&self, finished: &[Finished]) -> StoreResult<()> {
        let record = || answered(record(&self.db, finished, self.halt));
        loop {
            let Err(error) = retry_deadlocks(record).await else {
                return Ok(());
            };
            let only = (finished.len() == 1).then(|| display(finished[0].known.key.id));
            tracing::warn!(
                %error, sqlstate = error.sqlstate(), outcomes = finished.len(), message.id = only,
                "outcomes are not stored"
            );
            if error.may_be_of_one_row() {
                return Err(error);
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }
}

/// Stores outcomes and completes their jobs, in one transaction.
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
