//! The completion layer: the outermost middleware of every worker, so that a panic, a timeout and a dropped
//! future all arrive as an ending.

use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::error::{AbortError, BoxDynError, RetryAfterError};
use apalis_core::task::Task;
use futures_util::future::BoxFuture;
use tower::{Layer, Service};

use super::backend::Order;
use super::fetch::Envelope;
use super::ticket::{Ending, Ticket};
use super::{Backoff, Outcome};

/// Wraps a worker's handlers so that what they answer is written down.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompleteLayer;

impl<S> Layer<S> for CompleteLayer {
    type Service = Complete<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Complete { inner }
    }
}

/// The wrapped handlers.
#[derive(Debug, Clone)]
pub struct Complete<S> {
    inner: S,
}

/// What a handler may answer.
pub trait Answer {
    /// The answer as an outcome. It changes nothing when the job's ending has been said before.
    fn into_outcome(self) -> Outcome;
}

impl Answer for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// Handlers written for apalis answer nothing when all went well.
impl Answer for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Done
    }
}

impl<S> Service<Task<Order>> for Complete<S>
where
    S: Service<Task<Order>>,
    S::Response: Answer,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Order>) -> Self::Future {
        let envelope = task.ctx().data().get::<Envelope>().cloned();
        let handled = self.inner.call(task);
        Box::pin(async move {
            // Dropped with this future: a worker that goes away gives its jobs back.
            let Some(envelope) = envelope else {
                return handled.await.map(|_| ()).map_err(Into::into);
            };
            let ticket = Arc::clone(&envelope.holder.0);
            let outcome = match handled.await {
                Ok(answer) => answer.into_outcome(),
                Err(error) => outcome_of(error.into().as_ref()),
            };
            ticket.end(ending_of(outcome, &ticket, Backoff::default()));
            Ok(())
        })
    }
}

/// What an apalis error means here: aborted is dead, and everything else is tried again.
fn outcome_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Outcome {
    if error.is::<AbortError>() {
        return Outcome::dead(error);
    }
    Outcome::Retry {
        reason: error.to_string(),
        after: error
            .downcast_ref::<RetryAfterError>()
            .map(RetryAfterError::get_duration),
    }
}

pub(super) fn ending_of(outcome: Outcome, ticket: &Ticket, backoff: Backoff) -> Ending {
    match outcome {
        Outcome::Done => Ending::Done,
        Outcome::Settled => Ending::Settled,
        Outcome::Retry { reason, after } => Ending::Retry {
            delay: after.unwrap_or_else(|| backoff.delay(ticket.fence.attempt)),
            error: reason,
        },
        Outcome::Snooze(delay) => Ending::Snooze(delay),
        Outcome::CutOff { reason } => Ending::CutOff {
            delay: Backoff::CUT_OFF.delay(ticket.fence.attempt),
            error: reason,
        },
        Outcome::Dead { reason } => Ending::Dead {
            reason,
            error: None,
        },
    }
}
