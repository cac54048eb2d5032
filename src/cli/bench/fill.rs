//! What a bench is filled with: tenants, people, campaigns and backlogs.

use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::processes::Child;
use super::stage::Stage;
use crate::delivery::campaigns::start_campaign;
use crate::delivery::imports::{Upload, start_import};
use crate::delivery::intake::{Commands, accept_messages};
use crate::delivery::tenants::demo_account;
use crate::domain::campaign::{Audience, Campaign};
use crate::domain::channel::{Channel, Class, Provider};
use crate::domain::counts::{CountWord, Counts};
use crate::domain::ids::{
    CampaignId, ImportId, LaneId, MessageId, MessageKey, SenderId, TemplateId, TemplateVersionId,
    TenantId,
};
use crate::domain::import::{Attestation, Choices, ImportStatus, OnMatch};
use crate::store::campaign_counts::list_snapshots;
use crate::store::messages::{BatchHead, NewMessage};
use crate::store::senders::Sender;
use crate::store::senders::changes::{NewSender, insert_sender};
use crate::store::templates::{NewVersion, insert_template, insert_version};
use crate::store::{Db, StoreResult, campaigns, imports, senders};

/// A rate that is kept to and limits nothing.
pub(super) const SEGMENTS_PER_SEC: f64 = 100_000.0;

/// How often the bench looks; a share of the time it measures.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A figure that takes longer is none.
pub(super) const PATIENCE: Duration = Duration::from_mins(15);
/// Messages of one transaction.
const CHUNK: u32 = 2_000;

const BODY: &str =
    "Dojo Coffee: {{ first_name }}, you have {{ points }} points. Reply STOP to opt out.";

pub(super) async fn timed<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Duration, T)> {
    let started = Instant::now();
    let done = work.await?;
    Ok((started.elapsed(), done))
}

/// A file of made-up contacts, in North American numbers.
pub(super) async fn upload(
    stage: &Stage,
    tenant_id: TenantId,
    contacts: u32,
) -> anyhow::Result<ImportId> {
    let mut upload =
        Upload::begin(stage.installation.db.clone(), tenant_id, "bench.csv", None).await?;
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

pub(super) async fn import(stage: &Stage, tenant_id: TenantId, id: ImportId) -> anyhow::Result<()> {
    let now = stage.installation.db.clock().now();
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
    let mut tx = stage.installation.db.cell(tenant_id).begin().await?;
    start_import(
        &mut tx,
        tenant_id,
        id,
        choices,
        stage.installation.db.clock(),
    )
    .await?;
    tx.commit().await?;
    let started = Instant::now();
    loop {
        let mut tx = stage.installation.db.cell(tenant_id).begin().await?;
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

/// A campaign of a tenant to so many new people, expanded and waiting.
pub(super) async fn waiting_campaign(
    stage: &Stage,
    tenant_id: TenantId,
    contacts: u32,
) -> anyhow::Result<CampaignId> {
    let import_id = upload(stage, tenant_id, contacts).await?;
    let filler = Child::start(&stage.setting, &["worker", "--jobs", "imports,campaigns"]).await?;
    import(stage, tenant_id, import_id).await?;
    let id = campaign(stage, tenant_id, import_id).await?;
    expanded(stage, tenant_id, id).await?;
    filler.stop().await?;
    Ok(id)
}

pub(super) async fn campaign(
    stage: &Stage,
    tenant_id: TenantId,
    import_id: ImportId,
) -> anyhow::Result<CampaignId> {
    let mut tx = stage.installation.db.cell(tenant_id).begin().await?;
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
    let now = stage.installation.db.clock().now();
    let campaign = Campaign::draft(ids, "Bench", Channel::Sms, Some(version.id), audience, now);
    campaigns::insert_campaign(&mut tx, &campaign, None).await?;
    start_campaign(
        &mut tx,
        tenant_id,
        campaign.id,
        stage.installation.db.clock(),
    )
    .await?;
    tx.commit().await?;
    Ok(campaign.id)
}

/// Waits until all messages of a campaign are made.
pub(super) async fn expanded(
    stage: &Stage,
    tenant_id: TenantId,
    id: CampaignId,
) -> anyhow::Result<()> {
    counted(stage, tenant_id, id, |counts| {
        counts.get(CountWord::Audience) > 0 && counts.get(CountWord::Unexpanded) == 0
    })
    .await
}

/// Waits until the counts of a campaign say so.
pub(super) async fn counted(
    stage: &Stage,
    tenant_id: TenantId,
    id: CampaignId,
    is_there: impl Fn(&Counts) -> bool,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let mut tx = stage.installation.db.system().begin().await?;
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

/// One more sender of a demo tenant; what waits behind it is a lane.
pub(super) async fn add_sender(db: &Db, tenant_id: TenantId, n: u32) -> StoreResult<SenderId> {
    let id = SenderId(Uuid::now_v7());
    let new = NewSender {
        sender: Sender {
            id,
            channel: Channel::Sms,
            provider: Provider::Demo,
            account_ref: demo_account(tenant_id),
            address: format!("+1203{:07}", 2_000_000 + n),
        },
        messaging_service_sid: None,
        is_default: false,
        stated_per_sec: None,
    };
    let mut tx = db.cell(tenant_id).begin().await?;
    insert_sender(&mut tx, tenant_id, &new).await?;
    tx.commit().await?;
    Ok(id)
}

/// Messages of a tenant that wait, without people behind them; says their keys. `words` make them unlike others.
pub(super) async fn backlog(
    stage: &Stage,
    tenant_id: TenantId,
    count: u32,
    words: &str,
) -> anyhow::Result<Vec<MessageKey>> {
    backlog_behind(stage, tenant_id, None, None, count, words).await
}

/// The same behind one of the tenant's senders, which has a lane of its own (behind its default one when none is said), and
/// from an instant on, when one is said.
pub(super) async fn backlog_behind(
    stage: &Stage,
    tenant_id: TenantId,
    sender_id: Option<SenderId>,
    ready_at: Option<DateTime<Utc>>,
    count: u32,
    words: &str,
) -> anyhow::Result<Vec<MessageKey>> {
    let mut keys = Vec::with_capacity(count as usize);
    let mut left = count;
    while left > 0 {
        let messages = texts(stage, left.min(CHUNK), words, ready_at);
        left -= messages.len() as u32;
        keys.extend(messages.iter().map(|message| MessageKey {
            tenant_id,
            id: message.id,
        }));
        let mut tx = stage.installation.db.cell(tenant_id).begin().await?;
        let sender = senders::find_active(tx.conn(), tenant_id, Channel::Sms, sender_id)
            .await?
            .context("the tenant has a sender")?;
        let accepted_at = stage.installation.db.clock().now();
        let head = BatchHead {
            tenant_id,
            lane_id: LaneId(0),
            campaign_id: None,
            channel: Channel::Sms,
            provider: sender.provider,
            account_ref: sender.account_ref.clone(),
            content_id: None,
            accepted_at,
            expires_at: accepted_at + Duration::from_hours(24),
        };
        let commands = Commands {
            sender: &sender,
            class: Class::Bulk,
            head,
            messages: &messages,
        };
        accept_messages(&mut tx, commands).await?;
        tx.commit().await?;
    }
    Ok(keys)
}

/// Texts to made-up numbers, all different.
fn texts(
    stage: &Stage,
    count: u32,
    words: &str,
    ready_at: Option<DateTime<Utc>>,
) -> Vec<NewMessage> {
    let mac_key = &stage.installation.mac_key;
    let body = format!("{words}: you have 42 points. Reply STOP to opt out.");
    let content_mac = mac_key.content(&["", &body, ""]);
    (0..count)
        .map(|_| {
            let id = MessageId(Uuid::now_v7());
            let address = format!("+1201{:07}", 2_000_000 + id.0.as_u128() % 8_000_000);
            NewMessage {
                id,
                contact_id: None,
                dest_mac: mac_key.address(&id.to_string()),
                address,
                content_mac: content_mac.clone(),
                cost: 1,
                ready_at,
                subject: None,
                body: body.clone(),
                html: None,
            }
        })
        .collect()
}
