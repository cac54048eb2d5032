//! Processes of the bench: this very program, on the bench's database.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child as Process, Command};

/// How long a process may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// What every process of the bench is told.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Setting {
    pub(super) fn new(
        options: &PgConnectOptions,
        mac_key: &str,
        key_ring: &str,
    ) -> anyhow::Result<Self> {
        let socket = options
            .get_socket()
            .context("the embedded server has a socket")?;
        let database = options.get_database().unwrap_or_default();
        let user = options.get_username();
        let database_url = format!(
            "postgres://{user}@localhost:{}/{database}?host={}&sslmode=disable",
            options.get_port(),
            socket.display()
        );
        Ok(Self {
            program: std::env::current_exe()?,
            environment: vec![
                ("DATABASE_URL", database_url),
                ("ENGAGENINJA_MAC_KEY", mac_key.into()),
                ("ENGAGENINJA_KEYS", key_ring.into()),
                ("ENGAGENINJA_LISTEN", "127.0.0.1:0".into()),
                ("ENGAGENINJA_ADMIN_LISTEN", "127.0.0.1:0".into()),
            ],
        })
    }

    /// The same with one thing more, or another.
    pub(super) fn with(&self, name: &'static str, value: impl Into<String>) -> Self {
        let mut more = self.clone();
        more.environment.push((name, value.into()));
        more
    }
}

/// A running process; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    process: Process,
    pid: Pid,
    /// What it said when it was ready.
    said: Value,
}

impl Child {
    /// Starts a command, and waits until it says that it is ready.
    pub(super) async fn start(setting: &Setting, args: &[&str]) -> anyhow::Result<Self> {
        let mut process = Command::new(&setting.program)
            .args(args)
            .args(["--json", "--log", "warn", "--env", "development"])
            .envs(
                setting
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = Pid::from_raw(process.id().context("the process runs")? as i32);
        let stdout = process.stdout.take().context("the process has an output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START_MAX, lines.next_line())
            .await
            .context("a process does not start")??
            .context("a process ended at its start")?;
        Ok(Self {
            process,
            pid,
            said: serde_json::from_str(&line)?,
        })
    }

    /// Where it is reached.
    pub(super) fn url(&self) -> anyhow::Result<&str> {
        self.said["url"]
            .as_str()
            .context("the process says where it is")
    }

    /// Where its health and metrics are.
    pub(super) fn admin_url(&self) -> anyhow::Result<&str> {
        self.said["admin_url"]
            .as_str()
            .context("the process says where its metrics are")
    }

    /// The most memory it has held so far.
    pub(super) fn peak_rss_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .context("VmHWM")?;
        let kib: f64 = line.split_whitespace().nth(1).context("VmHWM")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Lets it stand still wherever it is, with all that it holds.
    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        Ok(kill(self.pid, Signal::SIGSTOP)?)
    }

    /// Lets it go on.
    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        Ok(kill(self.pid, Signal::SIGCONT)?)
    }

    /// Stops it in order.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGTERM)?;
        tokio::time::timeout(STOP_MAX, self.process.wait())
            .await
            .context("a process does not stop")??;
        Ok(())
    }
}

/// Asks the processes of the bench, which send nothing to anybody.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing of the product is sent by it"
)]
pub(super) fn client() -> reqwest::Client {
    reqwest::Client::new()
}

/// An address of this machine that nobody has taken.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Worker processes that send.
pub(super) async fn start_senders(setting: &Setting, count: u8) -> anyhow::Result<Vec<Child>> {
    let mut workers = Vec::new();
    for _ in 0..count {
        workers.push(Child::start(setting, &["worker", "--jobs", "send"]).await?);
    }
    Ok(workers)
}

/// Stops processes in order, one after another.
pub(super) async fn stop_all(children: Vec<Child>) -> anyhow::Result<()> {
    for child in children {
        child.stop().await?;
    }
    Ok(())
}
