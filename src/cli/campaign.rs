//! `campaign`: from a file of contacts and a template to messages on their way, and a look at them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::installation::Installation;
use super::output::print;
use super::tenant::find_tenant;
use crate::config::Config;
use crate::delivery::campaigns::{count_in_flight, pause_campaign, start_campaign};
use crate::delivery::imports::{Upload, start_import};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::campaign::{Audience, Campaign};
use crate::domain::channel::Channel;
use crate::domain::content::{Content, Source};
use crate::domain::counts::CountGroups;
use crate::domain::ids::{CampaignId, ImportId, TemplateId, TemplateVersionId, TenantId};
use crate::domain::import::{Attestation, Choices, Import, ImportStatus, OnMatch};
use crate::store::audit::{Origin, insert_entry};
use crate::store::campaign_counts::{CountSnapshot, list_snapshots};
use crate::store::templates::{NewVersion, insert_template, insert_version};
use crate::store::{Db, campaigns, imports};

/// Bytes of the file read at once.
const READ_BYTES: usize = 64 * 1024;
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Campaigns, from a file of contacts and a template.
#[derive(Debug, Subcommand)]
pub(super) enum CampaignCommand {
    /// Imports the file, then writes to everybody in it.
    Send(Box<Send>),
    /// Shows where a campaign is.
    Status {
        /// The campaign's id.
        id: CampaignId,
        /// The tenant's slug or id.
        #[arg(long)]
        tenant: String,
        /// Go on showing it until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Lets nothing new of a campaign begin.
    Pause {
        /// The campaign's id.
        id: CampaignId,
        /// The tenant's slug or id.
        #[arg(long)]
        tenant: String,
    },
}

/// Imports the file, then writes to everybody in it.
#[derive(Debug, Args)]
pub(super) struct Send {
    /// The tenant's slug or id.
    #[arg(long)]
    tenant: String,
    /// The contacts: CSV with a head line.
    #[arg(long, value_name = "FILE")]
    csv: PathBuf,
    /// The text, such as `Hello {{ first_name }}`.
    #[arg(long, value_name = "TEXT")]
    template: String,
    /// The subject, of emails.
    #[arg(long, value_name = "TEXT", required_if_eq("channel", "email"))]
    subject: Option<String>,
    /// How it reaches people: sms, whatsapp or email.
    #[arg(long, default_value = "sms", value_parser = channel)]
    channel: Channel,
    /// What people call the campaign.
    #[arg(long, default_value = "From the command line")]
    name: String,
    /// What the people in the file agreed to, in the words they saw. Without it, only those whose consent is known
    /// already are written to.
    #[arg(long, value_name = "TEXT", requires = "consent_source")]
    consent_wording: Option<String>,
    /// Where they agreed.
    #[arg(long, value_name = "TEXT", requires = "consent_wording")]
    consent_source: Option<String>,
    /// When they agreed [default: today].
    #[arg(long, value_name = "YYYY-MM-DD", requires = "consent_wording")]
    consent_date: Option<NaiveDate>,
    /// Go on showing progress until everything is sent.
    #[arg(long)]
    watch: bool,
}

fn channel(text: &str) -> Result<Channel, String> {
    text.parse()
        .map_err(|_| "a channel is sms, whatsapp or email".into())
}

impl CampaignCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        match self {
            Self::Send(send) => send.run(&installation, json).await,
            Self::Status { id, tenant, watch } => {
                let tenant_id = find_tenant(&installation, &tenant).await?;
                show(&installation, tenant_id, id, watch, json).await
            }
            Self::Pause { id, tenant } => {
                let tenant_id = find_tenant(&installation, &tenant).await?;
                let in_flight = pause(&installation.db, tenant_id, id).await?;
                print(
                    json,
                    &json!({ "campaign_id": id, "in_flight": in_flight }),
                    || format!("paused; {in_flight} calls were under way"),
                )
            }
        }
    }
}

impl Send {
    async fn run(self, installation: &Installation, json: bool) -> anyhow::Result<()> {
        let tenant_id = find_tenant(installation, &self.tenant).await?;
        // Before anything is written: a text that cannot be used.
        let source = Source {
            subject: self.subject.as_deref(),
            body: &self.template,
            html: None,
        };
        let texts = Content::compile(self.channel, source)?;
        let import = upload(installation, tenant_id, &self.csv).await?;
        let consent = self.consent(installation.db.clock().now());
        let choices = Choices {
            targets: None,
            on_match: OnMatch::Skip,
            consent,
        };
        let mut tx = installation.db.cell(tenant_id).begin().await?;
        start_import(
            &mut tx,
            tenant_id,
            import.id,
            choices,
            installation.db.clock(),
        )
        .await?;
        tx.commit().await?;
        imported(installation, tenant_id, import.id, json).await?;

        let campaign = self.campaign(installation, tenant_id, import.id);
        let mut tx = installation.db.cell(tenant_id).begin().await?;
        let template_id = TemplateId(Uuid::now_v7());
        let name = format!("{} ({template_id})", self.name);
        insert_template(&mut tx, tenant_id, template_id, &name, self.channel).await?;
        if let Some(id) = campaign.content_id {
            let version = NewVersion {
                id,
                subject: self.subject.clone(),
                body: self.template.clone(),
                html: None,
                variables: texts.variables(),
                created_by: None,
            };
            insert_version(&mut tx, tenant_id, template_id, &version).await?;
        }
        campaigns::insert_campaign(&mut tx, &campaign, None).await?;
        start_campaign(&mut tx, tenant_id, campaign.id, installation.db.clock()).await?;
        tx.commit().await?;
        show(installation, tenant_id, campaign.id, self.watch, json).await
    }

    fn consent(&self, now: DateTime<Utc>) -> Option<Attestation> {
        let at = self.consent_date.and_then(|date| date.and_hms_opt(0, 0, 0));
        Some(Attestation {
            wording: self.consent_wording.clone()?,
            source: self.consent_source.clone()?,
            date: at.map_or(now, |at| at.and_utc()),
            channels: Channel::ALL.to_vec(),
            actor: Some("command line".into()),
        })
    }

    fn campaign(&self, installation: &Installation, tenant_id: TenantId, id: ImportId) -> Campaign {
        let ids = (tenant_id, CampaignId(Uuid::now_v7()));
        let version_id = Some(TemplateVersionId(Uuid::now_v7()));
        let audience = Audience::Import { import_id: id };
        let now = installation.db.clock().now();
        Campaign::draft(ids, &self.name, self.channel, version_id, audience, now)
    }
}

/// Pauses a campaign and says how many calls were under way.
async fn pause(db: &Db, tenant_id: TenantId, id: CampaignId) -> anyhow::Result<i64> {
    let mut tx = db.cell(tenant_id).begin().await?;
    let switched = pause_campaign(&mut tx, tenant_id, id, db.clock()).await?;
    let origin = Origin {
        author: Author::Operator,
        request_id: None,
        ip: None,
    };
    let entry = AuditEntry::new("pause_campaign", "campaign", &id)
        .before(json!({ "status": switched.before }))
        .after(json!({ "status": switched.campaign.status }));
    insert_entry(&mut tx, tenant_id, &origin, &entry).await?;
    tx.commit().await?;
    Ok(count_in_flight(db, tenant_id, id).await?)
}

/// Brings the file in, piece by piece.
async fn upload(
    installation: &Installation,
    tenant_id: TenantId,
    path: &Path,
) -> anyhow::Result<Import> {
    let mut file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "contacts.csv".into());
    let mut upload = Upload::begin(installation.db.clone(), tenant_id, &name, None).await?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok(upload.finish().await?);
        }
        if let Err(error) = upload.write(&buffer[..read]).await {
            upload.abort().await;
            return Err(error.into());
        }
    }
}

/// Waits until a worker has read the file.
async fn imported(
    installation: &Installation,
    tenant_id: TenantId,
    id: ImportId,
    json: bool,
) -> anyhow::Result<()> {
    loop {
        let mut tx = installation.db.cell(tenant_id).begin().await?;
        let import = imports::load_import(&mut tx, tenant_id, id).await?;
        drop(tx);
        match import.status {
            ImportStatus::Completed => {
                let counts = import.counts;
                let value = json!({
                    "import_id": id, "rows": counts.read, "created": counts.created,
                    "skipped": counts.skipped, "refused": counts.refused,
                });
                print(json, &value, || {
                    format!(
                        "imported: {} rows, {} new, {} known, {} refused",
                        counts.read, counts.created, counts.skipped, counts.refused
                    )
                })?;
                return Ok(());
            }
            ImportStatus::Failed | ImportStatus::Cancelled => {
                anyhow::bail!("the import is {}", import.status)
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Shows a campaign once, or until it has ended.
async fn show(
    installation: &Installation,
    tenant_id: TenantId,
    id: CampaignId,
    watch: bool,
    json: bool,
) -> anyhow::Result<()> {
    let mut shown = None;
    loop {
        // System: the snapshot is what all watchers of a process share.
        let mut tx = installation.db.system().begin().await?;
        let mut snapshots = list_snapshots(tx.conn(), &[(tenant_id, id)]).await?;
        drop(tx);
        let snapshot = snapshots
            .pop()
            .context("there is no such campaign in this tenant")?;
        let has_ended = !matches!(snapshot.status.as_str(), "scheduled" | "sending");
        if shown.as_ref() != Some(&snapshot) {
            print(json, &value(&snapshot), || line(&snapshot))?;
            shown = Some(snapshot);
        }
        if !watch || has_ended {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn value(snapshot: &CountSnapshot) -> serde_json::Value {
    json!({
        "campaign_id": snapshot.campaign_id, "status": snapshot.status,
        "version": snapshot.version, "counts": snapshot.counts,
    })
}

fn line(snapshot: &CountSnapshot) -> String {
    let CountGroups {
        delivered,
        sent,
        sending,
        waiting,
        parked,
        failed,
        skipped,
    } = snapshot.counts.groups();
    format!(
        "{} {}: {waiting} waiting, {sending} sending, {sent} sent, {delivered} delivered, {failed} failed, {parked} \
         parked, {skipped} skipped",
        snapshot.campaign_id, snapshot.status
    )
}
