//! The rules of the schema, read from the catalogue of a migrated database: a table that breaks one
//! fails here, whoever adds it.

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};
use std::path::{Path, PathBuf};

use crate::harness::db::TestDb;

const TENANT: &str = "01900000-0000-7000-8000-000000000001";

async fn superuser(db: &TestDb) -> PgConnection {
    db.options().cell.connect().await.unwrap()
}

/// The first column of every row, as text.
async fn list(conn: &mut PgConnection, sql: &str) -> Vec<String> {
    conn.fetch_all(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

async fn faults(conn: &mut PgConnection) -> Vec<String> {
    list(
        conn,
        "SELECT fault || ': ' || object FROM cell.schema_faults()",
    )
    .await
}

/// Tables of ours that belong to a tenant, but not the pieces of partitioned ones.
const TENANT_TABLES: &str = "
    SELECT c.oid::regclass::text FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
        AND a.attname = CASE WHEN n.nspname = 'cell' AND c.relname = 'tenants' THEN 'id' ELSE 'tenant_id' END
    WHERE n.nspname IN ('control', 'cell') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY 1";

#[tokio::test]
async fn the_schema_has_no_faults() {
    let db = TestDb::with_all_partitions().await;
    let mut conn = superuser(&db).await;
    assert_eq!(faults(&mut conn).await, Vec::<String>::new());
}

/// Each rule is broken on purpose, since a check that sees nothing finds nothing.
#[tokio::test]
async fn every_fault_is_seen() {
    let db = TestDb::new().await;
    let mut conn = superuser(&db).await;
    let breaches = [
        (
            "tenant table without forced row-level security",
            "ALTER TABLE cell.contacts NO FORCE ROW LEVEL SECURITY",
        ),
        (
            "tenant table without the three policies",
            "DROP POLICY owner ON cell.contacts",
        ),
        (
            "grant on a partition",
            "DO $$ BEGIN EXECUTE format('GRANT SELECT ON %s TO engageninja_app', (SELECT
                 inhrelid::regclass FROM pg_inherits WHERE inhparent = 'cell.messages'::regclass LIMIT 1)); END $$",
        ),
        (
            "foreign key on a partitioned table",
            "ALTER TABLE cell.messages ADD FOREIGN KEY (tenant_id) REFERENCES cell.tenants",
        ),
        (
            "foreign key to a partitioned table",
            "CREATE TABLE cell.x (t uuid, m uuid, FOREIGN KEY (t, m) REFERENCES cell.messages)",
        ),
        (
            "foreign key across schemas",
            "CREATE TABLE cell.x (u uuid REFERENCES control.users)",
        ),
        ("table without a comment", "CREATE TABLE control.x ()"),
        ("enum type", "CREATE TYPE cell.mood AS ENUM ('bad')"),
        (
            "fewer than 8 weeks of partitions ahead",
            "SET engageninja.clock_offset = '5 weeks'",
        ),
    ];
    for (fault, breach) in breaches {
        let mut tx = conn.begin().await.unwrap();
        tx.execute(breach).await.unwrap();
        let found = faults(&mut tx).await;
        assert!(
            found.iter().any(|one| one.starts_with(fault)),
            "{fault}: {found:?}"
        );
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn every_tenant_table_has_both_clauses_and_a_way_in_for_its_owner() {
    let db = TestDb::new().await;
    let mut conn = superuser(&db).await;
    let tables = list(&mut conn, TENANT_TABLES).await;
    assert!(tables.len() > 25, "{tables:?}");

    for table in tables {
        let policies = list(
            &mut conn,
            &format!(
                "SELECT p.polname || ' ' || r.rolname FROM pg_policy p JOIN pg_roles r ON r.oid = ANY (p.polroles)
                 WHERE p.polrelid = '{table}'::regclass AND p.polcmd = '*' AND p.polpermissive
                     AND p.polqual IS NOT NULL AND p.polwithcheck IS NOT NULL ORDER BY 1"
            ),
        )
        .await;
        assert_eq!(
            policies,
            [
                "owner engageninja_owner",
                "system engageninja_system",
                "tenant engageninja_app"
            ],
            "{table}"
        );
    }
}

/// With one row of one tenant in every table: nobody in particular sees none of it and hears no error,
/// the tenant sees its own, another tenant nothing.
#[tokio::test]
async fn without_a_tenant_no_table_shows_a_row() {
    let db = TestDb::new().await;
    let mut conn = superuser(&db).await;
    let tables = list(&mut conn, TENANT_TABLES).await;
    fill(&mut conn, &tables).await;

    let other = "01900000-0000-7000-8000-000000000002";
    for table in &tables {
        let readable = list(
            &mut conn,
            &format!("SELECT has_table_privilege('engageninja_app', '{table}', 'select')::text"),
        )
        .await;
        if readable == ["false"] {
            continue;
        }
        for (tenant, rows) in [
            (None, 0),
            (Some(""), 0),
            (Some(other), 0),
            (Some(TENANT), 1),
        ] {
            let seen = count_as_app(&mut conn, table, tenant).await;
            assert_eq!(seen, rows, "{table} as tenant {tenant:?}");
        }
    }
}

async fn count_as_app(conn: &mut PgConnection, table: &str, tenant: Option<&str>) -> i64 {
    let mut tx = conn.begin().await.unwrap();
    tx.execute("SET LOCAL ROLE engageninja_app").await.unwrap();
    if let Some(tenant) = tenant {
        let set = format!("SELECT set_config('app.tenant_id', '{tenant}', true)");
        tx.execute(AssertSqlSafe(set)).await.unwrap();
    }
    let count = format!("SELECT count(tenant_row) FROM {table} AS tenant_row");
    let seen = tx.fetch_one(AssertSqlSafe(count)).await.unwrap().get(0);
    tx.rollback().await.unwrap();
    seen
}

/// Puts one row of [`TENANT`] into each table, whatever its rules ask for: they are dropped first.
async fn fill(conn: &mut PgConnection, tables: &[String]) {
    conn.execute("SET session_replication_role = replica")
        .await
        .unwrap();
    for table in tables {
        let checks = list(
            conn,
            &format!(
                "SELECT format('ALTER TABLE {table} DROP CONSTRAINT %I', conname) FROM pg_constraint
                 WHERE conrelid = '{table}'::regclass AND contype = 'c' AND conislocal"
            ),
        )
        .await;
        for drop in checks {
            conn.execute(AssertSqlSafe(drop)).await.unwrap();
        }
        let columns = list(
            conn,
            &format!(
                "SELECT format('%I', attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND {NEEDED}"
            ),
        )
        .await;
        let values = list(
            conn,
            &format!(
                "SELECT CASE
                     WHEN attname = 'tenant_id' OR '{table}' = 'cell.tenants' AND attname = 'id' THEN '''{TENANT}'''
                     WHEN atttypid = 'uuid'::regtype THEN 'uuid_floor(app_now())'
                     WHEN atttypid = 'timestamptz'::regtype THEN 'app_now()'
                     WHEN atttypid = 'date'::regtype THEN 'app_now()::date'
                     WHEN atttypid = 'jsonb'::regtype THEN '''{{}}'''
                     WHEN atttypid = 'bytea'::regtype THEN ''''''
                     ELSE '''1''' END
                 FROM pg_attribute WHERE attrelid = '{table}'::regclass AND {NEEDED}"
            ),
        )
        .await;
        let insert = format!(
            "INSERT INTO {table} ({}) VALUES ({})",
            columns.join(", "),
            values.join(", ")
        );
        conn.execute(AssertSqlSafe(insert)).await.unwrap();
    }
    conn.execute("SET session_replication_role = origin")
        .await
        .unwrap();
}

/// Columns that a row must bring itself, and the tenant, which may be optional.
const NEEDED: &str = "attnum > 0 AND NOT attisdropped AND attidentity = ''
    AND (attnotnull AND NOT atthasdef OR attname = 'tenant_id')";

#[tokio::test]
async fn the_functions_and_defaults_of_the_database_ask_app_now() {
    let db = TestDb::new().await;
    let mut conn = superuser(&db).await;
    let sources = list(
        &mut conn,
        "SELECT p.proname || ': ' || p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname IN ('control', 'cell', 'public') AND p.proname <> 'app_now'
         UNION ALL
         SELECT d.adrelid::regclass || ': ' || pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
         JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('control', 'cell') AND c.relname <> '_sqlx_migrations'",
    )
    .await;
    assert!(sources.len() > 100, "{}", sources.len());

    for source in sources {
        assert_eq!(bare_clocks(&source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn no_statement_asks_another_clock_than_app_now() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "migrations"] {
        collect(&root.join(dir), &mut files);
    }
    assert!(files.len() > 20);

    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for line in bare_clocks(&text) {
            // `app_now()` itself; a rule of the domain is handed its `now`.
            if !file.starts_with(root.join("src/domain"))
                && !line.contains("coalesce(nullif(current_setting('engageninja.clock_offset'")
            {
                found.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_bare_clock_is_seen() {
    for line in [
        "WHERE ready_at <= now()",
        "default now(),",
        "SELECT clock_timestamp()",
        "at < CURRENT_TIMESTAMP",
        "'now'::timestamptz",
    ] {
        assert_eq!(bare_clocks(line), [line]);
    }
    for line in [
        "WHERE ready_at <= app_now()",
        "let now = self.clock.now();",
        "let started = Instant::now();",
        "-- never now()",
        "/// Never `now()`.",
    ] {
        assert_eq!(bare_clocks(line), Vec::<String>::new());
    }
}

/// Lines outside comments that ask the database's own clock.
fn bare_clocks(text: &str) -> Vec<String> {
    let words = [
        "now()",
        "clock_timestamp()",
        "transaction_timestamp()",
        "statement_timestamp()",
        "current_timestamp",
        "localtimestamp",
        "current_date",
        "'now'",
    ];
    text.lines()
        .filter(|line| {
            let code = line.split("--").next().unwrap_or_default();
            let code = code.split("//").next().unwrap_or_default().to_lowercase();
            words.iter().any(|word| {
                code.match_indices(word).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    // `app_now()`; `clock.now()` and `Instant::now()` of Rust.
                    !before.is_some_and(|c| c.is_alphanumeric() || "_.:".contains(c))
                })
            })
        })
        .map(str::to_owned)
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "sql")
        {
            files.push(path);
        }
    }
}
