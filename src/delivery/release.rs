//! The release tick: backlog → a small window of messages that may go now.
//!
//! One leader at a time lets messages out, so fairness is decided in one place and the send queue stays short. The
//! leadership is a row with an epoch: every tick starts by renewing it, and writes nothing when another leader took over.
//! Lanes that got messages are told by `lane_wakes`, rows of the transaction that brought the messages.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::deal::{Dealer, Room};
use super::incarnation::Myself;
use super::moves::Moves;
use crate::clock::Clock;
use crate::domain::counts::{CountWord, CountedIn};
use crate::domain::holds::Holds;
use crate::domain::ids::LaneId;
use crate::store::buckets::signals::eat_signals;
use crate::store::release::moved::{Moved, promote_due, return_expired_slots};
use crate::store::{Db, StoreResult, incarnations, lanes, release};
use crate::telemetry;

/// Between two ticks while there is work.
const TICK_EVERY: Duration = Duration::from_millis(50);
/// How often an idle leader looks, should no wake-up reach it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the window is measured anew.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often lanes are looked through for one that was forgotten. An alarm: nobody relies on it.
const LOST_EVERY: Duration = Duration::from_secs(5);
/// Lanes of one such look.
const LOST_LANES_MAX: i64 = 1_000;
/// Rows that one statement promotes, returns or eats.
const ROWS_MAX: i64 = 2_000;
/// The window when no worker has said how much it can take.
const WINDOW_MIN: i64 = 64;
/// Calls at once when no worker has said so.
const SLOTS_MIN: i64 = WINDOW_MIN / 2;

/// Stands for leadership until `stop`, and leads while it is elected. `bell` rings when a lane was woken, here or in another
/// process; without it the leader looks by itself, only later.
pub async fn run(db: Db, myself: Myself, holds: Holds, bell: Arc<Notify>, stop: CancellationToken) {
    let mut leader = Leader {
        db,
        holds,
        bell,
        dealer: Dealer::default(),
        term: None,
        swept_at: None,
        lost_at: None,
        lost_after: LaneId(0),
    };
    while !stop.is_cancelled() {
        let pause = match leader.step(&myself).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "release tick failed");
                leader.term = None;
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = leader.woken_within(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    if let Err(error) = leader.resign().await {
        tracing::warn!(%error, "the term runs out by itself");
    }
}

#[derive(Debug)]
struct Leader {
    db: Db,
    holds: Holds,
    bell: Arc<Notify>,
    dealer: Dealer,
    term: Option<Term>,
    swept_at: Option<Duration>,
    /// When lanes were last looked through, and up to which.
    lost_at: Option<Duration>,
    lost_after: LaneId,
}

#[derive(Debug, Clone, Copy)]
struct Term {
    epoch: i64,
    /// Messages let out and not begun, at most.
    window: i64,
    /// Calls that the workers can make at once.
    slots: i64,
    renewed_at: Duration,
}

impl Leader {
    /// One look; says how long to wait for the next.
    async fn step(&mut self, myself: &Myself) -> StoreResult<Duration> {
        let Some(owner) = myself.current() else {
            self.term = None;
            return Ok(LOOK_EVERY);
        };
        if self.term.is_none() {
            let mut tx = self.db.batch().begin().await?;
            let epoch = release::take_term(&mut tx, owner, self.holds.term).await?;
            tx.commit().await?;
            let Some(epoch) = epoch else {
                return Ok(LOOK_EVERY);
            };
            tracing::info!(epoch, "leading the release");
            let renewed_at = Clock::boottime();
            self.term = Some(Term {
                epoch,
                window: WINDOW_MIN,
                slots: SLOTS_MIN,
                renewed_at,
            });
        }
        self.sweep().await?;
        self.find_lost().await?;
        let mut tx = self.db.batch().begin().await?;
        let work_in = release::time_to_work(&mut tx).await?;
        drop(tx);
        let has_work = work_in.is_some_and(|wait| wait.is_zero());
        // A lane that waits for its bucket is served on time, not at the next look.
        let look_in = work_in.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY));
        if !has_work && !self.is_renewal_due() {
            return Ok(look_in);
        }
        let Some(released) = self.tick().await? else {
            tracing::info!("another leader took over");
            self.term = None;
            return Ok(LOOK_EVERY);
        };
        Ok(if released > 0 || has_work {
            TICK_EVERY
        } else {
            look_in
        })
    }

    fn is_renewal_due(&self) -> bool {
        self.term.is_none_or(|term| {
            Clock::boottime().saturating_sub(term.renewed_at) > self.holds.term / 3
        })
    }

    /// Once a second: how large the window may be.
    async fn sweep(&mut self) -> StoreResult<()> {
        let now = Clock::boottime();
        if self
            .swept_at
            .is_some_and(|at| now.saturating_sub(at) < SWEEP_EVERY)
        {
            return Ok(());
        }
        self.swept_at = Some(now);
        let mut tx = self.db.batch().begin().await?;
        let concurrency = incarnations::sum_concurrency(tx.conn()).await?;
        if let Some(term) = &mut self.term {
            term.window = (2 * concurrency).max(WINDOW_MIN);
            term.slots = if concurrency > 0 {
                concurrency
            } else {
                SLOTS_MIN
            };
        }
        Ok(())
    }

    /// Every few seconds: whether a lane was forgotten, some lanes at a time.
    async fn find_lost(&mut self) -> StoreResult<()> {
        let now = Clock::boottime();
        if self
            .lost_at
            .is_some_and(|at| now.saturating_sub(at) < LOST_EVERY)
        {
            return Ok(());
        }
        self.lost_at = Some(now);
        let mut tx = self.db.batch().begin().await?;
        let (lost, looked_at) = lanes::wake_lost(&mut tx, self.lost_after, LOST_LANES_MAX).await?;
        tx.commit().await?;
        self.lost_after = looked_at.unwrap_or(LaneId(0));
        if lost > 0 {
            tracing::error!(lost, "lanes with messages were forgotten; they are woken");
            metrics::counter!(telemetry::LOST_WAKE_TOTAL).increment(lost);
        }
        Ok(())
    }

    /// Lets out what may go. None when this is no leader any more.
    async fn tick(&mut self) -> StoreResult<Option<usize>> {
        let Some(term) = &mut self.term else {
            return Ok(None);
        };
        let started_at = Clock::boottime();
        let mut tx = self.db.batch().begin().await?;
        let Some(now) = release::renew_term(&mut tx, term.epoch, self.holds.term).await? else {
            return Ok(None);
        };
        term.renewed_at = started_at;
        let (window, slots) = (term.window, term.slots);
        let mut moves = Moves::default();
        let promoted = promote_due(&mut tx, ROWS_MAX).await?;
        note(&mut moves, &promoted, CountWord::Deferred);
        let returned = return_expired_slots(&mut tx, self.holds.slot, ROWS_MAX).await?;
        note(&mut moves, &returned, CountWord::Released);
        moves.save(&mut tx).await?;
        release::eat_wakes(&mut tx, now, ROWS_MAX).await?;
        eat_signals(&mut tx, ROWS_MAX).await?;
        let under_way = release::count_under_way(&mut tx, self.holds.deadline).await?;
        let room = Room {
            budget: window - under_way.count_released(),
            slots,
        };
        let released = self.dealer.deal(&mut tx, now, room, under_way).await?;
        tx.commit().await?;
        metrics::counter!(telemetry::RELEASED_TOTAL).increment(released as u64);
        let took = Clock::boottime().saturating_sub(started_at);
        metrics::histogram!(telemetry::RELEASE_TICK_SECONDS).record(took.as_secs_f64());
        Ok(Some(released))
    }

    async fn woken_within(&self, pause: Duration) {
        // While there is work the tick keeps its rhythm, so that wakes of many chunks share it.
        if pause == TICK_EVERY {
            tokio::time::sleep(pause).await;
        } else {
            let _ = tokio::time::timeout(pause, self.bell.notified()).await;
        }
    }

    async fn resign(&mut self) -> StoreResult<()> {
        let Some(term) = self.term.take() else {
            return Ok(());
        };
        let mut tx = self.db.batch().begin().await?;
        release::end_term(&mut tx, term.epoch).await?;
        tx.commit().await
    }
}

fn note(moves: &mut Moves, groups: &[Moved], from: CountWord) {
    for group in groups {
        moves.shift(
            group.tenant_id,
            CountedIn::of(group.campaign_id, group.channel),
            from,
            CountWord::Queued,
            group.messages,
        );
        moves.wake(group.wake());
    }
}
