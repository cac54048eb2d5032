//! The payload of every job: ids only, the tenant's first.
//!
//! They lie below everything else, so that any room may order a job and none needs to know who does it. A
//! stored name is never changed and never used again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use super::ids::{CampaignId, ImportId, MessageId, TenantId};

/// Look at a message, or at some that were let out together, and send those that may be sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SendMessage {
    /// Whose messages they are.
    pub tenant_id: TenantId,
    /// Which ones. A version that had a job for each wrote `message_id`.
    #[serde(alias = "message_id", deserialize_with = "one_or_many")]
    pub message_ids: Vec<MessageId>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MessageId>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(MessageId),
        Many(Vec<MessageId>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(id) => vec![id],
        OneOrMany::Many(ids) => ids,
    })
}

impl SendMessage {
    /// Messages of one job, at most.
    pub const MESSAGES_MAX: usize = 4;
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_job_of_one_message_is_read_as_well() {
        let (tenant, message) = (TenantId(Uuid::from_u128(1)), MessageId(Uuid::from_u128(2)));
        for (name, ids) in [
            ("message_id", json!(message)),
            ("message_ids", json!([message])),
        ] {
            let payload = json!({ "tenant_id": tenant, name: ids });
            let order: SendMessage = serde_json::from_value(payload).unwrap();
            assert_eq!(order.message_ids, [message]);
        }
    }
}
