//! `queue`: what waits, what died, and another try for it.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use super::worker::queue_name;
use crate::api::ops::dead_jobs::replayed_entry;
use crate::config::Config;
use crate::jobs::queue::admin::{QueueCounts, find_dead, list_dead, list_queues, replay_dead};
use crate::store::audit::Origin;
use crate::store::control::audit::insert_entry;
use crate::store::{Db, SystemTx};

/// How often a queue is looked at that is to become empty.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Dead jobs shown at once.
const DEAD_MAX: i64 = 100;

/// Queues and dead jobs.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// How many jobs wait, run, rest and died, by queue.
    List,
    /// The dead jobs, newest first.
    Dead {
        /// Of this queue only.
        #[arg(long)]
        queue: Option<String>,
    },
    /// Waits until nothing of a queue is ready or at work.
    ///
    /// Nothing is stopped: jobs that come meanwhile are waited for, too, and those that rest until their time are not. Fails
    /// when the time is over first.
    Drain {
        /// The queue [default: all].
        #[arg(value_parser = queue_name)]
        queue: Option<String>,
        /// How long to wait.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        timeout_secs: u64,
    },
    /// Puts dead jobs back into their queues.
    Retry {
        /// The jobs' ids, as `queue dead` shows them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
    },
}

impl QueueCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        let db = &installation.db;
        match self {
            Self::List => list(db, json).await,
            Self::Dead { queue } => show_dead(db, queue.as_deref(), json).await,
            Self::Drain {
                queue,
                timeout_secs,
            } => {
                let limit = Duration::from_secs(timeout_secs);
                drain(db, queue.as_deref(), limit, json).await
            }
            Self::Retry { ids } => {
                let replayed = replay(db, &ids).await?;
                print(json, &json!({ "replayed": replayed }), || {
                    format!("{replayed} of {} put back", ids.len())
                })
            }
        }
    }
}

/// System: the engine's tables hold all tenants' jobs.
async fn begin(db: &Db) -> anyhow::Result<SystemTx> {
    Ok(db.system().begin().await?)
}

async fn list(db: &Db, json: bool) -> anyhow::Result<()> {
    let mut tx = begin(db).await?;
    let queues = list_queues(tx.conn()).await?;
    let value = json!(
        queues
            .iter()
            .map(|q| json!({
                "queue": q.queue, "ready": q.ready, "leased": q.leased,
                "scheduled": q.scheduled, "dead": q.dead,
            }))
            .collect::<Vec<_>>()
    );
    let row = |q: &QueueCounts| {
        let counts = [q.ready, q.leased, q.scheduled, q.dead].map(|n| n.to_string());
        std::iter::once(q.queue.clone()).chain(counts).collect()
    };
    print(json, &value, || {
        let rows: Vec<Vec<String>> = queues.iter().map(row).collect();
        table(&["queue", "ready", "leased", "scheduled", "dead"], &rows)
    })
}

async fn show_dead(db: &Db, queue: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut tx = begin(db).await?;
    let dead = list_dead(tx.conn(), queue, None, DEAD_MAX).await?;
    let value = json!(
        dead.iter()
            .map(|d| json!({
                "id": d.id, "queue": d.queue, "kind": d.kind, "reason": d.reason,
                "last_error": d.last_error, "died_at": d.died_at, "payload": payload(&d.payload),
            }))
            .collect::<Vec<_>>()
    );
    print(json, &value, || {
        let rows: Vec<Vec<String>> = dead
            .iter()
            .map(|d| {
                let error = d.last_error.clone().unwrap_or_default();
                vec![
                    d.id.to_string(),
                    d.queue.clone(),
                    d.kind.clone(),
                    d.reason.clone(),
                    error,
                ]
            })
            .collect();
        table(&["id", "queue", "kind", "reason", "last error"], &rows)
    })
}

/// Puts dead jobs back, each with its record, and says how many were there. The records are committed first, as the API does
/// it: nothing holds that nobody is on record for.
async fn replay(db: &Db, ids: &[i64]) -> anyhow::Result<usize> {
    let mut tx = begin(db).await?;
    let mut dead = Vec::with_capacity(ids.len());
    for id in ids {
        dead.extend(find_dead(tx.conn(), *id).await?);
    }
    let found: Vec<i64> = dead.iter().map(|job| job.id).collect();
    let replayed = replay_dead(&mut tx, &found).await?;
    anyhow::ensure!(
        !replayed.is_empty(),
        "none of these is a dead job that can be put back; `engageninja queue dead` shows them"
    );
    let mut records = db.control_system().begin().await?;
    for id in &replayed {
        // Once for a job that was named twice.
        if let Some(place) = dead.iter().position(|job| job.id == *id) {
            let entry = replayed_entry(dead.swap_remove(place));
            insert_entry(&mut records, None, &Origin::COMMAND_LINE, &entry).await?;
        }
    }
    records.commit().await?;
    tx.commit().await?;
    Ok(replayed.len())
}

async fn drain(db: &Db, queue: Option<&str>, limit: Duration, json: bool) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    loop {
        let mut tx = begin(db).await?;
        let queues = list_queues(tx.conn()).await?;
        drop(tx);
        let busy = queues
            .iter()
            .filter(|counts| queue.is_none_or(|name| name == counts.queue));
        let (ready, leased) = busy.fold((0, 0), |(ready, leased), counts| {
            (ready + counts.ready, leased + counts.leased)
        });
        if ready + leased == 0 {
            let name = queue.unwrap_or("every queue");
            return print(json, &json!({ "drained": queue }), || {
                format!("{name} is empty")
            });
        }
        anyhow::ensure!(
            started.elapsed() < limit,
            "{ready} jobs are ready and {leased} at work still; look at the workers, or wait longer with --timeout-secs"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a dead job carried; as text where it is no JSON that can be read, which may be why it is dead.
fn payload(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}
