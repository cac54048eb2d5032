//! Rows whose other half is missing: what foreign keys would guard, were they not too dear for the hot tables.
//!
//! Each look is one statement, so that both halves come from one snapshot: what one transaction writes together is seen
//! together. Looked at are messages of the last weeks; older ones go with their partitions, table by table.

use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{StoreResult, SystemTx};
use crate::domain::ids::TenantId;

/// How far back is looked.
const SINCE: &str = "35 days";
/// Orphans of one kind and tenant that are named.
const SAMPLE: i64 = 10;

/// One row without its other half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// What kind of half is missing.
    pub kind: &'static str,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The row, by the message, campaign or lane that it names.
    pub id: String,
}

/// Every kind that is looked for.
pub const KINDS: &[&str] = &[
    "message_without_lane",
    "message_without_campaign",
    "message_without_text",
    "retry_without_original",
    "call_without_attempt",
    "attempt_without_message",
    "attempt_without_call",
    "mapping_without_attempt",
    "event_without_message",
    "text_without_message",
    "wake_without_lane",
    "counts_without_campaign",
];

struct Found {
    kind: String,
    id: String,
}

/// Prepares this transaction for reading all of a tenant, also when the planner knows nothing of its tables yet, as after a crash:
/// it would go through one of them for each row of another.
pub async fn expect_many(tx: &mut SystemTx) -> StoreResult<()> {
    query!(
        "SELECT set_config('statement_timeout', '300000', true) AS patience, set_config('enable_nestloop', 'off', true) AS loops"
    )
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Active tenants behind `after`, at most `limit`: one at rest may be on its way out, table by table.
pub async fn list_tenants(
    tx: &mut SystemTx,
    after: Option<TenantId>,
    limit: i64,
) -> StoreResult<Vec<TenantId>> {
    let ids = query_scalar!(
        "SELECT id FROM tenants WHERE status = 'active' AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2",
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids.into_iter().map(TenantId).collect())
}

/// The orphans of one tenant, some of each kind.
pub async fn list_orphans(tx: &mut SystemTx, tenant_id: TenantId) -> StoreResult<Vec<Orphan>> {
    let mut found = of_messages(tx, tenant_id.0).await?;
    found.extend(of_attempts(tx, tenant_id.0).await?);
    found.extend(of_the_rest(tx, tenant_id.0).await?);
    let orphans = found.into_iter().filter_map(|one| {
        let kind = KINDS.iter().find(|kind| **kind == one.kind)?;
        Some(Orphan {
            kind,
            tenant_id,
            id: one.id,
        })
    });
    Ok(orphans.collect())
}

async fn of_messages(tx: &mut SystemTx, tenant_id: Uuid) -> StoreResult<Vec<Found>> {
    let found = query_as!(
        Found,
        r#"
        (SELECT 'message_without_lane' AS "kind!", m.id::text AS "id!"
         FROM messages m
         WHERE m.tenant_id = $1 AND m.id >= uuid_floor(app_now() - $2::text::interval)
           AND NOT EXISTS (SELECT FROM lanes l WHERE l.tenant_id = m.tenant_id AND l.id = m.lane_id)
         LIMIT $3)
        UNION ALL
        (SELECT 'message_without_campaign', m.id::text
         FROM messages m
         WHERE m.tenant_id = $1 AND m.id >= uuid_floor(app_now() - $2::text::interval) AND m.campaign_id IS NOT NULL
           AND NOT EXISTS (SELECT FROM campaigns c WHERE c.tenant_id = m.tenant_id AND c.id = m.campaign_id)
         LIMIT $3)
        UNION ALL
        (SELECT 'message_without_text', m.id::text
         FROM messages m
         WHERE m.tenant_id = $1 AND m.id >= uuid_floor(app_now() - $2::text::interval)
           AND NOT EXISTS (SELECT FROM message_bodies b WHERE b.tenant_id = m.tenant_id AND b.message_id = m.id)
         LIMIT $3)
        UNION ALL
        (SELECT 'retry_without_original', m.id::text
         FROM messages m
         WHERE m.tenant_id = $1 AND m.id >= uuid_floor(app_now() - $2::text::interval) AND m.retry_of IS NOT NULL
           AND NOT EXISTS (SELECT FROM messages o WHERE o.tenant_id = m.tenant_id AND o.id = m.retry_of AND o.retried_by = m.id)
         LIMIT $3)
        UNION ALL
        -- Nobody looks at it any more: neither its owner nor the resolver has an attempt to close.
        (SELECT 'call_without_attempt', m.id::text
         FROM messages m
         WHERE m.tenant_id = $1 AND m.id >= uuid_floor(app_now() - $2::text::interval) AND m.phase IN (2, 3)
           AND NOT EXISTS (
               SELECT FROM send_attempts a WHERE a.tenant_id = m.tenant_id AND a.message_id = m.id AND a.state IN (0, 2))
         LIMIT $3)
        UNION ALL
        (SELECT 'text_without_message', b.message_id::text
         FROM message_bodies b
         WHERE b.tenant_id = $1 AND b.message_id >= uuid_floor(app_now() - $2::text::interval)
           AND NOT EXISTS (SELECT FROM messages m WHERE m.tenant_id = b.tenant_id AND m.id = b.message_id)
         LIMIT $3)
        UNION ALL
        (SELECT 'event_without_message', e.message_id::text
         FROM message_events e
         WHERE e.tenant_id = $1 AND e.message_id >= uuid_floor(app_now() - $2::text::interval)
           AND NOT EXISTS (SELECT FROM messages m WHERE m.tenant_id = e.tenant_id AND m.id = e.message_id)
         LIMIT $3)
        "#,
        tenant_id,
        SINCE,
        SAMPLE,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found)
}

async fn of_attempts(tx: &mut SystemTx, tenant_id: Uuid) -> StoreResult<Vec<Found>> {
    let found = query_as!(
        Found,
        r#"
        (SELECT 'attempt_without_message' AS "kind!", a.message_id::text AS "id!"
         FROM send_attempts a
         WHERE a.tenant_id = $1 AND a.message_id >= uuid_floor(app_now() - $2::text::interval)
           AND NOT EXISTS (SELECT FROM messages m WHERE m.tenant_id = a.tenant_id AND m.id = a.message_id)
         LIMIT $3)
        UNION ALL
        -- Without it the same could be said to the same person while nobody knows whether it was.
        (SELECT 'attempt_without_call', a.message_id::text
         FROM send_attempts a
         WHERE a.tenant_id = $1 AND a.message_id >= uuid_floor(app_now() - $2::text::interval) AND a.state IN (0, 2)
           AND NOT EXISTS (
               SELECT FROM live_calls v
               WHERE v.tenant_id = a.tenant_id AND v.message_id = a.message_id AND v.attempt_no = a.attempt_no)
         LIMIT $3)
        UNION ALL
        (SELECT 'mapping_without_attempt', p.message_id::text
         FROM message_provider_mappings p
         WHERE p.tenant_id = $1 AND p.message_id >= uuid_floor(app_now() - $2::text::interval)
           AND NOT EXISTS (
               SELECT FROM send_attempts a
               WHERE a.tenant_id = p.tenant_id AND a.message_id = p.message_id AND a.attempt_no = p.attempt_no)
         LIMIT $3)
        "#,
        tenant_id,
        SINCE,
        SAMPLE,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found)
}

async fn of_the_rest(tx: &mut SystemTx, tenant_id: Uuid) -> StoreResult<Vec<Found>> {
    let found = query_as!(
        Found,
        r#"
        (SELECT 'wake_without_lane' AS "kind!", w.lane_id::text AS "id!"
         FROM lane_wakes w
         WHERE w.tenant_id = $1
           AND NOT EXISTS (SELECT FROM lanes l WHERE l.tenant_id = w.tenant_id AND l.id = w.lane_id)
         LIMIT $2)
        UNION ALL
        (SELECT 'counts_without_campaign', k.campaign_id::text
         FROM (
             SELECT t.campaign_id FROM campaign_totals t WHERE t.tenant_id = $1
             UNION SELECT d.campaign_id FROM campaign_deltas d WHERE d.tenant_id = $1
             UNION SELECT x.campaign_id FROM campaign_expansion x WHERE x.tenant_id = $1
         ) k
         WHERE NOT EXISTS (SELECT FROM campaigns c WHERE c.tenant_id = $1 AND c.id = k.campaign_id)
         LIMIT $2)
        "#,
        tenant_id,
        SAMPLE,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found)
}
