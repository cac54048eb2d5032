//! Answers kept for whoever asks the same again, in `control`. They are sealed by whoever keeps them.

use serde_json::Value;
use sqlx::{query, query_as};

use crate::store::idempotency::{Claim, Kept, take_lock};
use crate::store::{ControlTx, StoreResult};

/// Takes the key for the length of the transaction, and says what it stands for.
pub async fn claim_key(tx: &mut ControlTx, actor: &str, key: &str) -> StoreResult<Claim> {
    if !take_lock(tx.conn(), actor, key).await? {
        return Ok(Claim::Busy);
    }
    let kept = query_as!(
        Kept,
        r#"
        SELECT request_hash, answer AS "answer!"
        FROM platform_idempotency_keys
        WHERE actor = $1 AND key = $2 AND answer IS NOT NULL AND created_at > app_now() - INTERVAL '7 days'
        "#,
        actor,
        key,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(kept.map_or(Claim::Free, Claim::Kept))
}

/// Keeps an answer under a key that was claimed as free.
pub async fn keep_answer(
    tx: &mut ControlTx,
    actor: &str,
    key: &str,
    request_hash: &[u8],
    (status_code, answer): (u16, &Value),
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO platform_idempotency_keys (actor, key, request_hash, status_code, answer)
        VALUES ($1, $2, $3, $4, $5)
        -- A row here is past its time and was not pruned yet.
        ON CONFLICT (actor, key) DO UPDATE
        SET request_hash = EXCLUDED.request_hash, status_code = EXCLUDED.status_code, answer = EXCLUDED.answer,
            created_at = EXCLUDED.created_at
        "#,
        actor,
        key,
        request_hash,
        status_code.cast_signed(),
        answer,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
