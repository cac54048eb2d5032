//! Finish: what came of calls, stored for many at once, in one commit with the completion of the jobs whose last messages they
//! are.
//!
//! The outcome is true whoever owns the job: a fence that finds nothing never rolls it back. The database being away loses
//! nothing: the batch is kept and tried again while the process lives.

use std::time::Duration;

use futures_util::future::join_all;
use tracing::field::display;

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

/// The batcher of outcomes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    batcher: Batcher<Finished, bool>,
}

impl Finish {
    pub(super) fn spawn(db: Db, holds: &Holds) -> Self {
        let halt = holds.halt;
        let batcher = Batcher::spawn(BATCH, move |finished: Vec<Finished>| {
            record_each(db.clone(), finished, halt)
        });
        Self { batcher }
    }

    /// Returns once the outcome is stored and the job completed. False when that cannot be known any more.
    pub(super) async fn record(&self, finished: Finished) -> bool {
        self.batcher.ask(finished).await.unwrap_or(false)
    }
}

/// Stores outcomes, each by itself when one of them spoils it for all; says of each whether it is stored. Nobody waits for one that
/// cannot be: it is tried again while the process lives, and the job that comes back does not call again.
async fn record_each(db: Db, finished: Vec<Finished>, halt: Duration) -> Vec<bool> {
    if stored(&db, &finished, halt).await {
        return vec![true; finished.len()];
    }
    let each = finished.into_iter().map(async |one| {
        let is_stored = stored(&db, std::slice::from_ref(&one), halt).await;
        if !is_stored {
            let db = db.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(TRY_SPOILED_EVERY).await;
                    if stored(&db, std::slice::from_ref(&one), halt).await {
                        return;
                    }
                }
            });
        }
        is_stored
    });
    join_all(each).await
}

/// Tries until the database answers. False when it says that one of them cannot be stored.
async fn stored(db: &Db, finished: &[Finished], halt: Duration) -> bool {
    loop {
        let Err(error) = retry_deadlocks(|| answered(record(db, finished, halt))).await else {
            return true;
        };
        let only = (finished.len() == 1).then(|| display(finished[0].known.key.id));
        tracing::warn!(
            %error, sqlstate = error.sqlstate(), outcomes = finished.len(), message.id = only,
            "outcomes are not stored"
        );
        if error.may_be_of_one_row() {
            return false;
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
