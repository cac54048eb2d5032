//! Tells a server in quarantine by the lists of the provider accounts which calls it has forgotten.
//!
//! Running twice is harmless: a message in a list that has an owner is nobody else's, and what waits for it is claimed under its
//! lock.

use super::{Job, JobContext, Outcome, Run};
use crate::domain::orders::ReconcileProvider;

impl Job for ReconcileProvider {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match context.delivery.reconcile_provider().await {
            Ok(()) => Outcome::Done,
            Err(error) => error.into(),
        }
    }
}
