//! Settles attempts whose outcome nobody told.
//!
//! Running twice is harmless: a look is repeated, and a verdict is stored only over an attempt that is still live.

use super::{Job, JobContext, Outcome, Run};
use crate::domain::orders::ResolveDoubt;

impl Job for ResolveDoubt {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match context.delivery.resolve_doubt().await {
            Ok(_) => Outcome::Done,
            Err(error) => error.into(),
        }
    }
}
