//! The server's process: a child of ours, or one that a killed program left behind.

use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PORT;

const LOG_LINES_SHOWN: usize = 12;

/// What a server says of itself in `postmaster.pid`.
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) port: u16,
    pub(super) socket_dir: PathBuf,
    pub(super) is_ready: bool,
}

impl PidFile {
    pub(super) fn read(database: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(database.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Self {
            pid: lines.first()?.parse().ok()?,
            port: lines
                .get(3)
                .and_then(|line| line.parse().ok())
                .unwrap_or(PORT),
            socket_dir: lines.get(4).copied().unwrap_or_default().into(),
            is_ready: lines.get(7).is_some_and(|line| *line == "ready"),
        })
    }
}

/// Whether `pid` is a server of `database`: neither gone, nor a zombie, nor another program that was
/// given the number since.
pub(super) fn is_alive(pid: i32, database: &Path) -> bool {
    if cfg!(target_os = "linux") {
        is_postgres_in(&pid.to_string(), database)
    } else {
        kill(Pid::from_raw(pid), None).is_ok()
    }
}

/// A zombie has no working directory any more.
fn is_postgres_in(pid: &str, database: &Path) -> bool {
    let process = Path::new("/proc").join(pid);
    std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres")
        && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == database)
}

/// Some process of the server of `database`, where the system can tell.
pub(super) fn find_process_in(database: &Path) -> Option<i32> {
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            is_postgres_in(&pid.to_string(), database).then_some(pid)
        })
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// A server that runs.
#[derive(Debug)]
pub(super) enum Process {
    Child(Child),
    Adopted { pid: i32, socket_dir: PathBuf },
}

impl Process {
    pub(super) fn pid(&self) -> i32 {
        match self {
            Self::Child(child) => child.id().cast_signed(),
            Self::Adopted { pid, .. } => *pid,
        }
    }

    pub(super) fn has_ended(&mut self, database: &Path) -> bool {
        match self {
            Self::Child(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Adopted { pid, .. } => !is_alive(*pid, database),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        // It may be gone already, which is what we want.
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }
}
