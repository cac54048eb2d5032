//! Begin: permission to call, written ahead and committed, for many messages at once.
//!
//! What is granted may be called once. No answer of the database is no permission: the attempt it may
//! have written stays open, and is settled without a call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use tracing::field::display;
use uuid::Uuid;

use super::batch::{BatchSpec, Batcher, LINGER};
use super::incarnation::Myself;
use super::unanswered;
use crate::clock::answer::answered;
use crate::domain::attempt::Verdict;
use crate::domain::holds::Holds;
use crate::domain::ids::{AttemptId, Incarnation, MessageKey};
use crate::store::messages::CallContent;
use crate::store::{Db, StoreError, StoreResult, attempts, messages};
use crate::telemetry;

/// Measured on 2 cores: 64 a commit and 4 connections carry 29,000 a second, 16 a commit 12,800.
const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: LINGER,
    parallel: 4,
};
/// Messages begun one by one at once, when one of them spoils it for all.
const SINGLE_AT_ONCE: usize = 8;
/// A deadlock is tried again at once, so often.
const DEADLOCK_TRIES: usize = 3;

/// What `begin` said of one message.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// The attempt is committed as open.
    Granted(Box<Permission>),
    /// No call; what else there is to do follows from the verdict.
    Denied(Verdict),
    /// The database gave no answer, or this process may not begin.
    Unknown,
}

/// One call may be made.
#[derive(Debug, Clone)]
pub(super) struct Permission {
    /// Which attempt of the message.
    pub(super) attempt_no: i16,
    /// Its token.
    pub(super) attempt_id: AttemptId,
    /// As who it was permitted.
    pub(super) incarnation: Incarnation,
    /// What to say to whom; none when it could not be read, so that the call is not made.
    pub(super) content: Option<CallContent>,
}

/// The batcher of begins. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Begin {
    batcher: Batcher<MessageKey, Answer>,
}

impl Begin {
    pub(super) fn spawn(db: Db, myself: Myself, holds: &Holds) -> Self {
        let shared = Arc::new((db, myself, *holds));
        let batcher = Batcher::spawn(BATCH, move |keys: Vec<MessageKey>| {
            let shared = shared.clone();
            async move {
                let (db, myself, holds) = &*shared;
                answer(db, myself, holds, &keys).await
            }
        });
        Self { batcher }
    }

    /// Asks for permission to send one message.
    pub(super) async fn ask(&self, key: MessageKey) -> Answer {
        self.batcher.ask(key).await.unwrap_or(Answer::Unknown)
    }
}

async fn answer(db: &Db, myself: &Myself, holds: &Holds, asked: &[MessageKey]) -> Vec<Answer> {
    let Some(incarnation) = myself.current() else {
        return asked.iter().map(|_| Answer::Unknown).collect();
    };
    // Two jobs of one message may meet in a batch; the function takes each message once.
    let mut tokens: HashMap<MessageKey, AttemptId> = HashMap::with_capacity(asked.len());
    for key in asked {
        tokens
            .entry(*key)
            .or_insert_with(|| AttemptId(Uuid::new_v4()));
    }
    let each: Vec<(MessageKey, AttemptId)> = tokens.iter().map(|(key, id)| (*key, *id)).collect();
    let judged = begin(db, incarnation, holds, &each).await;
    let begun: Vec<MessageKey> = judged
        .iter()
        .filter(|j| j.verdict == Verdict::Begun)
        .map(|j| j.key)
        .collect();
    let mut contents = read_contents(db, &begun).await;
    let mut answers: HashMap<MessageKey, Answer> = judged
        .into_iter()
        .map(|judged| {
            let answer = match judged.verdict {
                Verdict::Begun => Answer::Granted(Box::new(Permission {
                    attempt_no: judged.attempt_no,
                    attempt_id: tokens[&judged.key],
                    incarnation,
                    content: contents.remove(&judged.key),
                })),
                verdict => Answer::Denied(verdict),
            };
            (judged.key, answer)
        })
        .collect();
    asked
        .iter()
        .map(|key| {
            // The second job of one message is told that somebody else has it.
            answers
                .insert(*key, Answer::Denied(Verdict::Gone))
                .unwrap_or(Answer::Unknown)
        })
        .collect()
}

/// Begins messages, or each by itself when one of them spoils it for all. Those that got no answer are not in it; what was begun
/// all the same is given back.
async fn begin(
    db: &Db,
    incarnation: Incarnation,
    holds: &Holds,
    asked: &[(MessageKey, AttemptId)],
) -> Vec<attempts::Judged> {
    match begin_together(db, incarnation, holds, asked).await {
        Ok(judged) => judged,
        Err(error) if error.may_be_of_one_row() && !may_have_begun(&error) && asked.len() > 1 => {
            let in_vain = AtomicUsize::new(0);
            let each = stream::iter(asked.to_vec()).map(async |one| {
                // The others would wait in vain, each for its time: for the database, or for a campaign that is being paused.
                if in_vain.load(Ordering::Relaxed) >= SINGLE_AT_ONCE {
                    return Vec::new();
                }
                let judged = begin_together(db, incarnation, holds, &[one]).await;
                judged.unwrap_or_else(|error| {
                    let waited = if error.may_be_of_one_row() {
                        usize::from(error.is_transient())
                    } else {
                        SINGLE_AT_ONCE
                    };
                    in_vain.fetch_add(waited, Ordering::Relaxed);
                    Vec::new()
                })
            });
            each.buffer_unordered(SINGLE_AT_ONCE).concat().await
        }
        Err(_) => Vec::new(),
    }
}

/// Begins all of them or none. What may have begun without an answer is given back.
async fn begin_together(
    db: &Db,
    incarnation: Incarnation,
    holds: &Holds,
    asked: &[(MessageKey, AttemptId)],
) -> StoreResult<Vec<attempts::Judged>> {
    let (keys, ids): (Vec<MessageKey>, Vec<AttemptId>) = asked.iter().copied().unzip();
    let pool = db.batch_pool();
    let ask = || {
        answered(attempts::begin_attempts(
            &pool,
            incarnation,
            &keys,
            &ids,
            holds,
        ))
    };
    let judged = retry_deadlocks(ask).await;
    if let Err(error) = &judged {
        let only = (keys.len() == 1).then(|| display(keys[0].id));
        tracing::warn!(%error, sqlstate = error.sqlstate(), messages = keys.len(), message.id = only, "begin got no answer");
        if may_have_begun(error) {
            unanswered::disown(db.clone(), asked.to_vec());
        }
    }
    judged
}

/// What was begun is committed when its answer is read, or lost.
fn may_have_begun(error: &StoreError) -> bool {
    error.is_answer_lost() || matches!(error, StoreError::Unreadable(_))
}

async fn read_contents(db: &Db, begun: &[MessageKey]) -> HashMap<MessageKey, CallContent> {
    if begun.is_empty() {
        return HashMap::new();
    }
    let read = async {
        let mut conn = db.batch_pool().acquire().await?;
        messages::list_call_contents(&mut conn, begun).await
    };
    match answered(read).await {
        Ok(contents) => contents
            .into_iter()
            .map(|content| (content.key, content))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, messages = begun.len(), "contents of begun messages not read");
            HashMap::new()
        }
    }
}

/// Runs a batch again when it lost a deadlock, and counts it: the count stays 0 while every writer keeps the order.
pub(super) async fn retry_deadlocks<T, Fut>(run: impl Fn() -> Fut) -> StoreResult<T>
where
    Fut: Future<Output = StoreResult<T>>,
{
    let mut tries = 0;
    loop {
        match run().await {
            Err(StoreError::Deadlock(error)) => {
                metrics::counter!(telemetry::DEADLOCK_TOTAL).increment(1);
                tracing::error!(%error, "deadlock");
                tries += 1;
                if tries == DEADLOCK_TRIES {
                    return Err(StoreError::Deadlock(error));
                }
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// On one thread, whose metrics are this test's own.
    #[tokio::test]
    async fn each_lost_deadlock_is_counted_and_tried_again_a_few_times() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _here = metrics::set_default_local_recorder(&recorder);
        let tries = Cell::new(0);
        let lost = || {
            tries.set(tries.get() + 1);
            async { StoreResult::<()>::Err(StoreError::Deadlock(sqlx::Error::WorkerCrashed)) }
        };

        assert!(retry_deadlocks(lost).await.is_err());

        assert_eq!(tries.get(), DEADLOCK_TRIES);
        let shown = recorder.handle().render();
        assert!(shown.contains("engageninja_deadlock_total 3"), "{shown}");
    }
}
