//! Logs and metrics: set up once per program, every metric's name listed here once.
//!
//! A log line holds ids, never a body, an address, a number or a credential.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Histograms in seconds: from a statement to a slow provider.
const SECONDS_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// How often histograms are folded while nobody reads them.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("ENGAGENINJA_LOG is not a level or `target=level,…`: {0}")]
    Filter(String),
    /// The log cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It has been set up before.
    #[error("telemetry is set up twice")]
    Twice,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not a log format")),
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone)]
pub enum LogTarget {
    /// Beside the answers of a program, which go to its standard output.
    Stderr {
        /// Colours, where a terminal shows them.
        colors: bool,
    },
    /// To the end of a file.
    File(PathBuf),
}

/// What `info` means: of the libraries that tell each start and stop of theirs, what went wrong.
const INFO: &str = "info,poem=warn,apalis_core=warn,sqlx::postgres::notice=warn";

/// Sets the log up for the rest of the program's life.
pub fn init_log(filter: &str, format: LogFormat, target: LogTarget) -> Result<(), TelemetryError> {
    let filter = if filter == "info" { INFO } else { filter };
    let filter =
        EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter(error.to_string()))?;
    let (writer, colors) = match target {
        LogTarget::Stderr { colors } => (
            BoxMakeWriter::new(std::io::stderr),
            colors && std::io::stderr().is_terminal(),
        ),
        LogTarget::File(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|source| TelemetryError::File { path, source })?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colors);
    match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

/// Collects metrics from now on; the handle renders them for `/metrics`. Call it inside a runtime, which
/// keeps them small while nobody reads.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|_| TelemetryError::Twice)?;
    for (name, help) in METRICS {
        match name.rsplit('_').next() {
            Some("total") => metrics::describe_counter!(*name, help.trim()),
            // How old something is now goes up and down.
            Some("seconds") if name.contains("_age_") => {
                metrics::describe_gauge!(*name, help.trim());
            }
            Some("seconds") => metrics::describe_histogram!(*name, help.trim()),
            _ => metrics::describe_gauge!(*name, help.trim()),
        }
    }
    let kept = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        loop {
            ticks.tick().await;
            kept.run_upkeep();
        }
    });
    Ok(handle)
}

macro_rules! metric_names {
    ($(#[doc = $help:literal] $name:ident = $text:literal;)+) => {
        $(#[doc = $help] pub const $name: &str = $text;)+

        /// Every metric, with what it counts. Units last; labels are `job`, `queue`, `task`, `state`, `by`,
        /// `operation`, `status`, `channel`, `reason`, `code`, `signal`, `ring`, `kind` and `topic`, never a tenant.
        pub const METRICS: &[(&str, &str)] = &[$(($name, $help)),+];
    };
}

metric_names! {
    /// Requests answered, by operation and status.
    HTTP_REQUESTS_TOTAL = "engageninja_http_requests_total";
    /// How long answers took to begin, by operation.
    HTTP_REQUEST_SECONDS = "engageninja_http_request_seconds";
    /// How long handlers ran, by job.
    JOB_RUN_SECONDS = "engageninja_job_run_seconds";
    /// Jobs taken from a queue.
    JOBS_CLAIMED_TOTAL = "engageninja_jobs_claimed_total";
    /// Statements of the engine that failed, by task.
    JOBS_DATABASE_ERRORS_TOTAL = "engageninja_jobs_database_errors_total";
    /// Jobs given up.
    JOBS_DEAD_TOTAL = "engageninja_jobs_dead_total";
    /// Jobs completed.
    JOBS_DONE_TOTAL = "engageninja_jobs_done_total";
    /// Completions of a run that had lost its lease.
    JOBS_FENCE_MISSED_TOTAL = "engageninja_jobs_fence_missed_total";
    /// Leases taken away before their run ended.
    JOBS_LEASES_LOST_TOTAL = "engageninja_jobs_leases_lost_total";
    /// Scheduled jobs that became due.
    JOBS_PROMOTED_TOTAL = "engageninja_jobs_promoted_total";
    /// Jobs put off for another try.
    JOBS_RESCHEDULED_TOTAL = "engageninja_jobs_rescheduled_total";
    /// Jobs taken from a process that had gone.
    JOBS_RESCUED_TOTAL = "engageninja_jobs_rescued_total";
    /// Batches that lost a deadlock; stays 0 while every writer keeps the order.
    DEADLOCK_TOTAL = "engageninja_deadlock_total";
    /// Attempts by the state they ended in.
    ATTEMPTS_TOTAL = "engageninja_attempts_total";
    /// Attempts of which nobody knows, left to a person.
    PARKED_TOTAL = "engageninja_parked_total";
    /// Attempts without an answer that were settled, by who or what settled them.
    RESOLVED_TOTAL = "engageninja_resolved_total";
    /// Calls that a server in quarantine had forgotten and the lists of accounts showed.
    RECONCILED_TOTAL = "engageninja_reconciled_total";
    /// Servers in quarantine that the lists of all accounts released.
    TIMELINES_RELEASED_TOTAL = "engageninja_timelines_released_total";
    /// Messages that went out twice; stays 0.
    DUPLICATE_DETECTED_TOTAL = "engageninja_duplicate_detected_total";
    /// Attempts whose outcome nobody has told yet.
    ATTEMPTS_IN_DOUBT = "engageninja_attempts_in_doubt_count";
    /// Age of the oldest of them.
    DOUBT_AGE_SECONDS = "engageninja_doubt_age_seconds";
    /// From a provider's taking a message until a look-up showed it.
    LOOK_UP_LAG_SECONDS = "engageninja_look_up_lag_seconds";
    /// Calls of providers that were refused, by channel and reason.
    CALLBACKS_REFUSED_TOTAL = "engageninja_callbacks_refused_total";
    /// Events of providers that were folded, by what they came to.
    EVENTS_FOLDED_TOTAL = "engageninja_events_folded_total";
    /// From an event's coming in until it is folded.
    EVENT_FOLD_LAG_SECONDS = "engageninja_event_fold_lag_seconds";
    /// Senders that were halted, by the provider's code.
    HALTS_TOTAL = "engageninja_halts_total";
    /// Answers and reports that a rate was too high, by what they say.
    BUCKET_SIGNALS_TOTAL = "engageninja_bucket_signals_total";
    /// Streams that are being read.
    LIVE_WATCHERS = "engageninja_live_watchers_count";
    /// Reads of what is watched, by topic.
    LIVE_READS_TOTAL = "engageninja_live_reads_total";
    /// Streams that were ended because their reader took nothing.
    STREAMS_DROPPED_TOTAL = "engageninja_streams_dropped_total";
    /// Rows whose other half was missing when they were last looked for, by kind; stays 0.
    ORPHANS = "engageninja_orphans_count";
    /// Messages let out of the backlog.
    RELEASED_TOTAL = "engageninja_released_total";
    /// Lanes that a sweep found forgotten although they had messages to let out; stays 0.
    LOST_WAKE_TOTAL = "engageninja_lost_wake_total";
    /// From a lane's turn until something is let out of it, by ring: 0 single messages, 1 who had nothing for a while, 2 others.
    LANE_WAIT_SECONDS = "engageninja_lane_wait_seconds";
    /// Messages let out and not begun (`used`), and how many that may be (`most`).
    RELEASED_WINDOW = "engageninja_released_window_count";
    /// What is left of the emptiest bucket that the last tick drew on, by kind: 1 after a rest, 0 while it limits.
    BUCKET_FILL = "engageninja_bucket_fill_ratio";
    /// Calls under way when the last pause or cancellation answered.
    PAUSE_IN_FLIGHT = "engageninja_pause_in_flight_count";
    /// Until the table that was cut least far ahead has no partition left.
    PARTITIONS_AHEAD = "engageninja_partitions_ahead_days";
    /// How long the leader's ticks took, from the renewal of its term to the commit.
    RELEASE_TICK_SECONDS = "engageninja_release_tick_seconds";
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Calls in `src` whose metric is written out instead of named.
    fn literals(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                literals(&path, found);
            } else if !path.ends_with("telemetry.rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                for call in ["counter!(", "gauge!(", "histogram!("] {
                    if text
                        .split(call)
                        .skip(1)
                        .any(|rest| rest.trim_start().starts_with('"'))
                    {
                        found.push(path.display().to_string());
                    }
                }
            }
        }
    }

    #[test]
    fn no_metric_is_named_outside_this_file() {
        let mut found = Vec::new();
        literals(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut found,
        );
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn names_end_in_a_unit() {
        for (name, _) in METRICS {
            let unit = name.rsplit('_').next().unwrap();
            assert!(
                ["total", "seconds", "bytes", "days", "count", "ratio"].contains(&unit),
                "{name}"
            );
        }
    }
}
