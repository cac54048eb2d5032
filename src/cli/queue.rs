//! `queue`: what waits, what died, and another try for it.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::output::{print, table};
use super::worker::queue_name;
use crate::config::Config;
use crate::jobs::queue::admin::{list_dead, list_queues, replay_dead};
use crate::store::Db;

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
        if let Self::Drain {
            queue,
            timeout_secs,
        } = &self
        {
            let limit = Duration::from_secs(*timeout_secs);
            return drain(&installation.db, queue.as_deref(), limit, json).await;
        }
        // System: the engine's tables hold all tenants' jobs.
        let mut tx = installation.db.system().begin().await?;
        match self {
            Self::List => {
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
                let row = |q: &crate::jobs::queue::admin::QueueCounts| {
                    let counts = [q.ready, q.leased, q.scheduled, q.dead].map(|n| n.to_string());
                    std::iter::once(q.queue.clone()).chain(counts).collect()
                };
                print(json, &value, || {
                    let rows: Vec<Vec<String>> = queues.iter().map(row).collect();
                    table(&["queue", "ready", "leased", "scheduled", "dead"], &rows)
                })
            }
            Self::Dead { queue } => {
                let dead = list_dead(tx.conn(), queue.as_deref(), None, DEAD_MAX).await?;
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
            Self::Drain { .. } => Ok(()),
            Self::Retry { ids } => {
                let replayed = replay_dead(&mut tx, &ids).await?;
                tx.commit().await?;
                anyhow::ensure!(
                    !replayed.is_empty(),
                    "none of these is a dead job; `engageninja queue dead` shows them"
                );
                print(json, &json!({ "replayed": replayed.len() }), || {
                    format!("{} of {} put back", replayed.len(), ids.len())
                })
            }
        }
    }
}

async fn drain(db: &Db, queue: Option<&str>, limit: Duration, json: bool) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    loop {
        // System: the engine's tables hold all tenants' jobs.
        let mut tx = db.system().begin().await?;
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
