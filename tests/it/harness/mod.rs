//! What every story stands on: directories that go away and waits that end.
//!
//! Nothing here sleeps for luck: [`eventually`] asks for a fact until it holds, and [`within`] ends what
//! hangs and says what was waited for.

pub mod app;
pub mod db;
pub mod doubts;
pub mod killable;
pub mod program;
pub mod recount;
pub mod silence;
pub mod steps;
pub mod ticks;
pub mod twilio;
pub mod twins;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use tokio::time::Instant;

/// How long a fact may take to become true on a busy machine.
const EVENTUALLY: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Where a directory is in memory.
const MEMORY: &str = "/dev/shm";
/// The databases of a run need a third of it.
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// Runs `future`, or panics after `secs` and says what was waited for.
pub async fn within<T>(secs: u64, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(secs), future)
        .await
        .unwrap_or_else(|_| panic!("still waiting after {secs} s: {what}"))
}

/// Asks until the answer is yes, or panics and says what was waited for.
pub async fn eventually<F>(what: &str, mut is_true: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let started = Instant::now();
    while !is_true().await {
        assert!(
            started.elapsed() < EVENTUALLY,
            "still waiting after {} s: {what}",
            EVENTUALLY.as_secs()
        );
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// A directory of this test, removed at its end.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// An empty directory, for its owner alone.
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// One in memory, where there is plenty: a database for each test is a thousand files made and removed, which takes a
    /// disk's file system longer than most tests.
    pub fn in_memory() -> Self {
        let has_room = statvfs(MEMORY)
            .is_ok_and(|it| it.blocks_available() * it.fragment_size() >= MEMORY_BYTES_MIN);
        if has_room && access(MEMORY, AccessFlags::W_OK).is_ok() {
            Self::within(Path::new(MEMORY))
        } else {
            Self::new()
        }
    }

    fn within(parent: &Path) -> Self {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("engageninja-test-{}", uuid::Uuid::new_v4().simple());
        let dir = parent.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
