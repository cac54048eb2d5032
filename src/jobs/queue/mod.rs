//! The queue engine: work that happens later, one row each.
//!
//! It promises that a committed job runs, that one worker has it at a time for as long as that worker is
//! healthy, and that a job whose worker died runs again. It knows queues, kinds, lanes and payloads, and no
//! word of the product. Other rooms see its door and nothing else: [`NewJob`], [`Fence`], [`enqueue`](fn@enqueue).
//!
//! What lies behind the door is for `jobs` alone.

pub mod admin;
mod backend;
mod backoff;
mod claim;
mod complete;
mod counters;
mod engine;
mod enqueue;
mod fence;
mod fetch;
mod layer;
mod lease;
mod slots;
mod sweep;
mod ticket;
mod trouble;
mod tuning;
mod wake;
mod worker;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use backend::{Decoded, Order, PgBackend};
pub use backoff::Backoff;
pub use counters::Totals;
pub use engine::{Announcer, Drained, Engine, EngineConfig, QueueSpec, Weight};
pub use enqueue::{EnqueueIn, IntoJobs, enqueue};
pub use fence::Fence;
pub use layer::{Answer, Complete, CompleteLayer};
pub use ticket::Load;
pub use tuning::Tuning;
pub use wake::{Announced, Announcements, Ear};
pub use worker::{Delivered, Handlers, KindSpec, Runner, Workers};

/// What a job carries: ids, never content and never a secret.
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The stored name of the kind of job, in kebab case. Never changed, never used again.
    const KIND: &'static str;
    /// The queue it waits in.
    const QUEUE: &'static str;
    /// How often it is tried before it is dead, 1 or more.
    const MAX_ATTEMPTS: i16 = MAX_ATTEMPTS;

    /// Whose turn it is that pays for this job, in queues that are claimed in turns.
    fn lane(&self) -> Option<Uuid> {
        None
    }

    /// At most one live job of a queue has this key; a second one is not inserted.
    fn unique_key(&self) -> Option<String> {
        None
    }
}

/// How often a job is tried unless its kind says otherwise.
pub const MAX_ATTEMPTS: i16 = 12;

/// A job about to be inserted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// The queue it waits in.
    pub queue: String,
    /// Which handler it is for. Where a worker has none the try counts as failed: one of a newer version may have it.
    pub kind: String,
    /// An opaque key; queues claimed in turns deal their capacity out over these.
    pub lane: Option<Uuid>,
    /// Lower goes first; 0 unless there is a reason.
    pub priority: i16,
    /// How long it rests before it is ready, counted from the insert. `None` is ready at once.
    pub delay: Option<Duration>,
    /// How often it is tried before it is dead, 1 or more.
    pub max_attempts: i16,
    /// At most one live job of the queue has this key.
    pub unique_key: Option<String>,
    /// Handed to the handler as it is.
    pub payload: serde_json::Value,
}

impl NewJob {
    /// The same job, ready after `delay`.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The same job with another priority; lower goes first.
    #[must_use]
    pub fn with_priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }
}

impl<P: Payload> From<P> for NewJob {
    #[expect(
        clippy::expect_used,
        reason = "a payload is a struct of ids: it has no map with keys that JSON cannot hold"
    )]
    fn from(payload: P) -> Self {
        Self {
            queue: P::QUEUE.to_owned(),
            kind: P::KIND.to_owned(),
            lane: payload.lane(),
            priority: 0,
            delay: None,
            max_attempts: P::MAX_ATTEMPTS,
            unique_key: payload.unique_key(),
            payload: serde_json::to_value(&payload).expect("a payload is plain JSON"),
        }
    }
}

/// What a handler says of the job it was handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the job is deleted.
    Done,
    /// Done, and the handler has completed the job in its own transaction by [`Fence::complete_many`].
    Settled,
    /// Not this time. Tried again after `after`, or after a growing random delay, until its attempts are
    /// used up.
    Retry {
        /// Stored as the job's last error; for operators, so no personal data.
        reason: String,
        /// What the other side asked for, where it did (`Retry-After`).
        after: Option<Duration>,
    },
    /// Too early. Tried again after this long; the attempt does not count.
    Snooze(Duration),
    /// The database went away under it, which is hardly the job's doing. Tried again after a short random delay, with as many
    /// tries left as before. One that is cut off a hundred times is set aside: perhaps it is what brings the database down.
    CutOff {
        /// Stored as the job's last error; for operators, so no personal data.
        reason: String,
    },
    /// Never. Kept among the dead jobs for an operator.
    Dead {
        /// Why, for operators, so no personal data.
        reason: String,
    },
}

impl Outcome {
    /// Tried again after a growing random delay.
    pub fn retry(reason: impl std::fmt::Display) -> Self {
        Self::Retry {
            reason: reason.to_string(),
            after: None,
        }
    }

    /// Never tried again.
    pub fn dead(reason: impl std::fmt::Display) -> Self {
        Self::Dead {
            reason: reason.to_string(),
        }
    }
}
