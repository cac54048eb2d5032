//! Messages by state and hour, for the home page: folded from the deltas of campaigns and of single messages, never
//! counted from messages.
//!
//! An hour holds what came into each state in it, less what left; the totals hold what is in each state now. What is not
//! folded yet is added by the reader, so that both are exact in any snapshot.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, query};

use super::{StoreResult, SystemTx};
use crate::domain::channel::Channel;
use crate::domain::counts::{CountDelta, Counts};
use crate::domain::ids::TenantId;

/// Hours that are shown.
pub const HOURS: i32 = 24;

/// Writes down what the caller's transaction changes in the counts of single messages.
pub async fn append_single_deltas(
    conn: &mut PgConnection,
    deltas: &[(TenantId, Channel, CountDelta)],
) -> StoreResult<()> {
    let mut tenant_ids = Vec::with_capacity(deltas.len());
    let mut channels = Vec::with_capacity(deltas.len());
    let mut counts = Vec::with_capacity(deltas.len());
    for (tenant_id, channel, delta) in deltas.iter().filter(|(.., delta)| !delta.is_empty()) {
        tenant_ids.push(tenant_id.0);
        channels.push(channel.as_str());
        counts.push(Json(delta));
    }
    if tenant_ids.is_empty() {
        return Ok(());
    }
    query!(
        r#"
        INSERT INTO message_deltas (tenant_id, channel, counts)
        SELECT u.tenant_id, u.channel, u.counts
        FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS u (tenant_id, channel, counts)
        "#,
        &tenant_ids,
        &channels as &[&str],
        &counts as &[Json<&CountDelta>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds up to `deltas_max` open deltas of single messages to hours and totals, and says how many there were. One that
/// another fold holds is left to it; a delta is deleted by the statement that adds it.
pub async fn fold_single_deltas(tx: &mut SystemTx, deltas_max: i64) -> StoreResult<i64> {
    let row = query!(
        r#"
        WITH picked AS MATERIALIZED (
            SELECT tenant_id, channel, id
            FROM message_deltas
            ORDER BY tenant_id, channel, id
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM message_deltas d
            USING picked p
            WHERE d.tenant_id = p.tenant_id AND d.channel = p.channel AND d.id = p.id
            RETURNING d.tenant_id, d.channel, d.counts
        ), eaten AS MATERIALIZED (
            SELECT g.tenant_id, g.channel, count(*) AS deltas, sum_counts(array_agg(g.counts)) AS counts
            FROM gone g
            GROUP BY g.tenant_id, g.channel
        ), hours AS (
            INSERT INTO message_hours AS h (tenant_id, hour, channel, counts)
            SELECT e.tenant_id, date_trunc('hour', app_now()), e.channel, e.counts
            FROM eaten e
            ORDER BY e.tenant_id, e.channel
            ON CONFLICT (tenant_id, hour, channel) DO UPDATE
            SET counts = sum_counts(ARRAY[h.counts, excluded.counts])
        ), totals AS (
            INSERT INTO message_totals AS t (tenant_id, channel, counts, version)
            SELECT e.tenant_id, e.channel, e.counts, e.deltas
            FROM eaten e
            ORDER BY e.tenant_id, e.channel
            ON CONFLICT (tenant_id, channel) DO UPDATE
            SET counts = sum_counts(ARRAY[t.counts, excluded.counts]), version = t.version + excluded.version
        )
        SELECT COALESCE(sum(e.deltas), 0)::bigint AS "deltas!"
        FROM eaten e
        "#,
        deltas_max,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.deltas)
}

/// What a tenant's messages came to, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourSnapshot {
    /// Whose messages.
    pub tenant_id: TenantId,
    /// Grows with every change.
    pub version: i64,
    /// What is in each state now.
    pub totals: Counts,
    /// What came into each state in the last hours, less what left; hours without a change are missing.
    pub hours: Vec<(DateTime<Utc>, Counts)>,
}

impl HourSnapshot {
    /// Of a tenant without a message.
    pub fn empty(tenant_id: TenantId) -> Self {
        Self {
            tenant_id,
            version: 0,
            totals: Counts::default(),
            hours: Vec::new(),
        }
    }
}

/// Reads many tenants at once, all channels or one.
///
/// A tenant without a message is missing in the answer.
pub async fn list_hours(
    conn: &mut PgConnection,
    tenant_ids: &[TenantId],
    channel: Option<Channel>,
) -> StoreResult<Vec<HourSnapshot>> {
    let rows = query!(
        r#"
        WITH asked AS MATERIALIZED (
            SELECT u.tenant_id FROM unnest($1::uuid[]) AS u (tenant_id)
        ), open AS MATERIALIZED (
            SELECT d.tenant_id, d.counts
            FROM asked a
            JOIN message_deltas d ON d.tenant_id = a.tenant_id AND ($2::text IS NULL OR d.channel = $2)
            UNION ALL
            SELECT d.tenant_id, d.counts
            FROM asked a
            JOIN campaign_deltas d ON d.tenant_id = a.tenant_id
            JOIN campaigns c ON c.tenant_id = d.tenant_id AND c.id = d.campaign_id AND ($2::text IS NULL OR c.channel = $2)
        ), parts AS (
            SELECT h.tenant_id, h.hour, h.counts, 0::bigint AS version
            FROM asked a
            JOIN message_hours h ON h.tenant_id = a.tenant_id AND ($2::text IS NULL OR h.channel = $2)
             AND h.hour > date_trunc('hour', app_now()) - make_interval(hours => $3)
            UNION ALL
            -- Not folded yet: of this hour, and of the totals.
            SELECT o.tenant_id, date_trunc('hour', app_now()), o.counts, 0 FROM open o
            UNION ALL
            SELECT o.tenant_id, NULL, o.counts, 1 FROM open o
            UNION ALL
            SELECT t.tenant_id, NULL, t.counts, t.version
            FROM asked a
            JOIN message_totals t ON t.tenant_id = a.tenant_id AND ($2::text IS NULL OR t.channel = $2)
        )
        SELECT p.tenant_id AS "tenant_id!", p.hour, sum_counts(array_agg(p.counts)) AS "counts!: Json<BTreeMap<String, i64>>",
               sum(p.version)::bigint AS "version!"
        FROM parts p
        GROUP BY p.tenant_id, p.hour
        ORDER BY p.tenant_id, p.hour NULLS FIRST
        "#,
        &TenantId::column(tenant_ids),
        channel.map(Channel::as_str),
        HOURS,
    )
    .fetch_all(conn)
    .await?;
    let mut snapshots: Vec<HourSnapshot> = Vec::new();
    for row in rows {
        let counts = Counts::from_stored(row.counts.0);
        let tenant_id = TenantId(row.tenant_id);
        match (row.hour, snapshots.last_mut()) {
            (Some(hour), Some(snapshot)) if snapshot.tenant_id == tenant_id => {
                snapshot.hours.push((hour, counts));
            }
            (None, _) => snapshots.push(HourSnapshot {
                tenant_id,
                version: row.version,
                totals: counts,
                hours: Vec::new(),
            }),
            // Hours come with totals, which stand first.
            (Some(_), _) => {}
        }
    }
    Ok(snapshots)
}
