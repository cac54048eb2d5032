//! What benches ask a database, and the plainest release they compare the real one with.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, query, query_scalar};
use uuid::Uuid;

use super::release::SHARD;
use super::tenants::save_plan;
use super::{StoreError, StoreResult, SystemTx};
use crate::domain::ids::{Incarnation, MessageId, MessageKey, TenantId};
use crate::domain::message::Phase;
use crate::domain::rate::plan::Plan;

/// What a database has done since it was made; two of these tell what lies between.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Bytes of write-ahead log, of the whole server.
    pub wal_bytes: i64,
    /// Rows inserted, updated and deleted in this database, by table, its partitions together. Sessions report it when they end,
    /// or within seconds.
    pub row_writes: BTreeMap<String, i64>,
}

/// Reads what the database has done so far.
pub async fn read_cost(tx: &mut SystemTx) -> StoreResult<Cost> {
    let wal_bytes = query_scalar!(
        r#"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS "wal_bytes!""#
    )
    .fetch_one(tx.conn())
    .await?;
    let rows = query!(
        r#"
        SELECT COALESCE(p.relname, s.relname)::text AS "name!", sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del)::bigint AS "writes!"
        FROM pg_stat_user_tables s
        LEFT JOIN pg_inherits i ON i.inhrelid = s.relid
        LEFT JOIN pg_class p ON p.oid = i.inhparent
        GROUP BY 1
        "#
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(Cost {
        wal_bytes,
        row_writes: rows.into_iter().map(|row| (row.name, row.writes)).collect(),
    })
}

/// How many people of campaigns are kept for them to be written to.
pub async fn count_audience(tx: &mut SystemTx) -> StoreResult<i64> {
    let people = query_scalar!(r#"SELECT count(*) AS "people!" FROM campaign_audience"#)
        .fetch_one(tx.conn())
        .await?;
    Ok(people)
}

/// Sweeps the database and looks at it anew, which it would else do by itself while it is measured. `options` are the owner's.
pub async fn tidy(options: &PgConnectOptions) -> StoreResult<()> {
    let mut conn = options.connect().await?;
    conn.execute("VACUUM ANALYZE").await?;
    conn.close().await?;
    Ok(())
}

/// How far some messages are.
pub async fn list_phases(
    tx: &mut SystemTx,
    keys: &[MessageKey],
) -> StoreResult<Vec<(MessageKey, Phase)>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    let rows = query!(
        r#"
        SELECT m.tenant_id, m.id, m.phase
        FROM unnest($1::uuid[], $2::uuid[]) AS k (tenant_id, id)
        JOIN messages m ON m.tenant_id = k.tenant_id AND m.id = k.id
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let key = MessageKey {
                tenant_id: TenantId(row.tenant_id),
                id: MessageId(row.id),
            };
            Ok((key, Phase::try_from(row.phase)?))
        })
        .collect::<Result<_, StoreError>>()
}

/// How many calls the demo provider took for each of some tenants.
pub async fn count_taken(tx: &mut SystemTx, tenants: &[TenantId]) -> StoreResult<Vec<i64>> {
    let tenant_ids: Vec<Uuid> = tenants.iter().map(|id| id.0).collect();
    let counts = query_scalar!(
        r#"
        SELECT (SELECT count(*) FROM demo_ledger d WHERE d.tenant_id = t.id) AS "taken!"
        FROM unnest($1::uuid[]) WITH ORDINALITY AS t (id, at)
        ORDER BY t.at
        "#,
        &tenant_ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(counts)
}

/// Attempts that began after an instant.
pub async fn count_begun_after(tx: &mut SystemTx, at: DateTime<Utc>) -> StoreResult<i64> {
    let begun = query_scalar!(
        r#"SELECT count(*) AS "begun!" FROM send_attempts WHERE started_at > $1"#,
        at,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(begun)
}

/// Begins that wait for a lock of the campaign they are about. Beside sends nothing else waits for a shared one.
pub async fn count_waiting_begins(tx: &mut SystemTx) -> StoreResult<i64> {
    // Not pg_stat_activity, which shows what a session waits for to the session's own login alone.
    let waiting = query_scalar!(
        r#"
        SELECT count(*) AS "waiting!" FROM pg_locks
        WHERE locktype = 'advisory' AND mode = 'ShareLock' AND NOT granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        "#
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(waiting)
}

/// Gives a tenant a weight, and it and its senders rates that are kept to and limit nothing.
pub async fn set_rates(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    weight: i16,
    segments_per_sec: Option<f64>,
) -> StoreResult<()> {
    let plan = Plan {
        segments_per_sec,
        weight,
    };
    save_plan(tx, tenant_id, &plan).await?;
    query!(
        "UPDATE senders SET segments_per_sec_override = $2::float8 WHERE tenant_id = $1",
        tenant_id.0,
        segments_per_sec,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Gives a provider account a ceiling of its own.
pub async fn set_account_rate(
    tx: &mut SystemTx,
    account_ref: &str,
    per_sec: f64,
) -> StoreResult<()> {
    query!(
        "UPDATE provider_accounts SET quota = jsonb_build_object('per_sec', $2::float8) WHERE account_ref = $1",
        account_ref,
        per_sec,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes the leadership from whoever has it, and says the epoch that fences this term.
pub async fn seize_term(tx: &mut SystemTx, owner: Incarnation) -> StoreResult<i64> {
    let epoch = query_scalar!(
        r#"
        UPDATE release_shards
        SET epoch = epoch + 1, owner = $2, until = app_now() + INTERVAL '5 seconds'
        WHERE shard = $1
        RETURNING epoch
        "#,
        SHARD,
        owner.0,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(epoch)
}

/// Lets out messages in the order of an index, without turns, lanes or buckets: the least a release can do. At most as many
/// as fill a window of `window` messages.
pub async fn pick_in_order(tx: &mut SystemTx, window: i64) -> StoreResult<Vec<MessageKey>> {
    let rows = query!(
        r#"
        WITH picked AS (
            SELECT tenant_id, id
            FROM messages
            WHERE waiting_phase = 0
            ORDER BY lane_id, id
            -- What was let out before has begun long since.
            LIMIT GREATEST(0, $1 - (SELECT count(*) FROM messages WHERE released_at > app_now() - INTERVAL '2 seconds'))
            FOR UPDATE SKIP LOCKED
        )
        UPDATE messages m
        SET phase = 1, phase_at = app_now()
        FROM picked p
        WHERE m.tenant_id = p.tenant_id AND m.id = p.id
        RETURNING m.tenant_id, m.id
        "#,
        window,
    )
    .fetch_all(tx.conn())
    .await?;
    let keys = rows.into_iter().map(|row| MessageKey {
        tenant_id: TenantId(row.tenant_id),
        id: MessageId(row.id),
    });
    Ok(keys.collect())
}
