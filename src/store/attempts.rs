//! Attempts: written ahead of the call, closed with its outcome. Whoever closes one holds its message's lock.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, query};
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx, TenantTx, interval};
use crate::domain::attempt::{AttemptState, Verdict};
use crate::domain::channel::Provider;
use crate::domain::holds::Holds;
use crate::domain::ids::{AttemptId, CampaignId, Incarnation, MessageId, MessageKey, TenantId};

/// What `begin_attempts_2` said of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Which message.
    pub key: MessageKey,
    /// What it said.
    pub verdict: Verdict,
    /// The number of the attempt it opened; 0 when it opened none.
    pub attempt_no: i16,
}

/// Asks for permission to call for many messages: one statement, in autocommit, committed when it returns.
///
/// `tokens` are the attempts' ids, one per message.
pub async fn begin_attempts(
    pool: &PgPool,
    incarnation: Incarnation,
    keys: &[MessageKey],
    tokens: &[AttemptId],
    holds: &Holds,
) -> StoreResult<Vec<Judged>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    let rows = query!(
        r#"
        SELECT tenant_id AS "tenant_id!", message_id AS "message_id!", attempt_no, result AS "result!"
        FROM begin_attempts_2($1, $2, $3, $4, $5, $6, $7)
        "#,
        incarnation.0,
        &tenant_ids,
        &ids,
        &AttemptId::column(tokens),
        interval(holds.deadline),
        interval(holds.first_look),
        interval(holds.busy),
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Judged {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.message_id),
                },
                verdict: row.result.parse()?,
                attempt_no: row.attempt_no.unwrap_or(0),
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// An attempt as the process that made its call remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token.
    pub attempt_id: AttemptId,
    /// Whose it is.
    pub incarnation: Incarnation,
    /// When it was permitted.
    pub started_at: DateTime<Utc>,
}

/// Opens attempts again that a server has forgotten, as begin had. The caller holds the locks of their messages, which wait.
pub async fn restore_attempts(
    tx: &mut SystemTx,
    remembered: &[Remembered],
    holds: &Holds,
) -> StoreResult<()> {
    if remembered.is_empty() {
        return Ok(());
    }
    let keys: Vec<MessageKey> = remembered.iter().map(|one| one.key).collect();
    let tokens: Vec<AttemptId> = remembered.iter().map(|one| one.attempt_id).collect();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let attempt_nos: Vec<i16> = remembered.iter().map(|one| one.attempt_no).collect();
    let incarnations: Vec<i64> = remembered.iter().map(|one| one.incarnation.0).collect();
    let started: Vec<DateTime<Utc>> = remembered.iter().map(|one| one.started_at).collect();
    query!(
        r#"
        WITH remembered AS MATERIALIZED (
            SELECT u.attempt_no, u.id AS attempt_id, u.incarnation, u.started_at, m.tenant_id, m.id, m.provider,
                   m.provider_account_sid, m.dest_mac, m.content_mac
            FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::uuid[], $5::bigint[], $6::timestamptz[])
                 AS u (tenant_id, message_id, attempt_no, id, incarnation, started_at)
            JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.message_id
        ), attempts AS (
            INSERT INTO send_attempts (tenant_id, message_id, attempt_no, id, incarnation, provider, account_ref, dest_mac,
                                       content_mac, started_at, deadline, next_look_at)
            SELECT r.tenant_id, r.id, r.attempt_no, r.attempt_id, r.incarnation, r.provider, r.provider_account_sid,
                   r.dest_mac, r.content_mac, r.started_at, r.started_at + $7, r.started_at + $8
            FROM remembered r
        ), calls AS (
            INSERT INTO live_calls (account_ref, dest_mac, content_mac, tenant_id, message_id, attempt_no, since)
            SELECT r.provider_account_sid, r.dest_mac, r.content_mac, r.tenant_id, r.id, r.attempt_no, r.started_at
            FROM remembered r
            ORDER BY r.provider_account_sid, r.dest_mac, r.content_mac, r.id
            ON CONFLICT DO NOTHING
        )
        UPDATE messages m
        SET phase = 2, phase_at = r.started_at, attempt_no = r.attempt_no
        FROM remembered r
        WHERE m.tenant_id = r.tenant_id AND m.id = r.id
        "#,
        &tenant_ids,
        &ids,
        &attempt_nos,
        &AttemptId::column(&tokens),
        &incarnations,
        &started,
        interval(holds.deadline),
        interval(holds.first_look),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How an attempt ends.
#[derive(Debug, Clone)]
pub struct Closing {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token; none where nobody knows it, so that any attempt with the number is meant.
    pub attempt_id: Option<AttemptId>,
    /// What is known of it now.
    pub state: AttemptState,
    /// The provider's id, of accepted ones.
    pub provider_message_id: Option<String>,
    /// The provider's error code, or what we saw instead of an answer.
    pub error_code: Option<String>,
    /// Who says so.
    pub resolved_by: &'static str,
}

/// An attempt that was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token.
    pub attempt_id: AttemptId,
}

/// Closes attempts, and deletes the live calls of those that are over.
///
/// Returns those that moved. The guard: an open one and one in doubt take any outcome; one that was parked, refused or
/// judged not sent takes only the certainty that it was accepted.
pub async fn close_attempts(tx: &mut SystemTx, closings: &[Closing]) -> StoreResult<Vec<Closed>> {
    let (tenant_ids, ids): (Vec<Uuid>, Vec<Uuid>) = closings
        .iter()
        .map(|c| (c.key.tenant_id.0, c.key.id.0))
        .unzip();
    let attempt_nos: Vec<i16> = closings.iter().map(|c| c.attempt_no).collect();
    let attempt_ids: Vec<Option<Uuid>> = closings
        .iter()
        .map(|c| c.attempt_id.map(|id| id.0))
        .collect();
    let states: Vec<i16> = closings.iter().map(|c| c.state.into()).collect();
    let provider_ids: Vec<Option<&str>> = closings
        .iter()
        .map(|c| c.provider_message_id.as_deref())
        .collect();
    let error_codes: Vec<Option<&str>> = closings.iter().map(|c| c.error_code.as_deref()).collect();
    let resolved_bys: Vec<&str> = closings.iter().map(|c| c.resolved_by).collect();
    let rows = query!(
        r#"
        WITH closed AS (
            UPDATE send_attempts a
            SET state = u.state,
                -- What was seen instead of an answer stays with an attempt that nothing explains better.
                error_code = COALESCE(u.error_code, CASE WHEN u.state <> 1 THEN a.error_code END),
                provider_message_id = COALESCE(u.provider_message_id, a.provider_message_id),
                resolved_by = u.resolved_by, resolved_at = CASE WHEN u.state <> 2 THEN (SELECT app_now()) END,
                next_look_at = CASE WHEN u.state = 2 THEN a.next_look_at END,
                -- Whoever says that it does not know has just called: what was looked for before proves nothing.
                first_empty_look_at = CASE WHEN u.state <> 2 THEN a.first_empty_look_at END
            FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::uuid[], $5::smallint[], $6::text[], $7::text[],
                        $8::text[])
                 AS u (tenant_id, message_id, attempt_no, attempt_id, state, provider_message_id, error_code, resolved_by)
            WHERE a.tenant_id = u.tenant_id AND a.message_id = u.message_id AND a.attempt_no = u.attempt_no
              -- A server that has forgotten an attempt gives its number to another process's: what became of the one says
              -- nothing of the other.
              AND (u.attempt_id IS NULL OR a.id = u.attempt_id)
              AND (a.state IN (0, 2) OR (u.state = 1 AND a.state IN (3, 5, 6)))
            RETURNING a.tenant_id, a.message_id, a.attempt_no, a.id, a.state,
                      live_call_name(a.account_ref, a.dest_mac, a.content_mac) AS call_name
        ), over AS (
            DELETE FROM live_calls v
            USING closed c
            WHERE v.name = c.call_name AND c.state <> 2
              AND v.tenant_id = c.tenant_id AND v.message_id = c.message_id AND v.attempt_no = c.attempt_no
              -- Whatever the statistics say of a table that is empty now and then, an array is looked up in the index.
              AND v.name = ANY (ARRAY(SELECT call_name FROM closed))
        )
        SELECT tenant_id, message_id, attempt_no, id
        FROM closed
        "#,
        &tenant_ids,
        &ids,
        &attempt_nos,
        &attempt_ids as &[Option<Uuid>],
        &states,
        &provider_ids as &[Option<&str>],
        &error_codes as &[Option<&str>],
        &resolved_bys as &[&str],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Closed {
            key: MessageKey {
                tenant_id: TenantId(row.tenant_id),
                id: MessageId(row.message_id),
            },
            attempt_no: row.attempt_no,
            attempt_id: AttemptId(row.id),
        })
        .collect())
}

/// An attempt of which nobody has said yet that the provider took it.
#[derive(Debug, Clone)]
pub struct Untold {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// Its token.
    pub attempt_id: AttemptId,
    /// Who was to be called.
    pub provider: Provider,
    /// With which account.
    pub account_ref: String,
}

/// Those of these attempts of which nobody has said yet that they were accepted.
pub async fn list_untold(
    tx: &mut SystemTx,
    attempts: &[(MessageKey, AttemptId)],
) -> StoreResult<Vec<Untold>> {
    let (keys, tokens): (Vec<MessageKey>, Vec<AttemptId>) = attempts.iter().copied().unzip();
    let (tenant_ids, ids) = MessageKey::columns(&keys);
    let rows = query!(
        r#"
        SELECT a.tenant_id, a.message_id, a.attempt_no, a.id, a.provider, a.account_ref
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u (tenant_id, message_id, id)
        JOIN send_attempts a ON a.tenant_id = u.tenant_id AND a.message_id = u.message_id AND a.id = u.id
        WHERE a.state NOT IN (1, 4)
        "#,
        &tenant_ids,
        &ids,
        &AttemptId::column(&tokens),
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Untold {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.message_id),
                },
                attempt_no: row.attempt_no,
                attempt_id: AttemptId(row.id),
                provider: row.provider.parse()?,
                account_ref: row.account_ref,
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// Calls of a campaign that may be under way.
pub async fn count_in_flight(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<i64> {
    let row = query!(
        r#"
        -- No join: live attempts are few, a campaign's messages many, and each is looked up by its key.
        SELECT count(*) AS "in_flight!"
        FROM send_attempts a
        WHERE a.tenant_id = $1 AND a.state IN (0, 2)
          AND $2 = (SELECT m.campaign_id FROM messages m WHERE m.tenant_id = a.tenant_id AND m.id = a.message_id)
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.in_flight)
}
