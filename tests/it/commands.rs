//! The command line: each command answers in JSON, refuses what it does not understand, and says in one
//! line why it failed. A command without its row fails.

use std::collections::BTreeSet;
use std::process::Command;

use clap::CommandFactory;
use engageninja::cli::Cli;
use engageninja::crypto::password::token_hash;
use engageninja::domain::actor::Role;
use engageninja::store::control::invitations::find_by_token;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::db::{Cluster, TestDb};
use crate::harness::program::{Ended, MAC_KEY, Started, on, program, run, url};
use crate::harness::{TempDir, eventually};

/// Commands that run until they are stopped; the test of each is named beside it.
const PROGRAMS: &[&str] = &[
    "serve",       // programs_say_where_they_listen_and_end_in_order
    "worker",      // the same
    "scheduler",   // the same
    "up",          // tests/it/up.rs
    "fake twilio", // tests/it/fake_twilio.rs
];

/// Tools with a test of their own.
const ELSEWHERE: &[&str] = &[
    "campaign send",    // tests/it/campaign_command.rs
    "campaign status",  // the same
    "campaign pause",   // the same
    "bench",            // the same
    "doctor",           // tests/it/doctor.rs
    "message parked",   // tests/it/parked.rs
    "message decide",   // the same
    "timeline list",    // tests/it/quarantine.rs
    "timeline release", // the same
];

/// Every command that does something, as it is typed.
pub fn commands() -> BTreeSet<String> {
    fn collect(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        let mut children = command.get_subcommands().peekable();
        if children.peek().is_none() {
            found.insert(path.trim().to_owned());
        }
        for child in children {
            collect(child, &format!("{path} {}", child.get_name()), found);
        }
    }
    let mut found = BTreeSet::new();
    collect(&Cli::command(), "", &mut found);
    found
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[tokio::test]
async fn every_command_refuses_an_argument_that_it_does_not_know() {
    for command in commands() {
        let mut args = words(&command);
        args.push("--no-such-flag");

        let ended = run(program(&args)).await;

        assert_eq!(ended.code, 2, "{command}");
        assert!(
            ended.err.contains("--no-such-flag"),
            "{command}: {}",
            ended.err
        );
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn wrong_values_are_refused_and_say_what_would_be_right() {
    let cases = [
        ("worker --jobs nothing", "send"),
        ("worker --concurrency 0", "1..=4096"),
        ("worker --with kitchen", "scheduler"),
        ("tenant demo Dojo --slug Dojo", "small letters"),
        ("tenant create Dojo --country XXX", "XXX"),
        ("tenant create Dojo --owner-email nobody", "--owner-email"),
        (
            "user add a@example.com --tenant dojo --role king",
            "viewer, sender, admin or owner",
        ),
        (
            "key create nightly --tenant dojo --role owner",
            "viewer, sender or admin",
        ),
        ("key revoke nightly --tenant dojo", "nightly"),
        ("queue retry", "<ID>"),
        ("queue retry first", "first"),
        (
            "message decide give_up --campaign 019ac0b1-5c5e-7c34-8b3e-0c1d7f9a2e11 --tenant dojo --reason no",
            "must have 3 to 500 characters",
        ),
        ("message parked --after nowhere", "TENANT/MESSAGE"),
        (
            "timeline release 00000001 --reason no",
            "must have 3 to 500 characters",
        ),
        ("serve --listen everywhere", "everywhere"),
        ("serve --env staging", "production"),
        ("serve --log-format xml", "json"),
        ("bench --contacts 5", "100..=10000000"),
        ("bench snapshot --hold-secs 0", "1..=86400"),
        ("bench everything", "fairness"),
        (
            "campaign send --tenant dojo --csv x --template y --channel fax",
            "sms, whatsapp or email",
        ),
        (
            "campaign send --tenant dojo --csv x --template y --channel email",
            "--subject",
        ),
        ("campaign status first --tenant dojo", "first"),
        ("send --tenant dojo --to +13054048480", "--text"),
        (
            "send --tenant dojo --to +13054048480 --text x --channel fax",
            "sms, whatsapp or email",
        ),
        (
            "send --tenant dojo --to a@example.com --text x --channel email",
            "--subject",
        ),
        (
            "send --tenant dojo --to +13054048480 --text x --class spam",
            "txn or bulk",
        ),
        ("nothing", "nothing"),
    ];
    for (line, hint) in cases {
        let ended = run(program(&words(line))).await;
        assert_eq!(ended.code, 2, "{line}");
        assert!(ended.err.contains(hint), "{line}: {}", ended.err);
    }
}

/// Tools on one database, one after the other.
struct Operator {
    db: TestDb,
    used: BTreeSet<String>,
}

impl Operator {
    async fn run(&mut self, command: &str, args: &[&str]) -> Ended {
        self.used.insert(command.to_owned());
        let mut line = words(command);
        line.extend(args);
        run(on(&self.db, &line)).await
    }

    async fn json(&mut self, command: &str, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        self.run(command, &args).await.json()
    }
}

#[tokio::test]
async fn every_tool_answers_in_json() {
    let (db, _) = TestDb::unmigrated().await;
    let mut operator = Operator {
        db,
        used: ELSEWHERE.iter().map(|name| (*name).to_owned()).collect(),
    };
    let operator = &mut operator;

    let pending = operator.run("migrate", &["--check", "--json"]).await;
    assert_eq!(pending.code, 1);
    assert!(
        pending.err.contains("run `engageninja migrate`"),
        "{}",
        pending.err
    );
    let applied = operator.json("migrate", &[]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&pending.out).unwrap(),
        applied
    );
    assert!(applied.as_array().unwrap().len() > 5);
    assert_eq!(
        operator.json("migrate", &["--check"]).await,
        serde_json::json!([])
    );

    let real = operator
        .json("tenant create", &["Tea House", "--country", "GB"])
        .await;
    assert_eq!(real["slug"], "tea-house");
    let args = ["Coffee House", "--owner-email", "Cleo@example.com"];
    let invited = operator.json("tenant create", &args).await;
    let secret = invited["owner_invitation"]["token"].as_str().unwrap();
    let mut tx = operator.db.db().control_system().begin().await.unwrap();
    let kept = find_by_token(&mut tx, &token_hash(secret)).await.unwrap();
    let kept = kept.unwrap();
    assert_eq!(kept.tenant_slug, "coffee-house");
    assert_eq!(
        (kept.invitation.email.as_str(), kept.invitation.role),
        ("cleo@example.com", Role::Owner)
    );
    drop(tx);
    let demo = operator
        .json("tenant demo", &["Dojo Coffee", "--slug", "dojo"])
        .await;
    let taken = operator
        .run("tenant demo", &["Dojo", "--slug", "dojo"])
        .await;
    assert!(taken.refusal(1).contains("--slug"));

    let added = operator
        .json("user add", &["ann@example.com", "--tenant", "dojo"])
        .await;
    let password = added["password"].as_str().unwrap();
    assert_eq!(password.len(), 20);
    let joined = operator
        .json("user add", &["ANN@example.com", "--tenant", "tea-house"])
        .await;
    assert!(joined.get("password").is_none(), "she keeps hers");
    let reset = operator.json("user password", &["ann@example.com"]).await;
    assert_ne!(reset["password"], password);
    let nobody = operator.run("user password", &["bob@example.com"]).await;
    assert!(nobody.refusal(1).contains("bob@example.com"));
    let nowhere = operator
        .run("user add", &["bob@example.com", "--tenant", "nowhere"])
        .await;
    assert!(nowhere.refusal(1).contains("nowhere"));

    let key = operator
        .json("key create", &["nightly", "--tenant", "dojo"])
        .await;
    assert!(key["secret"].as_str().unwrap().starts_with("en_"));
    assert_eq!(key["tenant_id"], demo["tenant_id"]);
    let id = key["key_id"].as_str().unwrap();
    operator.json("key revoke", &[id, "--tenant", "dojo"]).await;
    let other = operator
        .run("key revoke", &[id, "--tenant", "tea-house"])
        .await;
    assert!(other.refusal(1).contains("has no key"));

    let text = [
        "--tenant",
        "dojo",
        "--to",
        "305 404 8480",
        "--text",
        "Hello",
    ];
    let sent = operator.json("send", &text).await;
    assert!(sent["message_id"].is_string(), "{sent}");
    let nobody = ["--tenant", "dojo", "--to", "12", "--text", "Hello"];
    let refused = operator.run("send", &nobody).await;
    assert!(refused.refusal(1).contains("address"));

    queues(operator).await;

    let document = operator.run("openapi", &["--json"]).await;
    assert_eq!(document.json_document()["openapi"], "3.0.0");
    let checked_in = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    operator.json("openapi", &["--check", checked_in]).await;
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let differs = operator.run("openapi", &["--check", other]).await;
    assert!(differs.refusal(1).contains("make openapi"));

    let known: BTreeSet<String> = PROGRAMS.iter().map(|name| (*name).to_owned()).collect();
    let all: BTreeSet<String> = operator.used.union(&known).cloned().collect();
    assert_eq!(all, commands(), "each command has its test");
}

async fn queues(operator: &mut Operator) {
    operator
        .db
        .execute(
            "INSERT INTO cell.dead_jobs (id, queue, kind, priority, payload, attempt, starts, reason, created_at)
             VALUES (7, 'house', 'maintain-partitions', 0, '{}', 3, 0, 'attempts used up', public.app_now())",
        )
        .await;
    let queues = operator.json("queue list", &[]).await;
    assert_eq!(queues[0]["queue"], "house");
    assert_eq!(queues[0]["dead"], 1);
    let dead = operator.json("queue dead", &["--queue", "house"]).await;
    assert_eq!(dead[0]["id"], 7);
    assert_eq!(
        operator.json("queue dead", &["--queue", "send"]).await,
        serde_json::json!([])
    );
    let empty = operator.json("queue drain", &["house"]).await;
    assert_eq!(empty["drained"], "house");
    let retried = operator.json("queue retry", &["7", "8", "7"]).await;
    assert_eq!(retried["replayed"], 1);
    // As the API records it.
    let recorded = "SELECT concat_ws(' ', actor_label, target_kind, target_id, tenant_id,
            detail -> 'before' ->> 'kind', detail -> 'before' ->> 'attempts', detail -> 'before' ? 'last_error')
        FROM control.platform_audit WHERE action = 'replay_dead_job'";
    assert_eq!(
        operator.db.text(recorded).await,
        "operator dead_job 7 maintain-partitions 3 f"
    );
    let times = "SELECT count(*) FROM control.platform_audit WHERE action = 'replay_dead_job'";
    assert_eq!(operator.db.number(times).await, 1);
    let busy = operator.run("queue drain", &["--timeout-secs", "0"]).await;
    assert!(busy.refusal(1).contains("1 jobs are ready"));
    let again = operator.run("queue retry", &["7"]).await;
    assert!(again.refusal(1).contains("queue dead"));
    assert_eq!(operator.db.number(times).await, 1);
}

impl Ended {
    /// The document, which is JSON of many lines.
    fn json_document(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// People get words.
#[tokio::test]
async fn without_json_a_tool_answers_in_words() {
    let db = TestDb::new().await;

    let made = run(on(&db, &["tenant", "demo", "Dojo Coffee"])).await;

    assert!(
        made.out.starts_with("\"Dojo Coffee\" made: "),
        "{}",
        made.out
    );
    assert!(made.out.contains("--tenant dojo-coffee"), "{}", made.out);
    let queues = run(on(&db, &["queue", "list"])).await;
    assert!(queues.out.starts_with("queue"), "{}", queues.out);
}

async fn get(url: &str, path: &str) -> reqwest::Response {
    reqwest::get(format!("{url}{path}")).await.unwrap()
}

#[tokio::test]
async fn programs_say_where_they_listen_and_end_in_order() {
    let db = TestDb::new().await;
    for name in ["serve", "worker", "scheduler"] {
        let started = Started::new(on(&db, &[name])).await;

        let admin = started.url("admin_url");
        assert_eq!(get(admin, "/health/live").await.status(), 200, "{name}");
        assert_eq!(get(admin, "/health/ready").await.status(), 200, "{name}");
        assert_eq!(get(admin, "/metrics").await.status(), 200, "{name}");
        if name == "serve" {
            let public = started.url("url");
            assert_eq!(get(public, "/health/ready").await.status(), 200);
            assert_eq!(
                get(public, "/metrics").await.status(),
                404,
                "only on the admin address"
            );
        }
        started.stop().await;
    }
}

#[tokio::test]
async fn a_worker_with_the_scheduler_saves_a_process() {
    let db = TestDb::new().await;

    let worker = Started::new(on(
        &db,
        &["worker", "--with", "scheduler", "--jobs", "house"],
    ))
    .await;

    assert_eq!(worker.said["queues"], serde_json::json!(["house"]));
    let fired = "SELECT EXISTS (SELECT FROM cell.schedule_runs)";
    eventually("a tick is fired", || async { ask(&db, fired).await }).await;
    worker.stop().await;
}

async fn ask(db: &TestDb, sql: &'static str) -> bool {
    use sqlx::{ConnectOptions, Executor, Row};
    let mut conn = db.options().cell.connect().await.unwrap();
    conn.fetch_one(sql).await.unwrap().get(0)
}

#[tokio::test]
async fn an_address_that_is_taken_is_said_before_anything_runs() {
    let db = TestDb::new().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let public = run(on(&db, &["serve", "--listen", &address])).await;
    let admin = run(on(&db, &["worker", "--admin-listen", &address])).await;

    assert!(public.refusal(1).contains(&format!(
        "cannot listen on {address}; choose another address with --listen"
    )));
    assert!(admin.refusal(1).contains("--admin-listen"));
}

/// Down at the start: one line and a code of its own, for each program and each tool.
#[tokio::test]
async fn a_database_that_is_down_is_one_line_and_exit_69() {
    let dir = TempDir::new();
    let nowhere = |line: &str| {
        let mut command = program(&words(line));
        command
            .env(
                "DATABASE_URL",
                format!(
                    "postgres://me:sesame@localhost/x?host={}",
                    dir.path().display()
                ),
            )
            .env("ENGAGENINJA_MAC_KEY", MAC_KEY);
        command
    };
    for line in [
        "serve",
        "worker",
        "scheduler",
        "migrate",
        "migrate --check",
        "queue list",
        "tenant demo X",
    ] {
        let ended = run(nowhere(line)).await;
        let said = ended.refusal(69);
        assert!(!said.contains("sesame"), "{said}");
    }
    assert!(
        run(nowhere("serve"))
            .await
            .refusal(69)
            .contains("DATABASE_URL")
    );
}

#[tokio::test]
async fn without_a_database_and_without_up_the_way_there_is_said() {
    let dir = TempDir::new();
    let mut command = program(&["queue", "list"]);
    command
        .env("ENGAGENINJA_DATA_DIR", dir.path())
        .env("ENGAGENINJA_MAC_KEY", MAC_KEY);

    let ended = run(command).await;

    let said = ended.refusal(69);
    assert!(
        said.contains("set DATABASE_URL, or run `engageninja up`"),
        "{said}"
    );
}

/// Gone later: requests are told to come again, and all goes on when it is back.
#[tokio::test]
async fn a_database_that_goes_away_is_503_until_it_is_back() {
    let mut cluster = Cluster::dedicated(true).await;
    let db = cluster.db().await;
    let serve = Started::new(on(&db, &["serve"])).await;
    let worker = Started::new(on(&db, &["worker", "--with", "scheduler"])).await;
    let public = serve.url("url");
    let ask = || async {
        reqwest::Client::builder()
            .build()
            .unwrap()
            .get(format!("{public}/api/sessions/current"))
            .bearer_auth("en_0123456789012345678901234567890123456789012")
            .send()
            .await
            .unwrap()
    };
    assert_eq!(ask().await.status(), 401);

    cluster.crash().await;
    let refused = ask().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(get(public, "/health/ready").await.status(), 503);
    assert_eq!(get(public, "/health/live").await.status(), 200);
    cluster.start().await;

    eventually("requests are answered again", || async {
        ask().await.status() == 401
    })
    .await;
    db.execute("DELETE FROM cell.schedule_runs").await;
    let fired = "SELECT EXISTS (SELECT FROM cell.schedule_runs)";
    eventually("schedules fire again", || async {
        self::ask(&db, fired).await
    })
    .await;
    let idle = "SELECT NOT EXISTS (SELECT FROM cell.jobs WHERE state = 0)";
    eventually("jobs are done again", || async {
        self::ask(&db, idle).await
    })
    .await;
    serve.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_a_program_at_once() {
    let db = TestDb::new().await;
    let mut worker = Started::new(on(&db, &["worker"])).await;

    worker.signal(Signal::SIGTERM);
    worker.signal(Signal::SIGINT);

    worker.ended().await;
}

/// Two databases: the tools write each half where it belongs.
#[tokio::test]
async fn control_and_cell_may_lie_in_two_databases() {
    let db = TestDb::split().await;

    run(on(&db, &["tenant", "demo", "Dojo", "--json"]))
        .await
        .json();

    let cell = "SELECT EXISTS (SELECT FROM cell.tenants)";
    assert!(ask(&db, cell).await);
    let mut alone: Command = on(&db, &["queue", "list"]);
    alone.env_remove("ENGAGENINJA_CONTROL_DATABASE_URL");
    assert!(run(alone).await.refusal(78).contains("engageninja migrate"));
    assert!(url(&db.options().control) != url(&db.options().cell));
}
