//! What is forgotten when its time is past, in `control`: bounded batches of rows that nobody holds, in key order.

use std::time::Duration;

use sqlx::query;

use crate::store::{ControlTx, StoreResult, interval};

/// Forgets kept answers that are older than `kept`, at most `limit`.
pub async fn delete_old_answers(
    tx: &mut ControlTx,
    kept: Duration,
    limit: i64,
) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH old AS (
            SELECT actor, key
            FROM platform_idempotency_keys
            WHERE created_at < app_now() - $1::interval
            ORDER BY created_at
            LIMIT $2
        ), locked AS (
            SELECT k.actor, k.key
            FROM old o
            JOIN platform_idempotency_keys k ON k.actor = o.actor AND k.key = o.key
            -- A key that is used anew meanwhile has a new time.
            WHERE k.created_at < app_now() - $1::interval
            ORDER BY k.actor, k.key
            FOR UPDATE OF k SKIP LOCKED
        )
        DELETE FROM platform_idempotency_keys k
        USING locked l
        WHERE k.actor = l.actor AND k.key = l.key
        "#,
        interval(kept),
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Forgets sessions that have ended, at most `limit`.
pub async fn delete_ended_sessions(tx: &mut ControlTx, limit: i64) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH old AS (
            SELECT token_hash
            FROM sessions
            WHERE expires_at <= app_now()
            ORDER BY expires_at
            LIMIT $1
        ), locked AS (
            SELECT s.token_hash
            FROM old o
            JOIN sessions s ON s.token_hash = o.token_hash
            ORDER BY s.token_hash
            FOR UPDATE OF s SKIP LOCKED
        )
        DELETE FROM sessions s
        USING locked l
        WHERE s.token_hash = l.token_hash
        "#,
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}
