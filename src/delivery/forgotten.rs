//! Attempts that a server has forgotten, opened again for whoever knows of them: the process that made the call, or the
//! provider's list.

use std::collections::HashMap;

use super::moves::Moves;
use crate::domain::holds::Holds;
use crate::domain::ids::MessageKey;
use crate::domain::message::Phase;
use crate::store::attempts::{Remembered, restore_attempts};
use crate::store::messages::locked::lock_messages;
use crate::store::{StoreResult, SystemTx};

/// Opens the attempts that are missing, at most one of each message. Answers whose they are.
///
/// A message that is past its attempt was settled by somebody who knew.
pub(super) async fn restore(
    tx: &mut SystemTx,
    remembered: &[Remembered],
    holds: &Holds,
) -> StoreResult<Vec<MessageKey>> {
    let by_key: HashMap<MessageKey, &Remembered> =
        remembered.iter().map(|one| (one.key, one)).collect();
    let keys: Vec<MessageKey> = by_key.keys().copied().collect();
    let mut moves = Moves::default();
    let mut missing = Vec::new();
    for mut message in lock_messages(tx, &keys).await? {
        if let Some(one) = by_key.get(&message.key)
            && Phase::WAITING.contains(&message.phase)
            && message.attempt_no < one.attempt_no
        {
            message.attempt_no = one.attempt_no;
            moves.add(&message, Phase::Sending, None);
            missing.push(**one);
        }
    }
    restore_attempts(tx, &missing, holds).await?;
    moves.save(tx).await?;
    Ok(missing.iter().map(|one| one.key).collect())
}
