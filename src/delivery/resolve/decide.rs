//! A person decides where nobody knows.

use crate::delivery::moves::Moves;
use crate::domain::campaign::SwitchRefusal;
use crate::domain::doubt::Decision;
use crate::domain::ids::{CampaignId, MessageId, MessageKey, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::domain::senders::SenderRetired;
use crate::store::messages::locked::{Locked, Step, lock_messages, save_steps};
use crate::store::{StoreError, TenantTx, campaigns, message_views, parked, senders};

/// Messages decided by one request.
const DECIDED_MAX: i64 = 5_000;

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// Somebody or something was faster.
    #[error("the message is {} and not parked", .phase.as_str())]
    NotParked {
        /// Where it is.
        phase: Phase,
    },
    /// It cannot be sent again.
    #[error("the message is past its time")]
    Expired,
    /// Its campaign sends nothing any more.
    #[error(transparent)]
    Refused(#[from] SwitchRefusal),
    /// What it was sent from is out of use.
    #[error(transparent)]
    Retired(#[from] SenderRetired),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Decides over one parked message.
pub async fn decide_message(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: MessageId,
    decision: Decision,
) -> Result<(), DecideError> {
    let key = MessageKey { tenant_id, id };
    let message = message_views::load_message(tx, tenant_id, id).await?;
    reopen(tx, tenant_id, message.campaign_id, decision).await?;
    let locked = lock_messages(tx, &[key]).await?;
    if let Some(message) = locked.iter().find(|message| message.phase != Phase::Parked) {
        return Err(DecideError::NotParked {
            phase: message.phase,
        });
    }
    if decision == Decision::SendAgain && parked::count_expired(tx, &[key]).await? > 0 {
        return Err(DecideError::Expired);
    }
    settle(tx, &locked, decision).await?;
    Ok(())
}

/// Decides over the parked messages of a campaign, all alike; says over how many. Those that were settled meanwhile are
/// left alone.
pub async fn decide_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    decision: Decision,
) -> Result<usize, DecideError> {
    // Somebody else's campaign is not one without parked messages.
    campaigns::load_campaign(tx.conn(), tenant_id, id).await?;
    let keys = parked::list_parked_of_campaign(tx, tenant_id, id, DECIDED_MAX).await?;
    if keys.is_empty() {
        return Ok(0);
    }
    reopen(tx, tenant_id, Some(id), decision).await?;
    let mut locked = lock_messages(tx, &keys).await?;
    locked.retain(|message| message.phase == Phase::Parked);
    settle(tx, &locked, decision).await?;
    Ok(locked.len())
}

/// A campaign that has completed goes on while something of it is sent again.
async fn reopen(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: Option<CampaignId>,
    decision: Decision,
) -> Result<(), DecideError> {
    let Some(id) = campaign_id.filter(|_| decision == Decision::SendAgain) else {
        return Ok(());
    };
    let may_send = senders::hold_of_campaign(tx.conn(), tenant_id, id).await?;
    // The campaign's row before its messages', as everybody takes them.
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let reopened = campaign.reopen()?;
    if !may_send {
        return Err(SenderRetired.into());
    }
    campaigns::save_campaign(tx, &reopened).await?;
    Ok(())
}

async fn settle(
    tx: &mut TenantTx,
    locked: &[Locked],
    decision: Decision,
) -> Result<(), StoreError> {
    let (phase, drop_reason) = match decision {
        Decision::ItWasSent => (Phase::HandedOver, None),
        Decision::SendAgain => (Phase::Queued, None),
        Decision::GiveUp => (Phase::Dropped, Some(DropReason::Cancelled)),
    };
    let mut moves = Moves::default();
    let mut steps = Vec::with_capacity(locked.len());
    for message in locked {
        moves.add(message, phase, drop_reason);
        let step = Step {
            drop_reason,
            ..Step::to(phase)
        };
        steps.push((message.key, step));
    }
    let attempts: Vec<(MessageKey, i16)> = locked
        .iter()
        .map(|message| (message.key, message.attempt_no))
        .collect();
    parked::save_decided(tx, &attempts, decision == Decision::ItWasSent).await?;
    save_steps(tx, &steps).await?;
    moves.save(tx).await
}
