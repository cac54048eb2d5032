//! Hands messages to delivery.
//!
//! Running twice is harmless: `begin` commits an attempt before the provider is called and grants no second one while the
//! first is open. A run that is granted nothing ends; an attempt without a result is settled, never sent again.

use std::time::Duration;

use super::{Job, JobContext, Outcome, Run};
use crate::delivery::Delivered;
use crate::domain::orders::SendMessage;

/// How long a look waits when the database gave no answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Job for SendMessage {
    async fn run(self, context: &JobContext, run: Run) -> Outcome {
        // Its slot is free for another while the slower ones are under way.
        let one_is_done = || run.load.lighten();
        let delivering =
            context
                .delivery
                .deliver(self.tenant_id, &self.message_ids, run.fence, one_is_done);
        delivering.await.into()
    }
}

impl From<Delivered> for Outcome {
    fn from(delivered: Delivered) -> Self {
        match delivered {
            Delivered::Settled => Self::Settled,
            Delivered::Done => Self::Done,
            Delivered::NoAnswer => Self::Snooze(LOOK_AGAIN),
        }
    }
}
