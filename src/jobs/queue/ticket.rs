//! What this process holds: one ticket for each job it has claimed and not yet given up.
//!
//! A ticket lives from the claim until the database has taken the job's ending. In between the lease is
//! renewed for it, whatever its handler does and however long the database is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::Fence;
use super::slots::Slots;
use crate::clock::Clock;

/// How a job's time with this process ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    /// Delete it.
    Done,
    /// Its handler has deleted it.
    Settled,
    /// Again after this long; the attempt counts and the error is kept.
    Retry { delay: Duration, error: String },
    /// Again after this long; the attempt does not count.
    Snooze(Duration),
    /// Again after this long and with as many tries left as before; the error is kept.
    CutOff { delay: Duration, error: String },
    /// To the dead jobs.
    Dead {
        reason: String,
        error: Option<String>,
    },
    /// Never started, or stopped by a drain: ready again, and nothing counts.
    GivenBack,
    /// Somebody else's by now: forget it.
    Lost,
}

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const ENDED: u8 = 2;

/// One claimed job.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) fence: Fence,
    pub(super) max_attempts: i16,
    /// Runs in a row, this one among them, none of which was heard of again.
    pub(super) starts: i16,
    /// Slots that it has.
    slots_held: AtomicUsize,
    /// Told when the handler has to stop: the lease is lost, or a drain ran out of patience.
    pub(super) cancel: CancellationToken,
    is_lost: AtomicBool,
    stage: AtomicU8,
    /// On the boot clock, which goes on while the machine sleeps.
    lease_ends_ms: AtomicU64,
    slots: Arc<Slots>,
    desk: Arc<Desk>,
}

impl Ticket {
    /// Marks the handler as started. `false` when the lease ran out while the job waited its turn: it is
    /// somebody else's.
    pub(super) fn start(&self) -> bool {
        let is_ours = boot_ms(Clock::boottime()) < self.lease_ends_ms.load(Ordering::Relaxed);
        is_ours
            && self
                .stage
                .compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            && {
                self.desk.running.fetch_add(1, Ordering::AcqRel);
                true
            }
    }

    /// Hands the ending to the completer and the slot back to the queue. The first ending counts.
    pub(super) fn end(self: &Arc<Self>, ending: Ending) {
        let before = self.stage.swap(ENDED, Ordering::AcqRel);
        if before == ENDED {
            return;
        }
        self.desk.ended.fetch_add(1, Ordering::AcqRel);
        // The completer outlives every ticket: it ends when the desk is empty.
        let _ = self.desk.endings.send((Arc::clone(self), ending));
        if before == RUNNING && self.desk.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.desk.changed.notify_waiters();
        }
        self.slots.free(self.slots_held.swap(0, Ordering::AcqRel));
    }

    /// Gives one slot back before the job ends; it keeps one until then.
    fn lighten(&self) {
        let one_less = |held: usize| (held > 1).then(|| held - 1);
        let lighter = self
            .slots_held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        if lighter.is_ok() {
            self.slots.free(1);
        }
    }

    /// Somebody else has the job: its handler is stopped, and what it says changes nothing.
    pub(super) fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
        self.cancel.cancel();
    }

    /// What becomes of a job whose handler was stopped.
    pub(super) fn stopped(&self) -> Ending {
        if self.is_lost.load(Ordering::Acquire) {
            Ending::Lost
        } else {
            Ending::GivenBack
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stage.load(Ordering::Acquire) == ENDED
    }

    /// Where the job's slot and its metrics belong.
    pub(super) fn queue(&self) -> &str {
        self.slots.queue()
    }

    /// The database says that the lease ends later.
    pub(super) fn renewed(&self, lease_ends: Duration) {
        self.lease_ends_ms
            .store(boot_ms(lease_ends), Ordering::Relaxed);
    }
}

/// The slots of a job, for its handler: one that counts for several is done with some of them before others.
#[derive(Debug, Clone)]
pub struct Load(Arc<Ticket>);

impl Load {
    pub(super) fn of(ticket: &Arc<Ticket>) -> Self {
        Self(Arc::clone(ticket))
    }

    /// One part is done: its slot is free for the next job. The last part's is freed with the job.
    pub fn lighten(&self) {
        self.0.lighten();
    }
}

/// Ends the job when it is dropped unended: a worker that went away gives its jobs back.
#[derive(Debug)]
pub(super) struct Holder(pub(super) Arc<Ticket>);

impl Drop for Holder {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            self.0.end(Ending::GivenBack);
        }
    }
}

/// All tickets of the process.
#[derive(Debug)]
pub(super) struct Desk {
    tickets: Mutex<HashMap<i64, Arc<Ticket>>>,
    endings: mpsc::UnboundedSender<(Arc<Ticket>, Ending)>,
    /// Handlers that run.
    running: AtomicUsize,
    /// Endings the database has not taken yet.
    ended: AtomicUsize,
    changed: Notify,
}

/// A ticket about to be made.
pub(super) struct NewTicket {
    pub(super) fence: Fence,
    pub(super) max_attempts: i16,
    pub(super) starts: i16,
    pub(super) weight: usize,
}

impl Desk {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<(Arc<Ticket>, Ending)>) {
        let (endings, receiver) = mpsc::unbounded_channel();
        let desk = Arc::new(Self {
            tickets: Mutex::default(),
            endings,
            running: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        (desk, receiver)
    }

    /// Tickets for a claim whose leases end at `lease_ends` on the boot clock.
    pub(super) fn admit(
        self: &Arc<Self>,
        claimed: impl Iterator<Item = NewTicket>,
        slots: &Arc<Slots>,
        lease_ends: Duration,
    ) -> Vec<Arc<Ticket>> {
        let mut tickets = self.tickets();
        claimed
            .map(|new| {
                let ticket = Arc::new(Ticket {
                    fence: new.fence,
                    max_attempts: new.max_attempts,
                    starts: new.starts,
                    slots_held: AtomicUsize::new(new.weight),
                    cancel: CancellationToken::new(),
                    is_lost: AtomicBool::new(false),
                    stage: AtomicU8::new(WAITING),
                    lease_ends_ms: AtomicU64::new(boot_ms(lease_ends)),
                    slots: Arc::clone(slots),
                    desk: Arc::clone(self),
                });
                tickets.insert(new.fence.id, Arc::clone(&ticket));
                ticket
            })
            .collect()
    }

    /// Forgets jobs whose ending the database has taken.
    pub(super) fn dismiss<'a>(&self, ended: impl Iterator<Item = &'a Ticket>) {
        let mut tickets = self.tickets();
        let mut gone = 0;
        for ticket in ended {
            tickets.remove(&ticket.fence.id);
            gone += 1;
        }
        drop(tickets);
        self.ended.fetch_sub(gone, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Everything held, for the renewal.
    pub(super) fn held(&self) -> Vec<Arc<Ticket>> {
        self.tickets().values().cloned().collect()
    }

    /// Tells every handler that still runs to stop.
    pub(super) fn cancel_all(&self) {
        for ticket in self.tickets().values() {
            ticket.cancel.cancel();
        }
    }

    /// Jobs this process holds, their endings included.
    pub(super) fn len(&self) -> usize {
        self.tickets().len()
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Whether the database is so far behind that no more should be claimed.
    pub(super) fn is_congested(&self) -> bool {
        self.ended.load(Ordering::Acquire) >= super::tuning::COMPLETIONS_WAITING_MAX
    }

    /// Resolves once no handler runs.
    pub(super) async fn until_idle(&self) {
        self.until(|desk| desk.running() == 0).await;
    }

    /// Resolves once nothing is held.
    pub(super) async fn until_empty(&self) {
        self.until(|desk| desk.len() == 0).await;
    }

    /// Resolves once nothing of `queue` is held.
    pub(super) async fn until_empty_of(&self, queue: &str) {
        self.until(|desk| {
            desk.tickets()
                .values()
                .all(|ticket| ticket.queue() != queue)
        })
        .await;
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<i64, Arc<Ticket>>> {
        // The map is whole after every statement that changes it.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn boot_ms(at: Duration) -> u64 {
    at.as_millis() as u64
}
