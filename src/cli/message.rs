//! `message`: what nobody knows of, and a decision over it.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use super::tenant::find_tenant;
use crate::config::Config;
use crate::delivery::resolve::decide::{decide_campaign, decide_message};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::doubt::Decision;
use crate::domain::ids::{CampaignId, MessageId, TenantId};
use crate::store::TenantTx;
use crate::store::audit::{Origin, insert_entry};
use crate::store::parked::list_parked;

/// Parked messages shown at once.
const PARKED_MAX: i64 = 100;

/// Messages of which nobody knows whether they were sent.
#[derive(Debug, Subcommand)]
pub(super) enum MessageCommand {
    /// The parked messages of all tenants.
    Parked,
    /// Decides over parked messages.
    Decide(Decide),
}

/// A decision.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "campaign"]))]
pub(super) struct Decide {
    /// What follows: `it_was_sent`, `send_again` or `give_up`.
    decision: Decision,
    /// The messages' ids, as `message parked` shows them.
    #[arg(value_name = "ID")]
    ids: Vec<MessageId>,
    /// All parked messages of this campaign.
    #[arg(long)]
    campaign: Option<CampaignId>,
    /// The tenant's slug or id.
    #[arg(long)]
    tenant: String,
    /// Why; it is kept in the audit.
    #[arg(long)]
    reason: String,
}

impl MessageCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        match self {
            Self::Parked => show_parked(&installation, json).await,
            Self::Decide(decide) => {
                let decided = decide.run(&installation).await?;
                print(json, &json!({ "decided": decided }), || {
                    format!("{decided} decided")
                })
            }
        }
    }
}

async fn show_parked(installation: &Installation, json: bool) -> anyhow::Result<()> {
    // System: an operator looks at all tenants.
    let mut tx = installation.db.system().begin().await?;
    let parked = list_parked(&mut tx, None, PARKED_MAX).await?;
    let value = json!(
        parked
            .iter()
            .map(|p| json!({
                "tenant_id": p.key.tenant_id, "message_id": p.key.id, "campaign_id": p.campaign_id,
                "parked_at": p.parked_at, "attempt_no": p.attempt_no, "started_at": p.started_at,
                "look_ups": p.look_ups, "reason": p.reason,
            }))
            .collect::<Vec<_>>()
    );
    print(json, &value, || {
        let rows: Vec<Vec<String>> = parked
            .iter()
            .map(|p| {
                vec![
                    p.key.tenant_id.to_string(),
                    p.key.id.to_string(),
                    p.parked_at.to_rfc3339(),
                    p.look_ups.to_string(),
                    p.reason.clone().unwrap_or_default(),
                ]
            })
            .collect();
        table(&["tenant", "message", "parked", "looks", "reason"], &rows)
    })
}

impl Decide {
    async fn run(&self, installation: &Installation) -> anyhow::Result<usize> {
        let tenant_id = find_tenant(installation, &self.tenant).await?;
        let mut tx = installation.db.cell(tenant_id).begin().await?;
        let decided = if let Some(id) = self.campaign {
            let decided = decide_campaign(&mut tx, tenant_id, id, self.decision).await?;
            let entry = AuditEntry::new("decide_parked_messages", "campaign", &id);
            self.record(&mut tx, tenant_id, entry).await?;
            decided
        } else {
            for id in &self.ids {
                decide_message(&mut tx, tenant_id, *id, self.decision).await?;
                let entry = AuditEntry::new("decide_message", "message", id);
                self.record(&mut tx, tenant_id, entry).await?;
            }
            self.ids.len()
        };
        tx.commit().await?;
        Ok(decided)
    }

    async fn record(
        &self,
        tx: &mut TenantTx,
        tenant_id: TenantId,
        entry: AuditEntry,
    ) -> anyhow::Result<()> {
        let origin = Origin {
            author: Author::Operator,
            request_id: None,
            ip: None,
        };
        let entry = entry.after(json!({ "decision": self.decision, "reason": self.reason }));
        insert_entry(tx, tenant_id, &origin, &entry).await?;
        Ok(())
    }
}
