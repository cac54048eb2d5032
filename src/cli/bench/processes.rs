//! Worker processes of the bench: this very program, on the bench's database.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnectOptions;
use tokio::process::{Child as Process, Command};

/// How long a worker may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What every worker of the bench is told.
#[derive(Debug)]
pub(super) struct Setting {
    program: PathBuf,
    database_url: String,
    mac_key: String,
}

impl Setting {
    pub(super) fn new(options: &PgConnectOptions, mac_key: &str) -> anyhow::Result<Self> {
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
            database_url,
            mac_key: mac_key.into(),
        })
    }
}

/// A running worker; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    process: Process,
    pid: Pid,
}

impl Child {
    pub(super) fn start(setting: &Setting, args: &[&str]) -> anyhow::Result<Self> {
        let process = Command::new(&setting.program)
            .arg("worker")
            .args(args)
            .args([
                "--admin-listen",
                "127.0.0.1:0",
                "--log",
                "warn",
                "--env",
                "development",
            ])
            .env("DATABASE_URL", &setting.database_url)
            .env("ENGAGENINJA_MAC_KEY", &setting.mac_key)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().context("the worker runs")?;
        Ok(Self {
            process,
            pid: Pid::from_raw(pid as i32),
        })
    }

    /// The most memory it has held so far.
    pub(super) fn peak_rss_mib(&mut self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .context("VmHWM")?;
        let kib: f64 = line.split_whitespace().nth(1).context("VmHWM")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Stops it in order.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGTERM)?;
        tokio::time::timeout(STOP_MAX, self.process.wait())
            .await
            .context("a worker does not stop")??;
        Ok(())
    }
}
