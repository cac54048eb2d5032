//! The switches of a campaign: start and pause, the same for every door.

use crate::clock::Clock;
use crate::domain::campaign::{Audience, Campaign, PauseRefusal, StartFacts, StartRefusal};
use crate::domain::content::{Content, Source};
use crate::domain::ids::{CampaignId, TenantId};
use crate::domain::orders::ExpandCampaign;
use crate::domain::recipient;
use crate::jobs::queue::enqueue;
use crate::store::templates::TemplateVersion;
use crate::store::{
    Db, StoreError, TenantTx, attempts, audience, campaigns, imports, lists, senders, templates,
};

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

/// Why a campaign was not paused.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It is not sending.
    #[error(transparent)]
    Refused(#[from] PauseRefusal),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
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
        unfinished_import,
        is_list_gone,
        has_recipients,
        unknown_variables,
    })
}

/// What the texts cannot do without, besides what every contact may have.
fn required_attributes(version: &TemplateVersion) -> Result<Vec<String>, StoreError> {
    let source = Source {
        subject: version.subject.as_deref(),
        body: &version.body,
        html: version.html.as_deref(),
    };
    let content = Content::compile(version.channel, source)
        .map_err(|refusal| StoreError::Unreadable(refusal.to_string()))?;
    Ok(content
        .variables()
        .into_iter()
        .filter(|name| !recipient::FIELDS.contains(&name.as_str()) && content.requires(name))
        .collect())
}

/// Pauses a campaign. When this returns, no further call of it begins.
///
/// Answers how many calls were under way; all of them are over within the attempt's deadline.
pub async fn pause_campaign(
    db: &Db,
    tenant_id: TenantId,
    id: CampaignId,
) -> Result<(Campaign, i64), PauseError> {
    let mut tx = db.cell(tenant_id).begin().await?;
    // First the barrier, then the row: a begin that is under way commits before the status changes.
    campaigns::lock_out_begins(&mut tx, id).await?;
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, id).await?;
    let paused = campaign.pause(db.clock().now())?;
    campaigns::save_campaign(&mut tx, &paused).await?;
    tx.commit().await?;
    let mut tx = db.cell(tenant_id).begin().await?;
    let in_flight = attempts::count_in_flight(&mut tx, tenant_id, id).await?;
    Ok((paused, in_flight))
}
