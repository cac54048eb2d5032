//! The payload of every job: ids only, the tenant's first.
//!
//! They lie below everything else, so that any room may order a job and none needs to know who does it. A
//! stored name is never changed and never used again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ids::{CampaignId, ImportId, MessageId, TenantId};

/// Look at one message and send it if it may be sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SendMessage {
    /// Whose message it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub message_id: MessageId,
}

/// Freeze a campaign's audience and turn it into messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpandCampaign {
    /// Whose campaign it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub campaign_id: CampaignId,
}

/// Drop what waits of a cancelled campaign.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelCampaign {
    /// Whose campaign it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub campaign_id: CampaignId,
}

/// Send anew what failed of a campaign, behind what the request has done itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetryFailed {
    /// Whose campaign it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub campaign_id: CampaignId,
    /// Messages behind this one.
    pub after: MessageId,
    /// What failed later was not asked for.
    pub asked_at: DateTime<Utc>,
}

/// Send one message anew that its provider took and then failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetryMessage {
    /// Whose message it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub message_id: MessageId,
}

/// Start the campaigns whose time has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StartDueCampaigns {}

/// Read an uploaded file into contacts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImportContacts {
    /// Whose upload it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub import_id: ImportId,
}

/// Fold what transactions counted into the totals, and complete campaigns that have nothing left to do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FoldCampaignDeltas {}

/// Look for rows whose other half is missing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CheckOrphans {}

/// Make the partitions of the coming weeks, drop those past their retention.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MaintainPartitions {}

/// Forget what is past its time: kept answers, sessions, uploads, ticks, the demo provider's ledger.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneHistory {}

/// Let the demo provider report what became of the messages it took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DemoAdvanceStatus {}

/// Settle attempts whose outcome nobody told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResolveDoubt {}

/// Tell a server in quarantine by the lists of the provider accounts which calls it has forgotten.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReconcileProvider {}

/// Let the cell follow what the directory says of tenants.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SyncTenants {}

/// Delete what a demo tenant has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClearTenant {
    /// Which tenant.
    pub tenant_id: TenantId,
}
/// Merge what providers told us into the messages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FoldProviderEvents {}

macro_rules! names {
    ($($order:ident = $name:literal),+ $(,)?) => {
        $(impl $order {
            /// Stored in rows. Never change it.
            pub const NAME: &'static str = $name;
        })+

        /// Every stored name.
        pub const NAMES: &[&str] = &[$($name),+];
    };
}

names! {
    SendMessage = "send-message",
    ExpandCampaign = "expand-campaign",
    CancelCampaign = "cancel-campaign",
    RetryFailed = "retry-failed",
    RetryMessage = "retry-message",
    StartDueCampaigns = "start-due-campaigns",
    ImportContacts = "import-contacts",
    FoldCampaignDeltas = "fold-campaign-deltas",
    MaintainPartitions = "maintain-partitions",
    CheckOrphans = "check-orphans",
    PruneHistory = "prune-history",
    DemoAdvanceStatus = "demo-advance-status",
    SyncTenants = "sync-tenants",
    ClearTenant = "clear-tenant",
    FoldProviderEvents = "fold-provider-events",
    ResolveDoubt = "resolve-doubt",
    ReconcileProvider = "reconcile-provider",
}
