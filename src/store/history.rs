//! What is forgotten when its time is past, in the cell: each statement takes a bounded batch of rows that nobody holds, in
//! key order.

use std::time::Duration;

use sqlx::query;

use super::{StoreResult, SystemTx, interval};

/// Forgets kept answers that are older than `kept`, at most `limit`.
pub async fn delete_old_answers(tx: &mut SystemTx, kept: Duration, limit: i64) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH old AS (
            SELECT tenant_id, key
            FROM idempotency_keys
            WHERE created_at < app_now() - $1::interval
            ORDER BY created_at
            LIMIT $2
        ), locked AS (
            SELECT k.tenant_id, k.key
            FROM old o
            JOIN idempotency_keys k ON k.tenant_id = o.tenant_id AND k.key = o.key
            -- A key that is used anew meanwhile has a new time.
            WHERE k.created_at < app_now() - $1::interval
            ORDER BY k.tenant_id, k.key
            FOR UPDATE OF k SKIP LOCKED
        )
        DELETE FROM idempotency_keys k
        USING locked l
        WHERE k.tenant_id = l.tenant_id AND k.key = l.key
        "#,
        interval(kept),
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Forgets pieces of uploads whose import has ended, at most `limit`.
pub async fn delete_ended_chunks(tx: &mut SystemTx, limit: i64) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH locked AS (
            SELECT c.tenant_id, c.import_id, c.chunk_no
            FROM import_chunks c
            JOIN imports i ON i.tenant_id = c.tenant_id AND i.id = c.import_id
            WHERE i.status IN ('completed', 'failed', 'cancelled')
            ORDER BY c.tenant_id, c.import_id, c.chunk_no
            LIMIT $1
            FOR UPDATE OF c SKIP LOCKED
        )
        DELETE FROM import_chunks c
        USING locked l
        WHERE c.tenant_id = l.tenant_id AND c.import_id = l.import_id AND c.chunk_no = l.chunk_no
        "#,
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Forgets uploads that began longer than `kept` ago and never ended, with their pieces, at most `limit`.
pub async fn delete_abandoned_uploads(
    tx: &mut SystemTx,
    kept: Duration,
    limit: i64,
) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH locked AS (
            SELECT tenant_id, id
            FROM imports
            WHERE status = 'uploading' AND mapping = '{}' AND created_at < app_now() - $1::interval
            ORDER BY tenant_id, id
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM imports i
        USING locked l
        WHERE i.tenant_id = l.tenant_id AND i.id = l.id
        "#,
        interval(kept),
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Forgets fired ticks that are older than `kept`, at most `limit`.
pub async fn delete_old_ticks(tx: &mut SystemTx, kept: Duration, limit: i64) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH locked AS (
            SELECT schedule_id, fire_at
            FROM schedule_runs
            WHERE fire_at < app_now() - $1::interval
            ORDER BY schedule_id, fire_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM schedule_runs r
        USING locked l
        WHERE r.schedule_id = l.schedule_id AND r.fire_at = l.fire_at
        "#,
        interval(kept),
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Forgets dead jobs of schedules that died longer than `kept` ago, at most `limit`.
pub async fn delete_dead_of_schedules(
    tx: &mut SystemTx,
    kept: Duration,
    limit: i64,
) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH locked AS (
            SELECT id
            FROM dead_jobs
            -- A schedule's job has its kind as its key: a later tick has ordered the same again.
            WHERE unique_key = kind AND died_at < app_now() - $1::interval
            ORDER BY id
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM dead_jobs d
        USING locked l
        WHERE d.id = l.id
        "#,
        interval(kept),
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Forgets lines of the demo provider's ledger that are older than `kept`: looks at the `limit` oldest alone.
pub async fn delete_old_ledger(tx: &mut SystemTx, kept: Duration, limit: i64) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH oldest AS (
            SELECT id, accepted_at
            FROM demo_ledger
            ORDER BY id
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM demo_ledger d
        USING oldest o
        WHERE d.id = o.id AND o.accepted_at < app_now() - $1::interval
        "#,
        interval(kept),
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}
