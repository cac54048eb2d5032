//! Messages that are not known to be with the provider, by account and person.

use sqlx::query;

use crate::domain::ids::{MessageId, MessageKey, TenantId};
use crate::domain::reconcile_provider::Waiting;
use crate::store::orphans::expect_many;
use crate::store::{StoreResult, SystemTx};

/// A message that waits, and the account that it is to go out with.
#[derive(Debug, Clone)]
pub struct WaitingRow {
    /// The provider account.
    pub account_ref: String,
    /// The message.
    pub waiting: Waiting,
}

/// Every message to one of these numbers that waits, or of whose call nobody has told; `wanted` are pairs of account and
/// number, each once.
///
/// One statement and so one snapshot, since messages wander between the places that it looks in. It reads all that waits of
/// the tenants with these accounts, which in quarantine is time well spent.
pub async fn list_waiting(
    tx: &mut SystemTx,
    wanted: &[(String, String)],
) -> StoreResult<Vec<WaitingRow>> {
    expect_many(tx).await?;
    let (account_refs, numbers): (Vec<&str>, Vec<&str>) = wanted
        .iter()
        .map(|(account_ref, number)| (account_ref.as_str(), number.as_str()))
        .unzip();
    let rows = query!(
        r#"
        WITH wanted AS MATERIALIZED (
            SELECT u.account_ref, u.number
            FROM unnest($1::text[], $2::text[]) AS u (account_ref, number)
        ), waiting AS (
            -- The backlog, lane by lane.
            SELECT q.*, NULL::timestamptz AS started_at, NULL::timestamptz AS deadline
            FROM lanes l
            CROSS JOIN LATERAL (
                SELECT m.tenant_id, m.id, m.lane_id, m.attempt_no, m.provider_account_sid, m.phone_number
                FROM messages m
                WHERE m.lane_id = l.id AND m.waiting_phase = 0
                OFFSET 0) q
            WHERE l.tenant_id IN (SELECT c.tenant_id FROM tenant_channel_credentials_v2 c WHERE c.account_ref = ANY($1))
            UNION ALL
            SELECT m.tenant_id, m.id, m.lane_id, m.attempt_no, m.provider_account_sid, m.phone_number, NULL, NULL
            FROM messages m
            WHERE m.released_at IS NOT NULL
            UNION ALL
            SELECT m.tenant_id, m.id, m.lane_id, m.attempt_no, m.provider_account_sid, m.phone_number, NULL, NULL
            FROM messages m
            WHERE m.waiting_phase = -1
            UNION ALL
            SELECT q.*, a.started_at, a.deadline
            FROM (SELECT s.tenant_id, s.message_id, s.attempt_no, s.started_at, s.deadline
                  FROM send_attempts s
                  WHERE s.state IN (0, 2)
                  OFFSET 0) a
            CROSS JOIN LATERAL (
                SELECT m.tenant_id, m.id, m.lane_id, m.attempt_no, m.provider_account_sid, m.phone_number
                FROM messages m
                WHERE m.tenant_id = a.tenant_id AND m.id = a.message_id AND m.attempt_no = a.attempt_no
                OFFSET 0) q
        ), found AS MATERIALIZED (
            SELECT w.*
            FROM waiting w
            JOIN wanted n ON n.account_ref = w.provider_account_sid AND n.number = w.phone_number
        )
        SELECT f.tenant_id AS "tenant_id!", f.id AS "id!", f.attempt_no AS "attempt_no!",
               f.provider_account_sid AS "account_ref!", f.phone_number AS "number!", f.started_at AS "started_at?",
               f.deadline AS "deadline?",
               CASE WHEN s.messaging_service_sid IS NULL THEN s.address END AS "from_address?",
               -- No join: each body by its key.
               (SELECT b.body FROM message_bodies b WHERE b.tenant_id = f.tenant_id AND b.message_id = f.id) AS body
        FROM found f
        JOIN lanes l ON l.tenant_id = f.tenant_id AND l.id = f.lane_id
        JOIN senders s ON s.tenant_id = l.tenant_id AND s.id = l.sender_id
        "#,
        &account_refs as &[&str],
        &numbers as &[&str],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| WaitingRow {
            account_ref: row.account_ref,
            waiting: Waiting {
                key: MessageKey {
                    tenant_id: TenantId(row.tenant_id),
                    id: MessageId(row.id),
                },
                attempt_no: row.attempt_no,
                live: row.started_at.zip(row.deadline),
                from: row.from_address,
                to: row.number,
                body: row.body.unwrap_or_default(),
            },
        })
        .collect())
}
