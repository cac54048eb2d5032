//! From a table of handlers to running apalis workers.

use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use apalis_core::monitor::MonitorError;
use apalis_core::task::Task;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tower::Service;
use tracing::{Instrument, debug_span};

use super::backend::Order;
use super::fetch::Envelope;
use super::layer::ending_of;
use super::ticket::{Ending, Load, Ticket};
use super::{Backoff, Engine, Fence, Outcome, PgBackend, QueueSpec};

use crate::telemetry;

/// A job in the hands of its handler.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The kind of job.
    pub kind: String,
    /// What it carries.
    pub payload: serde_json::Value,
    /// Proof that it is still ours, for a handler that completes it in its own transaction.
    pub fence: Fence,
    /// The slots it has, for a handler that is done with them one by one.
    pub load: Load,
    /// Which attempt this is, from 1.
    pub attempt: i16,
    /// The key that no other live job of the queue has.
    pub unique_key: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
}

/// How jobs of one kind are treated.
#[derive(Debug, Clone, Copy)]
pub struct KindSpec {
    /// The stored name of the kind.
    pub kind: &'static str,
    /// How long one run may take. It is cut off then, and tried again.
    pub timeout: Duration,
    /// How long it rests after it failed, unless its outcome says so itself.
    pub backoff: Backoff,
}

type Handler = Arc<dyn Fn(Delivered) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// The handlers of one queue, by kind. Clones share them.
#[derive(Clone, Default)]
pub struct Handlers {
    kinds: Arc<HashMap<&'static str, (KindSpec, Handler)>>,
}

impl Handlers {
    /// The same handlers and one more.
    #[must_use]
    pub fn with<F, Fut>(self, spec: KindSpec, handler: F) -> Self
    where
        F: Fn(Delivered) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let mut kinds = Arc::unwrap_or_clone(self.kinds);
        let handler: Handler = Arc::new(move |delivered| handler(delivered).boxed());
        kinds.insert(spec.kind, (spec, handler));
        Self {
            kinds: Arc::new(kinds),
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}

/// Runs each job with the handler of its kind. Whatever happens inside, the job has an ending afterwards.
#[derive(Debug, Clone)]
pub struct Runner {
    handlers: Handlers,
}

impl Service<Task<Order>> for Runner {
    type Response = ();
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<(), Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Order>) -> Self::Future {
        let handlers = self.handlers.clone();
        Box::pin(async move {
            let (order, ctx) = task.take();
            if let Some(envelope) = ctx.data().get::<Envelope>() {
                run(&handlers, order, envelope).await;
            }
            Ok(())
        })
    }
}

async fn run(handlers: &Handlers, order: Order, envelope: &Envelope) {
    let ticket = &envelope.holder.0;
    if !ticket.start() {
        // Its lease ran out in the buffer, while the machine slept or the database was away.
        return ticket.end(Ending::Lost);
    }
    let Some((spec, handler)) = handlers.kinds.get(order.kind.as_str()) else {
        // A newer version may know it, which works beside this one during an upgrade.
        return ticket.end(Ending::Retry {
            delay: Backoff::default().delay(ticket.fence.attempt),
            error: format!("no handler for {:?}", order.kind),
        });
    };
    let span = debug_span!(
        "job",
        job.kind = spec.kind,
        job.id = ticket.fence.id,
        job.attempt = ticket.fence.attempt
    );
    let delivered = Delivered {
        kind: order.kind,
        payload: order.payload,
        fence: ticket.fence,
        load: Load::of(ticket),
        attempt: ticket.fence.attempt,
        unique_key: envelope.unique_key.clone(),
        created_at: envelope.created_at,
    };
    let started = Instant::now();
    let ending = handle(spec, handler, delivered, ticket)
        .instrument(span)
        .await;
    metrics::histogram!(telemetry::JOB_RUN_SECONDS, "job" => spec.kind)
        .record(started.elapsed().as_secs_f64());
    ticket.end(ending);
}

async fn handle(
    spec: &KindSpec,
    handler: &Handler,
    delivered: Delivered,
    ticket: &Ticket,
) -> Ending {
    // The call itself may panic before there is a future.
    let run = AssertUnwindSafe(async { handler(delivered).await }).catch_unwind();
    let outcome = tokio::select! {
        biased;
        answer = tokio::time::timeout(spec.timeout, run) => match answer {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Outcome::retry(format!("panicked: {}", message_of(panic.as_ref()))),
            Err(_) => Outcome::retry(format!("took longer than {:?}", spec.timeout)),
        },
        () = ticket.cancel.cancelled() => return ticket.stopped(),
    };
    ending_of(outcome, ticket, spec.backoff)
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The workers of a process: one per queue, watched by one monitor.
#[derive(Debug)]
pub struct Workers {
    engine: Engine,
    monitor: Monitor,
}

impl Workers {
    /// No queue yet.
    pub fn new(engine: Engine) -> Self {
        // A worker ends by a bug in a layer and never by a job; the queue must not stand still for it.
        let monitor = Monitor::new().should_restart(|_, _| true);
        Self { engine, monitor }
    }

    /// Serves one more queue. It claims from now on, and starts what it claims once [`Workers::run`] runs.
    #[must_use]
    pub fn serve(mut self, spec: QueueSpec, handlers: Handlers) -> Self {
        let backend = self.engine.backend(spec);
        self.monitor = register(self.monitor, backend, handlers);
        self
    }

    /// Runs until [`Engine::drain`] has stopped all of them.
    ///
    /// # Errors
    /// When a worker could not be stopped in good order. No job is lost by it.
    pub async fn run(self) -> Result<(), MonitorError> {
        let engine = self.engine;
        self.monitor
            .run_with_signal(async move {
                engine.stopping().await;
                Ok(())
            })
            .await
    }
}

/// Not inside an async block: the worker's type is too much for one that is spawned.
fn register(monitor: Monitor, backend: PgBackend, handlers: Handlers) -> Monitor {
    monitor.register(move |_| {
        WorkerBuilder::new(backend.worker_name())
            .backend(backend.clone())
            // Otherwise all handlers of a worker share one task, and one that blocks stops the rest.
            .parallelize(tokio::spawn)
            .build(Runner {
                handlers: handlers.clone(),
            })
    })
}
