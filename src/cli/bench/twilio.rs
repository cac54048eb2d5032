//! Sends over HTTP to the stand-in for Twilio, a process of its own on the same machine: without callbacks, then with two
//! for each message, signed and merged.

use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use uuid::Uuid;

use super::Scale;
use super::fill::{
    LOOK_EVERY, PATIENCE, SEGMENTS_PER_SEC, campaign, counted, expanded, import, upload,
};
use super::processes::{Child, Setting, client, free_address, start_senders, stop_all};
use super::stage::Stage;
use crate::crypto::sealed::seal;
use crate::delivery::tenants::follow_directory;
use crate::dev::fake_twilio::{AUTH_TOKEN, account_sid};
use crate::dev::figures::{Bar, Figure};
use crate::domain::channel::{Channel, Provider};
use crate::domain::counts::{CountWord, Counts};
use crate::domain::ids::{CampaignId, SenderId, TenantId};
use crate::providers::twilio::place_of_token;
use crate::store::bench::{Cost, count_audience, read_cost, set_rates};
use crate::store::control::directory::{self, Beginning};
use crate::store::credentials::{TwilioCredentials, save_twilio};
use crate::store::senders::{Sender, insert_account, insert_default_sender};

/// Tenants with an account each: one account's ceiling is below what is measured.
const TENANTS: u8 = 2;

/// What one way of sending came to.
#[derive(Debug, Default)]
struct Measured {
    messages_per_sec: Vec<f64>,
    wal_bytes: Vec<f64>,
    row_writes: Vec<f64>,
}

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let mut silent = Measured::default();
    let mut reported = Measured::default();
    for round in 1..=scale.rounds() {
        play(stage, scale, &format!("silent-{round}"), false, &mut silent).await?;
        play(stage, scale, &format!("told-{round}"), true, &mut reported).await?;
    }
    let figures = |measured: Measured, how: &str, per_sec: f64| {
        [
            Figure::new(
                format!("sends over HTTP, {how}, messages/s"),
                measured.messages_per_sec,
                Some(Bar::AtLeast(per_sec)),
            ),
            Figure::new(
                format!("WAL per message, {how}, bytes"),
                measured.wal_bytes,
                Some(Bar::AtMost(4_096.0)),
            ),
            Figure::new(
                format!("row writes per message, {how}"),
                measured.row_writes,
                Some(Bar::AtMost(12.0)),
            ),
        ]
    };
    let mut all = figures(silent, "no callbacks", 2_500.0).to_vec();
    all.extend(figures(reported, "two callbacks each", 1_200.0));
    Ok(all)
}

/// One round: both tenants' campaigns wait, then workers start, and the clock runs until nothing is left to do.
async fn play(
    stage: &Stage,
    scale: &Scale,
    name: &str,
    is_told: bool,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let fake = Child::start(
        &stage.setting,
        &["fake", "twilio", "--accounts", &TENANTS.to_string()],
    )
    .await?;
    let weather = json!({ "callbacks": { "copies": u32::from(is_told) } });
    let answer = client()
        .put(format!("{}/fake/weather", fake.url()?))
        .header("content-type", "application/json")
        .body(weather.to_string())
        .send()
        .await?;
    anyhow::ensure!(answer.status().is_success(), "the fake takes no weather");

    let address = free_address()?.to_string();
    let setting = stage
        .setting
        .with("ENGAGENINJA_TWILIO_API_URL", fake.url()?)
        .with("ENGAGENINJA_PUBLIC_URL", format!("http://{address}"));
    let per_tenant = scale.contacts / u32::from(TENANTS);
    let campaigns = fill(stage, name, per_tenant, &setting).await?;

    let before = cost(stage).await?;
    let serve = Child::start(&setting.with("ENGAGENINJA_LISTEN", &address), &["serve"]).await?;
    let house = ["worker", "--jobs", "house", "--with", "scheduler"];
    let house = Child::start(&setting, &house).await?;
    let started = Instant::now();
    let workers = start_senders(&setting, scale.workers).await?;
    for (tenant_id, id) in campaigns {
        counted(stage, tenant_id, id, |counts| is_through(counts, is_told)).await?;
    }
    let took = started.elapsed();
    // The end of each campaign is part of what it costs, and not of what the next one does.
    audience_is_gone(stage).await?;
    stop_all(workers).await?;
    stop_all(vec![house, serve, fake]).await?;

    let after = cost(stage).await?;
    let messages = f64::from(per_tenant) * f64::from(TENANTS);
    measured
        .messages_per_sec
        .push(messages / took.as_secs_f64());
    measured
        .wal_bytes
        .push((after.wal_bytes - before.wal_bytes) as f64 / messages);
    let by_table: Vec<(&str, f64)> = after
        .row_writes
        .iter()
        .map(|(table, writes)| {
            let writes = writes - before.row_writes.get(table).unwrap_or(&0);
            (table.as_str(), writes as f64 / messages)
        })
        .collect();
    measured
        .row_writes
        .push(by_table.iter().map(|(_, writes)| writes).sum());
    eprintln!("{name}: {:.0} messages/s", messages / took.as_secs_f64());
    eprintln!("{name}: row writes per message: {}", shown(by_table));
    Ok(())
}

/// Those that are worth telling, most first.
fn shown(mut by_table: Vec<(&str, f64)>) -> String {
    by_table.retain(|(_, writes)| *writes >= 0.05);
    by_table.sort_unstable_by(|(_, one), (_, other)| other.total_cmp(one));
    let each = by_table
        .iter()
        .map(|(table, writes)| format!("{table} {writes:.2}"));
    each.collect::<Vec<_>>().join(", ")
}

async fn audience_is_gone(stage: &Stage) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let mut tx = stage.installation.db.system().begin().await?;
        if count_audience(&mut tx).await? == 0 {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "the campaigns do not end");
        drop(tx);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_through(counts: &Counts, is_told: bool) -> bool {
    let handed_over = counts.get(CountWord::HandedOver);
    let told = counts.get(CountWord::Delivered) + counts.get(CountWord::Failed);
    handed_over > 0 && counts.is_settled() && (!is_told || told == handed_over)
}

/// Tenants with their accounts, people and campaigns, expanded and waiting.
async fn fill(
    stage: &Stage,
    name: &str,
    contacts: u32,
    setting: &Setting,
) -> anyhow::Result<Vec<(TenantId, CampaignId)>> {
    let mut campaigns = Vec::new();
    let filler = Child::start(setting, &["worker", "--jobs", "imports,campaigns"]).await?;
    for number in 1..=TENANTS {
        let tenant_id = tenant(stage, &format!("{name}-{number}"), number).await?;
        let import_id = upload(stage, tenant_id, contacts).await?;
        import(stage, tenant_id, import_id).await?;
        let id = campaign(stage, tenant_id, import_id).await?;
        expanded(stage, tenant_id, id).await?;
        campaigns.push((tenant_id, id));
    }
    filler.stop().await?;
    Ok(campaigns)
}

/// A tenant whose text messages go through an account of the stand-in.
pub(super) async fn tenant(stage: &Stage, slug: &str, number: u8) -> anyhow::Result<TenantId> {
    let db = &stage.installation.db;
    let tenant_id = TenantId(Uuid::now_v7());
    let mut tx = db.control_system().begin().await?;
    let new = directory::NewTenant {
        id: tenant_id,
        name: slug,
        slug,
        is_demo: false,
        beginning: Beginning {
            is_consent_attested: true,
            ..Beginning::default()
        },
    };
    directory::insert_tenant(&mut tx, &new).await?;
    tx.commit().await?;
    follow_directory(db, tenant_id).await?;

    let account = account_sid(number);
    let id = Uuid::now_v7();
    let token = AUTH_TOKEN.to_owned().into();
    let credentials = TwilioCredentials {
        tenant_id,
        id,
        channel: Channel::Sms,
        account_ref: account.clone(),
        account_sid: account.clone(),
        auth_token: seal(
            &stage.installation.providers.keys,
            place_of_token(tenant_id, id),
            &token,
        )
        .context("the token is sealed")?,
    };
    let sender = Sender {
        id: SenderId(Uuid::now_v7()),
        channel: Channel::Sms,
        provider: Provider::Twilio,
        account_ref: account.clone(),
        // Nobody else has it: senders are unique, and the last digits of the id are random.
        address: format!("+1202{:07}", 2_000_000 + tenant_id.0.as_u128() % 8_000_000),
    };
    let mut tx = db.system().begin().await?;
    insert_account(&mut tx, &account, Provider::Twilio).await?;
    save_twilio(&mut tx, &credentials).await?;
    insert_default_sender(&mut tx, tenant_id, &sender).await?;
    set_rates(&mut tx, tenant_id, 1, Some(SEGMENTS_PER_SEC)).await?;
    tx.commit().await?;
    Ok(tenant_id)
}

async fn cost(stage: &Stage) -> anyhow::Result<Cost> {
    // Sessions that live on tell what they wrote within a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let mut tx = stage.installation.db.system().begin().await?;
    Ok(read_cost(&mut tx).await?)
}
