//! `bench`: how fast this machine imports, expands and sends, on a durable PostgreSQL of the bench's own.
//!
//! Work is done by worker processes as in an installation; this process only asks and watches. Each figure is the median of
//! the rounds.

mod processes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use self::processes::{Child, Setting};
use super::data_dir::Keys;
use super::installation::{DATABASE, Installation};
use super::output::{print, table};
use crate::config::{Config, Environment, Surroundings};
use crate::crypto::mac::MacKey;
use crate::delivery::campaigns::start_campaign;
use crate::delivery::imports::{Upload, start_import};
use crate::dev::bench_queue::{self, Plan, Report};
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::postgres::Launch;
use crate::domain::campaign::{Audience, Campaign};
use crate::domain::channel::Channel;
use crate::domain::counts::{CountWord, Counts};
use crate::domain::ids::{CampaignId, ImportId, TemplateId, TemplateVersionId, TenantId};
use crate::domain::import::{Attestation, Choices, ImportStatus, OnMatch};
use crate::store::campaign_counts::list_snapshots;
use crate::store::migrate::{ensure_database, migrate};
use crate::store::templates::{NewVersion, insert_template, insert_version};
use crate::store::{DbOptions, campaigns, imports};

/// How often the bench looks; a share of the time it measures.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A figure that takes longer is none.
const PATIENCE: Duration = Duration::from_mins(15);

const BODY: &str =
    "Dojo Coffee: {{ first_name }}, you have {{ points }} points. Reply STOP to opt out.";

/// Measures this machine's speed on a database of the bench's own.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Contacts of one round.
    #[arg(long, default_value = "100000", value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    contacts: u32,
    /// Rounds; each figure is their median.
    #[arg(long, default_value = "3", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=21))]
    rounds: u8,
    /// Measure the queue engine against plain SQL too; takes some minutes.
    #[arg(long)]
    queue: bool,
    /// Worker processes that send.
    #[arg(long, default_value = "2", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    workers: u8,
}

/// What one round came to.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    import_rows_per_sec: f64,
    expansion_messages_per_sec: f64,
    send_messages_per_sec: f64,
    import_and_expansion_rss_mib: f64,
    worker_rss_mib: f64,
}

impl Bench {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let dir =
            std::env::temp_dir().join(format!("engageninja-bench-{}", Uuid::new_v4().simple()));
        let measured = self.measure(config, dir.clone()).await;
        let _ = std::fs::remove_dir_all(&dir);
        let (rounds, queue) = measured?;
        let median = |figure: fn(&Round) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        let figures = [
            ("import, rows/s", median(|r| r.import_rows_per_sec)),
            (
                "expansion, messages/s",
                median(|r| r.expansion_messages_per_sec),
            ),
            (
                "demo sends end to end, messages/s",
                median(|r| r.send_messages_per_sec),
            ),
            (
                "import + expansion, peak RSS in MiB",
                median(|r| r.import_and_expansion_rss_mib),
            ),
            (
                "sending worker, peak RSS in MiB",
                median(|r| r.worker_rss_mib),
            ),
        ];
        print(
            json,
            &json!({ "contacts": self.contacts, "rounds": rounds }),
            || {
                let rows =
                    figures.map(|(name, figure)| vec![name.to_owned(), format!("{figure:.0}")]);
                let engine = queue
                    .map(|report| format!("\n{report}"))
                    .unwrap_or_default();
                format!("{}{engine}", table(&["what", "median"], &rows))
            },
        )
    }

    async fn measure(
        &self,
        config: &Config,
        dir: PathBuf,
    ) -> anyhow::Result<(Vec<Round>, Option<Report>)> {
        let surroundings = Surroundings::read();
        let launch = Launch {
            pg_bin: config.pg_bin.clone(),
            path: surroundings.path,
            runtime_dir: surroundings.runtime_dir,
            ..Launch::new(&dir)
        };
        let server = spawn_blocking(move || launch.start()).await??;
        ensure_database(&server.options("postgres"), DATABASE).await?;
        let options = DbOptions::single(&server.options(DATABASE));
        migrate(&options.control, &options.cell).await?;
        let keys = Keys {
            mac_key: MacKey::generate(),
            ring: None,
        };
        let own = Config {
            environment: Some(Environment::Development),
            ..config.clone()
        };
        let installation = Installation::open_on(&own, &options, &keys).await?;
        let queue = if self.queue {
            Some(bench_queue::run(&installation.db, &Plan::default()).await?)
        } else {
            None
        };
        let setting = Setting::new(&options.cell, keys.mac_key.expose_secret())?;
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            rounds.push(self.round(&installation, &setting, round).await?);
            eprintln!(
                "round {round} of {}: {:?}",
                self.rounds,
                rounds[rounds.len() - 1]
            );
        }
        installation.db.close().await;
        spawn_blocking(|| server.stop()).await??;
        Ok((rounds, queue))
    }

    async fn round(
        &self,
        installation: &Installation,
        setting: &Setting,
        round: u8,
    ) -> anyhow::Result<Round> {
        let people = f64::from(self.contacts);
        let slug = format!("bench-{round}");
        let tenant_id = ensure_demo_tenant(&installation.db, &slug, &slug).await?;

        let import_id = upload(installation, tenant_id, self.contacts).await?;
        let mut filler = Child::start(setting, &["--jobs", "imports,campaigns"])?;
        let (import_took, ()) = timed(import(installation, tenant_id, import_id)).await?;
        let campaign_id = campaign(installation, tenant_id, import_id).await?;
        let (expansion_took, ()) = timed(counted(installation, tenant_id, campaign_id, |counts| {
            counts.get(CountWord::Audience) > 0 && counts.get(CountWord::Unexpanded) == 0
        }))
        .await?;
        let import_and_expansion_rss_mib = filler.peak_rss_mib()?;
        filler.stop().await?;

        let started = Instant::now();
        let mut workers = Vec::new();
        for _ in 0..self.workers {
            workers.push(Child::start(setting, &["--jobs", "send"])?);
        }
        counted(installation, tenant_id, campaign_id, |counts| {
            counts.get(CountWord::HandedOver) > 0 && counts.is_settled()
        })
        .await?;
        let send_took = started.elapsed();
        let mut worker_rss_mib = 0.0_f64;
        for mut worker in workers {
            worker_rss_mib = worker_rss_mib.max(worker.peak_rss_mib()?);
            worker.stop().await?;
        }
        Ok(Round {
            import_rows_per_sec: people / import_took.as_secs_f64(),
            expansion_messages_per_sec: people / expansion_took.as_secs_f64(),
            send_messages_per_sec: people / send_took.as_secs_f64(),
            import_and_expansion_rss_mib,
            worker_rss_mib,
        })
    }
}

async fn timed<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(Duration, T)> {
    let started = Instant::now();
    let done = work.await?;
    Ok((started.elapsed(), done))
}

/// A file of made-up contacts, in North American numbers.
async fn upload(
    installation: &Installation,
    tenant_id: TenantId,
    contacts: u32,
) -> anyhow::Result<ImportId> {
    let mut upload = Upload::begin(installation.db.clone(), tenant_id, "bench.csv", None).await?;
    upload
        .write(b"first_name,last_name,phone,email,timezone,points\n")
        .await?;
    for n in 0..contacts {
        let (area, line) = (201 + n / 1_000_000, n % 1_000_000);
        let row = format!(
            "Person{n},Bench,+1{area}2{line:06},person{n}@example.com,America/New_York,{}\n",
            n % 5000
        );
        upload.write(row.as_bytes()).await?;
    }
    Ok(upload.finish().await?.id)
}

async fn import(
    installation: &Installation,
    tenant_id: TenantId,
    id: ImportId,
) -> anyhow::Result<()> {
    let now = installation.db.clock().now();
    let consent = Attestation {
        wording: "I want news.".into(),
        source: "bench".into(),
        date: now,
        channels: vec![Channel::Sms],
        actor: None,
    };
    let choices = Choices {
        targets: None,
        on_match: OnMatch::Skip,
        consent: Some(consent),
    };
    let mut tx = installation.db.cell(tenant_id).begin().await?;
    start_import(&mut tx, tenant_id, id, choices, installation.db.clock()).await?;
    tx.commit().await?;
    let started = Instant::now();
    loop {
        let mut tx = installation.db.cell(tenant_id).begin().await?;
        let import = imports::load_import(&mut tx, tenant_id, id).await?;
        drop(tx);
        match import.status {
            ImportStatus::Completed => return Ok(()),
            ImportStatus::Failed => anyhow::bail!("the import failed"),
            _ => {}
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "the import takes too long");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn campaign(
    installation: &Installation,
    tenant_id: TenantId,
    import_id: ImportId,
) -> anyhow::Result<CampaignId> {
    let mut tx = installation.db.cell(tenant_id).begin().await?;
    let template_id = TemplateId(Uuid::now_v7());
    insert_template(&mut tx, tenant_id, template_id, "Bench", Channel::Sms).await?;
    let version = NewVersion {
        id: TemplateVersionId(Uuid::now_v7()),
        subject: None,
        body: BODY.into(),
        html: None,
        variables: vec!["first_name".into(), "points".into()],
        created_by: None,
    };
    insert_version(&mut tx, tenant_id, template_id, &version).await?;
    let ids = (tenant_id, CampaignId(Uuid::now_v7()));
    let audience = Audience::Import { import_id };
    let now = installation.db.clock().now();
    let campaign = Campaign::draft(ids, "Bench", Channel::Sms, Some(version.id), audience, now);
    campaigns::insert_campaign(&mut tx, &campaign, None).await?;
    start_campaign(&mut tx, tenant_id, campaign.id, installation.db.clock()).await?;
    tx.commit().await?;
    Ok(campaign.id)
}

/// Waits until the counts of a campaign say so.
async fn counted(
    installation: &Installation,
    tenant_id: TenantId,
    id: CampaignId,
    is_there: impl Fn(&Counts) -> bool,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let mut tx = installation.db.system().begin().await?;
        let mut snapshots = list_snapshots(tx.conn(), &[(tenant_id, id)]).await?;
        drop(tx);
        let snapshot = snapshots.pop().context("the campaign is there")?;
        if is_there(&snapshot.counts) {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "the campaign takes too long");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
