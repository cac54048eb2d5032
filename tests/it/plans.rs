//! How every statement would run when there is much to run it on: prepared in the schema where it belongs, explained on
//! 30 partitions, and refused when it would read a whole table of the message path.
//!
//! The plans are generic and partition pruning is off, so that each shows what it does to every partition, whatever its
//! parameters are.

mod new_tenant;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;
use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, Row};
use tokio::sync::OnceCell;

use crate::harness::db::TestDb;

/// Partitions per table.
const PARTITIONS: usize = 30;

/// Tables that no statement may read as a whole.
const GUARDED: &[&str] = &[
    "messages",
    "message_bodies",
    "send_attempts",
    "message_provider_mappings",
    "demo_ledger",
    "jobs",
    "live_calls",
];

/// Statements that may read a guarded table as a whole: a piece of their text, where `^` and `$` are its ends, the fault,
/// and why it is none.
const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "AS oldest_ready_at",
        "scans jobs",
        "an operator's list of queues counts every live row, and the table holds no others",
    ),
    (
        "WITH oldest AS (",
        "reads all of an index of demo_ledger that begins with id",
        "pruning looks at the oldest lines alone, as many as its limit",
    ),
    (
        "^DELETE FROM jobs WHERE queue = $1$",
        "scans jobs",
        "the bench empties its queue",
    ),
    (
        "^SELECT EXISTS (SELECT FROM jobs WHERE queue = $1) AS \"live!\"$",
        "scans jobs",
        "the bench waits for its queue to be empty",
    ),
    (
        "SELECT 'attempt_without_call', a.message_id::text",
        "scans live_calls",
        "the nightly look at attempts that are open: calls under way are few",
    ),
    (
        "^SELECT EXISTS (SELECT FROM live_calls WHERE tenant_id = $1) AS \"has_calls!\"$",
        "scans live_calls",
        "before a demo tenant is removed: calls under way are few",
    ),
    (
        "LIMIT GREATEST(0, $1 - (SELECT count(*) FROM messages",
        "reads all of an index of messages that begins with lane_id",
        "the bench lets out in plain order, from the head of the index",
    ),
    (
        "AS \"begun!\" FROM send_attempts WHERE started_at > $1",
        "scans send_attempts",
        "the bench looks for what began after a pause",
    ),
];

/// A statement with its ends marked.
fn anchored(statement: &str) -> String {
    format!("^{}$", statement.trim())
}

/// What a session of the product has, and what makes a plan tell all.
const SETTINGS: &str = "
    SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_partition_pruning = off";

/// A database with 30 partitions of each partitioned table, for all that only look at plans.
static PARTITIONED: OnceCell<TestDb> = OnceCell::const_new();

/// A connection to it, and what is known of its indexes.
struct Workbench {
    conn: PgConnection,
    indexes: HashMap<String, Index>,
}

struct Index {
    table: String,
    first_column: String,
    /// A partial index of these tables holds what is under way, and nothing of the past; but the backlog's may be long.
    is_short: bool,
}

/// Why a statement was not explained.
#[derive(Debug)]
enum Unexplained {
    /// It names what the schema does not have.
    Foreign(String),
    /// The role may not do it.
    Forbidden,
}

impl Workbench {
    async fn start() -> Self {
        Self::on(PARTITIONED.get_or_init(partitioned).await).await
    }

    async fn on(db: &TestDb) -> Self {
        let mut conn = db.options().cell.connect().await.unwrap();
        let indexes = indexes(&mut conn).await;
        let pieces = indexes.values().filter(|index| {
            index.table.starts_with("messages_")
                && index.first_column == "tenant_id"
                && !index.is_short
        });
        // The key, by contact.
        assert_eq!(pieces.count(), 2 * PARTITIONS);
        conn.execute(SETTINGS).await.unwrap();
        Self { conn, indexes }
    }

    /// The plan of a statement in a schema for a role. `types` are those of its parameters, when they cannot be told from
    /// the statement.
    async fn plan(
        &mut self,
        schema: &str,
        role: &str,
        types: &str,
        statement: &str,
    ) -> Result<Value, Unexplained> {
        let setup = format!("RESET ROLE; SET search_path = {schema}, public; DEALLOCATE ALL");
        self.conn.execute(AssertSqlSafe(setup)).await.unwrap();
        let prepare = format!("PREPARE statement{types} AS {statement}");
        if let Err(error) = self.conn.execute(AssertSqlSafe(prepare)).await {
            return Err(Unexplained::Foreign(format!("{error}")));
        }
        let count = self
            .conn
            .fetch_one("SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'statement'")
            .await
            .unwrap()
            .get::<i32, _>(0);
        let nulls = vec!["NULL"; count as usize].join(", ");
        let arguments = if nulls.is_empty() {
            String::new()
        } else {
            format!("({nulls})")
        };
        let explain =
            format!("SET ROLE {role}; EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE statement{arguments}");
        match sqlx::raw_sql(AssertSqlSafe(explain))
            .fetch_one(&mut self.conn)
            .await
        {
            Ok(row) => Ok(row.get::<Value, _>(0)[0]["Plan"].clone()),
            Err(error) => match error
                .as_database_error()
                .and_then(DatabaseError::code)
                .as_deref()
            {
                Some("42501") => Err(Unexplained::Forbidden),
                _ => panic!("{error}\n{statement}"),
            },
        }
    }

    /// What is wrong with a statement of the product.
    async fn faults(&mut self, statement: &str) -> Vec<String> {
        let mut homes = BTreeMap::new();
        let mut refusals = Vec::new();
        for schema in ["cell", "control"] {
            for role in ["engageninja_app", "engageninja_system", "postgres"] {
                match self.plan(schema, role, "", statement).await {
                    Ok(plan) => homes.entry(schema).or_insert_with(Vec::new).push(plan),
                    Err(Unexplained::Foreign(error)) => {
                        refusals.push(format!("{schema}: {error}"));
                        break;
                    }
                    Err(Unexplained::Forbidden) => {}
                }
                // A superuser's plan says something only where nobody else may run the statement.
                if role == "engageninja_system" && homes.contains_key(schema) {
                    break;
                }
            }
        }
        if homes.is_empty() {
            return vec![format!("belongs to no schema: {}", refusals.join("; "))];
        }
        let plans: Vec<&Value> = homes.values().flatten().collect();
        let mut faults = Vec::new();
        if homes.len() > 1 && plans.iter().any(|plan| names_our_table(plan)) {
            faults.push("runs in both schemas".into());
        }
        for plan in plans {
            self.read(plan, "", &mut faults);
        }
        faults.sort();
        faults.dedup();
        faults
    }

    /// Whole readings in a plan. `alias` is what the node above calls its table: a bitmap's index does not say.
    fn read(&self, node: &Value, alias: &str, faults: &mut Vec<String>) {
        let alias = node["Alias"].as_str().unwrap_or(alias);
        let scanned = node["Relation Name"].as_str();
        if let Some(table) = scanned.filter(|table| is_guarded(table))
            && node["Node Type"] == "Seq Scan"
        {
            faults.push(format!("scans {}", parent(table)));
        }
        let index = node["Index Name"]
            .as_str()
            .and_then(|name| self.indexes.get(name));
        if let Some(index) = index.filter(|index| is_guarded(&index.table) && !index.is_short) {
            let condition = node["Index Cond"].as_str().unwrap_or_default();
            if !narrows(condition, alias, &index.first_column) {
                let (table, column) = (parent(&index.table), &index.first_column);
                faults.push(format!(
                    "reads all of an index of {table} that begins with {column}"
                ));
            }
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.read(child, alias, faults);
        }
    }
}

async fn partitioned() -> TestDb {
    let db = TestDb::new().await;
    // Beside those ahead there are this week's and the last one's.
    let ahead = PARTITIONS - 2;
    db.execute(&format!(
        "UPDATE cell.partition_rules SET ahead = {ahead} WHERE unit = 'uuid_week'; SELECT cell.maintain_partitions()"
    ))
    .await;
    // As the vacuum of an idle installation leaves them: empty, as far as the planner knows. They may be long when a plan runs.
    db.execute(
        "INSERT INTO cell.jobs (queue, kind, payload) SELECT 'idle', 'nothing', '{}' FROM generate_series(1, 1000);
         INSERT INTO cell.live_calls (account_ref, dest_mac, content_mac, tenant_id, message_id, attempt_no)
         SELECT n, '', '', gen_random_uuid(), gen_random_uuid(), 1 FROM generate_series(1, 1000) n;
         DELETE FROM cell.jobs;
         DELETE FROM cell.live_calls",
    )
    .await;
    for table in ["jobs", "live_calls"] {
        db.execute(&format!("VACUUM ANALYZE cell.{table}")).await;
    }
    db
}

/// Whether the condition of an index scan says something of this column of the index.
fn narrows(condition: &str, alias: &str, column: &str) -> bool {
    let column = format!("({alias}.{column}");
    condition
        .match_indices(&column)
        .filter_map(|(at, _)| condition[at + column.len()..].chars().next())
        .any(|after| !after.is_alphanumeric() && after != '_')
}

fn names_our_table(node: &Value) -> bool {
    let is_ours = matches!(node["Schema"].as_str(), Some("cell" | "control"))
        && node["Relation Name"].is_string();
    let mut children = node["Plans"].as_array().into_iter().flatten();
    is_ours || children.any(names_our_table)
}

/// The table that a piece was cut from, or the table itself.
fn parent(table: &str) -> &str {
    match table.rsplit_once('_') {
        Some((parent, day)) if day.len() == 8 && day.bytes().all(|c| c.is_ascii_digit()) => parent,
        _ => table,
    }
}

fn is_guarded(table: &str) -> bool {
    GUARDED.contains(&parent(table))
}

async fn indexes(conn: &mut PgConnection) -> HashMap<String, Index> {
    let rows = conn
        .fetch_all(
            "SELECT i.relname::text, t.relname::text, a.attname::text,
                    x.indpred IS NOT NULL AND pg_get_expr(x.indpred, x.indrelid) NOT LIKE '%waiting_phase = 0%'
             FROM pg_index x
             JOIN pg_class i ON i.oid = x.indexrelid
             JOIN pg_class t ON t.oid = x.indrelid
             JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
             WHERE t.relnamespace = 'cell'::regnamespace",
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| {
            let index = Index {
                table: row.get(1),
                first_column: row.get(2),
                is_short: row.get(3),
            };
            (row.get(0), index)
        })
        .collect()
}

/// Every statement that the product was compiled with.
fn statements() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let mut statements: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let checked: Value = serde_json::from_str(&text).unwrap();
            checked["query"].as_str().unwrap().to_owned()
        })
        .collect();
    statements.sort();
    statements
}

/// What else a search must find by an index: a piece of its statement's text, and what the condition of an index says.
const SEARCHES: &[(&str, &str)] = &[
    (
        "ON p.provider = a.provider AND p.provider_account = a.account_ref",
        "provider_message_id = $2",
    ),
    (
        "WHERE m.tenant_id = $1 AND m.contact_id = u.contact_id",
        "contact_id = u.contact_id",
    ),
];

const MANY_MAPPINGS: &str = "
    BEGIN;
    WITH tenant AS MATERIALIZED (SELECT gen_random_uuid() AS id)
    INSERT INTO cell.message_provider_mappings (tenant_id, message_id, attempt_no, channel, provider,
                                                provider_account, provider_message_id)
    SELECT tenant.id, gen_random_uuid(), 1, 'sms', 'demo', 'one', n
    FROM tenant, generate_series(1, 2000) n;
    ANALYZE cell.message_provider_mappings";

/// Under row-level security, as a tenant's requests run: only leakproof operators become conditions of an index.
#[tokio::test]
async fn a_search_reads_a_range_or_a_key_of_an_index() {
    // Its own: others see at once how many rows an analysis found, though not what it learned of them.
    let db = partitioned().await;
    let mut bench = Workbench::on(&db).await;
    // One tenant with many messages, as the planner sees it.
    bench.conn.execute(MANY_MAPPINGS).await.unwrap();
    let mut ranges = 0;
    for statement in statements() {
        let pieces = SEARCHES
            .iter()
            .filter(|(piece, _)| statement.contains(piece));
        let pieces: Vec<_> = pieces.collect();
        if pieces.is_empty() && !statement.contains(BEGINNING) {
            continue;
        }
        let plan = bench.plan("cell", "engageninja_app", "", &statement).await;
        let (plan, mut conditions) = (plan.unwrap(), Vec::new());
        index_conditions(&plan, &mut conditions);
        for (filter, condition) in &conditions {
            let is_range = condition.contains(">=") && condition.contains(" < ");
            assert!(
                !filter.contains(BEGINNING) || is_range,
                "{condition}: {statement}"
            );
        }
        let found = conditions
            .iter()
            .filter(|(filter, _)| filter.contains(BEGINNING));
        assert_eq!(
            found.count(),
            statement.matches(BEGINNING).count(),
            "{statement}"
        );
        ranges += statement.matches(BEGINNING).count();
        for (_, wanted) in pieces {
            let is_met = conditions
                .iter()
                .any(|(_, condition)| condition.contains(wanted));
            assert!(is_met, "{conditions:?}: {statement}");
        }
    }
    assert!(ranges >= 9, "{ranges}");
}

/// What each statement that finds by a beginning filters by, beside the range.
const BEGINNING: &str = "starts_with(";

/// Of each scan of an index, what it filters by, and its condition.
fn index_conditions(node: &Value, found: &mut Vec<(String, String)>) {
    let text = |name: &str| node[name].as_str().unwrap_or_default().to_owned();
    if node["Relation Name"].is_string() {
        found.push((text("Filter"), text("Index Cond")));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        index_conditions(child, found);
    }
}

#[tokio::test]
async fn no_statement_reads_a_whole_table_of_the_message_path() {
    let mut bench = Workbench::start().await;
    let statements = statements();
    assert!(statements.len() > 100, "{} statements", statements.len());

    let mut bad = Vec::new();
    for statement in &statements {
        let mut faults = bench.faults(statement).await;
        faults.retain(|found| {
            let mut allowed = ALLOWED.iter();
            !allowed.any(|(piece, fault, _)| anchored(statement).contains(piece) && found == fault)
        });
        if !faults.is_empty() {
            bad.push(format!("{}{statement}", faults.join("\n")));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));

    for (piece, _, reason) in ALLOWED {
        let is_used = statements
            .iter()
            .any(|statement| anchored(statement).contains(piece));
        assert!(is_used, "no statement says {piece}: {reason}");
    }
}

/// The statements of `begin_attempts` are the product's hottest, and a plan of the call does not show them.
#[tokio::test]
async fn neither_does_a_statement_of_begin() {
    let mut bench = Workbench::start().await;
    let statements = statements_of_begin(&mut bench.conn).await;
    bench
        .conn
        .execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
        .await
        .unwrap();

    for statement in statements {
        let plan = bench
            .plan("cell", "engageninja_system", BEGIN_TYPES, &statement)
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{statement}"));
        let mut faults = Vec::new();
        bench.read(&plan, "", &mut faults);
        faults.dedup();
        assert!(faults.is_empty(), "{}\n{statement}", faults.join("\n"));
    }
}

/// The parameters of `begin_attempts` and its variables.
const BEGIN_NAMES: [&str; 8] = [
    "p_incarnation",
    "p_tenants",
    "p_ids",
    "p_tokens",
    "p_deadline",
    "p_first_look",
    "p_busy",
    "v_now",
];
const BEGIN_TYPES: &str =
    "(bigint, uuid[], uuid[], uuid[], interval, interval, interval, timestamptz)";

/// Its statements that read messages, as plain ones.
async fn statements_of_begin(conn: &mut PgConnection) -> Vec<String> {
    let row = conn
        .fetch_one("SELECT prosrc FROM pg_proc WHERE proname = 'begin_attempts_2'")
        .await
        .unwrap();
    let body: String = row.get(0);
    // Comments hold semicolons of their own.
    let body: String = body
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let statements: Vec<String> = body
        .split(';')
        .filter_map(|statement| {
            let statement = statement.trim();
            let plain = statement
                .strip_prefix("perform")
                .map(|rest| format!("SELECT {rest}"))
                .or_else(|| statement.strip_prefix("return query").map(Into::into))?;
            Some(with_parameters(&plain))
        })
        .collect();
    assert_eq!(statements.len(), 2, "{statements:?}");
    assert!(statements.iter().all(|s| s.contains(" messages ")));
    statements
}

fn with_parameters(statement: &str) -> String {
    let mut plain = statement.to_owned();
    for (at, name) in BEGIN_NAMES.iter().enumerate() {
        plain = plain.replace(name, &format!("${}", at + 1));
    }
    plain
}

/// A check that sees nothing finds nothing.
#[tokio::test]
async fn bad_statements_are_refused() {
    let mut bench = Workbench::start().await;
    let bad = [
        (
            "SELECT id FROM messages WHERE waiting_phase = 0 ORDER BY lane_id, id LIMIT 10",
            "reads all of an index of messages that begins with lane_id",
        ),
        (
            "SELECT count(*) FROM messages WHERE dest_mac = $1",
            "scans messages",
        ),
        (
            "DELETE FROM messages WHERE expires_at < app_now()",
            "scans messages",
        ),
        (
            "SELECT m.phase FROM unnest($1::uuid[]) AS u (id) JOIN messages m ON m.id = u.id",
            "messages",
        ),
        (
            "UPDATE send_attempts SET look_ups = 0 WHERE account_ref = $1",
            "scans send_attempts",
        ),
        ("SELECT id FROM jobs WHERE kind = $1", "scans jobs"),
        ("SELECT count(*) FROM jobs", "reads all of an index of jobs"),
        (
            "SELECT tenant_id FROM messages ORDER BY tenant_id, id LIMIT $1",
            "reads all of an index of messages",
        ),
        (
            "SELECT u.email FROM users u JOIN campaigns c ON c.created_by = u.id",
            "belongs to no schema",
        ),
        (
            "SELECT version FROM _sqlx_migrations",
            "runs in both schemas",
        ),
    ];
    for (statement, fault) in bad {
        let faults = bench.faults(statement).await;
        assert!(
            faults.iter().any(|one| one.contains(fault)),
            "{statement}: {faults:?}"
        );
    }

    let good = [
        "SELECT phase FROM messages WHERE tenant_id = $1 AND id = $2",
        "SELECT count(*) FROM messages WHERE released_at IS NOT NULL",
        "SELECT id FROM jobs WHERE queue = $1 AND state = 0 ORDER BY priority, id LIMIT 5",
        "SELECT set_config('statement_timeout', $1, true)",
    ];
    for statement in good {
        assert_eq!(
            bench.faults(statement).await,
            Vec::<String>::new(),
            "{statement}"
        );
    }
}
