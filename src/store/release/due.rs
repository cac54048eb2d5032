//! Whose turn it is: the tenants and lanes of one tick.

use chrono::{DateTime, Utc};
use sqlx::query;

use super::SHARD;
use crate::domain::channel::Class;
use crate::domain::ids::{CampaignId, LaneId, TenantId};
use crate::domain::rate::LanePace;
use crate::store::brands::grant_of;
use crate::store::{StoreError, StoreResult, SystemTx};

/// A tenant whose turn it is, with one of its lanes that are due.
#[derive(Debug, Clone, PartialEq)]
pub struct DueLane {
    /// Whose turn it is.
    pub tenant_id: TenantId,
    /// Which kind of traffic.
    pub class: Class,
    /// The tenant's share.
    pub weight: i16,
    /// Who goes first: 0 for single messages, 1 for who had nothing for a while, [`LAST_RING`] for all others.
    pub ring: i16,
    /// What the tenant overdrew in earlier turns; below 0 what they kept from it.
    pub debt: i32,
    /// One of its active lanes; none when none is due.
    pub lane: Option<LaneRow>,
}

/// The ring of those who always have something to send.
pub const LAST_RING: i16 = 2;

/// A lane that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneRow {
    /// Which one.
    pub id: LaneId,
    /// What one visit grants it, before the tenant's weight.
    pub quantum: i16,
    /// False while the campaign or the tenant is stopped, and for good when the sender was retired: the lane is switched
    /// off, and going on wakes it.
    pub may_go: bool,
    /// Whether the sender was retired.
    pub is_retired: bool,
    /// Its campaign.
    pub campaign_id: Option<CampaignId>,
    /// Its sender must not send before; the lane stays on and is passed over.
    pub halted_until: Option<DateTime<Utc>>,
    /// What decides how fast it may go.
    pub pace: LanePace,
    /// Since when it is its turn.
    pub due_at: DateTime<Utc>,
}

/// The tenants that are due and have waited longest, each with its lanes that are due, those served longest ago first.
///
/// Whoever draws on one bucket comes again when that has something left, all at the same instant: then whoever let something
/// out last goes last, or one of them would take all of it each time.
///
/// `turns_max` of them by ring, and of each later ring `bulk_max` however many go before, so that bulk always advances.
pub async fn list_due_lanes(
    tx: &mut SystemTx,
    now: DateTime<Utc>,
    (turns_max, bulk_max): (i64, i64),
    lanes_max: i64,
) -> StoreResult<Vec<DueLane>> {
    let rows = query!(
        r#"
        WITH due AS (
            (SELECT t.tenant_id, t.class, t.weight, t.deficit, t.ring, t.next_at, t.let_out_at
             FROM tenant_turns t
             WHERE t.shard = $1 AND t.active AND t.next_at <= $5
             ORDER BY t.ring, t.next_at, t.let_out_at NULLS FIRST
             LIMIT $2)
            UNION
            (SELECT t.tenant_id, t.class, t.weight, t.deficit, t.ring, t.next_at, t.let_out_at
             FROM tenant_turns t
             WHERE t.shard = $1 AND t.active AND t.ring = 1 AND t.next_at <= $5
             ORDER BY t.next_at, t.let_out_at NULLS FIRST
             LIMIT $3)
            UNION
            (SELECT t.tenant_id, t.class, t.weight, t.deficit, t.ring, t.next_at, t.let_out_at
             FROM tenant_turns t
             WHERE t.shard = $1 AND t.active AND t.ring = 2 AND t.next_at <= $5
             ORDER BY t.next_at, t.let_out_at NULLS FIRST
             LIMIT $3)
        )
        SELECT d.tenant_id AS "tenant_id!", d.class AS "class!", d.weight AS "weight!", d.deficit AS "deficit!", d.ring AS "ring!",
               GREATEST(d.next_at, l.next_at) AS "due_at!", l.id AS "lane_id?", l.quantum AS "quantum?", l.campaign_id,
               (n.status = 'active' AND s.status <> 'released' AND (c.id IS NULL OR c.status = 'sending')) AS "may_go?",
               s.status = 'released' AS "is_retired?",
               -- A halt may have no end, which is no instant. LEAST alone would make one of none.
               CASE WHEN h.until IS NOT NULL THEN LEAST(h.until, $5 + INTERVAL '1 day') END AS "halted_until?", s.provider AS "provider?", s.account_ref AS "account_ref?", s.address AS "address?",
               s.segments_per_sec_override::float8 AS sender_per_sec, c.pace_per_sec::float8 AS campaign_per_sec,
               n.plan_segments_per_sec::float8 AS plan_per_sec,
               (p.quota->>'per_sec')::float8 AS account_per_sec, g.brand_id AS "brand_id?",
               g.messages_per_sec::float8 AS brand_per_sec, g.att_class AS "att_class?",
               g.daily_segment_cap AS "day_segments_max?", g.trust_score AS "trust_score?"
        FROM due d
        JOIN tenants n ON n.id = d.tenant_id
        LEFT JOIN LATERAL (
            SELECT l.id, l.quantum, l.sender_id, l.campaign_id, l.next_at, l.let_out_at
            FROM lanes l
            WHERE l.tenant_id = d.tenant_id AND l.shard = $1 AND l.class = d.class AND l.active AND l.next_at <= $5
            ORDER BY l.next_at, l.let_out_at NULLS FIRST
            LIMIT $4
        ) l ON true
        LEFT JOIN senders s ON s.tenant_id = d.tenant_id AND s.id = l.sender_id
        LEFT JOIN provider_accounts p ON p.account_ref = s.account_ref
        LEFT JOIN brand_grants g ON g.tenant_id = d.tenant_id AND g.brand_id = s.brand_id
        LEFT JOIN campaigns c ON c.tenant_id = d.tenant_id AND c.id = l.campaign_id
        LEFT JOIN halts h ON h.tenant_id = d.tenant_id AND h.sender_id = l.sender_id AND h.until > $5
        ORDER BY d.ring, d.next_at, d.let_out_at NULLS FIRST, d.tenant_id, d.class, l.next_at, l.let_out_at NULLS FIRST
        "#,
        SHARD,
        turns_max,
        bulk_max,
        lanes_max,
        now,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let tenant_id = TenantId(row.tenant_id);
            let brand = grant_of!(row)?;
            let lane = match (row.lane_id, row.provider, row.account_ref, row.address) {
                (Some(id), Some(provider), Some(account_ref), Some(address)) => Some(LaneRow {
                    id: LaneId(id),
                    quantum: row.quantum.unwrap_or(1),
                    may_go: row.may_go.unwrap_or(false),
                    is_retired: row.is_retired.unwrap_or(false),
                    campaign_id: row.campaign_id.map(CampaignId),
                    halted_until: row.halted_until,
                    due_at: row.due_at,
                    pace: LanePace {
                        tenant_id,
                        campaign: row
                            .campaign_id
                            .map(|id| (CampaignId(id), row.campaign_per_sec)),
                        provider: provider.parse()?,
                        account_ref,
                        address,
                        sender_per_sec: row.sender_per_sec,
                        account_per_sec: row.account_per_sec,
                        brand,
                        plan_per_sec: row.plan_per_sec,
                    },
                }),
                _ => None,
            };
            Ok(DueLane {
                tenant_id,
                class: row.class.parse()?,
                weight: row.weight,
                ring: row.ring,
                debt: -row.deficit,
                lane,
            })
        })
        .collect::<Result<_, StoreError>>()
}
