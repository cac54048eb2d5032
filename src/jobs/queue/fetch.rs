//! One task per queue: it claims as much as there is room for and hands it to the backend.
//!
//! No error of the database ends it, and nothing it has claimed is forgotten: a claim whose answer was lost is
//! not renewed by anybody and runs again when its lease is over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use chrono::{DateTime, Utc};
use futures_util::task::AtomicWaker;
use rand::Rng;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;

use super::backend::Order;
use super::claim::{Claimed, Lease, LowWater, claim_in_order, claim_in_turns, last_lane_of};
use super::engine::Core;
use super::slots::Slots;
use super::ticket::{Ending, Holder, NewTicket};
use super::trouble::Trouble;
use super::tuning::{CLAIM_MAX, NET_PART};
use super::wake::Ear;
use super::{Fence, QueueSpec};
use crate::clock::Clock;
use crate::clock::answer::answered;
use crate::clock::net::Net;

/// Between the fetcher and the backend: jobs that are claimed and not started.
#[derive(Debug)]
pub(super) struct Hatch {
    pub(super) slots: Arc<Slots>,
    waiting: Mutex<VecDeque<Task<Order>>>,
    waker: AtomicWaker,
    is_closed: AtomicBool,
    closed: Notify,
}

impl Hatch {
    pub(super) fn new(spec: &QueueSpec) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Slots::new(spec.queue.clone(), spec.concurrency)),
            waiting: Mutex::default(),
            waker: AtomicWaker::new(),
            is_closed: AtomicBool::new(false),
            closed: Notify::new(),
        })
    }

    /// The next job to start; `None` once no more will come.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Task<Order>>> {
        if let Some(task) = self.pop() {
            return Poll::Ready(Some(task));
        }
        self.waker.register(cx.waker());
        // Looked at again, since something may have come between the look and the registration.
        match self.pop() {
            Some(task) => Poll::Ready(Some(task)),
            None if self.is_closed() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Lets nothing more through and gives back what was not started. May be called again.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // Each task's holder gives its job back.
        let unstarted = std::mem::take(&mut *self.waiting());
        drop(unstarted);
        self.closed.notify_waiters();
        self.closed.notify_one();
        self.waker.wake();
    }

    fn push(&self, tasks: impl Iterator<Item = Task<Order>>) {
        let mut waiting = self.waiting();
        waiting.extend(tasks);
        // Under the lock, so that a close in between does not leave them behind.
        let late = self.is_closed().then(|| std::mem::take(&mut *waiting));
        drop(waiting);
        drop(late);
        self.waker.wake();
    }

    fn pop(&self) -> Option<Task<Order>> {
        self.waiting().pop_front()
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Task<Order>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claims for one queue until its hatch is closed.
pub(super) struct Fetcher {
    core: Arc<Core>,
    hatch: Arc<Hatch>,
    spec: QueueSpec,
    ear: Ear,
    low: LowWater,
    net: Net,
    last_lane: Uuid,
    /// What a job counted for lately. A claim can only guess, and what it brings in beyond the room runs all the same: the next
    /// one waits until there is room again.
    usual_weight: f64,
}

impl Fetcher {
    pub(super) fn new(core: Arc<Core>, hatch: Arc<Hatch>, spec: QueueSpec) -> Self {
        let ear = core.board.ear(&spec.queue);
        Self {
            core,
            hatch,
            ear,
            low: LowWater::default(),
            net: Net::new(NET_PART),
            // Somewhere in the ring, so that many processes do not all begin with the same lanes.
            last_lane: Uuid::from_u128(rand::random()),
            usual_weight: spec.weight.most.max(1) as f64,
            spec,
        }
    }

    pub(super) async fn run(mut self) {
        let mut trouble = Trouble::new("claim", &self.core.tuning);
        while !self.hatch.is_closed() {
            let Some(room) = self.unless_closed(Self::room).await else {
                break;
            };
            let jobs = self.jobs_for(room);
            match answered(self.claim(jobs)).await {
                Ok(claimed) => {
                    trouble.over();
                    if claimed < jobs {
                        self.unless_closed(Self::quiet).await;
                    }
                }
                Err(error) => {
                    let hatch = Arc::clone(&self.hatch);
                    tokio::select! {
                        () = hatch.closed.notified() => {}
                        () = trouble.wait(&error) => {}
                    }
                }
            }
        }
        // What a claim that was under way at the close brought in.
        self.hatch.close();
    }

    /// How many jobs to ask for. Never as many as could take more than twice the room: others may have nothing meanwhile.
    fn jobs_for(&self, room: usize) -> usize {
        let weight = self.usual_weight.max(self.spec.weight.most as f64 / 2.0);
        (room as f64 / weight).ceil() as usize
    }

    async fn unless_closed<T>(&self, wait: impl AsyncFnOnce(&Self) -> T) -> Option<T> {
        let closed = self.hatch.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if self.hatch.is_closed() {
            return None;
        }
        tokio::select! {
            () = closed => None,
            done = wait(self) => Some(done),
        }
    }

    /// Waits for slots, and for the completer to have caught up with what is written already.
    async fn room(&self) -> usize {
        while self.core.desk.is_congested() {
            tokio::time::sleep(self.core.tuning.retry_min).await;
        }
        let room = self.hatch.slots.room(self.core.tuning.claim_linger).await;
        room.min(CLAIM_MAX)
    }

    /// Waits until something is announced, or until it is time to look anyway.
    async fn quiet(&self) {
        let tuning = &self.core.tuning;
        let wait = rand::rng().random_range(tuning.poll_min..=tuning.poll_max);
        // Late is as good as told.
        let _ = tokio::time::timeout(wait, self.ear.heard()).await;
    }

    async fn claim(&mut self, room: usize) -> Result<usize, sqlx::Error> {
        // The connection may take seconds to get; what is announced meanwhile counts for this claim.
        let mut conn = self.core.claim_pool.acquire().await?;
        if self.hatch.is_closed() {
            return Ok(room);
        }
        // The lease ends at the earliest this long after the statement was sent.
        let lease_ends = Clock::boottime() + self.core.tuning.lease;
        let lease = Lease {
            number: self.core.lease_number(),
            secs: self.core.tuning.lease.as_secs_f64(),
        };
        let mut count = 0;
        if self.spec.claims_in_turns {
            let claimed =
                claim_in_turns(&mut conn, &self.spec.queue, self.last_lane, room, lease).await?;
            self.last_lane = last_lane_of(&claimed, self.last_lane);
            count += claimed.len();
            self.deliver(claimed, lease, lease_ends);
        }
        // In turns, this is what the lanes left: jobs without one, and room that a short lane did not use.
        if count < room {
            let claimed = self.claim_in_order(&mut conn, room - count, lease).await?;
            count += claimed.len();
            self.deliver(claimed, lease, lease_ends);
        }
        Ok(count)
    }

    /// From the low water on, or from the beginning when it is time for that. One from the beginning that fails leaves the
    /// low water as it is: it may have taken longer than a statement may.
    async fn claim_in_order(
        &mut self,
        conn: &mut PgConnection,
        room: usize,
        lease: Lease,
    ) -> Result<Vec<Claimed>, sqlx::Error> {
        // Right before the statement, so that what is announced while it runs is left for the next one.
        if let Some(id) = self.ear.take_lowest_id() {
            self.low.fall(id);
        }
        let queue = &self.spec.queue;
        let claimed = if self.net.is_due(self.core.tuning.net_every) {
            self.net.throw();
            let claimed = claim_in_order(conn, queue, &LowWater::default(), room, lease).await;
            self.net.haul();
            let claimed = claimed?;
            self.low = LowWater::default();
            claimed
        } else {
            claim_in_order(conn, queue, &self.low, room, lease).await?
        };
        if !self.spec.claims_in_turns {
            self.low.rise(&claimed);
        }
        Ok(claimed)
    }

    fn deliver(&mut self, claimed: Vec<Claimed>, lease: Lease, lease_ends: Duration) {
        if claimed.is_empty() {
            return;
        }
        self.core
            .counters
            .claimed(&self.spec.queue, claimed.len() as u64);
        let read: Vec<(Claimed, Payload)> = claimed
            .into_iter()
            .map(|job| {
                let payload = serde_json::from_str(&job.payload);
                (job, payload)
            })
            .collect();
        let slots = &self.hatch.slots;
        let new: Vec<NewTicket> = read
            .iter()
            .map(|(job, payload)| NewTicket {
                fence: Fence {
                    id: job.id,
                    attempt: job.attempt,
                    lease: lease.number,
                },
                max_attempts: job.max_attempts,
                starts: job.starts,
                weight: self.weight(payload),
            })
            .collect();
        let weight = new.iter().map(|ticket| ticket.weight).sum();
        slots.take(weight);
        // As much of what was usual before, so that a claim of one or two jobs does not decide.
        self.usual_weight = f64::midpoint(self.usual_weight, weight as f64 / new.len() as f64);
        let tickets = self.core.desk.admit(new.into_iter(), slots, lease_ends);
        let tasks = read
            .into_iter()
            .zip(tickets)
            .filter_map(|((job, payload), ticket)| to_task(job, payload, Holder(ticket)));
        self.hatch.push(tasks);
    }

    fn weight(&self, payload: &Payload) -> usize {
        let weight = payload
            .as_ref()
            .map_or(1, |payload| (self.spec.weight.of)(payload));
        weight.max(1)
    }
}

/// What a job is to do, if that can be read.
type Payload = serde_json::Result<Value>;

/// What a handler is told beside the payload.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) holder: Arc<Holder>,
    pub(super) unique_key: Option<String>,
    pub(super) created_at: DateTime<Utc>,
}

/// The job as apalis carries it. One whose payload cannot be read goes to the dead jobs and no further.
fn to_task(job: Claimed, payload: Payload, holder: Holder) -> Option<Task<Order>> {
    match payload {
        Ok(payload) => {
            let order = Order {
                kind: job.kind,
                payload,
            };
            let envelope = Envelope {
                holder: Arc::new(holder),
                unique_key: job.unique_key,
                created_at: job.created_at,
            };
            // Apalis counts the attempt when the handler starts.
            let before = usize::try_from(job.attempt - 1).unwrap_or_default();
            Some(
                TaskBuilder::new(order)
                    .task_id(TaskId::from_int(job.id.unsigned_abs()))
                    .attempt(before)
                    .data(envelope)
                    .build(),
            )
        }
        Err(error) => {
            holder.0.end(Ending::Dead {
                reason: format!("payload cannot be read: {error}"),
                error: None,
            });
            None
        }
    }
}
