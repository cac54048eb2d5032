//! What happens later: one file per job, each a typed order and what it does.
//!
//! Every job may run twice; its module doc says why that does no harm. Numbers (queue, timeout, retries) are one line of
//! [`registry`]; the machinery is [`queue`].

pub mod cancel_campaign;
pub mod check_orphans;
pub mod clear_tenant;
pub mod demo_advance_status;
pub mod expand_campaign;
pub mod fold_campaign_deltas;
pub mod fold_provider_events;
pub mod import_contacts;
pub mod maintain_partitions;
pub mod prune_history;
pub mod queue;
pub mod reconcile_provider;
pub mod registry;
pub mod resolve_doubt;
pub mod retry_failed;
pub mod retry_message;
pub mod send_message;
pub mod start_due_campaigns;
pub mod sync_tenants;
pub mod worker;

use std::future::Future;
use std::time::Duration;

pub use self::queue::Outcome;
use self::queue::{Fence, Load, Payload};
use crate::clock::Clock;
use crate::crypto::mac::MacKey;
use crate::delivery::Delivery;
use crate::store::{Db, StoreError, StoreResult};

/// How long one run works before it lets another tenant's job have the slot.
const WORK_MAX: Duration = Duration::from_secs(5);

/// What a job's code may use.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// The database.
    pub db: Db,
    /// The clock its statements agree with.
    pub clock: Clock,
    /// The way to a provider.
    pub delivery: Delivery,
    /// For addresses and contents.
    pub mac_key: MacKey,
}

/// This run of this job.
#[derive(Debug, Clone)]
pub struct Run {
    /// Completes the job in the handler's own transaction.
    pub fence: Fence,
    /// The slots the job has.
    pub load: Load,
    /// Which try it is, from 1.
    pub attempt: i16,
}

impl Run {
    /// A part of the work is done and committed: the job has its tries anew, so that one which gets on is not given up,
    /// however often its workers are killed.
    async fn gets_on<P: Payload>(&self, db: &Db) -> StoreResult<()> {
        let mut tx = db.batch().begin().await?;
        self.fence.renew_tries(tx.conn(), P::MAX_ATTEMPTS).await?;
        tx.commit().await
    }
}

/// An order that can be carried out.
pub trait Job: Payload {
    /// Does it. Running twice does no harm.
    fn run(self, context: &JobContext, run: Run) -> impl Future<Output = Outcome> + Send;
}

/// A database that is away uses up no attempt; anything else is tried again until they are used up, also what the database
/// takes too long for.
impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) if !error.is_statement_too_long() => Self::CutOff {
                reason: error.to_string(),
            },
            other => Self::retry(other),
        }
    }
}
