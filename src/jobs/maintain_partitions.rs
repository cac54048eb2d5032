//! Makes the partitions of the coming weeks and drops those past their retention.
//!
//! Running twice is harmless: the database function makes what is missing and nothing else.

use super::{Job, JobContext, Outcome, Run};
use crate::domain::orders::MaintainPartitions;
use crate::store::startup::maintain_partitions;

impl Job for MaintainPartitions {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match maintain_partitions(&context.db).await {
            Ok(changed) => {
                tracing::info!(partitions = changed, "partitions maintained");
                Outcome::Done
            }
            Err(error) => error.into(),
        }
    }
}
