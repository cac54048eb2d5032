//! Senders that must not send for now. `begin` and the release leader read them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::query;

use super::{StoreResult, SystemTx, TenantTx, interval};
use crate::domain::ids::{MessageKey, SenderId, TenantId};

/// The code of a sender that was retired.
pub const RETIRED: &str = "sender_retired";
/// What whoever waits for it is told.
const RETIRED_REASON: &str =
    "the sender was retired; cancel what still waits for it, and write with another sender";

/// Why a sender must not send, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// For people: what happened, and what to do.
    pub reason: String,
    /// For programs: the provider's code, or ours.
    pub code: Option<String>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Until when; none when somebody has to lift it.
    pub until: Option<DateTime<Utc>>,
}

/// Stops a sender that was retired, for good: begin asks this table alone.
pub async fn halt_retired(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sender_id: SenderId,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO halts (tenant_id, sender_id, until, reason, code)
        VALUES ($1, $2, 'infinity', $3, $4)
        ON CONFLICT (tenant_id, sender_id) DO UPDATE
        SET until = EXCLUDED.until, reason = EXCLUDED.reason, code = EXCLUDED.code, set_at = app_now()
        "#,
        tenant_id.0,
        sender_id.0,
        RETIRED_REASON,
        RETIRED,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends a halt before its time. Says whether there was one.
pub async fn lift_halt(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sender_id: SenderId,
) -> StoreResult<bool> {
    let done = query!(
        "DELETE FROM halts WHERE tenant_id = $1 AND sender_id = $2 AND until > app_now()",
        tenant_id.0,
        sender_id.0,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Halts the senders of messages for a while, each with the code that says why. One that is halted for longer stays so.
pub async fn save_halts(
    tx: &mut SystemTx,
    refused: &[(MessageKey, &str)],
    reason: &str,
    hold: Duration,
) -> StoreResult<()> {
    if refused.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = refused.iter().map(|(key, _)| *key).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let codes: Vec<&str> = refused.iter().map(|(_, code)| *code).collect();
    query!(
        r#"
        INSERT INTO halts (tenant_id, sender_id, until, reason, code)
        SELECT DISTINCT ON (l.tenant_id, l.sender_id) l.tenant_id, l.sender_id, app_now() + $4, $5, u.code
        FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS u (tenant_id, id, code)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        JOIN lanes l ON l.tenant_id = m.tenant_id AND l.id = m.lane_id
        -- One order for every writer of many rows, so that two of them never deadlock.
        ORDER BY l.tenant_id, l.sender_id, u.code
        ON CONFLICT (tenant_id, sender_id) DO UPDATE
        SET until = EXCLUDED.until, reason = EXCLUDED.reason, code = EXCLUDED.code, set_at = app_now()
        WHERE halts.until < EXCLUDED.until
        "#,
        &tenant_ids,
        &ids,
        &codes as &[&str],
        interval(hold),
        reason,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
