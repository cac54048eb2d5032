//! `doctor` finds each fault that is planted, and says the mend.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::program::{on, run};
use crate::harness::world::World;

/// The findings, and whether the program ended with the code that belongs to them.
async fn findings(command: Command) -> Vec<Value> {
    let ended = run(command).await;
    let findings: Vec<Value> = serde_json::from_str(&ended.out).unwrap();
    let has_fault = findings.iter().any(|one| one["state"] == "fault");
    assert_eq!(
        ended.code,
        i32::from(has_fault),
        "{}{}",
        ended.out,
        ended.err
    );
    for one in &findings {
        let is_fine = one["state"] == "ok";
        assert_eq!(one["mend"].is_string(), !is_fine, "{one}");
    }
    findings
}

fn doctor(db: &TestDb) -> Command {
    on(db, &["doctor", "--recount", "--json"])
}

fn find<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    let found = findings.iter().find(|one| one["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings:?}"))
}

/// Checks that one thing is at fault and that its mend is the expected one.
fn assert_fault(findings: &[Value], check: &str, mend: &str) {
    let one = find(findings, check);
    assert_eq!(one["state"], "fault", "{one}");
    assert!(one["mend"].as_str().unwrap().contains(mend), "{one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_installation_has_no_fault_and_a_wrong_count_is_found() {
    let world = World::on(TestDb::with_all_partitions().await).await;
    // The first program writes the key's fingerprint down.
    run(on(&world.db, &["queue", "list"])).await;
    world.add_contacts(30).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    world.completed(campaign).await;
    let cancelled = world.campaign("Hi {{ first_name }}").await;
    world.cancel(cancelled).await.unwrap();
    let sealed = "SELECT count(*) FROM campaigns WHERE final_counts IS NOT NULL";
    eventually("both have ended", || async {
        world.number(sealed).await == 2
    })
    .await;

    for one in findings(doctor(&world.db)).await {
        assert_ne!(one["state"], "fault", "{one}");
    }
    world
        .db
        .execute(&format!(
            "UPDATE cell.campaign_totals SET counts = counts || '{{\"handed_over\": 1}}' WHERE campaign_id = '{campaign}'"
        ))
        .await;
    let found = findings(doctor(&world.db)).await;
    assert_fault(&found, "counts", "GET /api/messages");
    let detail = find(&found, "counts")["detail"].as_str().unwrap();
    assert!(
        detail.contains("handed_over is 1, its rows say"),
        "{detail}"
    );

    // Without asking for it, messages are not read.
    let quick = findings(on(&world.db, &["doctor", "--json"])).await;
    assert!(quick.iter().all(|one| one["check"] != "counts"));
    let words = run(on(&world.db, &["doctor"])).await;
    assert!(
        words.out.contains("a worker leads the release"),
        "{}",
        words.out
    );
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn each_planted_fault_is_found_with_its_mend() {
    let db = TestDb::with_all_partitions().await;
    run(on(&db, &["queue", "list"])).await;
    // Nothing runs: nobody leads and nobody ticks.
    let found = findings(doctor(&db)).await;
    assert_fault(&found, "leader", "engageninja worker");
    assert_fault(&found, "scheduler", "engageninja scheduler");
    assert_eq!(find(&found, "partitions")["state"], "ok");

    let mut unsafe_server = doctor(&db);
    unsafe_server.env_remove("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY");
    assert_fault(
        &findings(unsafe_server).await,
        "durability",
        "switch them on",
    );

    let mut other_key = doctor(&db);
    other_key.env(
        "ENGAGENINJA_MAC_KEY",
        "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
    );
    assert_fault(
        &findings(other_key).await,
        "mac_key",
        "set the first one again",
    );

    let mut no_disk = doctor(&db);
    no_disk.env("ENGAGENINJA_DATA_DIR", "/proc");
    assert_fault(&findings(no_disk).await, "disk", "make room");

    let mut nowhere = doctor(&db);
    nowhere.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
    let found = findings(nowhere).await;
    assert_fault(&found, "database", "PostgreSQL runs");

    let sealed = "INSERT INTO cell.tenants (id, name) VALUES ('00000000-0000-7000-8000-000000000001', 'x');
        INSERT INTO cell.tenant_channel_credentials_v2 (id, tenant_id, channel, provider, twilio_auth_token_encrypted)
        VALUES ('00000000-0000-7000-8000-000000000002', '00000000-0000-7000-8000-000000000001', 'sms', 'twilio', 'k9:x')";
    db.execute(sealed).await;
    let bare = "CREATE TABLE cell.made_by_hand (id int)";
    db.execute(bare).await;
    let ticked = "INSERT INTO cell.schedules (id, cron, queue, kind) VALUES ('old', '', '', '');
        INSERT INTO cell.schedule_runs (schedule_id, fire_at, fired_at)
        VALUES ('old', public.app_now(), public.app_now() - interval '2 min')";
    db.execute(ticked).await;
    db.advance(Duration::from_hours(24 * 7 * 10)).await;
    let found = findings(doctor(&db)).await;
    assert_fault(&found, "keys", "add them");
    assert_fault(&found, "schema", "engageninja migrate");
    assert_fault(&found, "partitions", "engageninja migrate");
    assert_fault(&found, "scheduler", "engageninja scheduler");
    let detail = find(&found, "schema")["detail"].as_str().unwrap();
    assert!(detail.contains("made_by_hand"), "{detail}");

    let older = "DELETE FROM cell._sqlx_migrations WHERE version = (SELECT max(version) FROM cell._sqlx_migrations)";
    db.execute(older).await;
    assert_fault(
        &findings(doctor(&db)).await,
        "migrations",
        "run `engageninja migrate`",
    );
}
