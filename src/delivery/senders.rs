//! Senders, the same for every door: added, and taken out of use for good.
//!
//! A sender that is retired stops what sends from it as a pause does: begins that are under way commit first, and none
//! follows. Its campaigns are paused and cannot go on; single messages that wait for it are dropped by the release leader.

use uuid::Uuid;

use super::tenants::demo_account;
use crate::clock::Clock;
use crate::domain::campaign::Campaign;
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{CampaignId, SenderId, TenantId};
use crate::domain::senders::{
    AddressRefusal, RateRefusal, SenderAddress, SenderRetired, SenderState, is_messaging_service,
};
use crate::store::senders::changes::{self, NewSender};
use crate::store::senders::{Sender, SenderRow};
use crate::store::{
    LANES, StoreError, TenantTx, campaigns, credentials, halts, lanes, senders, tenants,
};

/// Why a sender was not added or changed.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// Messages cannot come from this address.
    #[error(transparent)]
    Address(#[from] AddressRefusal),
    /// It cannot go so fast, or so slowly.
    #[error(transparent)]
    Rate(#[from] RateRefusal),
    /// It sends nothing any more.
    #[error(transparent)]
    Retired(#[from] SenderRetired),
    /// No pool of senders has this name, or the channel's provider has no pools.
    #[error(
        "a messaging service is MG and 32 hexadecimal digits, and only senders at Twilio have one; correct it or leave it out"
    )]
    MessagingService,
    /// There is no account to send with.
    #[error("no provider account is connected for {channel}; connect one first")]
    NoAccount {
        /// The channel it lacks.
        channel: Channel,
    },
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A sender to add.
#[derive(Debug, Clone)]
pub struct SenderWanted {
    /// What it carries.
    pub channel: Channel,
    /// Its address, as somebody wrote it.
    pub address: String,
    /// The provider's pool that chooses one.
    pub messaging_service_sid: Option<String>,
    /// Its rate, in segments a second.
    pub per_sec: Option<f64>,
    /// Whether its channel uses it from now on.
    pub is_default: bool,
}

/// Adds a sender of the account that the tenant uses for the channel.
pub async fn add_sender(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    wanted: SenderWanted,
) -> Result<SenderRow, SenderError> {
    let address = SenderAddress::read(wanted.channel, &wanted.address)?;
    if let Some(per_sec) = wanted.per_sec {
        address.kind().check_rate(per_sec)?;
    }
    let (provider, account_ref) = find_account(tx, tenant_id, wanted.channel).await?;
    if let Some(sid) = &wanted.messaging_service_sid
        && (provider == Provider::AwsSes || !is_messaging_service(sid))
    {
        return Err(SenderError::MessagingService);
    }
    let id = SenderId(Uuid::now_v7());
    let sender = Sender {
        id,
        channel: wanted.channel,
        provider,
        account_ref,
        address: address.as_str().to_owned(),
    };
    let new = NewSender {
        sender,
        messaging_service_sid: wanted.messaging_service_sid,
        is_default: wanted.is_default,
        stated_per_sec: wanted.per_sec,
    };
    changes::insert_sender(tx, tenant_id, &new).await?;
    Ok(senders::load_row(tx, tenant_id, id).await?)
}

async fn find_account(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
) -> Result<(Provider, String), SenderError> {
    if let Some(found) = credentials::find_account(tx, tenant_id, channel).await? {
        return Ok(found);
    }
    let tenant = tenants::load_tenant(tx, tenant_id).await?;
    if tenant.is_demo {
        return Ok((Provider::Demo, demo_account(tenant_id)));
    }
    Err(SenderError::NoAccount { channel })
}

/// What to change of a sender; what is absent stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SenderEdit {
    /// Its rate, in segments a second.
    pub per_sec: Option<f64>,
    /// Whether its channel uses it from now on.
    pub becomes_default: bool,
}

/// Changes a sender. Its rate holds with the next tick of the release.
pub async fn edit_sender(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    before: &SenderRow,
    edit: SenderEdit,
) -> Result<SenderRow, SenderError> {
    let id = before.sender.id;
    if before.state == SenderState::Retired {
        return Err(SenderRetired.into());
    }
    if let Some(per_sec) = edit.per_sec {
        before.kind().check_rate(per_sec)?;
        changes::save_rate(tx, tenant_id, id, per_sec).await?;
        lanes::look_at_lanes(tx.conn(), tenant_id, Some(id), None).await?;
        tx.announce(LANES, 0);
    }
    if edit.becomes_default {
        changes::mark_default(tx, tenant_id, &before.sender).await?;
    }
    Ok(senders::load_row(tx, tenant_id, id).await?)
}

/// Ends a sender's halt before its time. Says whether there was one.
pub async fn lift_halt(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sender: &SenderRow,
) -> Result<bool, SenderError> {
    let id = sender.sender.id;
    if sender.state == SenderState::Retired {
        return Err(SenderRetired.into());
    }
    let was_halted = halts::lift_halt(tx, tenant_id, id).await?;
    if was_halted {
        lanes::look_at_lanes(tx.conn(), tenant_id, Some(id), None).await?;
        tx.announce(LANES, 0);
    }
    Ok(was_halted)
}

/// Takes a sender out of use for good, in the caller's transaction. Once this has committed, no call of its campaigns begins
/// any more. Answers the campaigns that were sending, as they are now: paused.
pub async fn retire_sender(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: SenderId,
    clock: &Clock,
) -> Result<Vec<Campaign>, SenderError> {
    // The row first: whoever starts a campaign with it holds it.
    let before = senders::load_for_update(tx, tenant_id, id).await?;
    if before.state == SenderState::Retired {
        return Err(SenderRetired.into());
    }
    let sending = changes::lock_out_begins(tx, tenant_id, id).await?;
    changes::mark_retired(tx, tenant_id, id).await?;
    halts::halt_retired(tx, tenant_id, id).await?;
    let mut paused = Vec::with_capacity(sending.len());
    for campaign_id in sending {
        paused.extend(pause(tx, tenant_id, campaign_id, clock).await?);
    }
    lanes::look_at_lanes(tx.conn(), tenant_id, Some(id), None).await?;
    tx.announce(LANES, 0);
    Ok(paused)
}

/// None when the campaign has stopped or ended meanwhile.
async fn pause(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    clock: &Clock,
) -> Result<Option<Campaign>, StoreError> {
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let Ok(paused) = campaign.pause(clock.now()) else {
        return Ok(None);
    };
    campaigns::save_campaign(tx, &paused).await?;
    Ok(Some(paused))
}
