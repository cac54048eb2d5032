//! `timeline`: servers in quarantine, and their release.

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use crate::config::Config;
use crate::domain::audit::{AuditEntry, Reason};
use crate::store::audit::Origin;
use crate::store::control;
use crate::store::reconcile_provider::{AccountListing, list_accounts};
use crate::store::timelines::{Timeline, list_timelines, release_seen};

/// Database servers: one that was promoted or restored sends nothing until it is released.
#[derive(Debug, Subcommand)]
pub(super) enum TimelineCommand {
    /// The servers that were met.
    List,
    /// Lets calls begin on a server, once it is known here what the old one did.
    Release {
        /// The timeline, as `timeline list` shows it.
        timeline: String,
        /// The server's own number, as `timeline list` shows it. Say it, so that no other server is released that was met on
        /// this timeline since.
        #[arg(long, value_name = "NUMBER")]
        server: Option<String>,
        /// What was made sure of, in 3 to 500 characters; it is kept in the audit.
        #[arg(long)]
        reason: Reason,
    },
}

impl TimelineCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        match self {
            Self::List => list(&installation, json).await,
            Self::Release {
                timeline,
                server,
                reason,
            } => {
                release(&installation, &timeline, server.as_deref(), &reason).await?;
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
            t.system_identifier.clone(),
            t.seen_at.to_rfc3339(),
            state,
            here.into(),
            reason,
        ]);
        accounts.extend(listings.iter().map(|one| listing_row(&t.timeline, one)));
    }
    print(json, &json!(values), || {
        let servers = table(
            &["timeline", "server", "seen", "state", "", "because"],
            &rows,
        );
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

async fn release(
    installation: &Installation,
    timeline: &str,
    seen: Option<&str>,
    reason: &Reason,
) -> anyhow::Result<()> {
    let mut cell = installation.db.system().begin().await?;
    let known = list_timelines(&mut cell).await?;
    let is_it = |t: &&Timeline| t.timeline == timeline && t.released_at.is_none();
    let Some(found) = known.iter().find(is_it) else {
        anyhow::bail!(
            "no server in quarantine has the timeline {timeline:?}; `engageninja timeline list` shows them"
        );
    };
    let server = &found.system_identifier;
    anyhow::ensure!(
        seen.is_none_or(|seen| seen == server),
        "another server is on the timeline {timeline:?} by now, {server}; look at `engageninja timeline list` again"
    );
    release_seen(&mut cell, timeline, server, "operator").await?;
    let entry = AuditEntry::new("release_timeline", "timeline", &timeline)
        .after(json!({ "reason": reason, "system_identifier": server }));
    // Its record is committed first: nothing holds that nobody is on record for.
    let mut tx = installation.db.control_system().begin().await?;
    control::audit::insert_entry(&mut tx, None, &Origin::COMMAND_LINE, &entry).await?;
    tx.commit().await?;
    cell.commit().await?;
    Ok(())
}
