//! `migrate`: by many at once, never backwards, and telling without doing.

use engageninja::store::migrate::{MigrateError, check, migrate};
use futures_util::future::join_all;
use sqlx::{ConnectOptions, Executor, Row};

use crate::harness::db::{Cluster, TestDb};
use crate::harness::within;

#[tokio::test]
async fn several_programs_may_migrate_at_once() {
    let (_db, options) = TestDb::unmigrated().await;

    let runs = join_all((0..8).map(|_| migrate(&options, &options)));
    let applied: Vec<_> = within(60, "eight migrations", runs)
        .await
        .into_iter()
        .map(|run| run.unwrap().len())
        .collect();

    let known = check(&options, &options).await.unwrap();
    assert!(known.pending.is_empty(), "{known:?}");
    let workers = applied.iter().filter(|count| **count > 0).count();
    assert!(workers <= 2, "one per schema did the work: {applied:?}");
}

/// Roles belong to the server: migrating two databases of a new one collides over them.
#[tokio::test]
async fn two_databases_of_a_new_server_may_be_migrated_at_once() {
    let cluster = Cluster::dedicated(false).await;
    let one = cluster.options("postgres");
    let other = cluster.options("template1");

    let runs = join_all([migrate(&one, &one), migrate(&other, &other)]);
    for run in within(60, "two migrations", runs).await {
        run.unwrap();
    }
}

/// A managed service gives no superuser: a login that may make roles has to be enough.
#[tokio::test]
async fn a_login_without_superuser_can_migrate_and_migrate_again() {
    let cluster = Cluster::dedicated(false).await;
    let mut admin = cluster.options("postgres").connect().await.unwrap();
    admin
        .execute("CREATE ROLE operator LOGIN CREATEROLE")
        .await
        .unwrap();
    admin
        .execute("CREATE DATABASE product OWNER operator")
        .await
        .unwrap();
    let login = cluster.options("product").username("operator");

    migrate(&login, &login).await.unwrap();
    let again = migrate(&login, &login).await.unwrap();

    assert_eq!(again, []);
}

#[tokio::test]
async fn checking_says_what_is_pending_and_changes_nothing() {
    let (_db, options) = TestDb::unmigrated().await;

    let before = check(&options, &options).await.unwrap();

    assert!(before.pending.iter().any(|one| one.schema == "control"));
    assert!(
        before
            .pending
            .iter()
            .any(|one| one.description == "create messages")
    );
    let mut conn = options.connect().await.unwrap();
    let schemas: i64 = conn
        .fetch_one("SELECT count(*) FROM pg_namespace WHERE nspname IN ('control', 'cell')")
        .await
        .unwrap()
        .get(0);
    assert_eq!(schemas, 0);
    assert_eq!(check(&options, &options).await.unwrap(), before);
}

#[tokio::test]
async fn a_newer_schema_than_this_version_knows_is_refused() {
    let db = TestDb::new().await;
    db.execute(
        "INSERT INTO cell._sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'from the future', true, '', 0)",
    )
    .await;
    let options = db.options();

    let refusal = migrate(&options.control, &options.cell).await.unwrap_err();

    assert!(matches!(refusal, MigrateError::Newer { .. }), "{refusal}");
    let said = refusal.to_string();
    assert!(
        said.contains("99990101000000") && said.contains("run the version"),
        "{said}"
    );
    let known = check(&options.control, &options.cell).await.unwrap();
    assert_eq!(known.newer, Some(("cell", 99_990_101_000_000)));
}

#[tokio::test]
async fn control_and_cell_may_lie_in_two_databases() {
    let db = TestDb::split().await;
    let options = db.options();

    let found = check(&options.control, &options.cell).await.unwrap();

    assert_eq!(found, engageninja::store::migrate::Difference::default());
    let mut conn = options.cell.connect().await.unwrap();
    let users: bool = conn
        .fetch_one("SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = 'users')")
        .await
        .unwrap()
        .get(0);
    assert!(!users, "the cell's database has no users");
}
