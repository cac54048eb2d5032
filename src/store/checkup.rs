//! What `doctor` asks of a running installation besides what every start asks.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};

use super::{StoreResult, SystemTx};
use crate::domain::ids::{CampaignId, TenantId};
use crate::store::release::SHARD;

/// A rule of the schema that something breaks.
#[derive(Debug, Clone)]
pub struct SchemaFault {
    /// The rule.
    pub fault: String,
    /// What breaks it.
    pub object: String,
}

/// Every breach of a rule of the schema; partitions that lie too short ahead are one.
pub async fn list_schema_faults(tx: &mut SystemTx) -> StoreResult<Vec<SchemaFault>> {
    let faults = query_as!(
        SchemaFault,
        r#"SELECT fault AS "fault!", object AS "object!" FROM schema_faults() ORDER BY 1, 2"#,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(faults)
}

/// Whether a release leader holds its term.
pub async fn has_leader(tx: &mut SystemTx) -> StoreResult<bool> {
    let has_leader = query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM release_shards WHERE shard = $1 AND until > app_now()) AS "has_leader!"
        "#,
        SHARD,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(has_leader)
}

/// How many jobs were given up.
pub async fn count_dead_jobs(tx: &mut SystemTx) -> StoreResult<i64> {
    let dead = query_scalar!(r#"SELECT count(*) AS "dead!" FROM dead_jobs"#)
        .fetch_one(tx.conn())
        .await?;
    Ok(dead)
}

/// The database's clock.
pub async fn read_clock(tx: &mut SystemTx) -> StoreResult<DateTime<Utc>> {
    let now = query_scalar!(r#"SELECT app_now() AS "now!""#)
        .fetch_one(tx.conn())
        .await?;
    Ok(now)
}

/// Campaigns that were started within the last year, whose rows are all there, behind `after`; at most `limit`.
pub async fn list_started(
    tx: &mut SystemTx,
    after: Option<(TenantId, CampaignId)>,
    limit: i64,
) -> StoreResult<Vec<(TenantId, CampaignId)>> {
    let (tenant_id, id) = after.map(|(tenant_id, id)| (tenant_id.0, id.0)).unzip();
    let rows = query!(
        r#"
        SELECT tenant_id, id
        FROM campaigns
        WHERE started_at > app_now() - interval '1 year' AND ($1::uuid IS NULL OR (tenant_id, id) > ($1, $2::uuid))
        ORDER BY tenant_id, id
        LIMIT $3
        "#,
        tenant_id,
        id,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), CampaignId(row.id)))
        .collect())
}

/// A number of a campaign that is not what its rows say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongCount {
    /// Which number.
    pub word: String,
    /// What totals and open deltas come to.
    pub counted: i64,
    /// What the rows come to.
    pub rows: i64,
}

/// The numbers of a campaign that differ from its messages and its skips, in one statement, so that both come from one
/// snapshot. What providers said of handed over messages is part of a number and not compared.
pub async fn recount(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    id: CampaignId,
) -> StoreResult<Vec<WrongCount>> {
    let wrong = query_as!(
        WrongCount,
        r#"
        WITH parts AS (
            SELECT t.counts FROM campaign_totals t WHERE t.tenant_id = $1 AND t.campaign_id = $2
            UNION ALL
            SELECT d.counts FROM campaign_deltas d WHERE d.tenant_id = $1 AND d.campaign_id = $2
        ), counted AS (
            SELECT e.key AS word, sum(e.value::bigint)::bigint AS people
            FROM parts p
            CROSS JOIN LATERAL jsonb_each_text(p.counts) e
            WHERE e.key NOT IN ('delivered', 'read', 'failed')
            GROUP BY e.key
        ), places AS (
            SELECT CASE m.phase
                       WHEN -1 THEN 'deferred' WHEN 0 THEN 'queued' WHEN 1 THEN 'released' WHEN 2 THEN 'sending'
                       WHEN 3 THEN 'in_doubt' WHEN 4 THEN 'handed_over' WHEN 5 THEN 'parked'
                       ELSE 'dropped_' || m.drop_reason
                   END AS word, count(*) AS people
            FROM messages m
            -- Whose place was taken is counted by the message that took it.
            WHERE m.tenant_id = $1 AND m.campaign_id = $2 AND m.retried_by IS NULL
              AND m.id >= campaign_ids_from($1, $2) AND m.id < campaign_ids_to($1, $2)
            GROUP BY 1
            UNION ALL
            SELECT 'skipped_' || s.reason, count(*)
            FROM campaign_skips s
            WHERE s.tenant_id = $1 AND s.campaign_id = $2
            GROUP BY 1
            UNION ALL
            -- Whom an expansion that was stopped had not come to was dropped with its campaign.
            SELECT CASE WHEN e.is_done THEN 'dropped_cancelled' ELSE 'unexpanded' END, e.total - e.next_pos
            FROM campaign_expansion e
            WHERE e.tenant_id = $1 AND e.campaign_id = $2 AND e.step = 0 AND e.next_pos < e.total
        ), found AS (
            SELECT p.word, sum(p.people)::bigint AS people FROM places p GROUP BY p.word
            UNION ALL
            SELECT 'audience', COALESCE(sum(p.people), 0)::bigint FROM places p
        )
        SELECT word AS "word!", COALESCE(c.people, 0) AS "counted!", COALESCE(f.people, 0) AS "rows!"
        FROM counted c
        FULL JOIN found f USING (word)
        WHERE COALESCE(c.people, 0) <> COALESCE(f.people, 0)
        ORDER BY word
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(wrong)
}
