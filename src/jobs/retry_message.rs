//! Sends one message anew that its provider took and then failed, hours after that, where the tenant has switched this on.
//!
//! Running twice is harmless: the failed message is locked, and the new one's id is computed from its own.

use super::{Job, JobContext, Outcome, Run};
use crate::delivery::retries::{RetryError, retry_late};
use crate::domain::ids::MessageKey;
use crate::domain::orders::RetryMessage;

impl Job for RetryMessage {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        let key = MessageKey {
            tenant_id: self.tenant_id,
            id: self.message_id,
        };
        match retry_late(&context.db, key).await {
            Ok(is_retried) => {
                tracing::debug!(message.id = %key.id, is_retried, "a late retry was looked at");
                Outcome::Done
            }
            Err(RetryError::Refused(_) | RetryError::Retired(_)) => Outcome::Done,
            Err(RetryError::Store(error)) => error.into(),
        }
    }
}
