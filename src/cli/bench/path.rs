//! The message path of a demo tenant: a file of contacts comes in, a campaign becomes messages, and they go out.

use std::time::Instant;

use serde::Serialize;

use super::Scale;
use super::fill::{campaign, counted, expanded, import, timed, upload};
use super::processes::{Child, start_senders, stop_all};
use super::stage::Stage;
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure};
use crate::domain::counts::CountWord;

/// What one round came to.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    import_rows_per_sec: f64,
    expansion_messages_per_sec: f64,
    send_messages_per_sec: f64,
    import_and_expansion_rss_mib: f64,
    worker_rss_mib: f64,
}

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for round in 1..=scale.rounds() {
        rounds.push(play(stage, scale, round).await?);
        eprintln!(
            "round {round} of {}: {:?}",
            scale.rounds(),
            rounds[rounds.len() - 1]
        );
    }
    let figure = |what: &str, of: fn(&Round) -> f64, bar| {
        Figure::new(what, rounds.iter().map(of).collect(), Some(bar))
    };
    Ok(vec![
        figure(
            "import, rows/s",
            |r| r.import_rows_per_sec,
            Bar::AtLeast(10_000.0),
        ),
        figure(
            "expansion, messages/s",
            |r| r.expansion_messages_per_sec,
            Bar::AtLeast(20_000.0),
        ),
        figure(
            "demo sends end to end, messages/s",
            |r| r.send_messages_per_sec,
            Bar::AtLeast(3_500.0),
        ),
        figure(
            "import + expansion, peak RSS in MiB",
            |r| r.import_and_expansion_rss_mib,
            Bar::AtMost(200.0),
        ),
        figure(
            "sending worker, peak RSS in MiB",
            |r| r.worker_rss_mib,
            Bar::AtMost(200.0),
        ),
    ])
}

async fn play(stage: &Stage, scale: &Scale, round: u8) -> anyhow::Result<Round> {
    let people = f64::from(scale.contacts);
    let slug = format!("bench-{round}");
    let tenant_id = ensure_demo_tenant(&stage.installation.db, &slug, &slug).await?;

    let import_id = upload(stage, tenant_id, scale.contacts).await?;
    let filler = Child::start(&stage.setting, &["worker", "--jobs", "imports,campaigns"]).await?;
    let (import_took, ()) = timed(import(stage, tenant_id, import_id)).await?;
    let campaign_id = campaign(stage, tenant_id, import_id).await?;
    let (expansion_took, ()) = timed(expanded(stage, tenant_id, campaign_id)).await?;
    let import_and_expansion_rss_mib = filler.peak_rss_mib()?;
    filler.stop().await?;

    let started = Instant::now();
    let workers = start_senders(&stage.setting, scale.workers).await?;
    counted(stage, tenant_id, campaign_id, |counts| {
        counts.get(CountWord::HandedOver) > 0 && counts.is_settled()
    })
    .await?;
    let send_took = started.elapsed();
    let mut worker_rss_mib = 0.0_f64;
    for worker in &workers {
        worker_rss_mib = worker_rss_mib.max(worker.peak_rss_mib()?);
    }
    stop_all(workers).await?;
    Ok(Round {
        import_rows_per_sec: people / import_took.as_secs_f64(),
        expansion_messages_per_sec: people / expansion_took.as_secs_f64(),
        send_messages_per_sec: people / send_took.as_secs_f64(),
        import_and_expansion_rss_mib,
        worker_rss_mib,
    })
}
