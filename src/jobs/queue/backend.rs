//! The engine as apalis sees it.
//!
//! All database work runs in the engine's own tasks; polling reads a buffer. It never yields an error, since an
//! error ends an apalis worker and drops the handlers that run.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apalis_core::backend::codec::Codec;
use apalis_core::backend::finalize::Durable;
use apalis_core::backend::future::BoxSyncFuture;
use apalis_core::backend::{Backend, BackendConfig, WireFormatBackend};
use apalis_core::task::Task;
use apalis_core::worker::context::WorkerContext;
use futures_util::Sink;
use sqlx::{PgConnection, Postgres};

use super::engine::Core;
use super::enqueue::enqueue;
use super::fetch::Hatch;
use super::layer::CompleteLayer;
use super::{EnqueueIn, MAX_ATTEMPTS, NewJob, Payload};

/// What an apalis worker of a queue is handed: the kind of job and what it carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Which handler it is for.
    pub kind: String,
    /// What the handler needs to know.
    pub payload: serde_json::Value,
}

impl<P: Payload> From<P> for Order {
    fn from(payload: P) -> Self {
        let job = NewJob::from(payload);
        Self {
            kind: job.kind,
            payload: job.payload,
        }
    }
}

/// One queue of the engine, for an apalis worker. Clones take from the same buffer.
pub struct PgBackend {
    core: Arc<Core>,
    hatch: Arc<Hatch>,
    queue: String,
    closing: Option<BoxSyncFuture<()>>,
    unpushed: VecDeque<NewJob>,
    pushing: Option<BoxSyncFuture<Result<(), sqlx::Error>>>,
}

impl PgBackend {
    pub(super) fn new(core: Arc<Core>, hatch: Arc<Hatch>, queue: String) -> Self {
        Self {
            core,
            hatch,
            queue,
            closing: None,
            unpushed: VecDeque::new(),
            pushing: None,
        }
    }

    /// The name of the worker that takes from this queue; it contains the incarnation.
    pub fn worker_name(&self) -> String {
        format!("{}-{}", self.queue, self.core.incarnation)
    }
}

impl Clone for PgBackend {
    fn clone(&self) -> Self {
        Self::new(
            Arc::clone(&self.core),
            Arc::clone(&self.hatch),
            self.queue.clone(),
        )
    }
}

impl std::fmt::Debug for PgBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgBackend")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Backend for PgBackend {
    type Task = Task<Order>;
    /// Of pushing; polling yields none.
    type Error = sqlx::Error;

    fn poll_ready(
        &mut self,
        _cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Self::Error>>> {
        self.hatch.poll_next(cx).map(|task| task.map(Ok))
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Result<(), Self::Error>> {
        let closing = self.closing.get_or_insert_with(|| {
            self.hatch.close();
            let core = Arc::clone(&self.core);
            let hatch = Arc::clone(&self.hatch);
            BoxSyncFuture::new(Box::pin(async move {
                tokio::select! {
                    // A drain has given up on the database.
                    () = core.ended.cancelled() => {}
                    () = core.desk.until_empty_of(hatch.slots.queue()) => {}
                }
            }))
        });
        closing.poll_unpin(cx).map(Ok)
    }
}

impl BackendConfig for PgBackend {
    type Args = Order;
    type Id = u64;
    type Kind = Durable;
    type Config = super::Tuning;
    type Layer = CompleteLayer;

    fn config(&self) -> &Self::Config {
        &self.core.tuning
    }

    fn middleware(&mut self, _worker: &mut WorkerContext) -> Self::Layer {
        CompleteLayer
    }
}

/// Orders are decoded by the fetcher already, so there is nothing left that could fail.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoded;

impl Codec<Order> for Decoded {
    type Error = Infallible;
    type Compact = Order;

    fn encode(&self, order: &Order) -> Result<Order, Infallible> {
        Ok(order.clone())
    }

    fn decode(&self, order: &Order) -> Result<Order, Infallible> {
        Ok(order.clone())
    }
}

impl WireFormatBackend for PgBackend {
    type Codec = Decoded;
    type Compact = Order;

    fn codec(&self) -> &Self::Codec {
        &Decoded
    }
}

/// For `storage.push(order)`, as apalis users expect; whoever has a transaction open uses
/// [`enqueue`](fn@super::enqueue) instead.
impl Sink<Task<Order>> for PgBackend {
    type Error = sqlx::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.unpushed.len() < PUSH_MAX {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, task: Task<Order>) -> Result<(), Self::Error> {
        let job = self.to_job(task);
        self.unpushed.push_back(job);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        loop {
            if let Some(pushing) = &mut self.pushing {
                let pushed = ready!(pushing.poll_unpin(cx));
                self.pushing = None;
                pushed?;
            }
            if self.unpushed.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let jobs = std::mem::take(&mut self.unpushed);
            let pushing = push(Arc::clone(&self.core), jobs.into());
            self.pushing = Some(BoxSyncFuture::new(Box::pin(pushing)));
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_flush(cx)
    }
}

/// Jobs of one push statement.
const PUSH_MAX: usize = 1_000;

impl PgBackend {
    fn to_job(&self, task: Task<Order>) -> NewJob {
        let (order, ctx) = task.take();
        let now = u64::try_from(self.core.clock.now().timestamp()).unwrap_or_default();
        NewJob {
            queue: self.queue.clone(),
            kind: order.kind,
            lane: None,
            priority: ctx
                .priority()
                .map_or(0, |priority| i16::try_from(priority).unwrap_or(i16::MAX)),
            delay: ctx
                .run_at()
                .map(|run_at| Duration::from_secs(run_at.saturating_sub(now))),
            max_attempts: ctx
                .max_attempts()
                .map_or(MAX_ATTEMPTS, |max| i16::try_from(max).unwrap_or(i16::MAX)),
            unique_key: ctx.idempotency_key().map(ToOwned::to_owned),
            payload: order.payload,
        }
    }
}

async fn push(core: Arc<Core>, jobs: Vec<NewJob>) -> Result<(), sqlx::Error> {
    let mut push = Push {
        conn: core.system_pool.acquire().await?,
        announced: Vec::new(),
    };
    // One statement, so it commits by itself.
    enqueue(&mut push, jobs).await?;
    for (queue, lowest_id) in push.announced {
        core.board.announce(&queue, lowest_id);
    }
    Ok(())
}

struct Push {
    conn: sqlx::pool::PoolConnection<Postgres>,
    announced: Vec<(String, i64)>,
}

impl EnqueueIn for Push {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.conn
    }

    fn announce(&mut self, queue: &str, lowest_id: i64) {
        self.announced.push((queue.to_owned(), lowest_id));
    }
}
