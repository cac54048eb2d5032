//! How exactly rates are kept over three workers: one sender at a segment a second, then two tenants that share an account.
//! The stand-in's ledger judges.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::fill::{SEGMENTS_PER_SEC, backlog};
use super::processes::{Child, Setting, client, start_senders, stop_all};
use super::stage::Stage;
use super::twilio::tenant;
use crate::dev::fake_twilio::account_sid;
use crate::dev::figures::{Bar, Figure};
use crate::domain::ids::TenantId;
use crate::domain::rate::Rule;
use crate::store::bench::{set_account_rate, set_rates};

const WORKERS: u8 = 3;
/// How long each rate is watched.
const WATCH: Duration = Duration::from_mins(1);
/// Before arrivals count: a worker that has just started opens its connections with its first messages.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between release and arrival a message may be this late, and the one behind it punctual.
const UNPUNCTUAL_SECS: f64 = 0.1;
/// Of a long code that nothing else is known of.
const SENDER_PER_SEC: f64 = 1.0;
/// Of the account that two tenants share.
const ACCOUNT_PER_SEC: f64 = 20.0;

pub(super) async fn measure(stage: &Stage) -> anyhow::Result<Vec<Figure>> {
    let fake = Child::start(&stage.setting, &["fake", "twilio", "--accounts", "2"]).await?;
    let url = fake.url()?.to_owned();
    let answer = client()
        .put(format!("{url}/fake/weather"))
        .header("content-type", "application/json")
        .body(json!({ "callbacks": { "copies": 0 } }).to_string())
        .send()
        .await?;
    anyhow::ensure!(answer.status().is_success(), "the fake takes no weather");
    let setting = stage
        .setting
        .with("ENGAGENINJA_TWILIO_API_URL", &url)
        .with("ENGAGENINJA_PUBLIC_URL", "http://127.0.0.1:9");

    let alone = tenant(stage, "alone", 1).await?;
    let mut tx = stage.installation.db.system().begin().await?;
    set_rates(&mut tx, alone, 1, None).await?;
    tx.commit().await?;
    let mut figures = watch(
        stage,
        &setting,
        &url,
        ("one sender, 3 workers", SENDER_PER_SEC, 1),
        &[alone],
    )
    .await?;

    let sharing = [
        tenant(stage, "sharing-1", 2).await?,
        tenant(stage, "sharing-2", 2).await?,
    ];
    let mut tx = stage.installation.db.system().begin().await?;
    for tenant_id in sharing {
        set_rates(&mut tx, tenant_id, 1, Some(SEGMENTS_PER_SEC)).await?;
    }
    set_account_rate(&mut tx, &account_sid(2), ACCOUNT_PER_SEC).await?;
    tx.commit().await?;
    let what = ("two tenants on one account", ACCOUNT_PER_SEC, 2);
    figures.extend(watch(stage, &setting, &url, what, &sharing).await?);
    fake.stop().await?;
    Ok(figures)
}

/// Lets tenants send more than their rate takes in the time, and reads what the account got.
async fn watch(
    stage: &Stage,
    setting: &Setting,
    url: &str,
    (what, rate_per_sec, account): (&str, f64, u8),
    tenants: &[TenantId],
) -> anyhow::Result<Vec<Figure>> {
    let enough = 2.0 * rate_per_sec * WATCH.as_secs_f64();
    for tenant_id in tenants {
        backlog(stage, *tenant_id, enough as u32, what).await?;
    }
    let workers = start_senders(setting, WORKERS).await?;
    tokio::time::sleep(WARM_UP).await;
    let from = stage.installation.db.clock().now();
    tokio::time::sleep(WATCH).await;
    let mut times = accepted(url, &account_sid(account)).await?;
    times.retain(|at| *at >= from);
    stop_all(workers).await?;
    anyhow::ensure!(times.len() > 10, "the stand-in took next to nothing");

    let burst = Rule::burst_of(rate_per_sec);
    let whole = secs(times[0], times[times.len() - 1]) * rate_per_sec;
    Ok(vec![
        Figure::new(
            format!("{what} at {rate_per_sec}/s, most above the rate in any window"),
            vec![most_above_rate(&times, rate_per_sec)],
            Some(Bar::AtMost(burst + UNPUNCTUAL_SECS * rate_per_sec)),
        ),
        Figure::new(
            format!("{what} at {rate_per_sec}/s, part of the rate used"),
            vec![(times.len() - 1) as f64 / whole],
            Some(Bar::AtLeast(0.98)),
        ),
    ])
}

/// When the stand-in took an account's messages, the first first.
async fn accepted(url: &str, account_sid: &str) -> anyhow::Result<Vec<DateTime<Utc>>> {
    #[derive(Deserialize)]
    struct Taken {
        account_sid: String,
        accepted_at: DateTime<Utc>,
    }
    let answer = client().get(format!("{url}/fake/ledger")).send().await?;
    let ledger: Vec<Taken> = serde_json::from_slice(&answer.bytes().await?)?;
    let mut times: Vec<DateTime<Utc>> = ledger
        .into_iter()
        .filter(|taken| taken.account_sid == account_sid)
        .map(|taken| taken.accepted_at)
        .collect();
    times.sort_unstable();
    Ok(times)
}

/// The most that any window holds beyond its length's worth of the rate.
fn most_above_rate(times: &[DateTime<Utc>], rate_per_sec: f64) -> f64 {
    let windows = times.iter().enumerate().flat_map(|(first, from)| {
        let later = times[first..].iter().enumerate();
        later.map(move |(count, until)| (count + 1) as f64 - secs(*from, *until) * rate_per_sec)
    });
    windows.fold(0.0, f64::max)
}

fn secs(from: DateTime<Utc>, until: DateTime<Utc>) -> f64 {
    (until - from).num_microseconds().unwrap_or_default() as f64 / 1e6
}
