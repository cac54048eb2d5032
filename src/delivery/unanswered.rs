//! Begins without an answer: what they wrote after all is given back by the process that will never call for it.
//!
//! Nobody else could: while it lives, its lock says that it may still call, and after half an hour a person would have to decide.

use std::time::Duration;

use super::batch::log_left;
use super::feedback::FeedbackHeard;
use super::outcomes::{self, Known, OWNER};
use crate::clock::answer::answered;
use crate::domain::attempt::CallOutcome;
use crate::domain::channel::Channel;
use crate::domain::ids::{AttemptId, MessageKey};
use crate::store::{Db, StoreResult, attempts};

/// Between two looks. The first comes when any statement is over; its commit may wait for longer, for a disk or for a standby.
const LOOKS: [Duration; 6] = [
    Duration::from_secs(20),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(80),
    Duration::from_secs(160),
    Duration::from_secs(320),
];
/// Between two tries while the database is away.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// Closes such attempts as never called, whenever they show up in the next ten minutes. A process that ends before is one that
/// will never call either, and whoever settles attempts sees it.
pub(super) fn disown(db: Db, asked: Vec<(MessageKey, AttemptId)>) {
    tokio::spawn(async move {
        for wait in LOOKS {
            tokio::time::sleep(wait).await;
            let closed = match close_when_there(&db, &asked).await {
                Err(error) if error.may_be_of_one_row() => close_each(&db, &asked).await,
                Err(error) => {
                    tracing::error!(%error, "begins without an answer are not given back");
                    0
                }
                Ok(closed) => closed,
            };
            if closed > 0 {
                tracing::warn!(closed, "begins without an answer are given back");
            }
        }
    });
}

/// Closes each by itself: one that cannot be closed keeps no other back.
async fn close_each(db: &Db, asked: &[(MessageKey, AttemptId)]) -> usize {
    let mut closed = 0;
    for one in asked {
        match close_when_there(db, std::slice::from_ref(one)).await {
            Ok(done) => closed += done,
            Err(error) => log_left(one.0.id, &error, "a begin is given back later"),
        }
    }
    closed
}

async fn close_when_there(db: &Db, asked: &[(MessageKey, AttemptId)]) -> StoreResult<usize> {
    loop {
        match answered(close(db, asked)).await {
            Err(error) if error.is_transient() && !error.may_be_of_one_row() => {
                tokio::time::sleep(TRY_EVERY).await;
            }
            done => return done,
        }
    }
}

async fn close(db: &Db, asked: &[(MessageKey, AttemptId)]) -> StoreResult<usize> {
    let mut tx = db.batch().begin().await?;
    let known: Vec<Known> = attempts::list_untold(&mut tx, asked)
        .await?
        .into_iter()
        .map(|untold| Known {
            key: untold.key,
            attempt_no: untold.attempt_no,
            attempt_id: Some(untold.attempt_id),
            // Of one that was not taken no status is kept.
            channel: Channel::Sms,
            provider: untold.provider,
            account_ref: untold.account_ref,
            outcome: CallOutcome::Aborted {
                reason: "begin got no answer".into(),
            },
            resolved_by: OWNER,
        })
        .collect();
    let closed = outcomes::record(&mut tx, &known).await?;
    FeedbackHeard::of_closed(&known, &closed)
        .save(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(closed.len())
}
