//! The timeline of a message: the decisions that explain why somebody got it, or not.
//!
//! A message that simply goes out leaves no row here: its attempts tell that. Written is what holds it up or ends it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_as};
use uuid::Uuid;

use super::{StoreResult, TenantTx};
use crate::domain::ids::{MessageId, MessageKey, TenantId};
use crate::domain::message::Phase;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It waits for an instant.
    Deferred,
    /// A person has to decide.
    Parked,
    /// It will not be sent.
    Dropped,
}

impl EventKind {
    /// The decision behind a move to this phase, if one is worth telling.
    pub fn of(to: Phase) -> Option<Self> {
        match to {
            Phase::Deferred => Some(Self::Deferred),
            Phase::Parked => Some(Self::Parked),
            Phase::Dropped => Some(Self::Dropped),
            Phase::Queued
            | Phase::Released
            | Phase::Sending
            | Phase::InDoubt
            | Phase::HandedOver => None,
        }
    }

    /// The word stored in rows. Never change one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Parked => "parked",
            Self::Dropped => "dropped",
        }
    }
}

/// One decision about one message.
#[derive(Debug, Clone)]
pub struct Event {
    /// Which message.
    pub key: MessageKey,
    /// What was decided.
    pub kind: EventKind,
    /// After which attempt; 0 before the first.
    pub attempt_no: i16,
    /// Why, by the stored word.
    pub reason: Option<&'static str>,
}

/// Writes decisions down, in the transaction that carries them out.
pub async fn insert_events(conn: &mut PgConnection, events: &[Event]) -> StoreResult<()> {
    if events.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = events.iter().map(|event| event.key).collect();
    let (tenant_ids, message_ids) = MessageKey::columns(&keys);
    let ids: Vec<Uuid> = events.iter().map(|_| Uuid::now_v7()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let attempts: Vec<i16> = events.iter().map(|event| event.attempt_no).collect();
    let reasons: Vec<Option<&str>> = events.iter().map(|event| event.reason).collect();
    query!(
        r#"
        WITH clock AS MATERIALIZED (SELECT app_now() AS at)
        INSERT INTO message_events (tenant_id, message_id, id, at, kind, attempt_no, detail)
        SELECT u.tenant_id, u.message_id, u.id, clock.at, u.kind, NULLIF(u.attempt_no, 0),
               CASE WHEN u.reason IS NOT NULL THEN jsonb_build_object('reason', u.reason) END
        FROM clock, unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::smallint[], $6::text[])
             AS u (tenant_id, message_id, id, kind, attempt_no, reason)
        "#,
        &tenant_ids,
        &message_ids,
        &ids,
        &kinds as &[&str],
        &attempts,
        &reasons as &[Option<&str>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A decision as it stands in its row.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// When.
    pub at: DateTime<Utc>,
    /// What was decided, by the stored word.
    pub kind: String,
    /// After which attempt.
    pub attempt_no: Option<i16>,
    /// Why, by the stored word.
    pub reason: Option<String>,
}

/// The decisions about one message, in order; at most `limit`.
pub async fn list_events(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: MessageId,
    limit: i64,
) -> StoreResult<Vec<EventRow>> {
    let rows = query_as!(
        EventRow,
        r#"
        SELECT at, kind, attempt_no, detail ->> 'reason' AS reason
        FROM message_events
        WHERE tenant_id = $1 AND message_id = $2
        ORDER BY id
        LIMIT $3
        "#,
        tenant_id.0,
        id.0,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}
