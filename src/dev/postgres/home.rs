//! One data directory and the server that works in it: made, found, started.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::error::{Doing, LaunchError};
use super::files::{self, Binaries};
use super::process::{PidFile, Process, find_process_in, is_alive, tail};
use super::user::{RunsAs, become_user, choose_user};
use super::{Durability, LOOK_EVERY, Launch, PORT, STOPPED_WITHIN, SUPERUSER};

/// Recovery after a crash takes as long as the write-ahead log since the last checkpoint is long.
const READY_WITHIN: Duration = Duration::from_mins(5);
const ORPHANS_GONE_WITHIN: Duration = Duration::from_secs(10);

/// A log longer than this is set aside at the next start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where a server lives: everything that is settled before it runs.
#[derive(Debug)]
pub(super) struct Home {
    bin: PathBuf,
    base: PathBuf,
    pub(super) database: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) log: PathBuf,
    runs_as: RunsAs,
}

impl Home {
    pub(super) fn settle(
        launch: &Launch,
        base: PathBuf,
        found: &Binaries,
    ) -> Result<Self, LaunchError> {
        let runs_as = choose_user(launch.privileges, &base, found)?;
        let (base, bin) = match runs_as {
            RunsAs::Other { uid, gid } => (
                files::share_base(&base, uid, gid)
                    .doing(|| format!("make {} reachable", base.display()))?,
                files::share_binaries(found).doing(|| format!("copy {}", found.dir.display()))?,
            ),
            RunsAs::Same | RunsAs::Namespace { .. } => {
                files::make_private_dir(&base).doing(|| format!("make {}", base.display()))?;
                (base, found.dir.clone())
            }
        };
        let owner = match runs_as {
            RunsAs::Other { uid, gid } => Some((uid, gid)),
            RunsAs::Same | RunsAs::Namespace { .. } => None,
        };
        let socket_dir = files::make_socket_dir(&base, launch.runtime_dir.as_deref(), owner)
            .doing(|| "make a directory for the socket".into())?;
        Ok(Self {
            database: base.join(format!("data-{}", found.major)),
            log: base.join("postgres.log"),
            bin,
            base,
            socket_dir,
            runs_as,
        })
    }

    /// A server of this directory that outlived its program, once it answers. The way is free when there
    /// is none: then no process of it is left either.
    pub(super) fn find_orphan(&self) -> Result<Option<Process>, LaunchError> {
        let started = Instant::now();
        while let Some(state) = PidFile::read(&self.database)
            && is_alive(state.pid, &self.database)
        {
            let socket = state.socket_dir.join(format!(".s.PGSQL.{}", state.port));
            if state.is_ready && UnixStream::connect(socket).is_ok() {
                return Ok(Some(Process::Adopted {
                    pid: state.pid,
                    socket_dir: state.socket_dir,
                }));
            }
            // It may be recovering, or about to end.
            if started.elapsed() > STOPPED_WITHIN {
                return Err(LaunchError::Unresponsive { pid: state.pid });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.remove_stale_pid_file()?;
        Ok(None)
    }

    /// PostgreSQL takes a zombie's pid for a running server, and in a container a zombie may stay. The
    /// file goes only when the last process of that server has: they may write for a moment longer.
    fn remove_stale_pid_file(&self) -> Result<(), LaunchError> {
        let path = self.database.join("postmaster.pid");
        if !path.exists() {
            return Ok(());
        }
        let started = Instant::now();
        while let Some(pid) = find_process_in(&self.database) {
            if started.elapsed() > ORPHANS_GONE_WITHIN {
                return Err(LaunchError::Unresponsive { pid });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        std::fs::remove_file(&path).doing(|| format!("remove {}", path.display()))
    }

    /// Makes the database if there is none; a half-made one is never found under the final name.
    pub(super) fn make_database(&self, durability: Durability) -> Result<(), LaunchError> {
        if self.database.exists() {
            return Ok(());
        }
        let unfinished = self.database.with_extension("tmp");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)
                .doing(|| format!("remove {}", unfinished.display()))?;
        }
        let mut command = self.command("initdb");
        command
            .arg("-D")
            .arg(&unfinished)
            .args([
                "-U",
                SUPERUSER,
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
            ])
            .args(["-E", "UTF8", "--no-locale", "--no-instructions"]);
        if durability == Durability::None {
            command.arg("--no-sync");
        }
        let output = command.output().doing(|| "run initdb".into())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LaunchError::Initdb(said));
        }
        std::fs::rename(&unfinished, &self.database)
            .doing(|| format!("make {}", self.database.display()))
    }

    pub(super) fn spawn(&self, launch: &Launch) -> Result<Process, LaunchError> {
        let log = self
            .open_log()
            .doing(|| format!("open {}", self.log.display()))?;
        let log_too = log.try_clone().doing(|| "share the log".into())?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.database);
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set(
            "unix_socket_directories",
            &self.socket_dir.to_string_lossy(),
        );
        set("listen_addresses", "");
        set("port", &PORT.to_string());
        set("max_connections", "200");
        set("shared_buffers", "256MB");
        set("timezone", "UTC");
        set("log_timezone", "UTC");
        if launch.durability == Durability::None {
            set("fsync", "off");
            set("synchronous_commit", "off");
            set("full_page_writes", "off");
        }
        for (name, value) in &launch.settings {
            set(name, value);
        }
        // A direct child, whose end we see; in a group of its own, so that Ctrl-C reaches us alone and
        // we drain before it goes.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too);
        let child = command.spawn().doing(|| "start PostgreSQL".into())?;
        let mut process = Process::Child(child);
        self.wait_until_ready(&mut process)?;
        Ok(process)
    }

    fn open_log(&self) -> io::Result<File> {
        if self
            .log
            .metadata()
            .is_ok_and(|log| log.len() > LOG_BYTES_MAX)
        {
            std::fs::rename(&self.log, self.log.with_extension("log.1"))?;
        }
        OpenOptions::new().create(true).append(true).open(&self.log)
    }

    /// Looks at what the server writes into its pid file, so that its log has no refused connections.
    fn wait_until_ready(&self, process: &mut Process) -> Result<(), LaunchError> {
        let started = Instant::now();
        loop {
            // The file of an earlier start may still say `ready`.
            if PidFile::read(&self.database)
                .is_some_and(|state| state.is_ready && state.pid == process.pid())
            {
                return Ok(());
            }
            if process.has_ended(&self.database) {
                return Err(LaunchError::Ended {
                    tail: tail(&self.log),
                    log: self.log.clone(),
                });
            }
            if started.elapsed() > READY_WITHIN {
                process.signal(Signal::SIGQUIT);
                return Err(self.late("ready", READY_WITHIN));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(super) fn late(&self, what: &'static str, waited: Duration) -> LaunchError {
        LaunchError::Late {
            what,
            waited,
            log: self.log.clone(),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(&self.base);
        for name in [
            "PGDATA",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGOPTIONS",
            "PGDATABASE",
        ] {
            command.env_remove(name);
        }
        become_user(&mut command, self.runs_as);
        command
    }
}
