//! What tenants change of their senders.

use sqlx::query;

use super::Sender;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, SenderId, TenantId};
use crate::store::{StoreResult, TenantTx, affected};

/// What a sender is beside its address.
#[derive(Debug, Clone)]
pub struct NewSender {
    /// The sender.
    pub sender: Sender,
    /// The provider's pool that chooses one.
    pub messaging_service_sid: Option<String>,
    /// Whether its channel uses it from now on.
    pub is_default: bool,
    /// The rate its tenant states.
    pub stated_per_sec: Option<f64>,
}

/// Adds a sender. The first one of a channel is its default.
///
/// # Errors
/// [`StoreError::Constraint`] `senders_provider_address_key` when the address is a sender already, anybody's.
pub async fn insert_sender(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    new: &NewSender,
) -> StoreResult<()> {
    if new.is_default {
        clear_default(tx, tenant_id, new.sender.channel).await?;
    }
    query!(
        r#"
        INSERT INTO senders (tenant_id, id, channel, provider, account_ref, address, messaging_service_sid,
                             segments_per_sec_override, is_default)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8::float8::numeric,
                $9 OR NOT EXISTS (SELECT FROM senders s WHERE s.tenant_id = $1 AND s.channel = $3 AND s.is_default))
        "#,
        tenant_id.0,
        new.sender.id.0,
        new.sender.channel.as_str(),
        new.sender.provider.as_str(),
        new.sender.account_ref,
        new.sender.address,
        new.messaging_service_sid,
        new.stated_per_sec,
        new.is_default,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// States another rate for a sender. The release leader reads it with each tick.
pub async fn save_rate(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: SenderId,
    per_sec: f64,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE senders
        SET segments_per_sec_override = $3::float8::numeric, updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2
        "#,
        tenant_id.0,
        id.0,
        per_sec,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "sender")
}

/// Makes a sender the one that its channel uses when nobody says otherwise.
pub async fn mark_default(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sender: &Sender,
) -> StoreResult<()> {
    clear_default(tx, tenant_id, sender.channel).await?;
    let done = query!(
        "UPDATE senders SET is_default = true, updated_at = app_now() WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        sender.id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "sender")
}

async fn clear_default(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
) -> StoreResult<()> {
    query!(
        r#"
        UPDATE senders
        SET is_default = false, updated_at = app_now()
        WHERE tenant_id = $1 AND channel = $2 AND is_default
        "#,
        tenant_id.0,
        channel.as_str(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes a sender out of use for good, unless it is. Its address may be a sender anew.
pub async fn mark_retired(tx: &mut TenantTx, tenant_id: TenantId, id: SenderId) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE senders
        SET status = 'released', is_default = false, updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2 AND status <> 'released'
        "#,
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "sender")
}

/// Waits for the begins of campaigns that are sending from a sender, lets none follow until this transaction ends, and says
/// which campaigns these are.
pub async fn lock_out_begins(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: SenderId,
) -> StoreResult<Vec<CampaignId>> {
    let rows = query!(
        r#"
        SELECT s.id, pg_advisory_xact_lock(s.key) AS locked
        FROM (
            SELECT c.id, campaign_lock_key(c.id) AS key
            FROM campaigns c
            WHERE c.tenant_id = $1 AND c.sender_id = $2 AND c.status = 'sending'
            -- As begin takes them.
            ORDER BY 2
        ) s
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut ids: Vec<CampaignId> = rows.into_iter().map(|row| CampaignId(row.id)).collect();
    // Their rows are taken in this order.
    ids.sort_unstable();
    Ok(ids)
}
