//! Answers kept for whoever asks the same again, in the cell.

use serde_json::Value;
use sqlx::{PgConnection, query, query_as, query_scalar};

use super::{StoreResult, TenantTx};
use crate::domain::ids::TenantId;

/// What a key stands for.
#[derive(Debug)]
pub enum Claim {
    /// Nothing yet. Until the transaction ends, nobody else gets this answer.
    Free,
    /// Another transaction is at it.
    Busy,
    /// Something that was done.
    Kept(Kept),
}

/// What was asked and answered.
#[derive(Debug)]
pub struct Kept {
    /// SHA-256 of the request.
    pub request_hash: Vec<u8>,
    /// The body of the answer.
    pub answer: Value,
}

/// Takes the lock of an owner's key for the length of the transaction; false while somebody else has it. What is kept is
/// read by a statement of its own afterwards, which sees what was committed before the lock was given back.
pub(super) async fn take_lock(
    conn: &mut PgConnection,
    owner: &str,
    key: &str,
) -> StoreResult<bool> {
    let is_ours = query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(idempotency_lock_key($1, $2)) AS "is_ours!""#,
        owner,
        key,
    )
    .fetch_one(conn)
    .await?;
    Ok(is_ours)
}

/// Takes the key for the length of the transaction, and says what it stands for.
pub async fn claim_key(tx: &mut TenantTx, tenant_id: TenantId, key: &str) -> StoreResult<Claim> {
    if !take_lock(tx.conn(), &tenant_id.to_string(), key).await? {
        return Ok(Claim::Busy);
    }
    let kept = query_as!(
        Kept,
        r#"
        SELECT request_hash, answer AS "answer!"
        FROM idempotency_keys
        WHERE tenant_id = $1 AND key = $2 AND answer IS NOT NULL AND created_at > app_now() - INTERVAL '7 days'
        "#,
        tenant_id.0,
        key,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(kept.map_or(Claim::Free, Claim::Kept))
}

/// Keeps an answer under a key that was claimed as free.
pub async fn keep_answer(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    key: &str,
    request_hash: &[u8],
    (status_code, answer): (u16, &Value),
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO idempotency_keys (tenant_id, key, request_hash, status_code, answer)
        VALUES ($1, $2, $3, $4, $5)
        -- A row here is past its time and was not pruned yet.
        ON CONFLICT (tenant_id, key) DO UPDATE
        SET request_hash = EXCLUDED.request_hash, status_code = EXCLUDED.status_code, answer = EXCLUDED.answer,
            created_at = EXCLUDED.created_at
        "#,
        tenant_id.0,
        key,
        request_hash,
        status_code.cast_signed(),
        answer,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
