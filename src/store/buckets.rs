//! What is left of each rate. The release leader alone writes it; what others have to say of a rate is in [`signals`].

pub mod signals;

use chrono::{DateTime, Utc};
use sqlx::query_as;

use super::release::SHARD;
use super::{StoreResult, SystemTx};
use crate::domain::rate::bucket::{Bucket, Calls, Day, is_another_rate};
use crate::domain::rate::learned::{CallLimit, Learned};
use crate::domain::rate::{ACCOUNT_PREFIX, Rule};

/// A bucket as a tick finds it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// With the rule that holds now.
    pub bucket: Bucket,
    /// Whether another rate held when it was saved last: it has to be saved, drawn on or not.
    pub has_changed: bool,
}

/// The buckets of these rules at `now`, made where they are new, in the rules' order.
pub async fn load_buckets(
    tx: &mut SystemTx,
    rules: Vec<Rule>,
    now: DateTime<Utc>,
) -> StoreResult<Vec<Loaded>> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    let kinds: Vec<&str> = rules.iter().map(|rule| rule.kind.as_str()).collect();
    let rows = query_as!(
        Row,
        r#"
        WITH named AS (
            SELECT u.name, u.kind
            FROM unnest($2::text[], $3::text[]) AS u (name, kind)
        ), made AS (
            INSERT INTO buckets (name, kind, shard, source, calls_limit, calls_since)
            SELECT u.name, u.kind, $1, 'rule', c.most, c.since
            FROM named u
            LEFT JOIN (SELECT $4::float8::numeric AS most, $5::timestamptz AS since) c ON u.kind = 'account'
            -- Asked first, since a conflict would use up an id each time.
            WHERE NOT EXISTS (SELECT FROM buckets b WHERE b.name = u.name)
            ON CONFLICT (name) DO NOTHING
            RETURNING *
        ), those AS (
            SELECT m.* FROM made m
            UNION ALL
            SELECT b.* FROM named u JOIN buckets b ON b.name = u.name
        )
        SELECT b.id AS "id!", b.name AS "name!", NULLIF(b.tat, '-infinity') AS tat, b.rate_per_sec::float8 AS rate_per_sec,
               b.closed_until, b.slowed_until, b.used AS "used!", b.resets_at, b.calls_limit::float8 AS calls_limit,
               b.calls_since, b.calls_halved_at
        FROM those b
        "#,
        SHARD,
        &names as &[&str],
        &kinds as &[&str],
        CallLimit::START,
        now,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(as_loaded(rules, &rows, now))
}

/// The same of those that are there, for whoever only looks; one that is new counts as untouched.
pub async fn read_buckets(
    tx: &mut SystemTx,
    rules: Vec<Rule>,
    now: DateTime<Utc>,
) -> StoreResult<Vec<Loaded>> {
    let rows = list_rules(tx, &rules).await?;
    Ok(as_loaded(rules, &rows, now))
}

fn as_loaded(rules: Vec<Rule>, rows: &[Row], now: DateTime<Utc>) -> Vec<Loaded> {
    rules
        .into_iter()
        .map(|rule| {
            let row = rows.iter().find(|row| row.name == rule.name);
            let learned = row.map(Row::learned).unwrap_or_default();
            let rate_per_sec = rule.rate_per_sec * learned.share(now);
            let bucket = Bucket {
                rule: Rule {
                    rate_per_sec,
                    ..rule
                },
                tat: row.and_then(|row| row.tat),
                day: row.and_then(Row::day),
                closed_until: learned.closed_until,
                // How many are under way is for the leader to count.
                calls: learned.calls.map(|calls| Calls {
                    most: calls.at(now),
                    under_way: 0,
                }),
            };
            let before_per_sec = row.and_then(|row| row.rate_per_sec).unwrap_or(rate_per_sec);
            let has_changed = is_another_rate(before_per_sec, rate_per_sec);
            Loaded {
                bucket: bucket.after_rate(before_per_sec, now),
                has_changed,
            }
        })
        .collect()
}

async fn list_rules(tx: &mut SystemTx, rules: &[Rule]) -> StoreResult<Vec<Row>> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    list_named(tx, &names).await
}

async fn list_named(tx: &mut SystemTx, names: &[&str]) -> StoreResult<Vec<Row>> {
    let rows = query_as!(
        Row,
        r#"
        SELECT b.id, b.name, NULLIF(b.tat, '-infinity') AS tat, b.rate_per_sec::float8 AS rate_per_sec, b.closed_until,
               b.slowed_until, b.used, b.resets_at, b.calls_limit::float8 AS calls_limit, b.calls_since, b.calls_halved_at
        FROM unnest($1::text[]) AS u (name)
        JOIN buckets b ON b.name = u.name
        "#,
        names as &[&str],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}

/// How many calls of each of these accounts may be under way at once, of those whose provider is known to count.
pub async fn list_call_limits(
    tx: &mut SystemTx,
    account_refs: &[String],
    now: DateTime<Utc>,
) -> StoreResult<Vec<(String, i64)>> {
    let names: Vec<String> = account_refs
        .iter()
        .map(|account_ref| format!("{ACCOUNT_PREFIX}{account_ref}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = list_named(tx, &names).await?;
    let limits = rows.iter().filter_map(|row| {
        let account_ref = row.name.strip_prefix(ACCOUNT_PREFIX)?.to_owned();
        Some((account_ref, row.learned().calls?.at(now)))
    });
    Ok(limits.collect())
}

struct Row {
    id: i64,
    name: String,
    tat: Option<DateTime<Utc>>,
    rate_per_sec: Option<f64>,
    closed_until: Option<DateTime<Utc>>,
    slowed_until: Option<DateTime<Utc>>,
    used: i64,
    resets_at: Option<DateTime<Utc>>,
    calls_limit: Option<f64>,
    calls_since: Option<DateTime<Utc>>,
    calls_halved_at: Option<DateTime<Utc>>,
}

impl Row {
    fn day(&self) -> Option<Day> {
        self.resets_at.map(|resets_at| Day {
            used: self.used,
            resets_at,
        })
    }

    fn learned(&self) -> Learned {
        let calls = self.calls_limit.zip(self.calls_since);
        Learned {
            closed_until: self.closed_until,
            slowed_until: self.slowed_until,
            calls: calls.map(|(calls, since)| CallLimit {
                calls,
                since,
                halved_at: self.calls_halved_at,
            }),
        }
    }
}
