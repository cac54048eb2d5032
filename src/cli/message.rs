//! `message`: what nobody knows of, and a decision over it.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use super::tenant::find_tenant;
use crate::config::Config;
use crate::delivery::resolve::decide::{Decided, decide_campaign, decide_message};
use crate::domain::audit::{AuditEntry, Reason};
use crate::domain::doubt::Decision;
use crate::domain::ids::{CampaignId, MessageId, MessageKey};
use crate::store::audit::{Origin, insert_entry};
use crate::store::parked::list_parked;

/// Parked messages shown at once.
const PARKED_MAX: i64 = 100;

/// Messages of which nobody knows whether they were sent.
#[derive(Debug, Subcommand)]
pub(super) enum MessageCommand {
    /// The parked messages of all tenants, 100 at once.
    Parked {
        /// Those behind this one, where the answer before said that there are more.
        #[arg(long, value_name = "TENANT/MESSAGE", value_parser = place)]
        after: Option<MessageKey>,
    },
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
    /// All parked messages of this campaign, 5,000 at once.
    #[arg(long)]
    campaign: Option<CampaignId>,
    /// The tenant's slug or id.
    #[arg(long)]
    tenant: String,
    /// Why, in 3 to 500 characters; it is kept in the audit.
    #[arg(long)]
    reason: Reason,
}

fn place(text: &str) -> Result<MessageKey, String> {
    let key = text.split_once('/').and_then(|(tenant_id, id)| {
        Some(MessageKey {
            tenant_id: tenant_id.parse().ok()?,
            id: id.parse().ok()?,
        })
    });
    key.ok_or_else(|| "a place in the list is TENANT/MESSAGE, two ids".into())
}

impl MessageCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        match self {
            Self::Parked { after } => show_parked(&installation, after, json).await,
            Self::Decide(decide) => {
                let decided = decide.run(&installation).await?;
                let value = json!({
                    "decided": decided.messages, "expired": decided.expired, "left": decided.left,
                });
                print(json, &value, || told(&decided))
            }
        }
    }
}

async fn show_parked(
    installation: &Installation,
    after: Option<MessageKey>,
    json: bool,
) -> anyhow::Result<()> {
    // System: an operator looks at all tenants.
    let mut tx = installation.db.system().begin().await?;
    // One more than is shown tells whether there are more.
    let mut parked = list_parked(&mut tx, after, PARKED_MAX + 1).await?;
    let has_more = parked.len() as i64 > PARKED_MAX;
    parked.truncate(PARKED_MAX as usize);
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
    })?;
    if let Some(last) = parked.last().filter(|_| has_more) {
        let MessageKey { tenant_id, id } = last.key;
        // No part of the answer, which programs read.
        eprintln!("there are more: engageninja message parked --after {tenant_id}/{id}");
    }
    Ok(())
}

/// What was decided, and how to go on where something is left.
fn told(decided: &Decided) -> String {
    let Decided {
        messages,
        expired,
        left,
    } = decided;
    let mut parts = vec![format!("{messages} decided")];
    if *expired > 0 {
        parts.push(format!(
            "{expired} past their time stay parked: decide `it_was_sent` or `give_up` over them"
        ));
    }
    if *left > 0 {
        parts.push(format!(
            "{left} more are parked: give the same command again"
        ));
    }
    parts.join("; ")
}

impl Decide {
    async fn run(&self, installation: &Installation) -> anyhow::Result<Decided> {
        let tenant_id = find_tenant(installation, &self.tenant).await?;
        let (decision, reason) = (self.decision, &self.reason);
        let mut tx = installation.db.cell(tenant_id).begin().await?;
        let decided = if let Some(id) = self.campaign {
            let decided = decide_campaign(&mut tx, tenant_id, id, decision).await?;
            let entry = AuditEntry::new("decide_parked_messages", "campaign", &id).after(json!({
                "decision": decision, "reason": reason, "messages": decided.messages,
                "expired": decided.expired,
            }));
            insert_entry(&mut tx, tenant_id, &Origin::COMMAND_LINE, &entry).await?;
            decided
        } else {
            for id in &self.ids {
                decide_message(&mut tx, tenant_id, *id, decision).await?;
                let entry = AuditEntry::new("decide_message", "message", id)
                    .after(json!({ "decision": decision, "reason": reason }));
                insert_entry(&mut tx, tenant_id, &Origin::COMMAND_LINE, &entry).await?;
            }
            Decided {
                messages: self.ids.len(),
                ..Decided::default()
            }
        };
        tx.commit().await?;
        Ok(decided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_with_how_to_go_on() {
        let decided = |messages, expired, left| {
            told(&Decided {
                messages,
                expired,
                left,
            })
        };
        assert_eq!(decided(3, 0, 0), "3 decided");
        assert_eq!(
            decided(5_000, 0, 2),
            "5000 decided; 2 more are parked: give the same command again"
        );
        assert_eq!(
            decided(0, 7, 0),
            "0 decided; 7 past their time stay parked: decide `it_was_sent` or `give_up` over them"
        );
    }

    #[test]
    fn a_place_in_the_list_is_two_ids() {
        let id = "019ac0b1-5c5e-7c34-8b3e-0c1d7f9a2e11";
        let key = place(&format!("{id}/{id}")).unwrap();
        assert_eq!(
            (key.tenant_id.to_string(), key.id.to_string()),
            (id.into(), id.into())
        );
        for text in [id, "x/y", ""] {
            assert!(place(text).is_err(), "{text:?}");
        }
    }
}
