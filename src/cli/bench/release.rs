//! The release tick over a short and a long backlog, many lanes in it.

use std::time::{Duration, Instant};

use super::Scale;
use super::fill::backlog;
use super::processes::{Child, client, start_senders, stop_all};
use super::stage::Stage;
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure};
use crate::telemetry::{RELEASE_TICK_SECONDS, RELEASED_TOTAL};

/// Tenants that share a backlog, a lane each.
const TENANTS: u32 = 64;
/// The long backlog beside the short one.
const TIMES: u32 = 10;
/// How long the ticks of one backlog are watched.
const WATCH: Duration = Duration::from_secs(10);

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let db = &stage.installation.db;
    let mut tenants = Vec::new();
    for n in 0..TENANTS {
        let slug = format!("bench-{n}");
        tenants.push(ensure_demo_tenant(db, &slug, &slug).await?);
    }
    let (mut figures, mut rates, mut filled) = (Vec::new(), Vec::new(), 0);
    for backlog_size in [scale.contacts, scale.contacts.saturating_mul(TIMES)] {
        for tenant_id in &tenants {
            let share = (backlog_size - filled) / TENANTS;
            backlog(stage, *tenant_id, share, "Dojo Coffee").await?;
        }
        filled = backlog_size;
        stage.tidy().await?;
        let workers = start_senders(&stage.setting, scale.workers).await?;
        let before = ticks(&workers).await?;
        let started = Instant::now();
        tokio::time::sleep(WATCH).await;
        let after = ticks(&workers).await?;
        let took = started.elapsed();
        stop_all(workers).await?;
        let ticked = (after.count - before.count).max(1.0);
        rates.push((after.released - before.released) / took.as_secs_f64());
        figures.push(Figure::new(
            format!("tick over {backlog_size} waiting, mean in ms"),
            vec![(after.secs - before.secs) * 1000.0 / ticked],
            None,
        ));
        figures.push(Figure::new(
            format!("released and sent of {backlog_size}, messages/s"),
            vec![rates[rates.len() - 1]],
            None,
        ));
    }
    figures.push(Figure::new(
        "the long backlog beside the short one",
        vec![rates[1] / rates[0]],
        Some(Bar::AtLeast(0.9)),
    ));
    Ok(figures)
}

/// What all leaders have counted so far.
#[derive(Debug, Default)]
struct Ticks {
    count: f64,
    secs: f64,
    released: f64,
}

async fn ticks(workers: &[Child]) -> anyhow::Result<Ticks> {
    let mut all = Ticks::default();
    for worker in workers {
        let url = format!("{}/metrics", worker.admin_url()?);
        let text = client().get(url).send().await?.text().await?;
        let read = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|rest| rest.trim().parse::<f64>().ok());
            // A metric that nobody has touched is not there.
            value.unwrap_or(0.0)
        };
        all.count += read(&format!("{RELEASE_TICK_SECONDS}_count "));
        all.secs += read(&format!("{RELEASE_TICK_SECONDS}_sum "));
        all.released += read(&format!("{RELEASED_TOTAL} "));
    }
    Ok(all)
}
