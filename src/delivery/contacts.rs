//! What happens to messages when a contact goes, or opts out.

use super::moves::Moves;
use crate::domain::channel::Channel;
use crate::domain::ids::{ContactId, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::store::messages::locked::{Locked, Step, lock_waiting, save_steps};
use crate::store::{StoreResult, TenantTx, contacts, suppressions};

/// Deletes a contact in the caller's transaction, and says how many messages will not be sent because of that.
///
/// A call that has begun cannot be called back; its message stays, without a contact.
pub async fn delete_contact(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ContactId,
) -> StoreResult<usize> {
    // A campaign that is making messages right now must not make one for a person who is gone.
    contacts::lock_out_makers(tx, tenant_id).await?;
    contacts::load_for_update(tx, tenant_id, id).await?;
    let waiting = lock_waiting(tx, tenant_id, &[id], None).await?;
    drop_waiting(tx, &waiting, DropReason::Cancelled).await?;
    contacts::delete_contact(tx, tenant_id, id).await?;
    Ok(waiting.len())
}

/// Suppresses an address on a channel in the caller's transaction. What waits for a contact with this address is dropped
/// at once; a message to nobody in particular meets the suppression when its call would begin.
pub async fn suppress(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    dest_mac: &[u8],
    reason: &str,
    source: Option<&str>,
) -> StoreResult<()> {
    suppressions::insert_suppression(tx, tenant_id, channel, dest_mac, reason, source).await?;
    let people = suppressions::list_contacts_at(tx, tenant_id, channel, dest_mac).await?;
    let waiting = lock_waiting(tx, tenant_id, &people, Some((channel, dest_mac))).await?;
    drop_waiting(tx, &waiting, DropReason::OptedOut).await
}

/// Drops locked messages for which no call has begun, with the counts of their campaigns.
async fn drop_waiting(
    tx: &mut TenantTx,
    waiting: &[Locked],
    reason: DropReason,
) -> StoreResult<()> {
    let mut moves = Moves::default();
    let mut steps = Vec::with_capacity(waiting.len());
    for message in waiting {
        moves.add(message, Phase::Dropped, Some(reason));
        let step = Step {
            drop_reason: Some(reason),
            ..Step::to(Phase::Dropped)
        };
        steps.push((message.key, step));
    }
    save_steps(tx, &steps).await?;
    moves.save(tx).await
}
