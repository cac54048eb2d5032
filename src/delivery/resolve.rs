//! Attempts whose outcome a crash hid. One that nobody closed by its first look is parked: shown to people, never sent
//! again by itself.

use std::collections::HashMap;

use super::begin::retry_deadlocks;
use super::moves::Moves;
use crate::domain::attempt::AttemptState;
use crate::domain::ids::MessageKey;
use crate::domain::message::Phase;
use crate::store::attempts::{self, Closing};
use crate::store::messages::{self, Locked, Step};
use crate::store::{Db, StoreResult};
use crate::telemetry;

/// Attempts parked by one transaction.
const PARKED_MAX: i64 = 500;

/// Parks every attempt that is past its first look, and its message.
pub async fn park_overdue(db: &Db) -> StoreResult<()> {
    loop {
        let parked = retry_deadlocks(|| park(db)).await?;
        if parked < PARKED_MAX as usize {
            return Ok(());
        }
    }
}

async fn park(db: &Db) -> StoreResult<usize> {
    let mut tx = db.batch().begin().await?;
    let overdue = attempts::list_overdue(&mut tx, PARKED_MAX).await?;
    if overdue.is_empty() {
        return Ok(0);
    }
    let keys: Vec<MessageKey> = overdue.iter().map(|attempt| attempt.key).collect();
    let locked: HashMap<MessageKey, Locked> = messages::lock_messages(&mut tx, &keys)
        .await?
        .into_iter()
        .map(|message| (message.key, message))
        .collect();
    let closings: Vec<Closing> = overdue
        .iter()
        .map(|attempt| Closing {
            key: attempt.key,
            attempt_no: attempt.attempt_no,
            state: AttemptState::Parked,
            provider_message_id: None,
            error_code: Some("nobody closed this attempt".into()),
        })
        .collect();
    // The guard lets an outcome that was stored meanwhile stand.
    let closed = attempts::close_attempts(&mut tx, &closings, "deadline").await?;
    let mut moves = Moves::default();
    let mut steps = Vec::with_capacity(closed.len());
    for (key, _) in &closed {
        let Some(message) = locked.get(key) else {
            continue;
        };
        if matches!(message.phase, Phase::Sending | Phase::InDoubt) {
            moves.add(message, Phase::Parked, None);
            steps.push((*key, Step::to(Phase::Parked)));
        }
    }
    messages::save_steps(&mut tx, &steps).await?;
    moves.save(&mut tx).await?;
    tx.commit().await?;
    metrics::counter!(telemetry::PARKED_TOTAL).increment(closed.len() as u64);
    if !closed.is_empty() {
        tracing::warn!(
            attempts = closed.len(),
            "parked attempts that nobody closed"
        );
    }
    Ok(overdue.len())
}
