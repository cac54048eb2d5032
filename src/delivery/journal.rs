//! What this process called and what came of it, for a server that has forgotten it.
//!
//! A standby that is promoted may lack the last commits of the server it replaces: permissions, and outcomes. The processes
//! that made the calls live on and remember them. Each sees the other server by its timeline, on which nothing begins yet,
//! and writes down again what is missing there.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::forgotten::restore;
use super::incarnation::Myself;
use super::outcomes::{self, Known};
use crate::clock::Clock;
use crate::clock::answer::answered;
use crate::domain::attempt::CallOutcome;
use crate::domain::holds::Holds;
use crate::domain::ids::{Incarnation, MessageKey};
use crate::domain::reconcile_provider::FORGOTTEN_MAX;
use crate::store::attempts::Remembered;
use crate::store::timelines::{find_current, note_replay};
use crate::store::{Db, StoreResult};

/// Calls remembered at most.
const CALLS_MAX: usize = 50_000;
/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same before the first one has answered.
const FIRST_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Calls of one transaction.
const CHUNK: usize = 64;

/// The calls of this process, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Journal {
    calls: Mutex<VecDeque<Arc<JournaledCall>>>,
}

/// One call that was permitted and made.
#[derive(Debug)]
pub(super) struct JournaledCall {
    attempt: Remembered,
    /// All but its outcome.
    known: Known,
    outcome: OnceLock<CallOutcome>,
    made_at: Duration,
}

impl JournaledCall {
    /// The call is over.
    pub(super) fn ends(&self, outcome: &CallOutcome) {
        // It ends once.
        let _ = self.outcome.set(outcome.clone());
    }
}

impl Journal {
    /// Starts looking at the server, which ends with the journal.
    pub(super) fn spawn(db: Db, myself: Myself, holds: Arc<Holds>) -> Arc<Self> {
        let journal = Arc::new(Self::default());
        tokio::spawn(keep_looking(Arc::downgrade(&journal), db, myself, holds));
        journal
    }

    /// A call is made now. `known` is what is known of it but its outcome.
    pub(super) fn begins(&self, attempt: Remembered, known: Known) -> Arc<JournaledCall> {
        let call = Arc::new(JournaledCall {
            attempt,
            known,
            outcome: OnceLock::new(),
            made_at: Clock::boottime(),
        });
        let mut calls = self.calls();
        let is_old = |call: &Arc<JournaledCall>| call.made_at + FORGOTTEN_MAX < Clock::boottime();
        while calls.len() >= CALLS_MAX || calls.front().is_some_and(is_old) {
            calls.pop_front();
        }
        calls.push_back(call.clone());
        call
    }

    fn calls(&self) -> MutexGuard<'_, VecDeque<Arc<JournaledCall>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest call of each message. Those before it were settled before it was permitted.
    fn newest(&self) -> Vec<Arc<JournaledCall>> {
        let mut newest: HashMap<MessageKey, Arc<JournaledCall>> = HashMap::new();
        for call in self.calls().iter() {
            newest.insert(call.known.key, call.clone());
        }
        newest.into_values().collect()
    }

    /// Writes down what the server does not know. Says how many calls it had forgotten.
    async fn replay(&self, db: &Db, incarnation: Incarnation, holds: &Holds) -> StoreResult<u64> {
        let mut restored = 0;
        for calls in self.newest().chunks(CHUNK) {
            restored += answered(write_down(db, calls, incarnation, holds)).await?;
        }
        Ok(restored)
    }
}

/// Some of a replay, in one transaction.
async fn write_down(
    db: &Db,
    calls: &[Arc<JournaledCall>],
    incarnation: Incarnation,
    holds: &Holds,
) -> StoreResult<u64> {
    let mut tx = db.batch().begin().await?;
    let remembered: Vec<Remembered> = calls
        .iter()
        .map(|call| Remembered {
            incarnation,
            ..call.attempt
        })
        .collect();
    let restored = restore(&mut tx, &remembered, holds).await?.len() as u64;
    let known: Vec<Known> = calls
        .iter()
        .filter_map(|call| {
            let outcome = call.outcome.get()?.clone();
            Some(Known {
                outcome,
                ..call.known.clone()
            })
        })
        .collect();
    outcomes::record(&mut tx, &known).await?;
    tx.commit().await?;
    Ok(restored)
}

async fn keep_looking(journal: Weak<Journal>, db: Db, myself: Myself, holds: Arc<Holds>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        ticks.tick().await;
        let Some(journal) = journal.upgrade() else {
            return;
        };
        match look(&journal, &db, &myself, &holds, &mut known).await {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "the server's timeline was not read");
                // Until the first server is known, another one would not be told from it.
                if known.is_none() {
                    ticks.reset_after(FIRST_LOOK_EVERY);
                }
            }
        }
    }
}

/// Replays the journal when another server answers than the one that `known` names.
async fn look(
    journal: &Journal,
    db: &Db,
    myself: &Myself,
    holds: &Holds,
    known: &mut Option<String>,
) -> StoreResult<()> {
    let Some(incarnation) = myself.current() else {
        return Ok(());
    };
    let current = answered(async {
        let mut tx = db.batch().begin().await?;
        find_current(&mut tx).await
    })
    .await?;
    let Some(before) = known.as_ref().filter(|before| **before != current) else {
        *known = Some(current);
        return Ok(());
    };
    tracing::warn!(timeline = current, before, "another server answers");
    let mut restored = journal.replay(db, incarnation, holds).await?;
    // What the server before permitted may have been called only after that.
    tokio::time::sleep(holds.begin_to_call).await;
    restored += journal.replay(db, incarnation, holds).await?;
    answered(async {
        let mut tx = db.batch().begin().await?;
        note_replay(&mut tx, &current, restored).await?;
        tx.commit().await
    })
    .await?;
    tracing::warn!(
        timeline = current,
        restored,
        "what it had forgotten of this process's calls is written down"
    );
    *known = Some(current);
    Ok(())
}
