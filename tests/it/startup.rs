//! What a program refuses to start on, each with one line that says what to do.

use std::time::Duration;

use engageninja::clock::Clock;
use engageninja::store::startup::{Expectations, StartupRefusal, check};
use engageninja::store::{Db, DbOptions};
use futures_util::future::join_all;

use crate::harness::db::TestDb;
use crate::harness::within;

const WEEK: Duration = Duration::from_hours(7 * 24);

fn development() -> Expectations {
    Expectations {
        is_production: false,
        allow_unsafe_durability: true,
        mac_key_fingerprint: b"fingerprint".to_vec(),
        key_ids: vec!["k1".into()],
    }
}

async fn start(db: &TestDb, expected: &Expectations) -> Result<(), StartupRefusal> {
    within(60, "a start", check(&db.db(), &db.options(), expected)).await
}

async fn refusal(db: &TestDb, expected: &Expectations) -> String {
    let said = start(db, expected).await.unwrap_err().to_string();
    assert!(!said.contains('\n'), "one line: {said}");
    said
}

#[tokio::test]
async fn a_migrated_database_is_accepted_by_many_programs_at_once() {
    let db = TestDb::new().await;
    let expected = development();

    let starts = join_all((0..6).map(|_| start(&db, &expected)));

    for started in starts.await {
        started.unwrap();
    }
}

#[tokio::test]
async fn two_databases_are_accepted_as_one_is() {
    start(&TestDb::split().await, &development()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_forgets_commits_is_refused_unless_allowed() {
    let db = TestDb::new().await;
    let expected = Expectations {
        allow_unsafe_durability: false,
        ..development()
    };

    let said = refusal(&db, &expected).await;

    assert!(
        said.contains("fsync, full_page_writes, synchronous_commit off"),
        "{said}"
    );
    assert!(
        said.contains("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY=1"),
        "{said}"
    );
}

#[tokio::test]
async fn another_mac_key_than_the_first_is_refused() {
    let db = TestDb::new().await;
    start(&db, &development()).await.unwrap();
    let other = Expectations {
        mac_key_fingerprint: b"another".to_vec(),
        ..development()
    };

    let said = refusal(&db, &other).await;

    assert!(said.contains("ENGAGENINJA_MAC_KEY"), "{said}");
    start(&db, &development()).await.unwrap();
}

#[tokio::test]
async fn rows_sealed_with_a_key_that_is_not_at_hand_are_refused() {
    let db = TestDb::new().await;
    let tenant = "01900000-0000-7000-8000-000000000001";
    db.execute(&format!(
        "INSERT INTO cell.tenants (id, name) VALUES ('{tenant}', 'Dojo')"
    ))
    .await;
    db.execute(&format!(
        "INSERT INTO cell.tenant_channel_credentials_v2
             (id, tenant_id, channel, provider, twilio_auth_token_encrypted, webhook_secret_encrypted)
         VALUES ('{tenant}', '{tenant}', 'sms', 'twilio', 'k1:c2VhbGVk', 'k0:c2VhbGVk')"
    ))
    .await;

    let said = refusal(&db, &development()).await;

    assert!(said.contains("ENGAGENINJA_KEYS lacks: k0;"), "{said}");
    let both = Expectations {
        key_ids: vec!["k1".into(), "k0".into()],
        ..development()
    };
    start(&db, &both).await.unwrap();
}

#[tokio::test]
async fn a_moved_clock_is_refused_in_production_and_followed_in_development() {
    let db = TestDb::new().await;
    db.advance(Duration::from_hours(1)).await;
    let clock = Clock::default();
    let fresh = Db::new(&db.options(), clock.clone());
    let production = Expectations {
        is_production: true,
        ..development()
    };

    let said = check(&fresh, &db.options(), &production)
        .await
        .unwrap_err()
        .to_string();

    assert!(
        said.contains("3600 s") && said.contains("ENGAGENINJA_ENV=development"),
        "{said}"
    );
    check(&fresh, &db.options(), &development()).await.unwrap();
    assert_eq!(clock.offset(), chrono::TimeDelta::hours(1));
}

#[tokio::test]
async fn a_schema_with_pending_migrations_is_refused() {
    let (db, _) = TestDb::unmigrated().await;

    let said = refusal(&db, &development()).await;

    assert!(said.contains("run `engageninja migrate`"), "{said}");
}

/// Migrations are safe while the previous version runs, so it may also restart.
#[tokio::test]
async fn a_schema_newer_than_the_program_is_accepted() {
    let db = TestDb::new().await;
    db.execute(
        "INSERT INTO cell._sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'from the future', true, '', 0)",
    )
    .await;

    start(&db, &development()).await.unwrap();
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_called_so() {
    let db = TestDb::new().await;
    let nowhere = DbOptions::single(&db.options().cell.socket("/nowhere"));
    let unreachable = Db::new(&nowhere, Clock::default());

    let refusal = check(&unreachable, &nowhere, &development())
        .await
        .unwrap_err();

    assert!(refusal.is_unavailable());
    assert!(refusal.to_string().contains("DATABASE_URL"), "{refusal}");
}

/// Ten weeks without a scheduler: what was made before lasts, and the next start makes more.
#[tokio::test]
async fn after_ten_weeks_without_a_scheduler_nothing_was_refused_and_partitions_come_with_a_start()
{
    let db = TestDb::with_all_partitions().await;
    start(&db, &development()).await.unwrap();

    db.advance(10 * WEEK).await;
    write_everywhere(&db).await;
    start(&db, &development()).await.unwrap();

    db.advance(8 * WEEK).await;
    write_everywhere(&db).await;
}

/// One row in every partitioned table, dated now.
async fn write_everywhere(db: &TestDb) {
    db.execute(
        "SET search_path = cell, public;
         INSERT INTO messages (tenant_id, id, lane_id, channel, provider, phone_number,
             provider_account_sid, dest_mac, content_mac, expires_at)
         VALUES (gen_random_uuid(), uuid_floor(app_now()), 1, 'sms', 'demo', '+15005550006',
             'demo', '', '', app_now());
         INSERT INTO message_bodies (tenant_id, message_id)
         VALUES (gen_random_uuid(), uuid_floor(app_now()));
         INSERT INTO send_attempts (tenant_id, message_id, attempt_no, id, incarnation, provider,
             account_ref, dest_mac, content_mac, deadline)
         VALUES (gen_random_uuid(), uuid_floor(app_now()), 1, gen_random_uuid(), 1, 'demo',
             'demo', '', '', app_now());
         INSERT INTO message_events (tenant_id, message_id, id, kind)
         VALUES (gen_random_uuid(), uuid_floor(app_now()), gen_random_uuid(), 'test');
         INSERT INTO provider_events (dedup_key, provider, status, body)
         VALUES (gen_random_uuid()::text, 'demo', 'sent', '{}')",
    )
    .await;
}

/// A lease, a hold and a window expire together: statements and Rust see one time.
#[tokio::test]
async fn the_two_clocks_move_together() {
    let db = TestDb::new().await;
    let pooled = db.db();
    drop(pooled.system().begin().await.unwrap());

    db.advance(3 * WEEK).await;

    let mut tx = pooled.system().begin().await.unwrap();
    let row = sqlx::Executor::fetch_one(tx.conn(), "SELECT app_now()")
        .await
        .unwrap();
    let told: chrono::DateTime<chrono::Utc> = sqlx::Row::get(&row, 0);
    let apart = db.clock().now() - told;
    assert!(apart.num_seconds().abs() < 60, "{apart}");
}
