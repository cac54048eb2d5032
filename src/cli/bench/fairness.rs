//! What turns give and what they cost: small tenants beside one with a long backlog, shares by weight, one lane beside many,
//! and the same sends let out by turns and paces or in plain order.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::fill::{SEGMENTS_PER_SEC, add_sender, backlog, backlog_behind};
use super::processes::{start_senders, stop_all};
use super::stage::Stage;
use super::{Scale, small};
use crate::delivery::release::TICK_EVERY;
use crate::dev::demo::ensure_demo_tenant;
use crate::dev::figures::{Bar, Figure};
use crate::domain::ids::{Incarnation, TenantId};
use crate::domain::orders::SendMessage;
use crate::jobs::queue::{NewJob, enqueue};
use crate::store::bench::{count_taken, pick_in_order, seize_term, set_rates};
use crate::store::{Db, StoreError, StoreResult, release};

/// Lanes of one tenant beside the single lane of another.
const LANES: u32 = 50;
/// How long shares, and each run of a pair, are counted.
const RUN: Duration = Duration::from_secs(10);
/// Before a run is counted, the release has changed hands and its window is full.
pub(super) const WARM_UP: Duration = Duration::from_secs(3);
/// Tenants among whom turns are dealt in a pair.
const PEERS: u8 = 20;
const PAIRS: u8 = 10;
/// What a worker sends at once, twice.
const WINDOW_PER_WORKER: i64 = 512;

pub(super) async fn measure(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let mut figures = small::beside_one(stage, scale).await?;
    figures.push(shares(stage, scale).await?);
    figures.push(one_lane_beside_many(stage, scale).await?);
    figures.extend(turns_against_order(stage, scale).await?);
    Ok(figures)
}

/// What a tenant of weight 3 sends beside one of weight 1, both with more than enough.
async fn shares(stage: &Stage, scale: &Scale) -> anyhow::Result<Figure> {
    let db = &stage.installation.db;
    let mut tenants = Vec::new();
    for (slug, weight) in [("heavy", 3), ("light", 1)] {
        let tenant_id = ensure_demo_tenant(db, slug, slug).await?;
        let mut tx = db.system().begin().await?;
        set_rates(&mut tx, tenant_id, weight, None).await?;
        tx.commit().await?;
        backlog(stage, tenant_id, scale.contacts, slug).await?;
        tenants.push(tenant_id);
    }
    Ok(Figure::new(
        "weight 3 beside weight 1, messages of one for each of the other",
        vec![ratio(stage, scale, &tenants).await?],
        Some(Bar::Between(2.85, 3.15)),
    ))
}

/// What a tenant with one lane sends beside one of the same weight with many, both with more than enough.
async fn one_lane_beside_many(stage: &Stage, scale: &Scale) -> anyhow::Result<Figure> {
    let db = &stage.installation.db;
    let one = ensure_demo_tenant(db, "narrow", "narrow").await?;
    backlog(stage, one, scale.contacts, "Narrow").await?;
    let many = ensure_demo_tenant(db, "wide", "wide").await?;
    for n in 0..LANES {
        let sender_id = Some(add_sender(db, many, n).await?);
        let each = scale.contacts / LANES;
        backlog_behind(stage, many, sender_id, None, each, "Wide").await?;
    }
    Ok(Figure::new(
        format!("1 lane beside {LANES}, messages of one tenant for each of the other"),
        vec![ratio(stage, scale, &[one, many]).await?],
        Some(Bar::Between(0.95, 1.05)),
    ))
}

/// Messages of the first tenant for each of the second, in a run.
async fn ratio(stage: &Stage, scale: &Scale, tenants: &[TenantId]) -> anyhow::Result<f64> {
    let workers = start_senders(&stage.setting, scale.workers).await?;
    tokio::time::sleep(WARM_UP).await;
    let sent = rates_of_a_run(&stage.installation.db, tenants).await?;
    stop_all(workers).await?;
    Ok(sent[0] / sent[1])
}

/// Messages that each tenant sent in a second of a run.
pub(super) async fn rates_of_a_run(db: &Db, tenants: &[TenantId]) -> anyhow::Result<Vec<f64>> {
    // Counting takes a while; it says what was there when it started.
    let count = async || {
        let mut tx = db.system().begin().await?;
        let since = Instant::now();
        StoreResult::Ok((count_taken(&mut tx, tenants).await?, since))
    };
    let (before, since) = count().await?;
    tokio::time::sleep(RUN).await;
    let (after, until) = count().await?;
    let secs = until.duration_since(since).as_secs_f64();
    let sent = before.iter().zip(after).map(|(b, a)| a - b);
    Ok(sent.map(|messages| messages as f64 / secs).collect())
}

/// The same sends let out by turns and paces, and in plain order by this process, in alternating runs.
async fn turns_against_order(stage: &Stage, scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let db = &stage.installation.db;
    let mut tenants = Vec::new();
    for n in 0..PEERS {
        let slug = format!("peer-{n}");
        let tenant_id = ensure_demo_tenant(db, &slug, &slug).await?;
        let mut tx = db.system().begin().await?;
        set_rates(&mut tx, tenant_id, 1, Some(SEGMENTS_PER_SEC)).await?;
        tx.commit().await?;
        tenants.push(tenant_id);
    }
    // Plain order serves the oldest lane first, whose it is: everybody's sends count.
    let mut everybody = tenants.clone();
    for slug in ["large-0", "heavy", "light", "narrow", "wide"] {
        everybody.push(ensure_demo_tenant(db, slug, slug).await?);
    }
    let workers = start_senders(&stage.setting, scale.workers).await?;
    let window = WINDOW_PER_WORKER * i64::from(scale.workers);
    let (mut turns, mut order, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let by_turns = run(stage, scale, &tenants, &everybody).await?;
        let stop = CancellationToken::new();
        let in_order = tokio::spawn(release_in_order(db.clone(), window, stop.clone()));
        let by_order = run(stage, scale, &tenants, &everybody).await?;
        stop.cancel();
        in_order.await??;
        turns.push(by_turns);
        order.push(by_order);
        ratios.push(by_turns / by_order);
    }
    stop_all(workers).await?;
    Ok(vec![
        Figure::new("sends let out by turns and paces, messages/s", turns, None),
        Figure::new("sends let out in plain order, messages/s", order, None),
        Figure::new(
            "turns and paces beside plain order",
            ratios,
            Some(Bar::AtLeast(0.85)),
        ),
    ])
}

/// Messages per second of one run; each of `tenants` has enough for it, and `everybody` is counted.
async fn run(
    stage: &Stage,
    scale: &Scale,
    tenants: &[TenantId],
    everybody: &[TenantId],
) -> anyhow::Result<f64> {
    let share = scale.contacts / u32::from(PEERS);
    for tenant_id in tenants {
        backlog(stage, *tenant_id, share, "Peer").await?;
    }
    tokio::time::sleep(WARM_UP).await;
    let sent = rates_of_a_run(&stage.installation.db, everybody).await?;
    Ok(sent.iter().sum())
}

/// Leads the release until `stop`, and lets messages out as they lie.
async fn release_in_order(db: Db, window: i64, stop: CancellationToken) -> StoreResult<()> {
    let mut tx = db.batch().begin().await?;
    let epoch = seize_term(&mut tx, Incarnation(0)).await?;
    tx.commit().await?;
    while !stop.is_cancelled() {
        let mut tx = db.batch().begin().await?;
        release::renew_term(&mut tx, epoch, Duration::from_secs(5), 0).await?;
        let picked = pick_in_order(&mut tx, window).await?;
        let jobs: Vec<NewJob> = picked
            .chunk_by(|one, next| one.tenant_id == next.tenant_id)
            .flat_map(|same| same.chunks(SendMessage::MESSAGES_MAX))
            .map(|keys| {
                NewJob::from(SendMessage {
                    tenant_id: keys[0].tenant_id,
                    message_ids: keys.iter().map(|key| key.id).collect(),
                })
            })
            .collect();
        enqueue(&mut tx, jobs).await.map_err(StoreError::from)?;
        tx.commit().await?;
        tokio::time::sleep(TICK_EVERY).await;
    }
    let mut tx = db.batch().begin().await?;
    release::end_term(&mut tx, epoch).await?;
    tx.commit().await
}
