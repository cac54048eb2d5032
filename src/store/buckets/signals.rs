//! What answers and reports say of rates: appended by whoever hears it, eaten by the release leader.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};

use super::Row;
use crate::domain::ids::MessageKey;
use crate::domain::rate::BucketKind;
use crate::domain::rate::bucket::Day;
use crate::domain::rate::learned::{Heard, Learned, Signal};
use crate::store::{StoreResult, SystemTx};

/// What an answer or a report says of a rate that its message went by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSignal {
    /// The message.
    pub key: MessageKey,
    /// Whose rate: the account's, the sender's with all others of its brand, or the brand's alone.
    pub whose: BucketKind,
    /// What it says.
    pub signal: Signal,
    /// How long the provider asked to wait.
    pub retry_after: Option<Duration>,
}

/// Appends signals, one for each bucket and word. A rate that has no bucket has nothing to learn.
pub async fn append_signals(tx: &mut SystemTx, new: &[NewSignal]) -> StoreResult<()> {
    if new.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = new.iter().map(|signal| signal.key).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let kinds: Vec<&str> = new.iter().map(|signal| signal.whose.as_str()).collect();
    let signals: Vec<&str> = new.iter().map(|signal| signal.signal.as_str()).collect();
    let waits: Vec<Option<i32>> = new
        .iter()
        .map(|signal| signal.retry_after.map(millis))
        .collect();
    query!(
        r#"
        WITH said AS MATERIALIZED (
            SELECT u.kind, u.signal, u.retry_after_ms, m.tenant_id, m.lane_id, m.provider_account_sid, m.cost,
                   CASE WHEN u.signal IN ('cap_reached', 'given_back')
                        THEN COALESCE(newest_call_at(m.tenant_id, m.id, m.attempt_no), m.phase_at) END AS began_at
            FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[])
                 AS u (tenant_id, id, kind, signal, retry_after_ms)
            JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        ), meant AS (
            SELECT 'account:' || s.provider_account_sid AS name, s.signal, s.retry_after_ms, s.began_at, s.cost
            FROM said s
            WHERE s.kind = 'account'
            UNION ALL
            -- Carriers count a brand, whichever of its numbers a message leaves.
            SELECT 'sender:' || t.provider || ':' || t.address, s.signal, s.retry_after_ms, s.began_at, s.cost
            FROM said s
            JOIN lanes l ON l.tenant_id = s.tenant_id AND l.id = s.lane_id
            JOIN senders o ON o.tenant_id = l.tenant_id AND o.id = l.sender_id
            JOIN senders t ON t.tenant_id = o.tenant_id AND (t.id = o.id OR t.brand_id = o.brand_id)
            WHERE s.kind = 'sender'
            UNION ALL
            SELECT 'brand:' || o.brand_id, s.signal, s.retry_after_ms, s.began_at, s.cost
            FROM said s
            JOIN lanes l ON l.tenant_id = s.tenant_id AND l.id = s.lane_id
            JOIN senders o ON o.tenant_id = l.tenant_id AND o.id = l.sender_id
            WHERE s.kind IN ('sender', 'brand') AND o.brand_id IS NOT NULL
        )
        INSERT INTO bucket_signals (bucket_id, signal, retry_after_ms, at, cost)
        -- A day begins with a minute.
        SELECT b.id, m.signal, max(m.retry_after_ms), COALESCE(date_trunc('minute', m.began_at), app_now()), sum(m.cost)
        FROM meant m
        JOIN buckets b ON b.name = m.name
        WHERE m.signal <> 'given_back' OR b.cap IS NOT NULL
        GROUP BY b.id, m.signal, date_trunc('minute', m.began_at)
        "#,
        &tenant_ids,
        &ids,
        &kinds as &[&str],
        &signals as &[&str],
        &waits as &[Option<i32>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// Eats signals, at most `limit`: their buckets have learned them.
pub async fn eat_signals(tx: &mut SystemTx, limit: i64) -> StoreResult<()> {
    let rows = query!(
        r#"
        DELETE FROM bucket_signals s
        USING (SELECT id FROM bucket_signals ORDER BY id LIMIT $1) o
        WHERE s.id = o.id
        RETURNING s.id, s.bucket_id, s.signal, s.retry_after_ms, s.at, s.cost
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut heard: BTreeMap<i64, Vec<(i64, Heard)>> = BTreeMap::new();
    for row in rows {
        // A word that this version does not know was said by a newer one beside us.
        let Ok(signal) = row.signal.parse::<Signal>() else {
            continue;
        };
        let wait = row
            .retry_after_ms
            .map(|ms| Duration::from_millis(ms.unsigned_abs().into()));
        let one = Heard {
            signal,
            at: row.at,
            cost: row.cost,
            retry_after: wait,
        };
        heard.entry(row.bucket_id).or_default().push((row.id, one));
    }
    let ids: Vec<i64> = heard.keys().copied().collect();
    let mut learned: Vec<(i64, Learned, Option<Day>)> = Vec::with_capacity(ids.len());
    for row in list_rows(tx, &ids).await? {
        let mut said = heard.remove(&row.id).unwrap_or_default();
        said.sort_unstable_by_key(|(id, _)| *id);
        let known = said
            .iter()
            .fold(row.learned(), |known, (_, heard)| known.hear(heard));
        let unsent = said
            .iter()
            .filter(|(_, heard)| heard.signal == Signal::GivenBack);
        let day = row
            .day()
            .map(|day| unsent.fold(day, |day, (_, heard)| day.given_back(heard.cost, heard.at)));
        learned.push((row.id, known, day));
    }
    save_learned(tx, &learned).await
}

async fn list_rows(tx: &mut SystemTx, ids: &[i64]) -> StoreResult<Vec<Row>> {
    let rows = query_as!(
        Row,
        r#"
        SELECT b.id, b.name, NULLIF(b.tat, '-infinity') AS tat, b.rate_per_sec::float8 AS rate_per_sec, b.closed_until,
               b.slowed_until, b.used, b.resets_at, b.calls_limit::float8 AS calls_limit, b.calls_since, b.calls_halved_at
        FROM buckets b
        WHERE b.id = ANY($1)
        "#,
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}

async fn save_learned(
    tx: &mut SystemTx,
    learned: &[(i64, Learned, Option<Day>)],
) -> StoreResult<()> {
    let instants = |f: fn(&Learned) -> Option<DateTime<Utc>>| -> Vec<Option<DateTime<Utc>>> {
        learned.iter().map(|(_, learned, _)| f(learned)).collect()
    };
    let ids: Vec<i64> = learned.iter().map(|(id, ..)| *id).collect();
    let used: Vec<Option<i64>> = learned
        .iter()
        .map(|(.., day)| day.map(|day| day.used))
        .collect();
    let closed = instants(|learned| learned.closed_until);
    let slowed = instants(|learned| learned.slowed_until);
    let limits: Vec<Option<f64>> = learned
        .iter()
        .map(|(_, learned, _)| learned.calls.map(|calls| calls.calls))
        .collect();
    let since = instants(|learned| learned.calls.map(|calls| calls.since));
    let halved = instants(|learned| learned.calls.and_then(|calls| calls.halved_at));
    query!(
        r#"
        UPDATE buckets b
        SET closed_until = u.closed, slowed_until = u.slowed, calls_limit = u.calls::numeric, calls_since = u.since,
            calls_halved_at = u.halved, used = COALESCE(u.used, b.used), updated_at = app_now()
        FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::float8[], $5::timestamptz[], $6::timestamptz[],
                    $7::bigint[])
             AS u (id, closed, slowed, calls, since, halved, used)
        WHERE b.id = u.id
        "#,
        &ids,
        &closed as &[Option<DateTime<Utc>>],
        &slowed as &[Option<DateTime<Utc>>],
        &limits as &[Option<f64>],
        &since as &[Option<DateTime<Utc>>],
        &halved as &[Option<DateTime<Utc>>],
        &used as &[Option<i64>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
