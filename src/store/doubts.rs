//! Attempts whose outcome nobody told, and whether their owners may still call.

use chrono::{DateTime, Utc};
use sqlx::{query, query_scalar};

use super::settings::read_now;
use super::{StoreError, StoreResult, SystemTx};
use crate::domain::attempt::AttemptState;
use crate::domain::channel::{Channel, Provider};
use crate::domain::doubt::{OnNotSent, OnUnresolved, Owner};
use crate::domain::ids::{AttemptId, Incarnation, MessageId, MessageKey, TenantId};

/// A live attempt that is due to be looked at.
#[derive(Debug, Clone)]
pub struct Doubtful {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token.
    pub attempt_id: AttemptId,
    /// Who was permitted to call.
    pub incarnation: Incarnation,
    /// Open, or in doubt.
    pub state: AttemptState,
    /// How the message reaches the person.
    pub channel: Channel,
    /// Who was to be called.
    pub provider: Provider,
    /// With which account.
    pub account_ref: String,
    /// When it was permitted.
    pub started_at: DateTime<Utc>,
    /// When its owner had to be finished.
    pub deadline: DateTime<Utc>,
    /// When its request was signed.
    pub signed_at: Option<DateTime<Utc>>,
    /// The first empty look-up that counts.
    pub first_empty_look_at: Option<DateTime<Utc>>,
    /// What its tenant wants when it was not sent.
    pub on_not_sent: OnNotSent,
    /// What its tenant wants when nobody knows.
    pub on_unresolved: OnUnresolved,
}

/// Live attempts whose next look is due, of each account the longest overdue and at most a fifth of `limit`; and the instant
/// it is. They are not locked: whoever settles one holds its message's lock and asks whether it is still live.
pub async fn list_due(
    tx: &mut SystemTx,
    limit: i64,
) -> StoreResult<(DateTime<Utc>, Vec<Doubtful>)> {
    let now = read_now(tx).await?;
    let rows = query!(
        r#"
        -- Fenced: the few that are looked at, then each by its key.
        WITH due AS MATERIALIZED (
            SELECT r.*
            FROM (
                -- Many times what a round looks at: among the oldest few might be none but those of an account that hangs.
                SELECT a.tenant_id, a.message_id, a.attempt_no, a.id, a.incarnation, a.state, a.provider, a.account_ref,
                       a.started_at, a.deadline, a.signed_at, a.first_empty_look_at, a.next_look_at,
                       row_number() OVER (PARTITION BY a.provider, a.account_ref ORDER BY a.next_look_at) AS place
                FROM (SELECT o.*
                      FROM send_attempts o
                      WHERE o.state IN (0, 2) AND o.next_look_at <= app_now()
                      ORDER BY o.next_look_at
                      LIMIT 40 * $1::bigint) a
            ) r
            -- A share for each account, so that one that hangs does not fill the round, and its first before another's second.
            WHERE 5 * r.place <= $1::bigint
            ORDER BY r.place, r.next_look_at
            LIMIT $1
        )
        SELECT d.tenant_id AS "tenant_id!", d.message_id AS "message_id!", d.attempt_no AS "attempt_no!", d.id AS "id!",
               d.incarnation AS "incarnation!", d.state AS "state!", d.provider AS "provider!",
               d.account_ref AS "account_ref!", d.started_at AS "started_at!", d.deadline AS "deadline!",
               d.signed_at, d.first_empty_look_at, m.channel, t.on_not_sent, t.on_unresolved
        FROM due d
        JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.message_id
        JOIN tenants t ON t.id = d.tenant_id
        ORDER BY d.next_look_at
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let due = rows
        .into_iter()
        .map(|row| {
            Ok(Doubtful {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.message_id),
                },
                attempt_no: row.attempt_no,
                attempt_id: AttemptId(row.id),
                incarnation: Incarnation(row.incarnation),
                state: row.state.try_into()?,
                channel: row.channel.parse()?,
                provider: row.provider.parse()?,
                account_ref: row.account_ref,
                started_at: row.started_at,
                deadline: row.deadline,
                signed_at: row.signed_at,
                first_empty_look_at: row.first_empty_look_at,
                on_not_sent: row.on_not_sent.parse()?,
                on_unresolved: row.on_unresolved.parse()?,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok((now, due))
}

/// What is known of a process that was permitted to call.
#[derive(Debug, Clone, Copy)]
pub struct OwnerFacts {
    /// Which one.
    pub incarnation: Incarnation,
    /// It wrote down that it ended.
    pub has_ended: bool,
    /// Nobody holds its lock.
    pub is_lock_free: bool,
    /// When the server itself last lost locks; since then each was given up by its owner, or with its session.
    pub locks_lost_at: DateTime<Utc>,
}

impl OwnerFacts {
    /// Whether it may still call for an attempt that it began at `started_at` and left in `state`.
    pub fn owner(&self, state: AttemptState, started_at: DateTime<Utc>) -> Owner {
        if state == AttemptState::Doubt || self.has_ended {
            Owner::Finished
        } else if !self.is_lock_free {
            Owner::Alive
        } else if self.locks_lost_at < started_at {
            Owner::Gone
        } else {
            Owner::GoneOrCutOff
        }
    }
}

/// Tests the locks of processes. Each lock that is free is shared until the transaction ends, so end it soon: others that
/// test it meanwhile find it free too, and its process waits, should it come back.
pub async fn list_owner_facts(
    tx: &mut SystemTx,
    incarnations: &[Incarnation],
) -> StoreResult<Vec<OwnerFacts>> {
    let ids: Vec<i64> = incarnations.iter().map(|one| one.0).collect();
    let rows = query!(
        r#"
        SELECT u.id AS "id!", COALESCE(i.ended_at IS NOT NULL, false) AS "has_ended!",
               pg_try_advisory_xact_lock_shared(incarnation_lock_key(u.id)) AS "is_lock_free!",
               -- A server that starts has lost every lock. So has one of which a single process crashed, and that is no start:
               -- but it threw its statistics away and says when. Whoever resets them by hand makes a hold longer, never shorter.
               -- One that was promoted never had the locks of the server before it, and may have run for long: on its timeline
               -- it was first met afterwards.
               GREATEST(
                   pg_postmaster_start_time(),
                   (SELECT b.stats_reset FROM pg_stat_bgwriter b),
                   (SELECT t.seen_at FROM database_timelines t
                    WHERE t.timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
               ) AS "locks_lost_at!"
        FROM unnest($1::bigint[]) AS u (id)
        LEFT JOIN incarnations i ON i.id = u.id
        "#,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| OwnerFacts {
            incarnation: Incarnation(row.id),
            has_ended: row.has_ended,
            is_lock_free: row.is_lock_free,
            locks_lost_at: row.locks_lost_at,
        })
        .collect())
}

/// A look that told too little.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token.
    pub attempt_id: AttemptId,
    /// When to look again.
    pub next_look_at: DateTime<Utc>,
    /// The first empty look-up that counts.
    pub first_empty_look_at: Option<DateTime<Utc>>,
}

/// Writes looks down, on attempts that are still live. The caller holds their messages' locks.
pub async fn save_looks(tx: &mut SystemTx, looks: &[Looked]) -> StoreResult<()> {
    if looks.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = looks.iter().map(|look| look.key).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let attempt_nos: Vec<i16> = looks.iter().map(|look| look.attempt_no).collect();
    let attempt_ids: Vec<AttemptId> = looks.iter().map(|look| look.attempt_id).collect();
    let nexts: Vec<DateTime<Utc>> = looks.iter().map(|look| look.next_look_at).collect();
    let firsts: Vec<Option<DateTime<Utc>>> =
        looks.iter().map(|look| look.first_empty_look_at).collect();
    query!(
        r#"
        UPDATE send_attempts a
        SET look_ups = a.look_ups + 1, next_look_at = u.next_look_at, first_empty_look_at = u.first_empty_look_at
        FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::uuid[], $5::timestamptz[], $6::timestamptz[])
             AS u (tenant_id, message_id, attempt_no, attempt_id, next_look_at, first_empty_look_at)
        WHERE a.tenant_id = u.tenant_id AND a.message_id = u.message_id AND a.attempt_no = u.attempt_no
          -- Another server may have given its number to another attempt, of which an empty look-up proves nothing.
          AND a.id = u.attempt_id
          AND a.state IN (0, 2)
        "#,
        &tenant_ids,
        &ids,
        &attempt_nos,
        &AttemptId::column(&attempt_ids),
        &nexts,
        &firsts as &[Option<DateTime<Utc>>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether a report of the account came of an attempt that is younger than `started_at`: then the
/// path on which reports come is alive.
pub async fn is_event_path_alive(
    tx: &mut SystemTx,
    provider: Provider,
    account_ref: &str,
    started_at: DateTime<Utc>,
) -> StoreResult<bool> {
    let alive = query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT
            FROM provider_events e
            WHERE e.provider = $1 AND e.account_ref = $2 AND e.received_day >= ($3::timestamptz AT TIME ZONE 'UTC')::date
              AND e.received_at > $3
              -- No join: each event's attempt by its key.
              AND $3 < (SELECT a.started_at
                        FROM send_attempts a
                        WHERE a.tenant_id = e.tenant_id AND a.message_id = e.message_id AND a.id = e.attempt_id)
        ) AS "alive!"
        "#,
        provider.as_str(),
        account_ref,
        started_at,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(alive)
}

/// How many attempts nobody has told of past their deadline, and the age of the oldest in seconds.
pub async fn sum_doubts(tx: &mut SystemTx) -> StoreResult<(i64, f64)> {
    let row = query!(
        r#"
        SELECT count(*) AS "attempts!",
               COALESCE(extract(epoch FROM app_now() - min(started_at)), 0)::float8 AS "age_secs!"
        FROM send_attempts
        WHERE state IN (0, 2) AND deadline < app_now()
        "#,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((row.attempts, row.age_secs))
}
