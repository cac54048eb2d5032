//! The room a queue has in this process: how many of its jobs may be claimed and not ended at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The room of one queue.
#[derive(Debug)]
pub(super) struct Slots {
    queue: String,
    total: usize,
    used: AtomicUsize,
    freed: Notify,
}

impl Slots {
    pub(super) fn new(queue: String, total: usize) -> Self {
        Self {
            queue,
            total: total.max(1),
            used: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    pub(super) fn take(&self, count: usize) {
        self.used.fetch_add(count, Ordering::AcqRel);
    }

    pub(super) fn free(&self, count: usize) {
        let before = self.used.fetch_sub(count, Ordering::AcqRel);
        let free = self.total.saturating_sub(before - count);
        let was_full = before >= self.total;
        // The fetcher waits for the first free slot, and then for half of them: other counts need not wake it.
        if (was_full && free > 0) || free >= self.half() {
            self.freed.notify_one();
        }
    }

    fn half(&self) -> usize {
        self.total.div_ceil(2)
    }

    fn free_now(&self) -> usize {
        self.total.saturating_sub(self.used.load(Ordering::Acquire))
    }

    /// Waits for a free slot, then up to `linger` for half of all: a claim costs about the same for one job as
    /// for fifty.
    pub(super) async fn room(&self, linger: Duration) -> usize {
        while self.free_now() == 0 {
            self.freed.notified().await;
        }
        let enough = async {
            while self.free_now() < self.half() {
                self.freed.notified().await;
            }
        };
        if self.free_now() < self.half() {
            // Late is as good as enough.
            let _ = tokio::time::timeout(linger, enough).await;
        }
        self.free_now()
    }
}
