//! The raw inbox: what providers told us, as they told it, until it is folded into the messages.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use sqlx::query;
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx, interval};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};

/// One thing a provider told us of one attempt.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The same for each repeat of the same event to the same address.
    pub dedup_key: String,
    /// Who told us.
    pub provider: Provider,
    /// With which account the message was sent.
    pub account_ref: String,
    /// Which message, as our own mark says.
    pub key: MessageKey,
    /// Which of its attempts, as our own mark says.
    pub attempt_id: AttemptId,
    /// What the provider calls the message.
    pub provider_message_id: String,
    /// Its word, whatever it is.
    pub status: String,
    /// Everything else that came.
    pub body: Value,
}

impl NewEvent {
    /// The provider's error code, where it gave one.
    pub fn error_code(&self) -> Option<&str> {
        told_code(self.body.get("ErrorCode")?.as_str()?)
    }
}

/// Twilio says an empty code, or 0, for none.
fn told_code(code: &str) -> Option<&str> {
    (!code.is_empty() && code != "0").then_some(code)
}

/// Stores events, each with whether it is folded already; one that is there stays as it is. Answers how many are new.
pub async fn insert_events(
    tx: &mut SystemTx,
    events: &[NewEvent],
    is_folded: &[bool],
) -> StoreResult<u64> {
    let column = |f: fn(&NewEvent) -> &str| events.iter().map(f).collect::<Vec<&str>>();
    let ids = |f: fn(&NewEvent) -> Uuid| events.iter().map(f).collect::<Vec<Uuid>>();
    let bodies: Vec<Value> = events.iter().map(|event| event.body.clone()).collect();
    let done = query!(
        r#"
        INSERT INTO provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
                                     provider_message_id, status, body, folded_at, received_day, received_at, next_try_at)
        SELECT u.dedup_key, u.provider, u.account_ref, u.tenant_id, u.message_id, u.attempt_id, u.provider_message_id,
               u.status, u.body, CASE WHEN u.is_folded THEN clock.at END,
               (clock.at AT TIME ZONE 'UTC')::date, clock.at, clock.at
        FROM (SELECT app_now() AS at OFFSET 0) AS clock,
             unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::text[],
                    $9::jsonb[], $10::boolean[])
             AS u (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id, provider_message_id, status, body,
                   is_folded)
        -- Two batches with the same events wait for each other in one order.
        ORDER BY u.dedup_key
        ON CONFLICT DO NOTHING
        "#,
        &column(|event| &event.dedup_key) as &[&str],
        &column(|event| event.provider.as_str()) as &[&str],
        &column(|event| &event.account_ref) as &[&str],
        &ids(|event| event.key.tenant_id.0),
        &ids(|event| event.key.id.0),
        &ids(|event| event.attempt_id.0),
        &column(|event| &event.provider_message_id) as &[&str],
        &column(|event| &event.status) as &[&str],
        &bodies,
        is_folded,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Where an event lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRef {
    /// The day it came on.
    pub received_day: NaiveDate,
    /// Its name on that day.
    pub dedup_key: String,
}

/// An event that is to be folded.
#[derive(Debug, Clone)]
pub struct DueEvent {
    /// Where it lies.
    pub at: EventRef,
    /// Which message it is about; as the event names it while we know of no such attempt.
    pub key: MessageKey,
    /// Which of its attempts, as the event names it.
    pub attempt_id: AttemptId,
    /// The message's channel; none while we know of no such attempt.
    pub channel: Option<Channel>,
    /// What the provider calls the message.
    pub provider_message_id: String,
    /// The provider's word.
    pub status: String,
    /// Its error code, where it gave one.
    pub error_code: Option<String>,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// How often it was looked at in vain.
    pub tries: i16,
}

/// Takes events that are due, oldest first; they stay locked until the transaction ends.
pub async fn take_due(tx: &mut SystemTx, limit: i64) -> StoreResult<Vec<DueEvent>> {
    let rows = query!(
        r#"
        WITH due AS MATERIALIZED (
            SELECT e.received_day, e.dedup_key, e.tenant_id, e.message_id, e.attempt_id, e.provider, e.account_ref,
                   e.provider_message_id, e.status, e.body ->> 'ErrorCode' AS error_code, e.received_at, e.tries
            FROM provider_events e
            WHERE e.folded_at IS NULL AND e.next_try_at <= app_now()
              -- Those that name an attempt; others have a door of their own.
              AND e.tenant_id IS NOT NULL AND e.message_id IS NOT NULL AND e.attempt_id IS NOT NULL
              AND e.provider_message_id IS NOT NULL
            ORDER BY e.next_try_at
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), known AS MATERIALIZED (
            -- No joins: each attempt and each message by its key.
            SELECT d.received_day, d.dedup_key, d.tenant_id, d.message_id, d.attempt_id, d.provider_message_id, d.status,
                   d.error_code, d.received_at, d.tries,
                   COALESCE(
                       (SELECT a.message_id FROM send_attempts a
                        WHERE a.tenant_id = d.tenant_id AND a.message_id = d.message_id AND a.id = d.attempt_id),
                       -- An attempt that was forgotten and found in a list lost its token: it goes by what the provider calls it,
                       -- and is the message's that was given it, since the tenant may have two with the same words to one person.
                       -- The tenant is no condition: an index that begins with it would offer itself instead.
                       (SELECT CASE WHEN p.tenant_id = d.tenant_id THEN p.message_id END
                        FROM message_provider_mappings p
                        WHERE p.provider = d.provider AND p.provider_account = d.account_ref
                          AND p.provider_message_id = d.provider_message_id
                          AND 'reconciliation' = (SELECT a.resolved_by FROM send_attempts a
                                                  WHERE a.tenant_id = p.tenant_id AND a.message_id = p.message_id
                                                    AND a.attempt_no = p.attempt_no))) AS known_id
            FROM due d
        )
        SELECT k.received_day AS "received_day!", k.dedup_key AS "dedup_key!", k.tenant_id AS "tenant_id!",
               COALESCE(k.known_id, k.message_id) AS "message_id!", k.attempt_id AS "attempt_id!", k.status AS "status!",
               k.error_code, k.provider_message_id AS "provider_message_id!", k.received_at AS "received_at!",
               k.tries AS "tries!",
               (SELECT m.channel FROM messages m WHERE m.tenant_id = k.tenant_id AND m.id = k.known_id) AS channel
        FROM known k
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let channel = row.channel.map(|word| word.parse()).transpose()?;
            Ok(DueEvent {
                at: EventRef {
                    received_day: row.received_day,
                    dedup_key: row.dedup_key,
                },
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.message_id),
                },
                attempt_id: AttemptId(row.attempt_id),
                channel,
                provider_message_id: row.provider_message_id,
                status: row.status,
                error_code: row.error_code.filter(|code| told_code(code).is_some()),
                received_at: row.received_at,
                tries: row.tries,
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// Marks taken events as folded: they are not looked at again.
pub async fn mark_folded(tx: &mut SystemTx, events: &[EventRef]) -> StoreResult<()> {
    let (days, keys) = columns(events);
    query!(
        r#"
        UPDATE provider_events e
        SET folded_at = app_now()
        FROM unnest($1::date[], $2::text[]) AS u (received_day, dedup_key)
        WHERE e.received_day = u.received_day AND e.dedup_key = u.dedup_key
        "#,
        &days,
        &keys as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Puts taken events off, each for its time.
pub async fn postpone(tx: &mut SystemTx, events: &[(EventRef, Duration)]) -> StoreResult<()> {
    if events.is_empty() {
        return Ok(());
    }
    let refs: Vec<EventRef> = events.iter().map(|(at, _)| at.clone()).collect();
    let (days, keys) = columns(&refs);
    let waits: Vec<_> = events.iter().map(|(_, wait)| interval(*wait)).collect();
    query!(
        r#"
        UPDATE provider_events e
        SET tries = e.tries + 1, next_try_at = app_now() + u.wait
        FROM unnest($1::date[], $2::text[], $3::interval[]) AS u (received_day, dedup_key, wait)
        WHERE e.received_day = u.received_day AND e.dedup_key = u.dedup_key
        "#,
        &days,
        &keys as &[&str],
        &waits,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

fn columns(events: &[EventRef]) -> (Vec<NaiveDate>, Vec<&str>) {
    events
        .iter()
        .map(|at| (at.received_day, at.dedup_key.as_str()))
        .unzip()
}
