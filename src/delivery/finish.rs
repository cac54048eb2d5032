//! Finish: what came of calls, stored for many at once, in one commit with the completion of their jobs.
//!
//! The outcome is true whoever owns the job: a fence that finds nothing never rolls it back. The database being away loses
//! nothing: the batch is kept and tried again while the process lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{BatchSpec, Batcher};
use super::begin::retry_deadlocks;
use super::moves::Moves;
use crate::domain::attempt::{AttemptState, CallOutcome, settle};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::MessageKey;
use crate::jobs::queue::Fence;
use crate::store::attempts::{Closing, close_attempts};
use crate::store::mappings::{Mapping, insert_mappings};
use crate::store::messages::{Locked, Step, lock_messages, save_steps};
use crate::store::{Db, StoreError, StoreResult};
use crate::telemetry;

/// As `begin`: 64 outcomes a commit.
const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: Duration::from_millis(3),
    parallel: 4,
};
/// Between two tries while the database is away.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// What came of one permission.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    /// Which message.
    pub(super) key: MessageKey,
    /// Which of its attempts.
    pub(super) attempt_no: i16,
    /// How it reaches the person.
    pub(super) channel: Channel,
    /// Who was asked.
    pub(super) provider: Provider,
    /// With which account.
    pub(super) account_ref: String,
    /// What came of it.
    pub(super) outcome: CallOutcome,
    /// The job that looked at the message.
    pub(super) fence: Fence,
}

/// The batcher of outcomes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    batcher: Batcher<Finished, ()>,
}

impl Finish {
    pub(super) fn spawn(db: Db) -> Self {
        let db = Arc::new(db);
        let batcher = Batcher::spawn(BATCH, move |finished: Vec<Finished>| {
            let db = db.clone();
            async move {
                record_until_stored(&db, &finished).await;
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

async fn record_until_stored(db: &Db, finished: &[Finished]) {
    loop {
        match retry_deadlocks(|| record(db, finished)).await {
            Ok(()) => return,
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(%error, outcomes = finished.len(), "outcomes wait for the database");
            }
            Err(error) => {
                tracing::error!(%error, outcomes = finished.len(), "outcomes not stored");
            }
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

/// Stores outcomes: attempt, message, mapping, counts and job, in one transaction.
async fn record(db: &Db, finished: &[Finished]) -> StoreResult<()> {
    let now = db.clock().now();
    let mut tx = db.batch().begin().await?;
    let keys: Vec<MessageKey> = finished.iter().map(|f| f.key).collect();
    let locked: HashMap<MessageKey, Locked> = lock_messages(&mut tx, &keys)
        .await?
        .into_iter()
        .map(|l| (l.key, l))
        .collect();
    let closings: Vec<Closing> = finished.iter().map(closing).collect();
    let closed = close_attempts(&mut tx, &closings, "owner").await?;

    let mut steps = Vec::with_capacity(finished.len());
    let mut mappings = Vec::with_capacity(finished.len());
    let mut moves = Moves::default();
    for one in finished {
        if !closed.contains(&(one.key, one.attempt_no)) {
            // Somebody settled it before us; what we know is what they knew, or less.
            tracing::warn!(message.id = %one.key.id, attempt = one.attempt_no, "outcome came too late");
            continue;
        }
        mappings.extend(mapping(one));
        count_outcome(&one.outcome);
        let Some(message) = locked.get(&one.key) else {
            continue;
        };
        let is_newest = message.attempt_no == one.attempt_no;
        let Some(to) = settle(&one.outcome, message.phase, one.attempt_no).filter(|_| is_newest)
        else {
            continue;
        };
        moves.add(message, to.phase, to.drop_reason);
        steps.push((
            one.key,
            Step {
                phase: to.phase,
                drop_reason: to.drop_reason,
                ready_at: to.wait.map(|wait| now + wait),
                status: first_status(&one.outcome),
                error_code: to.error_code,
            },
        ));
    }
    save_steps(&mut tx, &steps).await?;
    insert_mappings(&mut tx, &mappings).await?;
    moves.save(&mut tx).await?;
    let fences: Vec<Fence> = finished.iter().map(|f| f.fence).collect();
    Fence::complete_many(tx.conn(), &fences).await?;
    tx.commit().await
}

fn closing(finished: &Finished) -> Closing {
    let provider_message_id = match &finished.outcome {
        CallOutcome::Taken {
            provider_message_id,
            ..
        } => Some(provider_message_id.clone()),
        _ => None,
    };
    Closing {
        key: finished.key,
        attempt_no: finished.attempt_no,
        state: finished.outcome.state(),
        provider_message_id,
        error_code: finished.outcome.error_code().map(Into::into),
    }
}

fn first_status(outcome: &CallOutcome) -> Option<(&'static str, i16)> {
    match outcome {
        CallOutcome::Taken { status, .. } => Some((status.as_str(), status.rank())),
        _ => None,
    }
}

fn mapping(finished: &Finished) -> Option<Mapping> {
    let CallOutcome::Taken {
        provider_message_id,
        status,
    } = &finished.outcome
    else {
        return None;
    };
    Some(Mapping {
        key: finished.key,
        attempt_no: finished.attempt_no,
        channel: finished.channel,
        provider: finished.provider,
        account_ref: finished.account_ref.clone(),
        provider_message_id: provider_message_id.clone(),
        provider_status: status.as_str(),
    })
}

fn count_outcome(outcome: &CallOutcome) {
    let state: AttemptState = outcome.state();
    metrics::counter!(telemetry::ATTEMPTS_TOTAL, "state" => state.as_str()).increment(1);
}
