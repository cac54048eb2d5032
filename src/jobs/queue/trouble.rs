//! How the engine's tasks bear a database that is away: they wait a little longer each time and never end.

use std::time::Duration;

use rand::Rng;
use tracing::{info, warn};

use super::Tuning;

use crate::telemetry;

/// The failures of one task in a row.
#[derive(Debug)]
pub(super) struct Trouble {
    task: &'static str,
    failures: u32,
    wait_min: Duration,
    wait_max: Duration,
}

impl Trouble {
    pub(super) fn new(task: &'static str, tuning: &Tuning) -> Self {
        Self {
            task,
            failures: 0,
            wait_min: tuning.retry_min,
            wait_max: tuning.retry_max,
        }
    }

    /// Notes a failure and waits before the next try. Logged once per outage, where it starts.
    pub(super) async fn wait(&mut self, error: &sqlx::Error) {
        metrics::counter!(telemetry::JOBS_DATABASE_ERRORS_TOTAL, "task" => self.task).increment(1);
        if self.failures == 0 {
            warn!(task = self.task, %error, "the queue waits for the database");
        }
        let wait = self
            .wait_min
            .saturating_mul(1 << self.failures.min(16))
            .min(self.wait_max);
        self.failures += 1;
        // Spread out, so that all tasks of all processes do not come back at once.
        tokio::time::sleep(spread(wait, 0.5, 1.0)).await;
    }

    /// Notes a success; `true` when it ends an outage.
    pub(super) fn over(&mut self) -> bool {
        let was_away = self.failures > 0;
        if was_away {
            info!(
                task = self.task,
                failures = self.failures,
                "the queue has its database back"
            );
        }
        self.failures = 0;
        was_away
    }
}

/// Anything between `from` and `to` times `duration`.
pub(super) fn spread(duration: Duration, from: f64, to: f64) -> Duration {
    duration.mul_f64(rand::rng().random_range(from..to))
}

/// Whether trying the same statement again may help: the database was away, busy, or chose another victim.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else {
        return !matches!(
            error,
            sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        );
    };
    // 08 connection, 25 transaction state, 40 rolled back, 53 resources, 55 locks, 57 operator or shutdown,
    // 58 system, XX internal.
    database.code().is_none_or(|code| {
        ["08", "25", "40", "53", "55", "57", "58", "XX"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}
