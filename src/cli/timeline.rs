//! `timeline`: servers in quarantine, and their release.

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use crate::config::Config;
use crate::domain::audit::{AuditEntry, Author};
use crate::store::audit::Origin;
use crate::store::control;
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
    let value = json!(
        known
            .iter()
            .map(|t| json!({
                "timeline": t.timeline, "system_identifier": t.system_identifier, "seen_at": t.seen_at,
                "released_at": t.released_at, "released_by": t.released_by, "replays": t.replays,
                "calls_restored": t.calls_restored, "is_current": t.is_current,
            }))
            .collect::<Vec<_>>()
    );
    print(json, &value, || {
        let rows: Vec<Vec<String>> = known
            .iter()
            .map(|t| {
                let state = if t.released_at.is_some() {
                    "released"
                } else {
                    "quarantined"
                };
                let here = if t.is_current { "answers now" } else { "" };
                vec![
                    t.timeline.clone(),
                    t.seen_at.to_rfc3339(),
                    state.into(),
                    here.into(),
                ]
            })
            .collect();
        table(&["timeline", "seen", "state", ""], &rows)
    })
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
