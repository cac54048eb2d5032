//! `up`: from an empty directory to a campaign on its way, and back again after whatever happened.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use engageninja::dev::postgres::find_running;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::db::Watchdog;
use crate::harness::program::{Started, program, run};
use crate::harness::{TempDir, eventually, within};

/// A data directory whose server does not outlive the test.
struct Home {
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = TempDir::new();
        Self {
            _watchdog: Watchdog::of(dir.path()),
            dir,
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        command.env("ENGAGENINJA_DATA_DIR", self.data_dir());
        command
    }

    async fn up(&self) -> Started {
        Started::new(self.command(&["up"])).await
    }

    fn server_pid(&self) -> Option<i32> {
        let entries = std::fs::read_dir(self.data_dir().join("pg")).ok()?;
        entries.flatten().find_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("postmaster.pid")).ok()?;
            text.lines().next()?.parse().ok()
        })
    }
}

async fn api(up: &Started, path: &str) -> Value {
    let asked = reqwest::Client::builder()
        .build()
        .unwrap()
        .get(format!("{}{path}", up.url("url")))
        .bearer_auth(up.said["api_key"].as_str().unwrap())
        .send();
    let answer = within(30, "the API answers", asked).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test]
async fn the_way_from_nothing_to_a_campaign() {
    let home = Home::new();

    let up = home.up().await;

    for name in ["url", "email", "password", "api_key", "tenant_id"] {
        assert!(up.said[name].is_string(), "{name}");
    }
    let kept = home.data_dir().join("credentials.json");
    assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o600);
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(kept).unwrap()).unwrap();
    assert_eq!(kept, up.said);
    let campaigns = api(&up, "/api/campaigns").await;
    assert_eq!(campaigns["items"][0]["name"], "Spring sale");
    eventually("the campaign has been sent to everybody", || async {
        let campaigns = api(&up, "/api/campaigns").await;
        let campaign = &campaigns["items"][0]["progress"];
        campaign["status"] == "completed" && campaign["audience"] == 500
    })
    .await;
    let templates = api(&up, "/api/templates").await;
    assert_eq!(templates["items"].as_array().unwrap().len(), 3);
    sign_in(&up).await;

    // Tools beside it find its server and its keys.
    let listed = run(home.command(&["queue", "list", "--json"])).await;
    assert!(listed.json().is_array());

    // A second one on the same directory is told who is there.
    let second = run(home.command(&["up"])).await;
    let said = second.refusal(78);
    assert!(said.contains(&format!("process {}", up.pid())), "{said}");
    assert!(said.contains("--data-dir"), "{said}");

    up.stop().await;
    assert!(
        find_running(&home.data_dir(), "engageninja").is_none(),
        "its server went with it"
    );
}

async fn sign_in(up: &Started) {
    let body = serde_json::json!({ "email": up.said["email"], "password": up.said["password"] });
    let asked = reqwest::Client::builder()
        .build()
        .unwrap()
        .post(format!("{}/api/sessions", up.url("url")))
        .json(&body)
        .send();
    let answer = within(30, "the sign-in", asked).await.unwrap();
    assert_eq!(answer.status(), 201);
}

#[tokio::test]
async fn a_second_start_is_quick_and_finds_everything_again() {
    let home = Home::new();
    let first = home.up().await;
    let said = first.said.clone();
    first.stop().await;

    let started = Instant::now();
    let second = home.up().await;
    let took = started.elapsed();

    for name in ["email", "password", "api_key", "tenant_id"] {
        assert_eq!(second.said[name], said[name], "{name}");
    }
    assert_eq!(
        api(&second, "/api/campaigns").await["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // Tests run beside each other on few cores; alone it takes a second.
    assert!(took < Duration::from_secs(10), "{took:?}");
    second.stop().await;
}

#[tokio::test]
async fn a_killed_up_is_taken_over_with_all_that_was_committed() {
    let home = Home::new();
    let mut first = home.up().await;
    let server = home.server_pid().unwrap();
    first.signal(Signal::SIGKILL);
    first.ended().await;
    assert!(
        kill(Pid::from_raw(server), None).is_ok(),
        "its server is an orphan"
    );

    let second = home.up().await;

    assert_eq!(home.server_pid(), Some(server), "the same server");
    assert_eq!(second.said["tenant_id"], first.said["tenant_id"]);
    eventually("the campaign goes on", || async {
        api(&second, "/api/campaigns").await["items"][0]["progress"]["status"] == "completed"
    })
    .await;
    second.stop().await;
    assert!(
        find_running(&home.data_dir(), "engageninja").is_none(),
        "an adopted server is stopped too"
    );
}

/// Killed at any moment of the first start, the next one finishes what was begun.
#[tokio::test]
async fn a_first_start_that_was_killed_is_finished_by_the_next() {
    let home = Home::new();
    for reached in ["pg/postgres.log", "keys.json", "credentials.json"] {
        let mut child = home
            .command(&["up"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let reached = home.data_dir().join(reached);
        eventually("it has come so far", || async { reached.exists() }).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    let up = home.up().await;

    sign_in(&up).await;
    let campaigns = api(&up, "/api/campaigns").await;
    assert_eq!(
        campaigns["items"].as_array().unwrap().len(),
        1,
        "the demo was made once"
    );
    let contacts = api(&up, "/api/contacts?limit=200").await;
    assert_eq!(contacts["items"].as_array().unwrap().len(), 200);
    up.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_its_server_too() {
    let home = Home::new();
    let mut up = home.up().await;
    let server = home.server_pid().unwrap();

    up.signal(Signal::SIGTERM);
    up.signal(Signal::SIGTERM);

    up.ended().await;
    assert!(
        kill(Pid::from_raw(server), None).is_err(),
        "no orphan is left"
    );
}

#[tokio::test]
async fn without_a_demo_it_is_empty() {
    let home = Home::new();

    let up = Started::new(home.command(&["up", "--no-demo"])).await;

    assert!(up.said["url"].is_string());
    assert!(up.said.get("password").is_none());
    assert!(!home.data_dir().join("credentials.json").exists());
    let made = run(home.command(&["tenant", "demo", "Dojo", "--json"])).await;
    assert_eq!(made.json()["slug"], "dojo");
    up.stop().await;
}

/// A server that ends by itself ends `up`, which says where to look.
#[tokio::test]
async fn a_server_that_dies_ends_it_and_the_next_start_recovers() {
    let home = Home::new();
    let mut up = home.up().await;
    let server = home.server_pid().unwrap();

    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();

    let status = up.ended().await;
    assert_eq!(status.code(), Some(1));
    let again = home.up().await;
    assert_eq!(again.said["tenant_id"], up.said["tenant_id"]);
    again.stop().await;
}
