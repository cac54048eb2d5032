//! Senders that must not send for now. `begin` and the release leader read them.

use std::time::Duration;

use sqlx::query;

use super::{StoreResult, SystemTx, interval};
use crate::domain::ids::MessageKey;

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
