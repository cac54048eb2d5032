//! A person decides where nobody knows.

use crate::delivery::moves::Moves;
use crate::domain::campaign::{Campaign, SwitchRefusal};
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

/// What a decision over the parked messages of a campaign came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decided {
    /// Messages that it was taken over.
    pub messages: usize,
    /// Messages that stay parked since they are past their time; none unless they were to be sent again.
    pub expired: i64,
    /// Messages that the next request decides over: one takes 5,000.
    pub left: i64,
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
    let reopened = match message.campaign_id {
        _ if decision != Decision::SendAgain => None,
        Some(id) => Some(reopen(tx, tenant_id, id).await?),
        None => {
            hold_sender(tx, key).await?;
            None
        }
    };
    let locked = lock_messages(tx, &[key]).await?;
    if let Some(message) = locked.iter().find(|message| message.phase != Phase::Parked) {
        return Err(DecideError::NotParked {
            phase: message.phase,
        });
    }
    if decision == Decision::SendAgain && parked::count_expired(tx, &[key]).await? > 0 {
        return Err(DecideError::Expired);
    }
    settle(tx, reopened.as_ref(), &locked, decision).await?;
    Ok(())
}

/// Decides over the parked messages of a campaign, all alike. Those that were settled meanwhile are left alone, and so are
/// those to be sent again that are past their time: a person may still say that they were sent, or give them up.
pub async fn decide_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    decision: Decision,
) -> Result<Decided, DecideError> {
    // Somebody else's campaign is not one without parked messages.
    campaigns::load_campaign(tx.conn(), tenant_id, id).await?;
    let keys = parked::list_parked_of_campaign(tx, tenant_id, id, decision, DECIDED_MAX).await?;
    let mut messages = 0;
    if !keys.is_empty() {
        let reopened = match decision {
            Decision::SendAgain => Some(reopen(tx, tenant_id, id).await?),
            Decision::ItWasSent | Decision::GiveUp => None,
        };
        let mut locked = lock_messages(tx, &keys).await?;
        locked.retain(|message| message.phase == Phase::Parked);
        settle(tx, reopened.as_ref(), &locked, decision).await?;
        messages = locked.len();
    }
    let rest = parked::count_parked_of_campaign(tx, tenant_id, id).await?;
    let expired = match decision {
        Decision::SendAgain => rest.expired,
        Decision::ItWasSent | Decision::GiveUp => 0,
    };
    Ok(Decided {
        messages,
        expired,
        left: rest.parked - expired,
    })
}

/// The campaign as it goes on while something of it is sent again, also one that has completed. It is held, and not saved.
async fn reopen(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
) -> Result<Campaign, DecideError> {
    let may_send = senders::hold_of_campaign(tx.conn(), tenant_id, id).await?;
    // The campaign's row before its messages', as everybody takes them.
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let reopened = campaign.reopen()?;
    if !may_send {
        return Err(SenderRetired.into());
    }
    Ok(reopened)
}

/// A message without a campaign would be dropped behind a sender that was retired.
async fn hold_sender(tx: &mut TenantTx, key: MessageKey) -> Result<(), DecideError> {
    if parked::hold_sender(tx, key).await? {
        Ok(())
    } else {
        Err(SenderRetired.into())
    }
}

/// Carries a decision out. Only a campaign of which something is sent again goes on: somebody may have been faster with all.
async fn settle(
    tx: &mut TenantTx,
    reopened: Option<&Campaign>,
    locked: &[Locked],
    decision: Decision,
) -> Result<(), StoreError> {
    if locked.is_empty() {
        return Ok(());
    }
    if let Some(campaign) = reopened {
        campaigns::save_campaign(tx, campaign).await?;
    }
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
