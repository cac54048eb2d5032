//! What the demo provider accepted, call by call, without any unique key: the judge of "exactly once".

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use sqlx::{PgPool, query, query_as};
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx, interval};
use crate::domain::channel::Channel;
use crate::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};

/// One accepted call.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Which message.
    pub key: MessageKey,
    /// Which attempt.
    pub attempt_id: AttemptId,
    /// What the demo provider calls it.
    pub provider_message_id: String,
    /// What it will say next, and when.
    pub next: Option<(&'static str, Duration)>,
}

/// Writes accepted calls down, in a commit of its own: each stands before its answer is given.
pub async fn insert_entries(pool: &PgPool, entries: &[NewEntry]) -> StoreResult<()> {
    let keys: Vec<MessageKey> = entries.iter().map(|entry| entry.key).collect();
    let (tenant_ids, message_ids) = MessageKey::columns(&keys);
    let attempt_ids: Vec<Uuid> = entries.iter().map(|entry| entry.attempt_id.0).collect();
    let provider_ids: Vec<&str> = entries
        .iter()
        .map(|entry| entry.provider_message_id.as_str())
        .collect();
    let next: Vec<Option<&str>> = entries
        .iter()
        .map(|entry| entry.next.map(|(word, _)| word))
        .collect();
    let after: Vec<Option<PgInterval>> = entries
        .iter()
        .map(|entry| entry.next.map(|(_, after)| interval(after)))
        .collect();
    query!(
        r#"
        INSERT INTO demo_ledger (tenant_id, message_id, attempt_id, provider_message_id, next_status, next_at)
        SELECT u.tenant_id, u.message_id, u.attempt_id, u.provider_message_id, u.next_status, app_now() + u.after
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::interval[])
             AS u (tenant_id, message_id, attempt_id, provider_message_id, next_status, after)
        "#,
        &tenant_ids,
        &message_ids,
        &attempt_ids,
        &provider_ids as &[&str],
        &next as &[Option<&str>],
        &after as &[Option<PgInterval>],
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// An accepted call as it was written down.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What the demo provider calls it.
    pub provider_message_id: String,
    /// When it was accepted.
    pub accepted_at: DateTime<Utc>,
}

/// The accepted calls of one attempt, oldest first.
pub async fn list_entries(
    pool: &PgPool,
    key: MessageKey,
    attempt_id: AttemptId,
) -> StoreResult<Vec<Entry>> {
    let entries = query_as!(
        Entry,
        r#"
        SELECT provider_message_id, accepted_at
        FROM demo_ledger
        WHERE tenant_id = $1 AND message_id = $2 AND attempt_id = $3
        ORDER BY id
        "#,
        key.tenant_id.0,
        key.id.0,
        attempt_id.0,
    )
    .fetch_all(pool)
    .await?;
    Ok(entries)
}

/// An entry whose next word is due.
#[derive(Debug, Clone)]
pub struct DueEntry {
    /// The entry.
    pub id: i64,
    /// Which message.
    pub key: MessageKey,
    /// Its channel.
    pub channel: Channel,
    /// Which of its attempts.
    pub attempt_id: AttemptId,
    /// What the demo provider calls it.
    pub provider_message_id: String,
    /// What to say now.
    pub status: String,
}

/// Takes entries whose next word is due, at most `limit`; they stay locked until the transaction ends.
pub async fn take_due(tx: &mut SystemTx, limit: i64) -> StoreResult<Vec<DueEntry>> {
    let rows = query!(
        r#"
        WITH due AS MATERIALIZED (
            SELECT d.id, d.tenant_id, d.message_id, d.attempt_id, d.provider_message_id, d.next_status
            FROM demo_ledger d
            WHERE d.next_at <= app_now()
            ORDER BY d.next_at
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        )
        SELECT d.id, d.tenant_id, d.message_id, m.channel, d.attempt_id, d.provider_message_id, d.next_status AS "next_status!"
        FROM due d
        JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.message_id
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(DueEntry {
                id: row.id,
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.message_id),
                },
                channel: row.channel.parse()?,
                attempt_id: AttemptId(row.attempt_id),
                provider_message_id: row.provider_message_id,
                status: row.next_status,
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// Says what taken entries will say next, and when; none for those that have said all.
pub async fn save_next(
    tx: &mut SystemTx,
    entries: &[(i64, Option<(&'static str, Duration)>)],
) -> StoreResult<()> {
    let ids: Vec<i64> = entries.iter().map(|(id, _)| *id).collect();
    let next: Vec<Option<&str>> = entries
        .iter()
        .map(|(_, next)| next.map(|(word, _)| word))
        .collect();
    let after: Vec<Option<PgInterval>> = entries
        .iter()
        .map(|(_, next)| next.map(|(_, after)| interval(after)))
        .collect();
    query!(
        r#"
        UPDATE demo_ledger d
        SET next_status = u.next_status, next_at = app_now() + u.after
        FROM unnest($1::bigint[], $2::text[], $3::interval[]) AS u (id, next_status, after)
        WHERE d.id = u.id
        "#,
        &ids,
        &next as &[Option<&str>],
        &after as &[Option<PgInterval>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
