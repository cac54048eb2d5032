//! Senders that must not send for now, and accounts that are refused. `begin` and the release leader read the halts.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use sqlx::query;
use uuid::Uuid;

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

/// Ends a halt before its time. Says whether there was one. What the account was refused for before then counts no more, which
/// [`count_refusals`] sees to.
pub async fn lift_halt(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sender_id: SenderId,
) -> StoreResult<bool> {
    let done = query!(
        r#"
        UPDATE halts
        SET until = app_now(), lifted_at = app_now()
        WHERE tenant_id = $1 AND sender_id = $2 AND until > app_now()
        "#,
        tenant_id.0,
        sender_id.0,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A halt that the sender of a message brought upon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHalt {
    /// The message that was refused, or that failed.
    pub key: MessageKey,
    /// Whether every sender of the tenant's account is meant, and not this one alone.
    pub is_account: bool,
    /// For how long; none until somebody lifts it.
    pub rest: Option<Duration>,
    /// For people: what happened, and what to do.
    pub reason: &'static str,
    /// The provider's code.
    pub code: String,
}

/// A sender that is halted now, and was not for so long before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halted {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub sender_id: SenderId,
    /// Why.
    pub reason: String,
    /// The provider's code.
    pub code: String,
}

/// Halts senders. One that is halted for longer stays so, with its reason; one whose halt somebody lifted is not halted again
/// for a call that began before that.
pub async fn save_halts(tx: &mut SystemTx, new: &[NewHalt]) -> StoreResult<Vec<Halted>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<MessageKey> = new.iter().map(|halt| halt.key).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let are_accounts: Vec<bool> = new.iter().map(|halt| halt.is_account).collect();
    let rests: Vec<Option<PgInterval>> = new.iter().map(|halt| halt.rest.map(interval)).collect();
    let reasons: Vec<&str> = new.iter().map(|halt| halt.reason).collect();
    let codes: Vec<&str> = new.iter().map(|halt| halt.code.as_str()).collect();
    let rows = query!(
        r#"
        WITH asked AS MATERIALIZED (
            SELECT m.tenant_id, m.lane_id, u.is_account, u.reason, u.code,
                   COALESCE(app_now() + u.rest, 'infinity') AS until,
                   -- Not when the message last moved: whoever records an answer has just moved it.
                   COALESCE(newest_call_at(m.tenant_id, m.id, m.attempt_no), m.phase_at) AS began_at
            FROM unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::interval[], $5::text[], $6::text[])
                 AS u (tenant_id, id, is_account, rest, reason, code)
            JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        ), meant AS (
            SELECT DISTINCT ON (t.tenant_id, t.id) t.tenant_id, t.id, a.until, a.reason, a.code
            FROM asked a
            JOIN lanes l ON l.tenant_id = a.tenant_id AND l.id = a.lane_id
            JOIN senders s ON s.tenant_id = l.tenant_id AND s.id = l.sender_id
            JOIN senders t ON t.tenant_id = s.tenant_id AND t.status <> 'released'
             AND (t.id = s.id OR a.is_account AND t.account_ref = s.account_ref)
            LEFT JOIN halts h ON h.tenant_id = t.tenant_id AND h.sender_id = t.id
            WHERE h.lifted_at IS NULL OR h.lifted_at <= a.began_at
            ORDER BY t.tenant_id, t.id, a.until DESC, a.code
        )
        INSERT INTO halts (tenant_id, sender_id, until, reason, code)
        SELECT m.tenant_id, m.id, m.until, m.reason, m.code
        FROM meant m
        -- One order for every writer of many rows, so that two of them never deadlock.
        ORDER BY m.tenant_id, m.id
        ON CONFLICT (tenant_id, sender_id) DO UPDATE
        SET until = EXCLUDED.until, reason = EXCLUDED.reason, code = EXCLUDED.code, set_at = app_now()
        WHERE halts.until < EXCLUDED.until
        RETURNING tenant_id, sender_id, reason, code AS "code!"
        "#,
        &tenant_ids,
        &ids,
        &are_accounts,
        &rests as &[Option<PgInterval>],
        &reasons as &[&str],
        &codes as &[&str],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Halted {
            tenant_id: TenantId(row.tenant_id),
            sender_id: SenderId(row.sender_id),
            reason: row.reason,
            code: row.code,
        })
        .collect())
}

/// Counts refusals of accounts, one for each message that met one. Answers those accounts that were refused `most` times in a
/// row or more.
///
/// Whoever lifts the halt of a sender vouches for its account: what was counted before is forgotten, and a call that began before
/// does not count.
pub async fn count_refusals(
    tx: &mut SystemTx,
    refused: &[(MessageKey, &str)],
    most: i32,
) -> StoreResult<Vec<(TenantId, String)>> {
    let (keys, accounts): (Vec<MessageKey>, Vec<&str>) = refused.iter().copied().unzip();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let rows = query!(
        r#"
        WITH refused AS MATERIALIZED (
            SELECT u.tenant_id, u.account_ref,
                   COALESCE(newest_call_at(m.tenant_id, m.id, m.attempt_no), m.phase_at) AS began_at
            FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS u (tenant_id, id, account_ref)
            JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        )
        INSERT INTO account_refusals AS a (tenant_id, account_ref, refusals)
        SELECT r.tenant_id, r.account_ref, count(*)
        FROM refused r
        WHERE NOT EXISTS (SELECT
                          FROM senders s
                          JOIN halts h ON h.tenant_id = s.tenant_id AND h.sender_id = s.id
                          WHERE s.tenant_id = r.tenant_id AND s.account_ref = r.account_ref AND h.lifted_at > r.began_at)
        GROUP BY r.tenant_id, r.account_ref
        ORDER BY r.tenant_id, r.account_ref
        ON CONFLICT (tenant_id, account_ref) DO UPDATE
        SET refusals = EXCLUDED.refusals
                + CASE WHEN EXISTS (SELECT
                                    FROM senders s
                                    JOIN halts h ON h.tenant_id = s.tenant_id AND h.sender_id = s.id
                                    WHERE s.tenant_id = a.tenant_id AND s.account_ref = a.account_ref
                                      AND h.lifted_at > a.last_at)
                       THEN 0 ELSE a.refusals END,
            last_at = app_now()
        RETURNING a.tenant_id, a.account_ref, a.refusals
        "#,
        &tenant_ids,
        &ids,
        &accounts as &[&str],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .filter(|row| row.refusals >= most)
        .map(|row| (TenantId(row.tenant_id), row.account_ref))
        .collect())
}

/// Forgets the refusals of accounts that took something. Those of `refused` are locked with them, since they are counted next:
/// whoever has another account's row must not wait for one of ours.
pub async fn forget_refusals(
    tx: &mut SystemTx,
    taken: &[(TenantId, String)],
    refused: &[(MessageKey, &str)],
) -> StoreResult<()> {
    let taken = taken
        .iter()
        .map(|(id, account)| (id.0, account.as_str(), true));
    let refused = refused
        .iter()
        .map(|(key, account)| (key.tenant_id.0, *account, false));
    let all: Vec<(Uuid, &str, bool)> = taken.chain(refused).collect();
    let tenant_ids: Vec<Uuid> = all.iter().map(|(tenant_id, ..)| *tenant_id).collect();
    let accounts: Vec<&str> = all.iter().map(|(_, account, _)| *account).collect();
    let is_over: Vec<bool> = all.iter().map(|(.., is_over)| *is_over).collect();
    query!(
        r#"
        WITH named AS (
            SELECT u.tenant_id, u.account_ref, bool_or(u.is_over) AS is_over
            FROM unnest($1::uuid[], $2::text[], $3::boolean[]) AS u (tenant_id, account_ref, is_over)
            GROUP BY u.tenant_id, u.account_ref
        ), locked AS MATERIALIZED (
            SELECT a.tenant_id, a.account_ref, n.is_over
            FROM account_refusals a
            JOIN named n ON n.tenant_id = a.tenant_id AND n.account_ref = a.account_ref
            ORDER BY a.tenant_id, a.account_ref
            FOR UPDATE OF a
        )
        DELETE FROM account_refusals a
        USING locked l
        WHERE l.is_over AND a.tenant_id = l.tenant_id AND a.account_ref = l.account_ref
        "#,
        &tenant_ids,
        &accounts as &[&str],
        &is_over,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
