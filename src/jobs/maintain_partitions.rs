//! Makes the partitions of the coming weeks and drops those past their retention.
//!
//! Running twice is harmless: the database function makes what is missing and nothing else.

use super::{Job, JobContext, Outcome, Run};
use crate::domain::orders::MaintainPartitions;
use crate::store::startup::maintain_partitions;
use crate::store::{Db, StoreResult, partitions};
use crate::telemetry;

impl Job for MaintainPartitions {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match maintain(&context.db).await {
            Ok((changed, days_ahead)) => {
                metrics::gauge!(telemetry::PARTITIONS_AHEAD).set(days_ahead);
                tracing::info!(partitions = changed, days_ahead, "partitions maintained");
                Outcome::Done
            }
            Err(error) => error.into(),
        }
    }
}

async fn maintain(db: &Db) -> StoreResult<(i64, f64)> {
    let changed = maintain_partitions(db).await?;
    let mut tx = db.system().begin().await?;
    Ok((changed, partitions::days_ahead(&mut tx).await?))
}
