//! `timeline`: servers in quarantine, and their release.

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use crate::config::Config;
use crate::domain::audit::{AuditEntry, Author};
use crate::store::audit::Origin;
use crate::store::control;
use crate::store::reconcile_provider::{AccountListing, list_accounts};
use crate::store::timelines::{list_timelines, release_timeline};

/// Database servers: one that was promoted or restored sends nothing until it is released.
#[derive(Debug, Subcommand)]
pub(super) enum TimelineCommand {
    /// The servers that were met.
    List,
    /// Lets calls begin on a server, once it is known here what the old one did.
    Release {
        /// The timeline, as `timeline list` shows it.
        timeline: String,
        /// What was made sure of; it is kept in the audit.
        #[arg(long)]
        reason: String,
    },
}

impl TimelineCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        match self {
            Self::List => list(&installation, json).await,
            Self::Release { timeline, reason } => {
                release(&installation, &timeline, &reason).await?;
                print(json, &json!({ "released": timeline }), || {
                    format!("calls begin on {timeline}")
                })
            }
        }
    }
}

async fn list(installation: &Installation, json: bool) -> anyhow::Result<()> {
    // System: the server is everybody's.
    let mut tx = installation.db.system().begin().await?;
    let known = list_timelines(&mut tx).await?;
    let mut values = Vec::with_capacity(known.len());
    let mut rows = Vec::with_capacity(known.len());
    let mut accounts = Vec::new();
    for t in &known {
        let listings = list_accounts(&mut tx, &t.timeline, t.seen_at).await?;
        values.push(json!({
            "timeline": t.timeline, "system_identifier": t.system_identifier, "seen_at": t.seen_at,
            "released_at": t.released_at, "released_by": t.released_by, "replays": t.replays,
            "calls_restored": t.calls_restored, "recovered_to": t.recovered_to, "held_because": t.held_because,
            "is_current": t.is_current, "accounts": listings.iter().map(listing_value).collect::<Vec<_>>(),
        }));
        let state = match &t.released_by {
            Some(by) => format!("released by {by}"),
            None => "quarantined".into(),
        };
        let here = if t.is_current { "answers now" } else { "" };
        let reason = t.held_because.clone().unwrap_or_default();
        rows.push(vec![
            t.timeline.clone(),
            t.seen_at.to_rfc3339(),
            state,
            here.into(),
            reason,
        ]);
        accounts.extend(listings.iter().map(|one| listing_row(&t.timeline, one)));
    }
    print(json, &json!(values), || {
        let servers = table(&["timeline", "seen", "state", "", "because"], &rows);
        if accounts.is_empty() {
            return servers;
        }
        let head = [
            "timeline", "account", "listed", "claimed", "unknown", "unsure", "error",
        ];
        format!("{servers}\n\n{}", table(&head, &accounts))
    })
}

/// How far the list of a provider account was compared with a server.
fn listing_value(one: &AccountListing) -> serde_json::Value {
    json!({
        "account_ref": one.account_ref, "provider": one.provider, "first_at": one.progress.first_at,
        "listed_at": one.progress.listed_at, "tried_at": one.progress.tried_at, "claimed": one.claimed,
        "unknown": one.unknown, "unsure": one.progress.unsure, "error": one.progress.error,
    })
}

fn listing_row(timeline: &str, one: &AccountListing) -> Vec<String> {
    let listed_at = one.progress.listed_at;
    vec![
        timeline.to_owned(),
        one.account_ref.clone(),
        listed_at.map(|at| at.to_rfc3339()).unwrap_or_default(),
        one.claimed.to_string(),
        one.unknown.to_string(),
        one.progress.unsure.to_string(),
        one.progress.error.clone().unwrap_or_default(),
    ]
}

async fn release(installation: &Installation, timeline: &str, reason: &str) -> anyhow::Result<()> {
    let mut cell = installation.db.system().begin().await?;
    let known = list_timelines(&mut cell).await?;
    anyhow::ensure!(
        known
            .iter()
            .any(|t| t.timeline == timeline && t.released_at.is_none()),
        "no server in quarantine has the timeline {timeline:?}; `engageninja timeline list` shows them"
    );
    let origin = Origin {
        author: Author::Operator,
        request_id: None,
        ip: None,
    };
    let entry = AuditEntry::new("release_timeline", "timeline", &timeline)
        .after(json!({ "reason": reason }));
    let mut tx = installation.db.control_system().begin().await?;
    control::audit::insert_entry(&mut tx, None, &origin, &entry).await?;
    tx.commit().await?;
    release_timeline(&mut cell, timeline, "operator").await?;
    cell.commit().await?;
    Ok(())
}
