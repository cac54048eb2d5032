//! Every setting, shown to do what `--help` says. A setting without its row fails.

use std::collections::BTreeSet;

use clap::CommandFactory;
use engageninja::cli::Cli;
use serde_json::Value;
use sqlx::{ConnectOptions, Executor, Row};

use crate::harness::db::TestDb;
use crate::harness::program::{KEYS, Started, on, program, run, url};
use crate::harness::twilio::TwilioWorld;
use crate::harness::{TempDir, eventually};

/// Each variable with the test that shows it.
const SHOWN: &[(&str, &str)] = &[
    ("DATABASE_URL", "commands::every_tool_answers_in_json"),
    (
        "ENGAGENINJA_DATABASE_DIRECT_URL",
        "the_direct_url_is_listened_on",
    ),
    (
        "ENGAGENINJA_CONTROL_DATABASE_URL",
        "commands::control_and_cell_may_lie_in_two_databases",
    ),
    ("ENGAGENINJA_LISTEN", "flags_win_over_the_environment"),
    ("ENGAGENINJA_ADMIN_LISTEN", "flags_win_over_the_environment"),
    (
        "ENGAGENINJA_PUBLIC_URL",
        "the_public_url_says_whose_pages_are_ours",
    ),
    (
        "ENGAGENINJA_TRUSTED_PROXIES",
        "a_trusted_proxy_says_who_asks",
    ),
    (
        "ENGAGENINJA_DATA_DIR",
        "up::the_way_from_nothing_to_a_campaign",
    ),
    (
        "ENGAGENINJA_PG_BIN",
        "programs_of_another_postgresql_are_looked_for_where_they_are_named",
    ),
    ("ENGAGENINJA_KEYS", "the_keys_have_to_fit"),
    ("ENGAGENINJA_MAC_KEY", "the_keys_have_to_fit"),
    ("ENGAGENINJA_ENV", "production_refuses_what_development_may"),
    (
        "ENGAGENINJA_ALLOW_UNSAFE_DURABILITY",
        "a_server_that_forgets_has_to_be_allowed",
    ),
    (
        "ENGAGENINJA_TWILIO_API_URL",
        "twilio_is_asked_where_it_is_configured",
    ),
    ("ENGAGENINJA_LOG", "the_log_is_as_wanted"),
    ("ENGAGENINJA_LOG_FORMAT", "the_log_is_as_wanted"),
];

#[test]
fn every_setting_is_shown_to_work() {
    let command = Cli::command();
    let declared: BTreeSet<_> = command
        .get_arguments()
        .filter_map(|arg| arg.get_env()?.to_str())
        .collect();
    let shown: BTreeSet<_> = SHOWN.iter().map(|(name, _)| *name).collect();
    assert_eq!(declared, shown);
}

/// The README's tables name each setting and each command, and nothing else.
#[test]
fn the_readme_lists_every_setting_and_every_command() {
    let readme = include_str!("../../README.md");
    let rows = |heading: &str| -> BTreeSet<String> {
        let section = readme.split(heading).nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let cells = section.lines().filter(|line| line.starts_with("| `"));
        let names = cells.flat_map(|line| line.split('|').nth(1).unwrap().split(','));
        names
            .map(|name| name.trim().trim_matches('`').to_owned())
            .collect()
    };
    let settings: BTreeSet<String> = SHOWN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(rows("\n## Settings"), settings);
    assert_eq!(rows("\n## Commands"), crate::commands::commands());
}

#[tokio::test]
async fn help_lists_every_setting_and_shows_no_secret() {
    let mut command = program(&["worker", "--help"]);
    command
        .env("ENGAGENINJA_MAC_KEY", "sesame")
        .env("ENGAGENINJA_KEYS", "sesame")
        .env("DATABASE_URL", "postgres://me:sesame@db/product");

    let help = run(command).await.out;

    for (name, _) in SHOWN {
        assert!(help.contains(&format!("[env: {name}")), "{name}");
    }
    assert!(!help.contains("sesame"));
}

#[tokio::test]
async fn flags_win_over_the_environment() {
    let db = TestDb::new().await;
    let mut command = on(&db, &["serve", "--listen", "127.0.0.1:0"]);
    command
        .env("ENGAGENINJA_LISTEN", "192.0.2.1:1")
        .env("ENGAGENINJA_ADMIN_LISTEN", "127.0.0.2:0");

    let serve = Started::new(command).await;

    assert!(serve.url("url").starts_with("http://127.0.0.1:"));
    assert!(serve.url("admin_url").starts_with("http://127.0.0.2:"));
}

/// Tries to sign in as somebody unknown, with these headers.
async fn try_to_sign_in(url: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = reqwest::Client::builder()
        .build()
        .unwrap()
        .post(format!("{url}/api/sessions"))
        .json(&serde_json::json!({"email": "nobody@example.test", "password": "x"}));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_public_url_says_whose_pages_are_ours() {
    let db = TestDb::new().await;
    let mut command = on(&db, &["serve"]);
    command.env("ENGAGENINJA_PUBLIC_URL", "https://app.example.test/");

    let serve = Started::new(command).await;

    let url = serve.url("url");
    let from = async |origin| try_to_sign_in(url, &[("origin", origin)]).await;
    assert_eq!(from("https://app.example.test").await, 401);
    assert_eq!(from(url).await, 403, "not even the address it listens on");
    let wrong = run(on(&db, &["serve", "--public-url", "https://a/b"])).await;
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("without a path"), "{}", wrong.err);
}

#[tokio::test]
async fn a_trusted_proxy_says_who_asks() {
    let db = TestDb::new().await;
    let mut command = on(&db, &["serve"]);
    command.env("ENGAGENINJA_TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.0/8");

    let serve = Started::new(command).await;

    let url = serve.url("url");
    let from = async |forwarded: &str| try_to_sign_in(url, &[("x-forwarded-for", forwarded)]).await;
    for _ in 0..5 {
        assert_eq!(from("203.0.113.1").await, 401);
    }
    // What a client writes in front of it makes nobody else of them.
    assert_eq!(from("198.51.100.9, 203.0.113.1").await, 429);
    assert_eq!(from("203.0.113.1, 10.1.1.1").await, 429);
    assert_eq!(from("203.0.113.2").await, 401);
    let wrong = run(on(&db, &["serve", "--trusted-proxies", "proxy"])).await;
    assert!(wrong.err.contains("10.0.0.0/8"), "{}", wrong.err);
}

#[tokio::test]
async fn the_direct_url_is_listened_on() {
    let db = TestDb::new().await;
    let mut conn = db.options().cell.connect().await.unwrap();
    let role = format!("direct_{}", std::process::id());
    let make = format!("CREATE ROLE {role} LOGIN SUPERUSER");
    conn.execute(sqlx::AssertSqlSafe(make)).await.unwrap();
    let mut command = on(&db, &["worker"]);
    let direct = db.options().cell.username(&role);
    command.env("ENGAGENINJA_DATABASE_DIRECT_URL", url(&direct));

    let worker = Started::new(command).await;

    // LISTEN, and the lock that proves it alive.
    let sql = format!("SELECT count(*) >= 2 FROM pg_stat_activity WHERE usename = '{role}'");
    let conn = tokio::sync::Mutex::new(conn);
    eventually("it listens by the direct URL", || async {
        let mut conn = conn.lock().await;
        let row = conn
            .fetch_one(sqlx::AssertSqlSafe(sql.clone()))
            .await
            .unwrap();
        row.get(0)
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn twilio_is_asked_where_it_is_configured() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(1).await;
    it.world.campaign("Hello {{ first_name }}").await;
    let mut command = on(&it.world.db, &["worker"]);
    command
        .env("ENGAGENINJA_TWILIO_API_URL", it.fake.url())
        .env("ENGAGENINJA_PUBLIC_URL", "https://app.example.test");

    let worker = Started::new(command).await;

    eventually("it was asked", || async {
        it.fake.ledger().accepted_count() == 1
    })
    .await;
    worker.stop().await;
    let asked = &it.fake.ledger().accepted()[0];
    let callback = asked.status_callback.as_deref().unwrap();
    assert!(callback.starts_with("https://app.example.test/api/webhooks/twilio/sms?t="));
}

#[tokio::test]
async fn programs_of_another_postgresql_are_looked_for_where_they_are_named() {
    let dir = TempDir::new();
    let mut command = program(&["up"]);
    command
        .env("ENGAGENINJA_DATA_DIR", dir.path().join("data"))
        .env("ENGAGENINJA_PG_BIN", dir.path().join("nowhere"));

    let ended = run(command).await;

    let said = ended.refusal(78);
    assert!(said.contains("nowhere does not run"), "{said}");
}

#[tokio::test]
async fn the_keys_have_to_fit() {
    let db = TestDb::new().await;
    run(on(&db, &["queue", "list", "--json"])).await.json();
    let other_key = KEYS.trim_start_matches("k1:");
    let with = |name: &'static str, value: &str| {
        let mut command = on(&db, &["queue", "list"]);
        command.env(name, value);
        command
    };

    let other = run(with("ENGAGENINJA_MAC_KEY", other_key)).await;
    assert!(
        other
            .refusal(78)
            .contains("not the key this database was filled with")
    );
    let short = run(with("ENGAGENINJA_MAC_KEY", "c2hvcnQ=")).await;
    assert!(short.refusal(78).contains("ENGAGENINJA_MAC_KEY"));
    let no_ring = run(with("ENGAGENINJA_KEYS", other_key)).await;
    assert!(no_ring.refusal(78).contains("ENGAGENINJA_KEYS"));

    let tenant = "01900000-0000-7000-8000-000000000001";
    db.execute(&format!(
        "INSERT INTO cell.tenants (id, name) VALUES ('{tenant}', 'Dojo');
         INSERT INTO cell.tenant_channel_credentials_v2 (id, tenant_id, channel, provider, webhook_secret_encrypted)
         VALUES ('{tenant}', '{tenant}', 'sms', 'twilio', 'k0:c2VhbGVk')"
    ))
    .await;
    let unknown = run(on(&db, &["queue", "list"])).await;
    assert!(unknown.refusal(78).contains("ENGAGENINJA_KEYS lacks: k0;"));
    let both = format!("{KEYS},k0:{other_key}");
    assert_eq!(run(with("ENGAGENINJA_KEYS", &both)).await.code, 0);

    let mut missing = on(&db, &["queue", "list"]);
    let dir = TempDir::new();
    missing
        .env_remove("ENGAGENINJA_MAC_KEY")
        .env("ENGAGENINJA_DATA_DIR", dir.path());
    assert!(
        run(missing)
            .await
            .refusal(78)
            .contains("openssl rand -base64 32")
    );
}

#[tokio::test]
async fn production_refuses_what_development_may() {
    let db = TestDb::new().await;
    db.advance(std::time::Duration::from_hours(1)).await;
    let production = || {
        let mut command = on(&db, &["queue", "list"]);
        command.env("ENGAGENINJA_ENV", "production");
        command
    };

    assert_eq!(run(on(&db, &["queue", "list"])).await.code, 0);
    assert!(
        run(production())
            .await
            .refusal(78)
            .contains("clock is moved by 3600 s")
    );

    let name = db.options().cell.get_database().unwrap().to_owned();
    db.execute(&format!(
        "ALTER DATABASE {name} RESET engageninja.clock_offset;
         ALTER DATABASE {name} SET engageninja.holds_scale = '0.1'"
    ))
    .await;
    assert_eq!(run(on(&db, &["queue", "list"])).await.code, 0);
    assert!(
        run(production())
            .await
            .refusal(78)
            .contains("scales every hold by 0.1")
    );

    db.execute(&format!(
        "ALTER DATABASE {name} RESET engageninja.holds_scale"
    ))
    .await;
    let mut default = on(&db, &["queue", "list"]);
    default.env_remove("ENGAGENINJA_ENV");
    assert_eq!(run(default).await.code, 0, "nothing is bent");
}

#[tokio::test]
async fn a_server_that_forgets_has_to_be_allowed() {
    let db = TestDb::new().await;
    for value in [None, Some("0")] {
        let mut command = on(&db, &["queue", "list"]);
        match value {
            Some(value) => command.env("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY", value),
            None => command.env_remove("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY"),
        };
        let ended = run(command).await;
        assert!(
            ended
                .refusal(78)
                .contains("fsync, full_page_writes, synchronous_commit off")
        );
    }
}

#[tokio::test]
async fn the_log_is_as_wanted() {
    let db = TestDb::new().await;
    db.execute(
        "INSERT INTO cell._sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'from the future', true, '', 0)",
    )
    .await;
    let with = |log: &'static str, format: &'static str| {
        let mut command = on(&db, &["queue", "list"]);
        command
            .env("ENGAGENINJA_LOG", log)
            .env("ENGAGENINJA_LOG_FORMAT", format);
        command
    };

    let text = run(with("warn", "text")).await.err;
    assert!(
        text.contains("the schema is newer than this version"),
        "{text}"
    );
    let json = run(with("warn", "json")).await.err;
    let line: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(run(with("error", "text")).await.err, "");
    let wrong = run(with("loud=very", "text")).await;
    assert!(wrong.refusal(78).contains("ENGAGENINJA_LOG"));
}
