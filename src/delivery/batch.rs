//! Many callers, one statement: what handlers ask one by one goes to the database in batches.
//!
//! A durable commit costs the same for one row as for many. A batch goes out as soon as a connection is free: it takes
//! all that wait then, and lingers only while it would be small.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::domain::ids::MessageId;
use crate::store::StoreError;

/// How a batcher works.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSpec {
    /// Items in one batch, at most.
    pub(super) items_max: usize,
    /// How long the first item of a small batch waits for others.
    pub(super) linger: Duration,
    /// Batches under way at once.
    pub(super) parallel: usize,
}

/// How long the first message of a small batch waits for others. An account may make a few calls at once only, so that
/// messages come one by one: without the wait each would cost a commit.
pub(super) const LINGER: Duration = Duration::from_millis(10);

/// Items that wait for a batch; more than any process has handlers.
const WAITING_MAX: usize = 8192;

type Slot<T, R> = (T, oneshot::Sender<R>);

/// Hands items to a function that answers for many at once. Clones share the queue.
#[derive(Debug)]
pub(super) struct Batcher<T, R> {
    items: mpsc::Sender<Slot<T, R>>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self {
            items: self.items.clone(),
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// `run` answers a batch: one answer per item, in order.
    pub(super) fn spawn<F, Fut>(spec: BatchSpec, run: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send + 'static,
    {
        let (items, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(collect(spec, receiver, Arc::new(run)));
        Self { items }
    }

    /// The answer to one item; none when the batch died with its task.
    pub(super) async fn ask(&self, item: T) -> Option<R> {
        let (answer, wait) = oneshot::channel();
        self.items.send((item, answer)).await.ok()?;
        wait.await.ok()
    }
}

async fn collect<T, R, F, Fut>(spec: BatchSpec, mut items: mpsc::Receiver<Slot<T, R>>, run: Arc<F>)
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<R>> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(spec.parallel));
    while let Ok(permit) = free.clone().acquire_owned().await {
        let mut batch: Vec<Slot<T, R>> = Vec::with_capacity(spec.items_max);
        if items.recv_many(&mut batch, spec.items_max).await == 0 {
            return;
        }
        let deadline = Instant::now() + spec.linger;
        while batch.len() < spec.items_max {
            let room = spec.items_max - batch.len();
            match timeout_at(deadline, items.recv_many(&mut batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let run = run.clone();
        tokio::spawn(async move {
            let (items, answers): (Vec<T>, Vec<oneshot::Sender<R>>) = batch.into_iter().unzip();
            for (answer, result) in answers.into_iter().zip(run(items).await) {
                // A handler that was cancelled no longer listens.
                let _ = answer.send(result);
            }
            drop(permit);
        });
    }
}

/// Logs that one message of a batch is left for later: an alarm, unless somebody only holds its row for long.
pub(super) fn log_left(id: MessageId, error: &StoreError, what: &'static str) {
    let sqlstate = error.sqlstate();
    if error.is_transient() {
        tracing::warn!(message.id = %id, %error, sqlstate, what, "somebody holds a message");
    } else {
        tracing::error!(message.id = %id, %error, sqlstate, what, "the database refuses a message");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_waits_goes_in_one_batch_and_each_gets_its_own_answer() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let spec = BatchSpec {
            items_max: 64,
            linger: Duration::from_millis(20),
            parallel: 1,
        };
        let batcher = Batcher::spawn(spec, move |items: Vec<u32>| {
            seen.lock().unwrap().push(items.len());
            async move { items.into_iter().map(|n| n * 2).collect() }
        });

        let asked = (0..100).map(|n| {
            let batcher = batcher.clone();
            async move { (n, batcher.ask(n).await.unwrap()) }
        });
        let answers = futures_util::future::join_all(asked).await;

        assert!(answers.iter().all(|(n, doubled)| n * 2 == *doubled));
        assert!(
            sizes.lock().unwrap().len() <= 3,
            "{:?}",
            sizes.lock().unwrap()
        );
    }
}
