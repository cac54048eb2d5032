//! A real PostgreSQL beside us: found on this machine, started as our child, stopped with us.
//!
//! What it keeps: one program uses a data directory at a time (an exclusive `flock`), a server whose
//! program was killed is taken over rather than started twice, and nothing listens on the network. It
//! is durable unless asked otherwise. Everything here blocks; call it from a thread that may.
//!
//! It needs nothing else of the crate, since `tools/prepare` builds it when the rest does not compile.

mod error;
mod files;
mod home;
mod process;
mod user;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

pub use error::LaunchError;

use error::Doing;
use home::Home;
use process::{PidFile, Process, is_alive};

/// The superuser of the cluster, who signs in without a password through the private socket.
pub const SUPERUSER: &str = "postgres";

/// Part of the socket's file name; nothing listens there.
const PORT: u16 = 5432;

const STOPPED_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often, and how soon, a lock is tried again.
const LOCK_TRIES: u32 = 25;
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Whether a commit outlives the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// As PostgreSQL ships: a commit is on disk.
    #[default]
    Durable,
    /// Nothing waits for the disk. For tests whose database nobody wants afterwards.
    None,
}

/// How the server gets rid of root, which it refuses to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// We are nobody special: the server runs as we do.
    Same,
    /// In a user namespace that shows root as somebody else. Files stay root's, nothing is copied.
    Namespace,
    /// As another user, with programs and data where that user can reach them.
    Drop,
}

/// A server to be.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Holds `lock` and `pg/`: the databases by major version, the log, the socket. Made if missing.
    pub data_dir: PathBuf,
    /// The directory of `postgres` and `initdb`, if they shall not be looked for.
    pub pg_bin: Option<PathBuf>,
    /// `PATH`, searched last.
    pub path: Option<OsString>,
    /// `XDG_RUNTIME_DIR`, for the socket where the data directory's path is too long.
    pub runtime_dir: Option<PathBuf>,
    /// [`Durability::Durable`] unless a test says otherwise.
    pub durability: Durability,
    /// Chosen by trying when absent.
    pub privileges: Option<Privileges>,
    /// Further settings of the server.
    pub settings: Vec<(String, String)>,
}

impl Launch {
    /// A durable server in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            pg_bin: None,
            path: None,
            runtime_dir: None,
            durability: Durability::Durable,
            privileges: None,
            settings: Vec::new(),
        }
    }

    /// Starts the server, or takes over the one that a killed program left behind, and waits until it
    /// answers. The data directory is ours until the [`Server`] is gone.
    pub fn start(&self) -> Result<Server, LaunchError> {
        let lock = lock_data_dir(&self.data_dir)?;
        let data_dir = self
            .data_dir
            .canonicalize()
            .doing(|| format!("find {}", self.data_dir.display()))?;

        let base = data_dir.join("pg");
        let found = files::find_binaries(
            self.pg_bin.as_deref(),
            self.path.as_deref(),
            &files::existing_majors(&base),
        )?;
        let home = Home::settle(self, base, &found)?;
        let process = if let Some(orphan) = home.find_orphan()? {
            orphan
        } else {
            home.make_database(self.durability)?;
            home.spawn(self)?
        };
        Ok(Server {
            process,
            home,
            version: found.version,
            _lock: lock,
        })
    }
}

/// Takes the data directory for as long as the file is kept, or says who has it. Makes it if it is missing.
pub fn lock_data_dir(data_dir: &Path) -> Result<File, LaunchError> {
    files::make_private_dir(data_dir).doing(|| format!("make {}", data_dir.display()))?;
    let path = data_dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .doing(|| format!("open {}", path.display()))?;
    match lock_soon(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // What it wrote is a courtesy; the lock alone decides.
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another program".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(LaunchError::Busy {
                data_dir: data_dir.into(),
                holder,
            });
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).doing(|| format!("lock {}", path.display()));
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()))
        .doing(|| format!("write {}", path.display()))?;
    Ok(file)
}

/// Locks a file that is free or becomes so at once: a child that is being started has every file of its parent open until
/// it runs its own program, a lock that the parent has just given up among them.
fn lock_soon(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_AGAIN),
            ended => return ended,
        }
    }
    file.try_lock()
}

/// How to reach the running server of `data_dir` that another program started; none when there is none.
/// Nobody holds it for us: it goes when that program does.
pub fn find_running(data_dir: &Path, database: &str) -> Option<PgConnectOptions> {
    let base = data_dir.join("pg").canonicalize().ok()?;
    let mut majors = files::existing_majors(&base);
    majors.sort_unstable();
    majors.iter().rev().find_map(|major| {
        let dir = base.join(format!("data-{major}"));
        let state = PidFile::read(&dir)?;
        (state.is_ready && is_alive(state.pid, &dir))
            .then(|| options(&state.socket_dir, state.port, database))
    })
}

fn options(socket_dir: &Path, port: u16, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(port)
        .username(SUPERUSER)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}

/// A running server. Dropped, it is stopped like [`Server::stop`] does.
#[derive(Debug)]
pub struct Server {
    process: Process,
    home: Home,
    version: String,
    _lock: File,
}

impl Server {
    /// How to reach `database` as superuser.
    pub fn options(&self, database: &str) -> PgConnectOptions {
        options(self.socket_dir(), PORT, database)
    }

    /// The directory of the socket.
    pub fn socket_dir(&self) -> &Path {
        match &self.process {
            Process::Adopted { socket_dir, .. } => socket_dir,
            Process::Child(_) => &self.home.socket_dir,
        }
    }

    /// As `postgres --version` says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The directory of the database files.
    pub fn database_dir(&self) -> &Path {
        &self.home.database
    }

    /// The server's log.
    pub fn log(&self) -> &Path {
        &self.home.log
    }

    /// The server's process.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Whether it ran already, left behind by a program that was killed.
    pub fn was_taken_over(&self) -> bool {
        matches!(self.process, Process::Adopted { .. })
    }

    /// Whether it still runs, as far as can be seen from outside.
    pub fn is_running(&self) -> bool {
        is_alive(self.pid(), &self.home.database)
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended(&self.home.database)
    }

    /// Ends it in order: open transactions are rolled back, everything committed is in the files.
    pub fn stop(mut self) -> Result<(), LaunchError> {
        self.end(Signal::SIGINT)
    }

    /// Ends it as a crash does: the next start recovers from the log.
    pub fn stop_immediately(mut self) -> Result<(), LaunchError> {
        self.end(Signal::SIGQUIT)
    }

    fn end(&mut self, signal: Signal) -> Result<(), LaunchError> {
        if self.process.has_ended(&self.home.database) {
            return Ok(());
        }
        self.process.signal(signal);
        let started = Instant::now();
        while !self.process.has_ended(&self.home.database) {
            if started.elapsed() > STOPPED_WITHIN {
                self.process.signal(Signal::SIGQUIT);
                return Err(self.home.late("stopped", STOPPED_WITHIN));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is left to tell; the next start takes over or cleans up.
        let _ = self.end(Signal::SIGINT);
    }
}
