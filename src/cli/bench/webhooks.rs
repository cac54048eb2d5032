//! Status callbacks of the provider, signed and all different, from their first byte to the answer that they are stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::Scale;
use super::processes::{Child, client, free_address};
use super::stage::Stage;
use super::twilio::tenant;
use crate::dev::fake_twilio::{AUTH_TOKEN, Callback, account_sid};
use crate::dev::figures::{Bar, Figure, millis, quantile};
use crate::domain::ids::TenantId;

/// Connections that post, one callback after the other each: as many as the provider opens to one account.
const CONNECTIONS: u32 = 32;

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let tenant_id = tenant(stage, "bench", 1).await?;
    let address = free_address()?.to_string();
    let setting = stage
        .setting
        .with("ENGAGENINJA_LISTEN", &address)
        .with("ENGAGENINJA_PUBLIC_URL", format!("http://{address}"));
    let serve = Child::start(&setting, &["serve"]).await?;
    let url: Arc<str> = format!("{}/api/webhooks/twilio/sms", serve.url()?).into();

    let (mut rates, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds() {
        let started = Instant::now();
        let times = post_all(tenant_id, &url, scale.contacts).await?;
        rates.push(times.len() as f64 / started.elapsed().as_secs_f64());
        p50.push(quantile(&times, 0.5));
        p99.push(quantile(&times, 0.99));
    }
    serve.stop().await?;
    Ok(vec![
        Figure::new("callbacks stored, per second", rates, None),
        Figure::new("answer to a callback, p50 in ms", p50, None),
        Figure::new(
            "answer to a callback, p99 in ms",
            p99,
            Some(Bar::AtMost(50.0)),
        ),
    ])
}

/// Posts so many callbacks; says how long each took, in milliseconds.
async fn post_all(tenant_id: TenantId, url: &Arc<str>, count: u32) -> anyhow::Result<Vec<f64>> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS {
        let (url, sender) = (url.clone(), sender.clone());
        tokio::spawn(async move {
            let client = client();
            for _ in 0..count / CONNECTIONS {
                let posted = post(&client, &callback(tenant_id, &url)).await;
                if sender.send(posted).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut times = Vec::new();
    while let Some(posted) = receiver.recv().await {
        times.push(millis(posted?));
    }
    Ok(times)
}

fn callback(tenant_id: TenantId, url: &str) -> Callback {
    let address = format!(
        "{url}?t={tenant_id}&m={}&a={}",
        Uuid::now_v7(),
        Uuid::new_v4()
    );
    let form = [
        ("MessageSid", format!("SM{}", Uuid::new_v4().simple())),
        ("AccountSid", account_sid(1)),
        ("MessageStatus", "delivered".to_owned()),
        ("From", "+15005550001".to_owned()),
        ("To", "+12012000000".to_owned()),
        ("ApiVersion", "2010-04-01".to_owned()),
    ];
    let form = form.map(|(name, value)| (name.to_owned(), value));
    Callback::new(&address, form.to_vec(), AUTH_TOKEN)
}

async fn post(client: &reqwest::Client, callback: &Callback) -> anyhow::Result<Duration> {
    let request = client
        .post(&callback.url)
        .header("x-twilio-signature", &callback.signature)
        .form(&callback.form);
    let started = Instant::now();
    let answer = request.send().await?;
    anyhow::ensure!(
        answer.status().is_success(),
        "a callback was answered with {}",
        answer.status()
    );
    Ok(started.elapsed())
}
