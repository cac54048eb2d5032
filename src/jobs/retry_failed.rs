//! Sends anew what failed of a campaign, chunk by chunk, behind what the request has done itself.
//!
//! Running twice is harmless: a failed message is locked, and one whose place was taken is left alone; the new one's id is
//! computed from the old one's. Whatever failed after the request is left for the next one.

use std::time::Duration;

use super::{Job, JobContext, Outcome, Run, WORK_MAX};
use crate::clock::Clock;
use crate::delivery::retries::{RetryError, retry_failed};
use crate::domain::ids::MessageId;
use crate::domain::orders::RetryFailed;

impl Job for RetryFailed {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        let started_at = Clock::boottime();
        let mut after = self.after;
        loop {
            match retry_chunk(&self, context, after).await {
                Ok(Some(last)) => after = last,
                // That was all; or the campaign was cancelled, or its sender retired, and nobody wants it any more.
                Ok(None) | Err(RetryError::Refused(_) | RetryError::Retired(_)) => {
                    return Outcome::Done;
                }
                Err(RetryError::Store(error)) => return error.into(),
            }
            if Clock::boottime().saturating_sub(started_at) > WORK_MAX {
                return Outcome::Snooze(Duration::ZERO);
            }
        }
    }
}

async fn retry_chunk(
    order: &RetryFailed,
    context: &JobContext,
    after: MessageId,
) -> Result<Option<MessageId>, RetryError> {
    let mut tx = context.db.cell(order.tenant_id).begin().await?;
    let ids = (order.tenant_id, order.campaign_id);
    let retried = retry_failed(&mut tx, ids, (after, order.asked_at), &context.clock).await?;
    tx.commit().await?;
    Ok(retried.rest_after)
}
