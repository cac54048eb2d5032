//! The counts of campaigns: who moves messages appends a delta in the same commit, so that totals and open deltas
//! together are exact in every snapshot.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, query, query_as};
use uuid::Uuid;

use super::brands::grant_of;
use super::halts::Halt;
use super::{StoreError, StoreResult, SystemTx};
use crate::domain::counts::{CountDelta, Counts};
use crate::domain::ids::{CampaignId, TenantId};
use crate::domain::rate::LanePace;

/// Writes down what the caller's transaction changes, one row per campaign.
///
/// Appending takes no lock that another appender waits for. Deltas of the same campaign are added up first, empty
/// ones are left out.
pub async fn append_deltas(
    conn: &mut PgConnection,
    deltas: &[(TenantId, CampaignId, CountDelta)],
) -> StoreResult<()> {
    let mut by_campaign: BTreeMap<(TenantId, CampaignId), CountDelta> = BTreeMap::new();
    for (tenant_id, campaign_id, delta) in deltas {
        by_campaign
            .entry((*tenant_id, *campaign_id))
            .or_default()
            .merge(delta);
    }
    by_campaign.retain(|_, delta| !delta.is_empty());
    if by_campaign.is_empty() {
        return Ok(());
    }
    let mut tenant_ids = Vec::with_capacity(by_campaign.len());
    let mut campaign_ids = Vec::with_capacity(by_campaign.len());
    let mut counts = Vec::with_capacity(by_campaign.len());
    for ((tenant_id, campaign_id), delta) in by_campaign {
        tenant_ids.push(tenant_id.0);
        campaign_ids.push(campaign_id.0);
        counts.push(Json(delta));
    }
    query!(
        r#"
        INSERT INTO campaign_deltas (tenant_id, campaign_id, counts)
        SELECT u.tenant_id, u.campaign_id, u.counts
        FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[]) AS u (tenant_id, campaign_id, counts)
        "#,
        &tenant_ids,
        &campaign_ids,
        &counts as &[Json<CountDelta>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The counts of one campaign, exact for the moment they were read.
#[derive(Debug, Clone, PartialEq)]
pub struct CountSnapshot {
    /// Whose campaign.
    pub tenant_id: TenantId,
    /// Which one.
    pub campaign_id: CampaignId,
    /// The campaign's status, a stored word.
    pub status: String,
    /// How many deltas it comes from: a later snapshot has the same or a higher number, folded or not.
    pub version: i64,
    /// The numbers.
    pub counts: Counts,
    /// What decides how fast it goes, once it has a sender.
    pub pace: Option<LanePace>,
    /// Why its sender must not send, while it must not.
    pub halt: Option<Halt>,
}

struct SnapshotRow {
    tenant_id: Uuid,
    campaign_id: Uuid,
    status: String,
    version: i64,
    counts: Json<BTreeMap<String, i64>>,
    provider: Option<String>,
    account_ref: Option<String>,
    address: Option<String>,
    sender_per_sec: Option<f64>,
    campaign_per_sec: Option<f64>,
    plan_per_sec: Option<f64>,
    account_per_sec: Option<f64>,
    brand_id: Option<Uuid>,
    brand_per_sec: Option<f64>,
    att_class: Option<String>,
    day_segments_max: Option<i32>,
    trust_score: Option<i16>,
    halt_reason: Option<String>,
    halt_code: Option<String>,
    halted_at: Option<DateTime<Utc>>,
    halted_until: Option<DateTime<Utc>>,
}

impl TryFrom<SnapshotRow> for CountSnapshot {
    type Error = StoreError;

    fn try_from(row: SnapshotRow) -> StoreResult<Self> {
        let tenant_id = TenantId(row.tenant_id);
        let campaign_id = CampaignId(row.campaign_id);
        let brand = grant_of!(row)?;
        let pace = match (row.provider, row.account_ref, row.address) {
            (Some(provider), Some(account_ref), Some(address)) => Some(LanePace {
                tenant_id,
                campaign: Some((campaign_id, row.campaign_per_sec)),
                provider: provider.parse()?,
                account_ref,
                address,
                sender_per_sec: row.sender_per_sec,
                account_per_sec: row.account_per_sec,
                brand,
                plan_per_sec: row.plan_per_sec,
            }),
            _ => None,
        };
        let halt = match (row.halt_reason, row.halted_at) {
            (Some(reason), Some(since)) => Some(Halt {
                reason,
                code: row.halt_code,
                since,
                until: row.halted_until,
            }),
            _ => None,
        };
        Ok(Self {
            halt,
            tenant_id,
            campaign_id,
            status: row.status,
            version: row.version,
            counts: Counts::from_stored(row.counts.0),
            pace,
        })
    }
}

/// Reads many campaigns at once, in one statement, so that totals and open deltas come from one snapshot.
///
/// A campaign that does not exist is missing in the answer.
pub async fn list_snapshots(
    conn: &mut PgConnection,
    campaigns: &[(TenantId, CampaignId)],
) -> StoreResult<Vec<CountSnapshot>> {
    let (tenant_ids, campaign_ids): (Vec<Uuid>, Vec<Uuid>) = campaigns
        .iter()
        .map(|(tenant_id, campaign_id)| (tenant_id.0, campaign_id.0))
        .unzip();
    let rows = query_as!(
        SnapshotRow,
        r#"
        SELECT c.tenant_id, c.id AS campaign_id, c.status,
               COALESCE(t.version, 0) + d.open AS "version!",
               COALESCE(w.counts, '{}') AS "counts!: Json<BTreeMap<String, i64>>",
               s.provider AS "provider?", s.account_ref AS "account_ref?", s.address AS "address?",
               s.segments_per_sec_override::float8 AS sender_per_sec, c.pace_per_sec::float8 AS campaign_per_sec,
               n.plan_segments_per_sec::float8 AS plan_per_sec,
               (p.quota->>'per_sec')::float8 AS account_per_sec, g.brand_id AS "brand_id?",
               g.messages_per_sec::float8 AS brand_per_sec, g.att_class AS "att_class?",
               g.daily_segment_cap AS "day_segments_max?", g.trust_score AS "trust_score?",
               h.reason AS "halt_reason?", h.code AS "halt_code?",
               h.set_at AS "halted_at?", NULLIF(h.until, 'infinity') AS "halted_until?"
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, campaign_id)
        JOIN campaigns c ON c.tenant_id = u.tenant_id AND c.id = u.campaign_id
        JOIN tenants n ON n.id = c.tenant_id
        LEFT JOIN senders s ON s.tenant_id = c.tenant_id AND s.id = c.sender_id
        LEFT JOIN provider_accounts p ON p.account_ref = s.account_ref
        LEFT JOIN brand_grants g ON g.tenant_id = c.tenant_id AND g.brand_id = s.brand_id
        LEFT JOIN halts h ON h.tenant_id = c.tenant_id AND h.sender_id = c.sender_id AND h.until > app_now()
        LEFT JOIN campaign_totals t ON t.tenant_id = c.tenant_id AND t.campaign_id = c.id
        CROSS JOIN LATERAL (
            SELECT count(*) AS open, array_agg(d.counts) AS counts
            FROM campaign_deltas d
            WHERE d.tenant_id = c.tenant_id AND d.campaign_id = c.id
        ) d
        CROSS JOIN LATERAL (
            SELECT jsonb_object_agg(s.word, s.people) AS counts
            FROM (
                SELECT e.key AS word, sum(e.value::bigint)::bigint AS people
                FROM unnest(array_append(d.counts, t.counts)) AS p (counts)
                CROSS JOIN LATERAL jsonb_each_text(p.counts) e
                GROUP BY e.key
            ) s
        ) w
        "#,
        &tenant_ids,
        &campaign_ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(CountSnapshot::try_from).collect()
}

/// Adds open deltas to the totals of up to `campaigns_max` campaigns, and to the tenant's hours.
///
/// Returns the campaigns folded. One that another fold holds is left to it. Running it twice is harmless: a delta is
/// deleted by the statement that adds it.
pub async fn fold_deltas(
    tx: &mut SystemTx,
    campaigns_max: i64,
) -> StoreResult<Vec<(TenantId, CampaignId)>> {
    let (tenant_ids, campaign_ids) = lock_open_totals(tx, campaigns_max).await?;
    if tenant_ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = query!(
        r#"
        WITH gone AS (
            DELETE FROM campaign_deltas d
            USING unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, campaign_id)
            WHERE d.tenant_id = u.tenant_id AND d.campaign_id = u.campaign_id
            RETURNING d.tenant_id, d.campaign_id, d.counts
        ), eaten AS (
            SELECT g.tenant_id, g.campaign_id, count(*) AS deltas, array_agg(g.counts) AS counts
            FROM gone g
            GROUP BY g.tenant_id, g.campaign_id
        ), by_channel AS MATERIALIZED (
            SELECT g.tenant_id, c.channel, count(*) AS deltas, sum_counts(array_agg(g.counts)) AS counts
            FROM gone g
            JOIN campaigns c ON c.tenant_id = g.tenant_id AND c.id = g.campaign_id
            GROUP BY g.tenant_id, c.channel
        ), hours AS (
            INSERT INTO message_hours AS h (tenant_id, hour, channel, counts)
            SELECT b.tenant_id, date_trunc('hour', app_now()), b.channel, b.counts
            FROM by_channel b
            ORDER BY b.tenant_id, b.channel
            ON CONFLICT (tenant_id, hour, channel) DO UPDATE
            SET counts = sum_counts(ARRAY[h.counts, excluded.counts])
        ), channel_totals AS (
            INSERT INTO message_totals AS t (tenant_id, channel, counts, version)
            SELECT b.tenant_id, b.channel, b.counts, b.deltas
            FROM by_channel b
            ORDER BY b.tenant_id, b.channel
            ON CONFLICT (tenant_id, channel) DO UPDATE
            SET counts = sum_counts(ARRAY[t.counts, excluded.counts]), version = t.version + excluded.version
        )
        UPDATE campaign_totals t
        SET counts = w.counts,
            -- By as many as are folded: version + open deltas must not fall when they go.
            version = t.version + w.deltas,
            folded_at = app_now()
        FROM (
            SELECT e.tenant_id, e.campaign_id, e.deltas, s.counts
            FROM eaten e
            JOIN campaign_totals o ON o.tenant_id = e.tenant_id AND o.campaign_id = e.campaign_id
            CROSS JOIN LATERAL (
                SELECT COALESCE(jsonb_object_agg(x.word, x.people), '{}') AS counts
                FROM (
                    SELECT j.key AS word, sum(j.value::bigint)::bigint AS people
                    FROM unnest(array_append(e.counts, o.counts)) AS p (counts)
                    CROSS JOIN LATERAL jsonb_each_text(p.counts) j
                    GROUP BY j.key
                    HAVING sum(j.value::bigint) <> 0
                ) x
            ) s
        ) w
        WHERE t.tenant_id = w.tenant_id AND t.campaign_id = w.campaign_id
        RETURNING t.tenant_id, t.campaign_id
        "#,
        &tenant_ids,
        &campaign_ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), CampaignId(row.campaign_id)))
        .collect())
}

/// The campaigns with open deltas whose totals are now ours, as two columns.
///
/// A statement of its own: what follows must see a snapshot younger than the locks, or it would add to totals that
/// another fold has meanwhile replaced.
async fn lock_open_totals(
    tx: &mut SystemTx,
    campaigns_max: i64,
) -> StoreResult<(Vec<Uuid>, Vec<Uuid>)> {
    query!(
        r#"
        INSERT INTO campaign_totals (tenant_id, campaign_id)
        SELECT DISTINCT d.tenant_id, d.campaign_id
        FROM campaign_deltas d
        WHERE NOT EXISTS (
            SELECT FROM campaign_totals t
            WHERE t.tenant_id = d.tenant_id AND t.campaign_id = d.campaign_id
        )
        ORDER BY d.tenant_id, d.campaign_id
        ON CONFLICT DO NOTHING
        "#,
    )
    .execute(tx.conn())
    .await?;
    let rows = query!(
        r#"
        SELECT t.tenant_id, t.campaign_id
        FROM campaign_totals t
        WHERE EXISTS (
            SELECT FROM campaign_deltas d
            WHERE d.tenant_id = t.tenant_id AND d.campaign_id = t.campaign_id
        )
        ORDER BY t.tenant_id, t.campaign_id
        LIMIT $1
        FOR UPDATE OF t SKIP LOCKED
        "#,
        campaigns_max,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.tenant_id, row.campaign_id))
        .unzip())
}
