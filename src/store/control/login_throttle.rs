//! How often somebody tried to sign in, over all processes: a try belongs to the minute that the first one began.

use sqlx::{query, query_scalar};

use crate::store::{ControlTx, StoreResult};

/// Seconds until the next try is free, when as many as `tries_max` were made already. Writes nothing, so that a flood of
/// refused tries costs no commit.
pub async fn find_wait_secs(
    tx: &mut ControlTx,
    key_mac: &[u8],
    tries_max: i32,
) -> StoreResult<Option<i64>> {
    let secs = query_scalar!(
        r#"
        SELECT CEIL(EXTRACT(EPOCH FROM since + INTERVAL '1 minute' - app_now()))::bigint AS "secs!"
        FROM login_throttle
        WHERE key_mac = $1 AND tries >= $2 AND since > app_now() - INTERVAL '1 minute'
        "#,
        key_mac,
        tries_max,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(secs)
}

/// Counts a try and says which one of its minute it is, from 1.
pub async fn count_try(tx: &mut ControlTx, key_mac: &[u8]) -> StoreResult<i32> {
    let tries = query_scalar!(
        r#"
        INSERT INTO login_throttle AS t (key_mac)
        VALUES ($1)
        ON CONFLICT (key_mac) DO UPDATE
        SET tries = CASE WHEN t.since > app_now() - INTERVAL '1 minute' THEN t.tries + 1 ELSE 1 END,
            since = CASE WHEN t.since > app_now() - INTERVAL '1 minute' THEN t.since ELSE app_now() END
        RETURNING tries
        "#,
        key_mac,
    )
    .fetch_one(tx.conn())
    .await?;
    query!(
        r#"
        DELETE FROM login_throttle
        WHERE key_mac IN (
            SELECT key_mac
            FROM login_throttle
            WHERE since <= app_now() - INTERVAL '1 minute'
            ORDER BY since
            -- More than one comes in, so the table stays as small as a minute's accounts.
            LIMIT 4
            -- Waits for nobody while it holds the row above.
            FOR UPDATE SKIP LOCKED)
        "#,
    )
    .execute(tx.conn())
    .await?;
    Ok(tries)
}

/// A right password: the count starts anew.
pub async fn delete_tries(tx: &mut ControlTx, key_mac: &[u8]) -> StoreResult<()> {
    query!("DELETE FROM login_throttle WHERE key_mac = $1", key_mac)
        .execute(tx.conn())
        .await?;
    Ok(())
}
