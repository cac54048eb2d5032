//! The switches of a campaign, the same for every door, each in the caller's transaction.
//!
//! What stops a campaign takes its lock first: a begin that is under way commits before the status changes, and none begins
//! after it.

use crate::clock::Clock;
use crate::domain::campaign::{
    Audience, Campaign, CampaignStatus, SendAt, SendAtRefusal, StartFacts, StartRefusal,
    SwitchRefusal,
};
use crate::domain::content::Content;
use crate::domain::ids::{CampaignId, TenantId};
use crate::domain::orders::{CancelCampaign, ExpandCampaign};
use crate::domain::recipient;
use crate::domain::templates::TemplateVersion;
use crate::jobs::queue::enqueue;
use crate::store::{
    Db, LANES, StoreError, StoreResult, TenantTx, attempts, audience, campaigns, imports, lanes,
    lists, senders, templates, tenants,
};
use crate::telemetry;

/// Why a campaign was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It may not start as it is.
    #[error(transparent)]
    Refused(#[from] StartRefusal),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a campaign did not take a step.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Its status does not allow it.
    #[error(transparent)]
    Refused(#[from] SwitchRefusal),
    /// It cannot start then.
    #[error(transparent)]
    Time(#[from] SendAtRefusal),
    /// It cannot go on: what it was sent from is out of use.
    #[error(
        "the campaign's sender was retired; cancel it, and write to those who are left with another sender"
    )]
    SenderRetired,
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A step that a campaign took.
#[derive(Debug, Clone, PartialEq)]
pub struct Switched {
    /// Where it was.
    pub before: CampaignStatus,
    /// As it is now.
    pub campaign: Campaign,
}

/// Starts a campaign in the caller's transaction; its messages are made by the job this orders.
pub async fn start_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    clock: &Clock,
) -> Result<Campaign, StartError> {
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let facts = start_facts(tx, &campaign).await?;
    let started = campaign.start(facts, clock.now())?;
    campaigns::save_campaign(tx, &started).await?;
    let order = ExpandCampaign {
        tenant_id,
        campaign_id: started.id,
    };
    enqueue(tx, order).await.map_err(StoreError::from)?;
    Ok(started)
}

async fn start_facts(tx: &mut TenantTx, campaign: &Campaign) -> Result<StartFacts, StoreError> {
    let tenant_id = campaign.tenant_id;
    let sender =
        senders::find_active(tx.conn(), tenant_id, campaign.channel, campaign.sender_id).await?;
    // Held, so that nobody retires it before the campaign is there to be paused.
    let is_sender_retired = match sender.as_ref().map(|it| it.id).or(campaign.sender_id) {
        Some(id) => !senders::hold_unretired(tx.conn(), tenant_id, id).await?,
        None => false,
    };
    let has_recipients =
        audience::has_recipients(tx, tenant_id, &campaign.audience, campaign.channel).await?;
    let unknown_variables = match campaign.content_id {
        Some(content_id) => {
            let version = templates::load_version(tx.conn(), tenant_id, content_id).await?;
            let asked = required_attributes(&version)?;
            audience::list_unknown_attributes(tx, tenant_id, &asked).await?
        }
        None => Vec::new(),
    };
    let unfinished_import = match &campaign.audience {
        Audience::Everybody | Audience::Lists { .. } => None,
        Audience::Import { import_id } => {
            let import = imports::load_import(tx, tenant_id, *import_id).await?;
            Some(import.status).filter(|status| status.is_unfinished())
        }
    };
    let asked = campaign.audience.list_ids();
    let is_list_gone = lists::hold_lists(tx, tenant_id, asked).await?.len() < asked.len();
    Ok(StartFacts {
        sender_id: sender.map(|sender| sender.id),
        is_sender_retired,
        unfinished_import,
        is_list_gone,
        has_recipients,
        unknown_variables,
    })
}

/// What the texts cannot do without, besides what every contact may have.
fn required_attributes(version: &TemplateVersion) -> Result<Vec<String>, StoreError> {
    let content = Content::compile(version.channel, version.source())
        .map_err(|refusal| StoreError::Unreadable(refusal.to_string()))?;
    Ok(content
        .variables()
        .into_iter()
        .filter(|name| !recipient::FIELDS.contains(&name.as_str()) && content.requires(name))
        .collect())
}

/// Pauses a campaign. Once this has committed, no further call of it begins; [`count_in_flight`] says how many were under
/// way.
pub async fn pause_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    clock: &Clock,
) -> Result<Switched, SwitchError> {
    // First the barrier, then the row: a begin that is under way commits before the status changes.
    campaigns::lock_out_begins(tx, id).await?;
    switch(tx, tenant_id, id, |campaign| campaign.pause(clock.now())).await
}

/// Lets a paused campaign go on.
pub async fn resume_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
) -> Result<Switched, SwitchError> {
    let may_send = senders::hold_of_campaign(tx.conn(), tenant_id, id).await?;
    let switched = switch(tx, tenant_id, id, Campaign::resume).await?;
    if !may_send {
        return Err(SwitchError::SenderRetired);
    }
    lanes::wake_campaign(tx.conn(), tenant_id, id).await?;
    tx.announce(LANES, 0);
    Ok(switched)
}

/// Stops a campaign for good. Once this has committed, no further call of it begins; what waits is dropped by the job this
/// orders.
pub async fn cancel_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    clock: &Clock,
) -> Result<Switched, SwitchError> {
    campaigns::lock_out_begins(tx, id).await?;
    let switched = switch(tx, tenant_id, id, |campaign| campaign.cancel(clock.now())).await?;
    if switched.campaign.started_at.is_some() {
        let order = CancelCampaign {
            tenant_id,
            campaign_id: id,
        };
        enqueue(tx, order).await.map_err(StoreError::from)?;
    }
    Ok(switched)
}

/// Lets a campaign start by itself, at an instant or when the tenant's clock shows a time.
pub async fn schedule_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    send_at: SendAt,
    clock: &Clock,
) -> Result<Switched, SwitchError> {
    let tenant = tenants::load_tenant(tx, tenant_id).await?;
    let zone = tenant
        .timezone
        .parse()
        .map_err(|_| StoreError::Unreadable(format!("time zone {:?}", tenant.timezone)))?;
    let at = send_at.resolve(zone, clock.now())?;
    switch(tx, tenant_id, id, |campaign| campaign.schedule(at)).await
}

/// Makes a scheduled campaign a draft again.
pub async fn unschedule_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
) -> Result<Switched, SwitchError> {
    switch(tx, tenant_id, id, Campaign::unschedule).await
}

/// Calls of a campaign that may be under way; after a pause or a cancellation all of them are over within the attempt's
/// deadline.
pub async fn count_in_flight(db: &Db, tenant_id: TenantId, id: CampaignId) -> StoreResult<i64> {
    let mut tx = db.cell(tenant_id).begin().await?;
    let in_flight = attempts::count_in_flight(&mut tx, tenant_id, id).await?;
    metrics::gauge!(telemetry::PAUSE_IN_FLIGHT).set(in_flight as f64);
    Ok(in_flight)
}

async fn switch(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    step: impl FnOnce(Campaign) -> Result<Campaign, SwitchRefusal>,
) -> Result<Switched, SwitchError> {
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let before = campaign.status;
    let campaign = step(campaign)?;
    campaigns::save_campaign(tx, &campaign).await?;
    Ok(Switched { before, campaign })
}
