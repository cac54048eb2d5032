//! What became of attempts, written down: attempt, message, mapping and counts, in the transaction of whoever knows.
//!
//! The owner of an attempt knows, or a callback, or a look-up; what they know may come late, twice and from several. The
//! first certain yes hands the message over whatever became of it meanwhile; a second one, of another attempt, is a message
//! that went out twice, and alarms.

use std::collections::HashMap;

use super::moves::Moves;
use crate::domain::attempt::{CallOutcome, settle};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{AttemptId, MessageKey};
use crate::domain::message::{DropReason, Phase};
use crate::domain::status::Status;
use crate::store::attempts::{Closed, Closing, close_attempts};
use crate::store::mappings::{Mapping, insert_mappings};
use crate::store::messages::locked::{Locked, Step, lock_messages, save_steps};
use crate::store::settings::read_now;
use crate::store::{StoreResult, SystemTx};
use crate::telemetry;

/// The attempt's own process says so.
pub const OWNER: &str = "owner";
/// The provider called back.
pub(super) const CALLBACK: &str = "callback";
/// The provider was asked.
pub(super) const LOOK_UP: &str = "look_up";
/// The account's list showed it to a server that had forgotten it.
pub(super) const RECONCILIATION: &str = "reconciliation";
/// Nobody said anything in time.
pub(super) const DEADLINE: &str = "deadline";

/// What is known of one attempt.
#[derive(Debug, Clone)]
pub struct Known {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token; none where nobody knows it. A server that has forgotten an attempt gives its number to another one.
    pub attempt_id: Option<AttemptId>,
    /// How it reaches the person.
    pub channel: Channel,
    /// Who was asked.
    pub provider: Provider,
    /// With which account.
    pub account_ref: String,
    /// What came of it.
    pub outcome: CallOutcome,
    /// Who says so, in one of the words above.
    pub resolved_by: &'static str,
}

impl Known {
    /// Whether what is known has closed one of these attempts.
    pub(super) fn is_among(&self, closed: &[Closed]) -> bool {
        closed.iter().any(|one| {
            one.key == self.key
                && one.attempt_no == self.attempt_no
                && self.attempt_id.is_none_or(|id| id == one.attempt_id)
        })
    }
}

/// Stores what is known. Returns the attempts that it closed; the others had been settled before, or are forgotten.
pub async fn record(tx: &mut SystemTx, known: &[Known]) -> StoreResult<Vec<Closed>> {
    let has_waits = known.iter().any(|one| {
        matches!(
            one.outcome,
            CallOutcome::Later { .. } | CallOutcome::Aborted { .. }
        )
    });
    let now = if has_waits {
        Some(read_now(tx).await?)
    } else {
        None
    };
    let keys: Vec<MessageKey> = known.iter().map(|one| one.key).collect();
    let mut locked: HashMap<MessageKey, Locked> = lock_messages(tx, &keys)
        .await?
        .into_iter()
        .map(|message| (message.key, message))
        .collect();
    let closings: Vec<Closing> = known.iter().map(closing).collect();
    let closed = close_attempts(tx, &closings).await?;

    let mut steps = Vec::with_capacity(known.len());
    let mut mappings = Vec::with_capacity(known.len());
    let mut moves = Moves::default();
    for one in known {
        if !one.is_among(&closed) {
            // Somebody settled it before; what we know is what they knew, or less. Or its number is another attempt's now.
            tracing::debug!(message.id = %one.key.id, attempt = one.attempt_no, "outcome came too late");
            continue;
        }
        mappings.extend(mapping(one));
        let Some(message) = locked.get_mut(&one.key) else {
            continue;
        };
        count(one, message);
        let is_newest = message.attempt_no == one.attempt_no;
        let Some(to) = settle(&one.outcome, message.phase, is_newest, one.attempt_no) else {
            continue;
        };
        moves.add(message, to.phase, to.drop_reason);
        // Two attempts of one message may be known at once; the second meets what the first one made of it.
        (message.phase, message.drop_reason) = (to.phase, to.drop_reason);
        steps.push((
            one.key,
            Step {
                phase: to.phase,
                drop_reason: to.drop_reason,
                ready_at: to.wait.and_then(|wait| Some(now? + wait)),
                status: first_status(&one.outcome),
                error_code: to.error_code,
            },
        ));
    }
    save_steps(tx, &steps).await?;
    insert_mappings(tx, &mappings).await?;
    moves.save(tx).await?;
    Ok(closed)
}

/// Counts what an attempt came to, and alarms where something cannot be.
fn count(one: &Known, message: &Locked) {
    let (id, attempt) = (one.key.id, one.attempt_no);
    match &one.outcome {
        CallOutcome::Taken { .. } if message.phase == Phase::HandedOver => {
            metrics::counter!(telemetry::DUPLICATE_DETECTED_TOTAL).increment(1);
            tracing::error!(message.id = %id, attempt, "a message went out twice");
        }
        CallOutcome::Taken { .. } if message.drop_reason == Some(DropReason::Refused) => {
            tracing::error!(message.id = %id, attempt, "the provider refused a message and has it");
        }
        CallOutcome::Unresolved { .. } => {
            metrics::counter!(telemetry::PARKED_TOTAL).increment(1);
            tracing::warn!(message.id = %id, attempt, "nobody knows whether a message was sent");
        }
        _ => {}
    }
    let state = one.outcome.state().as_str();
    metrics::counter!(telemetry::ATTEMPTS_TOTAL, "state" => state).increment(1);
    if one.resolved_by != OWNER {
        metrics::counter!(telemetry::RESOLVED_TOTAL, "by" => one.resolved_by).increment(1);
    }
}

fn closing(one: &Known) -> Closing {
    let provider_message_id = match &one.outcome {
        CallOutcome::Taken {
            provider_message_id,
            ..
        } => Some(provider_message_id.clone()),
        _ => None,
    };
    Closing {
        key: one.key,
        attempt_no: one.attempt_no,
        attempt_id: one.attempt_id,
        state: one.outcome.state(),
        provider_message_id,
        error_code: one.outcome.error_code().map(Into::into),
        resolved_by: one.resolved_by,
    }
}

/// What the message's status is to begin with. An end is merged as any report is, and counted there.
fn first_status(outcome: &CallOutcome) -> Option<(&'static str, i16)> {
    let CallOutcome::Taken { status, .. } = outcome else {
        return None;
    };
    let first = if status.end().is_some() {
        Status::ACCEPTED
    } else {
        *status
    };
    Some((first.as_str(), first.rank()))
}

fn mapping(one: &Known) -> Option<Mapping> {
    let CallOutcome::Taken {
        provider_message_id,
        status,
    } = &one.outcome
    else {
        return None;
    };
    Some(Mapping {
        key: one.key,
        attempt_no: one.attempt_no,
        channel: one.channel,
        provider: one.provider,
        account_ref: one.account_ref.clone(),
        provider_message_id: provider_message_id.clone(),
        provider_status: status.as_str(),
    })
}
