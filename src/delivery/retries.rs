//! What failed is sent anew: by a person for a campaign, or by itself a minute to a day later where the tenant has switched that on.
//!
//! A failed message stays what it is. A new one takes its place, with its text and the id of the next step, so that it cannot be
//! made twice; people are counted by the newest. Both are written under the lock of the failed one: a success that is told
//! first leaves nothing to retry, one that comes later counts no more.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::feedback::meaning;
use super::moves::Moves;
use crate::clock::Clock;
use crate::domain::campaign::{Campaign, SwitchRefusal};
use crate::domain::counts::{CountDelta, CountedIn};
use crate::domain::feedback::{Again, Meaning};
use crate::domain::ids::{CampaignId, MessageId, MessageKey, TenantId};
use crate::domain::orders::{RetryFailed, RetryMessage};
use crate::domain::rate::learned::next_midnight_pacific;
use crate::domain::retries::{Failure, LeftOut};
use crate::domain::senders::SenderRetired;
use crate::jobs::queue::{NewJob, enqueue};
use crate::store::lanes::{Wake, ensure_lane};
use crate::store::retries::{FailedMessage, RetryHead, insert_retries, list_failed, lock_failed};
use crate::store::settings::read_now;
use crate::store::statuses::Heard;
use crate::store::{Db, StoreError, StoreResult, SystemTx, TenantTx, campaigns, retries, senders};

/// Failed messages of one transaction.
const CHUNK: i64 = 2_000;

/// Why nothing is sent anew.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// The campaign was never sent, was cancelled or has failed.
    #[error(transparent)]
    Refused(#[from] SwitchRefusal),
    /// What it was sent from is out of use.
    #[error(transparent)]
    Retired(#[from] SenderRetired),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What came of a chunk.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Retried {
    /// Messages that are sent anew.
    pub messages: i64,
    /// Failed ones that are not, by reason.
    pub left_out: BTreeMap<LeftOut, i64>,
    /// There may be more behind this one.
    pub rest_after: Option<MessageId>,
}

/// Sends anew what of a campaign has failed by `asked_at` and lies behind `after`, one chunk of it, in the caller's
/// transaction. A campaign that has completed goes on.
pub async fn retry_failed(
    tx: &mut TenantTx,
    (tenant_id, id): (TenantId, CampaignId),
    (after, asked_at): (MessageId, DateTime<Utc>),
    clock: &Clock,
) -> Result<Retried, RetryError> {
    let may_send = senders::hold_of_campaign(tx.conn(), tenant_id, id).await?;
    // The campaign's row before its messages', as everybody takes them: whoever presses again waits here.
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let reopened = campaign.reopen()?;
    if !may_send {
        return Err(SenderRetired.into());
    }
    let place = (id, reopened.channel);
    let keys = list_failed(tx, tenant_id, place, (after, asked_at), CHUNK).await?;
    let locked = lock_failed(tx, reopened.channel, &keys).await?;
    let accepted_at = clock.now();
    let times = (accepted_at, accepted_at + reopened.expires_after);
    let mut retried = replace(tx, Some(&reopened), &locked, times).await?;
    retried.rest_after = keys
        .last()
        .filter(|_| keys.len() as i64 == CHUNK)
        .map(|key| key.id);
    if retried.messages > 0 {
        campaigns::save_campaign(tx, &reopened).await?;
    }
    Ok(retried)
}

/// Orders what a request left to do.
pub async fn order_rest(
    tx: &mut TenantTx,
    (tenant_id, campaign_id): (TenantId, CampaignId),
    retried: &Retried,
    asked_at: DateTime<Utc>,
) -> StoreResult<()> {
    if let Some(after) = retried.rest_after {
        let order = RetryFailed {
            tenant_id,
            campaign_id,
            after,
            asked_at,
        };
        enqueue(tx, order).await?;
    }
    Ok(())
}

/// Sends one message anew that failed late, unless its tenant does not want that any more, somebody was faster, or it would
/// come after its time. Says whether it did.
pub async fn retry_late(db: &Db, key: MessageKey) -> Result<bool, RetryError> {
    let mut tx = db.cell(key.tenant_id).begin().await?;
    let Some((campaign_id, channel, true)) = retries::find_late(&mut tx, key).await? else {
        return Ok(false);
    };
    let reopened = match campaign_id {
        Some(id) => {
            if !senders::hold_of_campaign(tx.conn(), key.tenant_id, id).await? {
                return Err(SenderRetired.into());
            }
            let campaign = campaigns::load_for_update(tx.conn(), key.tenant_id, id).await?;
            Some(campaign.reopen()?)
        }
        None => None,
    };
    let now = db.clock().now();
    let mut locked = lock_failed(&mut tx, channel, &[key]).await?;
    locked.retain(|message| message.expires_at > now);
    let Some(expires_at) = locked.first().map(|message| message.expires_at) else {
        return Ok(false);
    };
    let retried = replace(&mut tx, reopened.as_ref(), &locked, (now, expires_at)).await?;
    if retried.messages == 0 {
        return Ok(false);
    }
    if let Some(campaign) = &reopened {
        campaigns::save_campaign(&mut tx, campaign).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Puts new messages in the place of those that may be sent anew; they are accepted at, and expire at, `times`.
async fn replace(
    tx: &mut TenantTx,
    campaign: Option<&Campaign>,
    locked: &[FailedMessage],
    (accepted_at, expires_at): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Retried, RetryError> {
    let mut retried = Retried::default();
    let mut moves = Moves::default();
    let mut chosen: Vec<(&FailedMessage, CountDelta)> = Vec::with_capacity(locked.len());
    for message in locked {
        let failure = failure_of(message);
        match failure.judge() {
            Ok(()) => chosen.push((message, failure.replaced())),
            Err(reason) => *retried.left_out.entry(reason).or_default() += 1,
        }
    }
    // Of one campaign, or one message: all have one sender, unless the campaign's was changed by hand.
    let Some((first, _)) = chosen.first() else {
        return Ok(retried);
    };
    let tenant_id = first.key.tenant_id;
    let sender_id = campaign
        .and_then(|campaign| campaign.sender_id)
        .unwrap_or(first.sender_id);
    if !senders::hold_unretired(tx.conn(), tenant_id, sender_id).await? {
        return Err(SenderRetired.into());
    }
    let sender = senders::load_sender(tx.conn(), tenant_id, sender_id).await?;
    let lane_id = ensure_lane(
        tx.conn(),
        tenant_id,
        sender_id,
        first.class,
        first.campaign_id,
    )
    .await?;
    let head = RetryHead {
        lane_id,
        sender: &sender,
        accepted_at,
        expires_at,
    };
    let of: Vec<MessageId> = chosen.iter().map(|(message, _)| message.key.id).collect();
    let made = insert_retries(tx, tenant_id, &head, &of).await?;
    for (message, delta) in &chosen {
        let counted_in = CountedIn::of(message.campaign_id, message.channel);
        moves.merge(tenant_id, counted_in, delta);
    }
    if let Some(head) = made.first().copied() {
        moves.wake(Wake {
            tenant_id,
            lane_id,
            head,
        });
    }
    moves.save(tx).await?;
    retried.messages = made.len() as i64;
    Ok(retried)
}

fn failure_of(message: &FailedMessage) -> Failure {
    let code = message.error_code.as_deref();
    let meaning = code.map_or(Meaning::UNKNOWN, |code| meaning(message.channel, code));
    Failure {
        phase: message.phase,
        drop_reason: message.drop_reason,
        again: meaning.again,
        step: message.step,
        is_suppressed: message.is_suppressed,
        has_consent: message.has_consent,
        is_whole: message.is_whole,
    }
}

/// A failure after which one more try may be worth it by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct LateFailure {
    key: MessageKey,
    again: Again,
}

impl LateFailure {
    /// None when another try would be a person's to ask for, or this one was the second.
    pub(super) fn of(heard: &Heard, code: &str) -> Option<Self> {
        let again = meaning(heard.channel, code).again;
        let is_worth_it = matches!(again, Again::After(_) | Again::NextDay);
        (is_worth_it && heard.step == 0 && !heard.is_replaced).then_some(Self {
            key: heard.key,
            again,
        })
    }

    fn wait(&self, now: DateTime<Utc>) -> Duration {
        match self.again {
            Again::After(wait) => wait,
            Again::NextDay | Again::Never | Again::ByHand => (next_midnight_pacific(now) - now)
                .to_std()
                .unwrap_or_default(),
        }
    }
}

/// Orders a late retry for each of these whose tenant has switched that on.
pub(super) async fn order_retries(tx: &mut SystemTx, late: &[LateFailure]) -> StoreResult<()> {
    if late.is_empty() {
        return Ok(());
    }
    let mut tenants: Vec<TenantId> = late.iter().map(|failure| failure.key.tenant_id).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let retrying = retries::list_retrying(tx, &tenants).await?;
    if retrying.is_empty() {
        return Ok(());
    }
    let now = read_now(tx).await?;
    let jobs: Vec<NewJob> = late
        .iter()
        .filter(|failure| retrying.contains(&failure.key.tenant_id))
        .map(|failure| {
            let order = RetryMessage {
                tenant_id: failure.key.tenant_id,
                message_id: failure.key.id,
            };
            NewJob::from(order).after(failure.wait(now))
        })
        .collect();
    enqueue(tx, jobs).await?;
    Ok(())
}
