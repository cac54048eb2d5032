//! Merges what providers told us into the messages.
//!
//! Running twice is harmless: an event is taken by one transaction, and folding it again would change nothing.

use super::{Job, JobContext, Outcome, Run};
use crate::delivery::inbox::fold::{EVENTS_MAX, fold_events};
use crate::domain::orders::FoldProviderEvents;

/// Transactions of one run: what is left comes with the next tick.
const ROUNDS_MAX: usize = 200;

impl Job for FoldProviderEvents {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        for _ in 0..ROUNDS_MAX {
            match fold_events(&context.db).await {
                Ok(taken) if taken < EVENTS_MAX => break,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        Outcome::Done
    }
}
