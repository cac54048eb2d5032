//! How statements run for a tenant whose contacts the planner has not met yet, as right after an import.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::{Workbench, partitioned, statements};

/// Tables of which a tenant may have as many rows as contacts.
const LONG: [&str; 4] = [
    "contacts",
    "contact_consents",
    "contact_list_members",
    "suppressions",
];

/// Statements that read all that a tenant has, by a piece of their text.
const ALLOWED: [&str; 2] = [
    // It freezes an audience; its transaction joins by hash alone.
    "'duplicate_address'",
    // They look at everybody for each of a few names of variables.
    "WITH ORDINALITY AS n (name, place)",
];

/// Somebody else has many of them, as the planner sees it.
const MANY: &str = "
    BEGIN;
    SET LOCAL search_path = cell, public;
    INSERT INTO cell.tenants (id, name) VALUES (gen_random_uuid(), 'Known');
    INSERT INTO cell.contact_lists (tenant_id, id, name)
    SELECT t.id, t.id, 'All' FROM cell.tenants t WHERE t.name = 'Known';
    INSERT INTO cell.contacts (tenant_id, id, email, email_normalized, email_mac)
    SELECT t.id, gen_random_uuid(), n || '@example.com', n || '@example.com', decode(md5(n::text), 'hex')
    FROM cell.tenants t, generate_series(1, 20000) n
    WHERE t.name = 'Known';
    INSERT INTO cell.contact_consents (tenant_id, contact_id, channel, state, consent_id, at)
    SELECT c.tenant_id, c.id, 'email', 'granted', c.id, app_now() FROM cell.contacts c;
    INSERT INTO cell.contact_list_members (tenant_id, list_id, contact_id)
    SELECT c.tenant_id, c.tenant_id, c.id FROM cell.contacts c;
    INSERT INTO cell.suppressions (tenant_id, channel, dest_mac, reason)
    SELECT c.tenant_id, 'email', c.email_mac, 'opt_out' FROM cell.contacts c;
    ANALYZE cell.contacts, cell.contact_consents, cell.contact_list_members, cell.suppressions;
    SET LOCAL plan_cache_mode = force_custom_plan";
/// As if the planner learned which tenants it has met.
const LEARN: &str = "
    RESET ROLE;
    ALTER TABLE cell.contacts ALTER COLUMN tenant_id SET STATISTICS -1;
    ANALYZE cell.contacts";

#[tokio::test]
async fn rows_are_found_by_their_keys_though_the_planner_knows_none_of_the_tenant() {
    // Its own, see the searches.
    let db = partitioned().await;
    let mut bench = Workbench::on(&db).await;
    bench.conn.execute(MANY).await.unwrap();
    let (mut explained, mut bad) = (0, Vec::new());
    for statement in statements() {
        let is_long = LONG.iter().any(|table| statement.contains(table));
        if !is_long || ALLOWED.iter().any(|piece| statement.contains(piece)) {
            continue;
        }
        let plan = plan_for_a_new_tenant(&mut bench, &statement).await;
        explained += 1;
        let mut repeated = Vec::new();
        repeated_readings(&plan, false, &mut repeated);
        if !repeated.is_empty() {
            bad.push(format!("{}{statement}", repeated.join("\n")));
        }
    }
    assert!(explained >= 8, "{explained}");
    assert!(bad.is_empty(), "{}", bad.join("\n\n"));

    let trap = "SELECT c.email FROM campaign_audience a JOIN contacts c ON c.tenant_id = a.tenant_id AND c.id = a.contact_id
                WHERE a.tenant_id = $1 AND a.campaign_id = $2";
    bench.conn.execute(LEARN).await.unwrap();
    let plan = plan_for_a_new_tenant(&mut bench, trap).await;
    let mut repeated = Vec::new();
    repeated_readings(&plan, false, &mut repeated);
    assert!(!repeated.is_empty(), "{plan:#}");
}

/// The plan with values of the right types, as a session plans what it runs for the first time.
async fn plan_for_a_new_tenant(bench: &mut Workbench, statement: &str) -> Value {
    let setup = "RESET ROLE; SET LOCAL search_path = cell, public; DEALLOCATE ALL";
    bench.conn.execute(setup).await.unwrap();
    let prepare = format!("PREPARE statement AS {statement}");
    bench.conn.execute(AssertSqlSafe(prepare)).await.unwrap();
    let types: Vec<String> = bench
        .conn
        .fetch_one(
            "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'statement'",
        )
        .await
        .unwrap()
        .get(0);
    let values: Vec<String> = types.iter().map(|of| value(of)).collect();
    let arguments = if values.is_empty() {
        String::new()
    } else {
        format!("({})", values.join(", "))
    };
    let explain = format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE statement{arguments}");
    let row = sqlx::raw_sql(AssertSqlSafe(explain))
        .fetch_one(&mut bench.conn)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{statement}"));
    row.get::<Value, _>(0)[0]["Plan"].clone()
}

fn value(of: &str) -> String {
    let text = match of {
        "uuid" => "00000000-0000-7000-8000-000000000000",
        "smallint" | "integer" | "bigint" | "double precision" | "numeric" => "1",
        "boolean" => "true",
        "jsonb" => "{}",
        "timestamp with time zone" => "2026-01-01T00:00:00Z",
        "interval" => "1 s",
        list if list.ends_with("[]") => "{}",
        _ => "",
    };
    format!("'{text}'::{of}")
}

/// Readings of all that a tenant has of a table, once for each row of something else.
fn repeated_readings(node: &Value, is_repeated: bool, found: &mut Vec<String>) {
    let table = node["Relation Name"].as_str().unwrap_or_default();
    let condition = ["Index Cond", "Recheck Cond"].map(|name| node[name].as_str());
    let condition = condition.into_iter().flatten().next().unwrap_or_default();
    if is_repeated && LONG.contains(&table) && !names_a_row(condition) {
        found.push(format!(
            "reads {table} by {condition} for each row of something else"
        ));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        let is_inner =
            node["Node Type"] == "Nested Loop" && child["Parent Relationship"] == "Inner";
        repeated_readings(child, is_repeated || is_inner, found);
    }
}

/// Whether a condition compares with the row of something else, not with values alone.
fn names_a_row(condition: &str) -> bool {
    condition.split("= ").skip(1).any(|right| {
        let right = right.split(')').next().unwrap_or_default();
        right.starts_with(|first: char| first.is_ascii_lowercase()) && right.contains('.')
    })
}
