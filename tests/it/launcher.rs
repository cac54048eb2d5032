//! The embedded PostgreSQL: one program per data directory, orphans taken over, crashes survived.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engageninja::dev::postgres::{Durability, Launch, LaunchError, Privileges, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, Executor, PgConnection, Row};

use crate::harness::db::Cluster;
use crate::harness::{TempDir, eventually, within};

fn quick(dir: &TempDir) -> Launch {
    Launch {
        durability: Durability::None,
        ..Launch::new(dir.path().join("data"))
    }
}

async fn start(launch: &Launch) -> Result<Server, LaunchError> {
    let launch = launch.clone();
    let started = tokio::task::spawn_blocking(move || launch.start());
    within(120, "PostgreSQL starts", started).await.unwrap()
}

async fn connect(server: &Server) -> PgConnection {
    PgConnection::connect_with(&server.options("postgres"))
        .await
        .unwrap()
}

async fn ask(server: &Server, sql: &'static str) -> String {
    let mut conn = connect(server).await;
    conn.fetch_one(sql).await.unwrap().get(0)
}

/// The program that the orphan's test kills: starts a server where it stands, says so and stays.
#[test]
#[ignore = "run by an_orphan_of_a_killed_program_is_taken_over, in a process of its own"]
fn a_program_that_stays() {
    let launch = Launch {
        durability: Durability::None,
        ..Launch::new("data")
    };
    let server = launch.start().unwrap();
    println!("\nserver {}", server.pid());
    loop {
        std::thread::park();
    }
}

/// The test process that is killed: makes a cluster as every test does, says so and stays.
#[tokio::test]
#[ignore = "run by no_server_outlives_a_killed_test_process, in a process of its own"]
async fn a_test_that_stays() {
    let cluster = Cluster::dedicated(false).await;
    println!("\nserver {}", cluster.pid());
    loop {
        std::thread::park();
    }
}

/// Runs the ignored test `name` of this file in `dir`, until its server answers.
fn run(name: &str, dir: &Path) -> (Child, i32) {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args([&format!("launcher::{name}"), "--exact"])
        .args(["--ignored", "--nocapture"])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = BufReader::new(program.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("server ")?.parse().ok())
        .expect("the program says which server it started");
    (program, pid)
}

#[tokio::test]
async fn a_second_start_on_one_directory_is_refused_and_names_the_first() {
    let dir = TempDir::new();
    let _first = start(&quick(&dir)).await.unwrap();

    let refusal = start(&quick(&dir)).await.unwrap_err();

    assert!(matches!(refusal, LaunchError::Busy { .. }), "{refusal}");
    let said = refusal.to_string();
    assert!(said.contains(&std::process::id().to_string()), "{said}");
    assert!(said.contains("--data-dir"), "{said}");
}

#[tokio::test]
async fn an_orphan_of_a_killed_program_is_taken_over() {
    let dir = TempDir::new();
    let (mut program, pid) = run("a_program_that_stays", dir.path());
    program.kill().unwrap();
    program.wait().unwrap();

    let server = start(&quick(&dir)).await.unwrap();

    assert!(server.was_taken_over());
    assert_eq!(server.pid(), pid);
    assert_eq!(ask(&server, "SHOW listen_addresses").await, "");
    tokio::task::spawn_blocking(|| server.stop())
        .await
        .unwrap()
        .unwrap();
    let again = start(&quick(&dir)).await.unwrap();
    assert!(!again.was_taken_over(), "a stopped orphan is gone");
}

#[tokio::test]
async fn what_was_committed_survives_kill_9_of_the_server() {
    let dir = TempDir::new();
    let launch = Launch::new(dir.path().join("data"));
    let mut server = start(&launch).await.unwrap();
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        let sql: &'static str = match name {
            "fsync" => "SHOW fsync",
            "full_page_writes" => "SHOW full_page_writes",
            _ => "SHOW synchronous_commit",
        };
        assert_eq!(ask(&server, sql).await, "on", "{name} by default");
    }
    let mut conn = connect(&server).await;
    conn.execute("CREATE TABLE kept AS SELECT 'yes' AS answer")
        .await
        .unwrap();

    kill(Pid::from_raw(server.pid()), Signal::SIGKILL).unwrap();
    eventually("the server has ended", || {
        let ended = server.has_ended();
        async move { ended }
    })
    .await;
    drop(server);
    let server = start(&launch).await.unwrap();

    assert_eq!(ask(&server, "SELECT answer FROM kept").await, "yes");
}

#[tokio::test]
async fn a_zombie_in_the_pid_file_does_not_stop_a_start() {
    let dir = TempDir::new();
    let server = start(&quick(&dir)).await.unwrap();
    let pid_file = server.database_dir().join("postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    let old_pid = server.pid().to_string();
    drop(server);
    let mut zombie = Command::new("true").spawn().unwrap();
    let pid = zombie.id().to_string();
    std::fs::write(&pid_file, text.replacen(&old_pid, &pid, 1)).unwrap();
    eventually("the process is a zombie", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        async move { stat.contains(") Z ") }
    })
    .await;

    let server = start(&quick(&dir)).await.unwrap();

    assert_eq!(ask(&server, "SELECT 'up'").await, "up");
    zombie.wait().unwrap();
}

#[tokio::test]
async fn a_long_path_gets_a_short_socket() {
    let dir = TempDir::new();
    let deep: PathBuf = dir.path().join("x".repeat(60)).join("y".repeat(60));
    let launch = Launch {
        runtime_dir: Some(dir.path().into()),
        durability: Durability::None,
        ..Launch::new(deep)
    };

    let server = start(&launch).await.unwrap();

    assert_eq!(ask(&server, "SELECT 'up'").await, "up");
}

/// Without user namespaces, root's server runs as another user, who may not enter root's directories.
#[tokio::test]
async fn root_can_drop_to_another_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = TempDir::new();
    let launch = Launch {
        privileges: Some(Privileges::Drop),
        ..quick(&dir)
    };
    let server = start(&launch).await.unwrap();
    let shared = server.database_dir().parent().unwrap().to_owned();
    assert!(!shared.starts_with(dir.path()));
    let mut conn = connect(&server).await;
    conn.execute("CREATE TABLE kept AS SELECT 'yes' AS answer")
        .await
        .unwrap();
    drop(server);

    let again = start(&quick(&dir)).await.unwrap();

    assert_eq!(again.database_dir().parent().unwrap(), shared);
    assert_eq!(ask(&again, "SELECT answer FROM kept").await, "yes");
    drop(again);
    std::fs::remove_dir_all(shared).unwrap();
}

#[tokio::test]
async fn programs_that_are_not_there_or_too_new_are_named() {
    let dir = TempDir::new();
    let nowhere = Launch {
        pg_bin: Some(dir.path().join("nowhere")),
        ..quick(&dir)
    };
    let said = start(&nowhere).await.unwrap_err().to_string();
    assert!(
        said.contains("nowhere") && said.contains("ENGAGENINJA_PG_BIN"),
        "{said}"
    );

    std::fs::create_dir_all(dir.path().join("data/pg/data-9")).unwrap();
    let said = start(&quick(&dir)).await.unwrap_err().to_string();
    assert!(said.contains("PostgreSQL 9"), "{said}");
}

#[tokio::test]
async fn no_server_outlives_a_killed_test_process() {
    let dir = TempDir::new();
    let (mut program, pid) = run("a_test_that_stays", dir.path());

    program.kill().unwrap();
    program.wait().unwrap();

    eventually("the server is gone", || async move {
        kill(Pid::from_raw(pid), None).is_err()
    })
    .await;
}

/// What a test of the whole product stands on: pools that were open before a crash work after it.
#[tokio::test]
async fn a_dedicated_cluster_keeps_what_was_committed_before_a_crash() {
    let mut cluster = Cluster::dedicated(true).await;
    let db = cluster.db().await;
    let before = db.db();
    db.execute("CREATE TABLE public.kept AS SELECT 1 AS one")
        .await;

    cluster.crash().await;
    cluster.start().await;
    db.execute("DROP TABLE public.kept").await;
    cluster.stop().await;
    cluster.start().await;

    within(30, "a transaction", before.system().begin())
        .await
        .unwrap();
}
