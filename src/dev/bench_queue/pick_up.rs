//! How soon an idle queue starts a job: from the start of its enqueue to the start of its handler.

use std::time::{Duration, Instant};

use sqlx::{PgPool, query_scalar};
use tokio::sync::mpsc;

use super::{BenchError, Crew, PATIENCE, QUEUE, job};
use crate::dev::figures::{Bar, Figure, millis, quantile};
use crate::jobs::queue::enqueue;
use crate::store::Db;

/// What the median, and what all but one in a hundred, may take.
const P50_MS: f64 = 3.0;
const P99_MS: f64 = 20.0;

/// Enqueues one job after the other, each when the queue is idle.
pub(super) async fn measure(db: &Db, jobs: usize) -> Result<Vec<Figure>, BenchError> {
    let (started, mut heard) = mpsc::unbounded_channel();
    let crew = Crew::start(db, 1, false, move || {
        // The handler has started.
        let _ = started.send(Instant::now());
        async {}
    });
    let mut waits_ms = Vec::with_capacity(jobs);
    for n in 0..=jobs {
        let begun = Instant::now();
        let mut tx = db.system().begin().await?;
        enqueue(&mut tx, job(None)).await?;
        tx.commit().await?;
        let handled = tokio::time::timeout(PATIENCE, heard.recv()).await;
        let handled = handled
            .ok()
            .flatten()
            .ok_or(BenchError::Hangs("a pick-up"))?;
        // The first one opens the connections.
        if n > 0 {
            waits_ms.push(millis(handled - begun));
        }
        until_idle(&db.system_pool()).await?;
    }
    crew.stop().await?;
    let of = |what: &str, share, bar| {
        Figure::new(
            format!("pick-up from an idle queue, {what} in ms"),
            vec![quantile(&waits_ms, share)],
            Some(Bar::AtMost(bar)),
        )
    };
    Ok(vec![of("p50", 0.5, P50_MS), of("p99", 0.99, P99_MS)])
}

/// The queue is idle once its last completion is committed.
async fn until_idle(pool: &PgPool) -> Result<(), BenchError> {
    loop {
        let live = query_scalar!(
            r#"SELECT EXISTS (SELECT FROM jobs WHERE queue = $1) AS "live!""#,
            QUEUE
        )
        .fetch_one(pool)
        .await?;
        if !live {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
