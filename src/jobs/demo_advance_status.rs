//! Lets the demo provider report what became of the messages it took, as callbacks would.
//!
//! Running twice is harmless: a due entry is taken by one transaction, which merges its word by rank and says what comes
//! next.

use super::{Job, JobContext, Outcome, Run};
use crate::delivery::inbox::{Named, StatusReport, merge};
use crate::domain::demo;
use crate::domain::orders::DemoAdvanceStatus;
use crate::domain::status::Status;
use crate::store::demo_ledger::{save_next, take_due};
use crate::store::{Db, StoreError, StoreResult};

/// Entries of one transaction.
const ENTRIES_MAX: i64 = 1_000;
/// Transactions of one run: what is left comes with the next tick.
const ROUNDS_MAX: usize = 60;

impl Job for DemoAdvanceStatus {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        for _ in 0..ROUNDS_MAX {
            match advance(&context.db).await {
                Ok(taken) if taken < ENTRIES_MAX as usize => break,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        Outcome::Done
    }
}

async fn advance(db: &Db) -> StoreResult<usize> {
    let mut tx = db.system().begin().await?;
    let due = take_due(&mut tx, ENTRIES_MAX).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut reports = Vec::with_capacity(due.len());
    let mut next = Vec::with_capacity(due.len());
    for entry in &due {
        let status = Status::parse(entry.channel, &entry.status).map_err(StoreError::from)?;
        reports.push(StatusReport {
            key: entry.key,
            attempt: Some(Named {
                attempt_id: entry.attempt_id,
                provider_message_id: entry.provider_message_id.clone(),
            }),
            status,
            error_code: demo::error_code(entry.channel, status).map(Into::into),
        });
        next.push((
            entry.id,
            demo::next_word(entry.key.id, entry.channel, status.as_str()),
        ));
    }
    save_next(&mut tx, &next).await?;
    merge(&mut tx, &reports).await?;
    tx.commit().await?;
    Ok(due.len())
}
