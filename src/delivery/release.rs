//! The release tick: backlog → a small window of messages that may go now.
//!
//! One leader at a time lets messages out, so fairness is decided in one place and the send queue stays short. The
//! leadership is a row with an epoch: every tick starts by renewing it, and writes nothing when another leader took over.
//! Lanes that got messages are told by `lane_wakes`, rows of the transaction that brought the messages.

mod lost;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::lost::LostLanes;
use super::deal::{Dealer, Done, Room};
use super::incarnation::Myself;
use super::moves::Moves;
use crate::clock::Clock;
use crate::clock::answer::{answered, answered_within};
use crate::domain::counts::{CountWord, CountedIn};
use crate::domain::holds::Holds;
use crate::store::buckets::signals::eat_signals;
use crate::store::release::moved::{Moved, promote_due, return_expired_slots};
use crate::store::release::{Found, LowWater};
use crate::store::{Db, StoreResult, SystemTx, incarnations, release};
use crate::telemetry;

/// From the start of a tick to that of the next while there is work.
pub const TICK_EVERY: Duration = Duration::from_millis(50);
/// Between two ticks at least, however long one took: on a machine that is busy with sending, the leader is not all there is.
const REST_MIN: Duration = Duration::from_millis(10);
/// How often an idle leader looks, should no wake-up reach it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the window is measured anew.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a slot is over.
const SLOTS_EVERY: Duration = Duration::from_millis(500);
/// How long a leader that stops takes to say so; its term ends soon after in any case.
const RESIGN_MAX: Duration = Duration::from_secs(3);
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
        is_busy: false,
        swept_at: None,
        slots_at: None,
        lost: LostLanes::new(),
        low: LowWater::default(),
    };
    while !stop.is_cancelled() {
        let pause = match answered(leader.step(&myself)).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "release tick failed");
                leader.term = None;
                // What it wrote last may not stand.
                leader.dealer = Dealer::default();
                Pause::UntilWoken(LOOK_EVERY)
            }
        };
        tokio::select! {
            () = leader.rest(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    if let Err(error) = answered_within(RESIGN_MAX, leader.resign()).await {
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
    /// Whether the last tick let something out: then the next one comes without a look before it.
    is_busy: bool,
    swept_at: Option<Duration>,
    slots_at: Option<Duration>,
    lost: LostLanes,
    /// From where on something was under way at the last tick; a look beside the ticks lowers it now and then.
    low: LowWater,
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

impl Term {
    /// The workers can make so many calls at once.
    fn measure(&mut self, concurrency: i64) {
        self.window = (2 * concurrency).max(WINDOW_MIN);
        self.slots = if concurrency > 0 {
            concurrency
        } else {
            SLOTS_MIN
        };
    }
}

/// How long the leader rests between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// So long, whoever rings: while there is work the tick keeps its rhythm, so that wakes of many chunks share it.
    Rhythm(Duration),
    /// So long, or until a lane is woken.
    UntilWoken(Duration),
}

impl Leader {
    /// One look; says how long to wait for the next.
    async fn step(&mut self, myself: &Myself) -> StoreResult<Pause> {
        let Some(owner) = myself.current() else {
            self.term = None;
            return Ok(Pause::UntilWoken(LOOK_EVERY));
        };
        if self.term.is_none() {
            let mut tx = self.db.batch().begin().await?;
            let epoch = release::take_term(&mut tx, owner, self.holds.term).await?;
            tx.commit().await?;
            let Some(epoch) = epoch else {
                return Ok(Pause::UntilWoken(LOOK_EVERY));
            };
            tracing::info!(epoch, "leading the release");
            let renewed_at = Clock::boottime();
            // Another leader may have let something out, and workers may have come and gone.
            self.low = LowWater::default();
            self.swept_at = None;
            self.term = Some(Term {
                epoch,
                window: WINDOW_MIN,
                slots: SLOTS_MIN,
                renewed_at,
            });
        }
        if let Some(low) = self.lost.look(&self.db, &self.holds).await {
            self.low = self.low.min(low);
        }
        let look_in = if self.is_busy {
            Duration::ZERO
        } else {
            self.look().await?
        };
        if !look_in.is_zero() && !self.is_renewal_due() {
            return Ok(Pause::UntilWoken(look_in));
        }
        let started_at = Clock::boottime();
        let Some(done) = self.tick().await? else {
            tracing::info!("another leader took over");
            self.term = None;
            return Ok(Pause::UntilWoken(LOOK_EVERY));
        };
        self.is_busy = done.messages > 0 || done.has_more;
        if !self.is_busy && !look_in.is_zero() {
            return Ok(Pause::UntilWoken(look_in));
        }
        if done.has_more {
            return Ok(Pause::Rhythm(Duration::ZERO));
        }
        let took = Clock::boottime().saturating_sub(started_at);
        Ok(Pause::Rhythm(TICK_EVERY.saturating_sub(took).max(REST_MIN)))
    }

    /// How long nothing is to be done, as far as is known; a lane that waits for its bucket is served on time.
    async fn look(&self) -> StoreResult<Duration> {
        let mut tx = self.db.batch().begin().await?;
        let work_in = release::time_to_work(&mut tx).await?;
        Ok(work_in.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY)))
    }

    fn is_renewal_due(&self) -> bool {
        self.term.is_none_or(|term| {
            Clock::boottime().saturating_sub(term.renewed_at) > self.holds.term / 3
        })
    }

    /// Lets out what may go. None when this is no leader any more.
    async fn tick(&mut self) -> StoreResult<Option<Done>> {
        let Some(term) = &mut self.term else {
            return Ok(None);
        };
        let started_at = Clock::boottime();
        let mut tx = self.db.tick().begin().await?;
        let found = release::renew_term(&mut tx, term.epoch, self.holds.term, ROWS_MAX).await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let now = found.now;
        term.renewed_at = started_at;
        if found.is_quarantined {
            // What was let out now would lie there, come back, and be charged to its rates and to the day's quota once more.
            tx.commit().await?;
            return Ok(Some(Done::default()));
        }
        if falls_due(&mut self.swept_at, SWEEP_EVERY) {
            term.measure(incarnations::sum_concurrency(tx.conn()).await?);
        }
        let (window, slots) = (term.window, term.slots);
        let are_slots_due = falls_due(&mut self.slots_at, SLOTS_EVERY);
        let slot = are_slots_due.then_some(self.holds.slot);
        take_back(&mut tx, &found, slot, self.low).await?;
        if found.has_signals {
            eat_signals(&mut tx, ROWS_MAX).await?;
        }
        let under_way = release::count_under_way(&mut tx, self.holds.deadline, self.low).await?;
        self.low = under_way.low(now, self.holds.first_look);
        let released = under_way.count_released();
        metrics::gauge!(telemetry::RELEASED_WINDOW, "state" => "used").set(released as f64);
        metrics::gauge!(telemetry::RELEASED_WINDOW, "state" => "most").set(window as f64);
        let room = Room {
            budget: window - released,
            slots,
        };
        let done = self.dealer.deal(&mut tx, now, room, under_way).await?;
        tx.commit().await?;
        metrics::counter!(telemetry::RELEASED_TOTAL).increment(done.messages.unsigned_abs());
        let took = Clock::boottime().saturating_sub(started_at);
        metrics::histogram!(telemetry::RELEASE_TICK_SECONDS).record(took.as_secs_f64());
        Ok(Some(done))
    }

    async fn rest(&self, pause: Pause) {
        match pause {
            Pause::Rhythm(pause) => tokio::time::sleep(pause).await,
            Pause::UntilWoken(pause) => {
                let _ = tokio::time::timeout(pause, self.bell.notified()).await;
            }
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

/// Whether something is due that comes every so often; then it counts as done.
fn falls_due(last: &mut Option<Duration>, every: Duration) -> bool {
    let now = Clock::boottime();
    let is_due = last.is_none_or(|at| now.saturating_sub(at) >= every);
    if is_due {
        *last = Some(now);
    }
    is_due
}

/// Puts back into the backlog what is due again, and what nobody began within `slot`, if that is asked for.
async fn take_back(
    tx: &mut SystemTx,
    found: &Found,
    slot: Option<Duration>,
    low: LowWater,
) -> StoreResult<()> {
    let mut moves = Moves::default();
    if found.has_due {
        let promoted = promote_due(tx, ROWS_MAX).await?;
        note(&mut moves, &promoted, CountWord::Deferred);
    }
    if let Some(slot) = slot {
        let returned = return_expired_slots(tx, slot, low, ROWS_MAX).await?;
        note(&mut moves, &returned, CountWord::Released);
    }
    moves.save(tx).await
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
