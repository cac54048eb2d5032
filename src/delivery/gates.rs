//! How many calls of one provider account this process makes at once.
//!
//! The release leader lets out what an account gets through, which between two of its looks may be far more than it may call
//! at once. That number is kept here, right before the call: each process has the part of it that it has of all slots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;

use super::incarnation::Myself;
use crate::clock::answer::answered;
use crate::domain::rate::learned::CallLimit;
use crate::store::{Db, StoreResult, buckets, incarnations};

/// How often the numbers are read anew: an account may call once more with each second.
const READ_EVERY: Duration = Duration::from_secs(1);
/// A gate that nobody went through for so many readings is forgotten.
const IDLE_READINGS: u32 = 60;

/// The gates of this process, one for each account.
#[derive(Debug)]
pub(super) struct Gates {
    gates: Mutex<HashMap<String, Gate>>,
}

#[derive(Debug)]
struct Gate {
    size: Arc<Size>,
    idle_readings: u32,
}

/// Permits of a gate. One that is to be taken away while a call holds it goes when that call is over.
#[derive(Debug)]
struct Size {
    free: Arc<Semaphore>,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    permits: usize,
    surplus: usize,
}

/// One call may be under way until this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    size: Arc<Size>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Gates {
    /// Starts the reading of the numbers, which ends with the gates.
    pub(super) fn spawn(db: Db, myself: Myself) -> Arc<Self> {
        let gates = Arc::new(Self {
            gates: Mutex::default(),
        });
        tokio::spawn(keep_read(Arc::downgrade(&gates), db, myself));
        gates
    }

    /// Waits for its turn.
    pub(super) async fn pass(&self, account_ref: &str) -> Pass {
        let size = {
            let mut gates = locked(&self.gates);
            let gate = gates
                .entry(account_ref.to_owned())
                .or_insert_with(|| Gate::new(CallLimit::START as usize));
            gate.idle_readings = 0;
            gate.size.clone()
        };
        // It is never closed; if it were, a call would be made all the same.
        let permit = size.free.clone().acquire_owned().await.ok();
        Pass { size, permit }
    }

    async fn read(&self, db: &Db, myself: &Myself) -> StoreResult<()> {
        let account_refs: Vec<String> = {
            let mut gates = locked(&self.gates);
            gates.retain(|_, gate| {
                gate.idle_readings += 1;
                gate.idle_readings <= IDLE_READINGS
            });
            gates.keys().cloned().collect()
        };
        let Some(incarnation) = myself.current().filter(|_| !account_refs.is_empty()) else {
            return Ok(());
        };
        let mut tx = db.batch().begin().await?;
        let share = incarnations::share_of_concurrency(tx.conn(), incarnation).await?;
        let limits = buckets::list_call_limits(&mut tx, &account_refs, db.clock().now()).await?;
        drop(tx);
        let gates = locked(&self.gates);
        for (account_ref, calls) in limits {
            if let Some(gate) = gates.get(&account_ref) {
                gate.size.set(part_of(calls, share));
            }
        }
        Ok(())
    }
}

/// A share of some calls, 1 or more.
fn part_of(calls: i64, share: f64) -> usize {
    (calls as f64 * share).ceil().max(1.0) as usize
}

async fn keep_read(gates: Weak<Gates>, db: Db, myself: Myself) {
    let mut ticks = tokio::time::interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(gates) = gates.upgrade() else {
            return;
        };
        if let Err(error) = answered(gates.read(&db, &myself)).await {
            tracing::warn!(%error, "how many calls accounts may make was not read");
        }
    }
}

impl Gate {
    fn new(permits: usize) -> Self {
        let size = Size {
            free: Arc::new(Semaphore::new(permits)),
            made: Mutex::new(Made {
                permits,
                surplus: 0,
            }),
        };
        Self {
            size: Arc::new(size),
            idle_readings: 0,
        }
    }
}

impl Size {
    fn set(&self, permits: usize) {
        let mut made = locked(&self.made);
        let valid = made.permits - made.surplus;
        if permits > valid {
            let kept = made.surplus.min(permits - valid);
            made.surplus -= kept;
            let new = permits - valid - kept;
            made.permits += new;
            self.free.add_permits(new);
        } else {
            let gone = self.free.forget_permits(valid - permits);
            made.permits -= gone;
            made.surplus += valid - permits - gone;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut made = locked(&self.size.made);
        if made.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            made.surplus -= 1;
            made.permits -= 1;
            permit.forget();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates() -> Gates {
        Gates {
            gates: Mutex::default(),
        }
    }

    async fn passes(gates: &Gates, most: usize) -> Vec<Pass> {
        let mut passes = Vec::new();
        while passes.len() < most {
            let next = tokio::time::timeout(Duration::from_millis(20), gates.pass("AC1")).await;
            match next {
                Ok(pass) => passes.push(pass),
                Err(_) => break,
            }
        }
        passes
    }

    fn set(gates: &Gates, permits: usize) {
        locked(&gates.gates)["AC1"].size.set(permits);
    }

    #[tokio::test]
    async fn an_account_has_as_many_calls_at_once_as_it_may_and_others_have_theirs() {
        let gates = gates();
        let held = passes(&gates, 99).await;
        assert_eq!(held.len(), 10);
        let _another = gates.pass("AC2").await;
        drop(held);
        assert_eq!(passes(&gates, 99).await.len(), 10);
    }

    #[tokio::test]
    async fn a_number_that_falls_takes_from_those_that_are_over_and_one_that_rises_holds_at_once() {
        let gates = gates();
        let mut held = passes(&gates, 8).await;
        // Two are free and go at once, three as their calls end.
        set(&gates, 5);
        assert_eq!(passes(&gates, 99).await.len(), 0);
        held.truncate(5);
        assert_eq!(passes(&gates, 99).await.len(), 0);
        held.truncate(4);
        assert_eq!(passes(&gates, 99).await.len(), 1);
        set(&gates, 2);
        set(&gates, 7);
        assert_eq!(passes(&gates, 99).await.len(), 3);
        drop(held);
        assert_eq!(passes(&gates, 99).await.len(), 7);
    }

    #[test]
    fn processes_share_by_their_slots_and_each_has_one() {
        assert_eq!(part_of(10, 1.0), 10);
        assert_eq!(part_of(10, 0.25), 3);
        assert_eq!(part_of(1, 0.01), 1);
    }
}
