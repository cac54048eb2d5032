//! The real binary: run to its end, or started, asked and stopped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;

use super::db::TestDb;
use super::{eventually, within};

/// Two keys of the tests.
pub const MAC_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
pub const KEYS: &str = "k1:CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

/// How long a program may take to say that it runs, on a busy machine.
const SAYS_WITHIN: Duration = Duration::from_mins(1);

/// The binary with an environment of its own: nothing of the machine's settings comes through.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engageninja"));
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("ENGAGENINJA_LISTEN", "127.0.0.1:0")
        .env("ENGAGENINJA_ADMIN_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

/// The same on a database of the tests.
pub fn on(db: &TestDb, args: &[&str]) -> Command {
    let options = db.options();
    let mut command = program(args);
    command
        .env("DATABASE_URL", url(&options.cell))
        .env("ENGAGENINJA_CONTROL_DATABASE_URL", url(&options.control))
        .env("ENGAGENINJA_ENV", "development")
        .env("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY", "1")
        .env("ENGAGENINJA_MAC_KEY", MAC_KEY)
        .env("ENGAGENINJA_KEYS", KEYS);
    command
}

/// A database of the tests as a URL.
pub fn url(options: &PgConnectOptions) -> String {
    format!(
        "postgres://{}@localhost:{}/{}?host={}",
        options.get_username(),
        options.get_port(),
        options.get_database().unwrap(),
        options.get_socket().unwrap().display()
    )
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// The one line of JSON that a tool answers.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        assert_eq!(self.out.trim_end().lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }

    /// The one line that a refused program says, after checking the code.
    pub fn refusal(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        let mut lines = self
            .err
            .lines()
            .filter(|line| line.starts_with("engageninja: "));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no line: {}", self.err));
        assert_eq!(
            self.err.trim_end().lines().last(),
            Some(line),
            "it is the last one"
        );
        line
    }
}

/// Runs a program to its end.
pub async fn run(mut command: Command) -> Ended {
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within(120, "the program ends", ended).await.unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    log: Option<JoinHandle<String>>,
    /// The line it said when it was ready.
    pub said: Value,
}

impl Started {
    /// Starts a program with `--json` and waits for its line.
    pub async fn new(mut command: Command) -> Self {
        let started = tokio::task::spawn_blocking(move || {
            let mut child = command
                .arg("--json")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let (told, said) = mpsc::channel();
            let out = BufReader::new(child.stdout.take().unwrap());
            std::thread::spawn(move || {
                for line in out.lines().map_while(Result::ok) {
                    let _ = told.send(line);
                }
            });
            let log = drain(child.stderr.take().unwrap());
            let Ok(line) = said.recv_timeout(SAYS_WITHIN) else {
                let _ = child.kill();
                panic!("it did not start: {}", log.join().unwrap());
            };
            Self {
                said: serde_json::from_str(&line).unwrap(),
                child,
                log: Some(log),
            }
        });
        started.await.unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// One of the addresses it said.
    pub fn url(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let child = &mut self.child;
        eventually("the program ends", || {
            status = child.try_wait().unwrap();
            let has_ended = status.is_some();
            async move { has_ended }
        })
        .await;
        status.unwrap()
    }

    /// Asks it to end and waits; it has to end in order. Answers with all that it logged.
    pub async fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}");
        self.into_log()
    }

    /// Kills it, and answers with all that it logged.
    pub fn into_log(mut self) -> String {
        let _ = self.child.kill();
        let log = self.log.take().map(JoinHandle::join);
        log.and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a log to its end, so that its writer never waits.
fn drain(mut stderr: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    })
}
