//! A worker in a process of its own: one that can be killed and stopped for real.
//!
//! It is this very test binary, asked for one test that does nothing unless it is told to be a worker. It is
//! told by lines on its input and says what happens by lines on its output; without an input it ends.

use std::process::Stdio;
use std::time::Duration;

use engageninja::clock::Clock;
use engageninja::jobs::queue::{Outcome, Tuning};
use engageninja::store::{Db, DbOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};

use super::crew::{Crew, Setup};
use crate::harness::db::TestDb;
use crate::harness::within;

/// Where a child finds its [`Told`].
const TOLD: &str = "ENGAGENINJA_TEST_QUEUE_CHILD";
/// Begins each line a child says; the test harness prints too.
const MARK: char = '@';

/// What a child is told at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    pub socket: std::path::PathBuf,
    pub port: u16,
    pub username: String,
    pub database: String,
    pub lease_ms: u64,
    /// How long a lost handler goes on; long, where a test wants to hear what it says.
    pub lost_grace_ms: u64,
    /// Whether a handler takes the process down with it.
    pub dies: bool,
}

impl Told {
    pub fn about(test: &TestDb, lease: Duration) -> Self {
        let options = test.options().cell;
        Self {
            socket: options.get_socket().unwrap().clone(),
            port: options.get_port(),
            username: options.get_username().to_owned(),
            database: options.get_database().unwrap().to_owned(),
            lease_ms: lease.as_millis() as u64,
            lost_grace_ms: 100,
            dies: false,
        }
    }
}

/// Another process with one worker.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    said: mpsc::UnboundedReceiver<String>,
}

impl Child {
    pub fn spawn(told: &Told) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "queue_conformance::child::is_a_worker_if_told_so",
                "--exact",
                "--nocapture",
            ])
            .env(TOLD, serde_json::to_string(told).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (says, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, said)) = line.split_once(MARK) {
                    let _ = says.send(said.to_owned());
                }
            }
        });
        Self {
            process,
            input,
            said,
        }
    }

    /// Waits for exactly this.
    pub async fn says(&mut self, what: &str) {
        let said = within(60, &format!("the child says {what}"), self.said.recv()).await;
        assert_eq!(said.as_deref(), Some(what));
    }

    /// The next thing it says.
    pub async fn next(&mut self) -> String {
        let said = within(60, "the child says something", self.said.recv()).await;
        said.expect("the child is alive")
    }

    pub async fn tell(&mut self, what: &str) {
        self.input
            .write_all(format!("{what}\n").as_bytes())
            .await
            .unwrap();
        self.input.flush().await.unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.process.id().unwrap() as i32;
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits for its end.
    pub async fn ends(&mut self) {
        within(60, "the child ends", self.process.wait())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::disallowed_methods,
    reason = "how a test tells another process what to be"
)]
async fn is_a_worker_if_told_so() {
    let Ok(told) = std::env::var(TOLD) else {
        return;
    };
    work(&serde_json::from_str(&told).unwrap()).await;
}

async fn work(told: &Told) {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&told.socket)
        .port(told.port)
        .username(&told.username)
        .database(&told.database);
    let db = Db::new(&DbOptions::single(&options), Clock::default());
    let setup = Setup {
        tuning: Tuning {
            lost_grace: Duration::from_millis(told.lost_grace_ms),
            ..Tuning::with_lease(Duration::from_millis(told.lease_ms))
        },
        // A stable name, as of a restarted process; the engine must not depend on it.
        incarnation: "child",
        ..Setup::default()
    };
    let (open, opened) = watch::channel(Vec::<i16>::new());
    let dies = told.dies;
    let crew = Crew::start(&db, &setup, move |delivered| {
        let mut opened = opened.clone();
        async move {
            println!("{MARK}starts {}", delivered.attempt);
            if dies {
                std::process::abort();
            }
            let is_mine = |open: &Vec<i16>| open.contains(&delivered.attempt);
            opened.wait_for(is_mine).await.unwrap();
            Outcome::Done
        }
    });
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = told.next_line().await {
        if line == "totals" {
            let totals = crew.engine.totals();
            let (done, lost, missed) = (totals.done, totals.lost, totals.missed);
            println!("{MARK}done {done} lost {lost} missed {missed}");
        } else {
            let attempt = line.parse().unwrap();
            open.send_modify(|open| open.push(attempt));
        }
    }
    std::process::exit(0);
}
