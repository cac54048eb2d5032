//! Lanes as those who run the platform see them: what waits in each, whose turn it is, and what holds it.

use chrono::{DateTime, Utc};
use sqlx::query;
use uuid::Uuid;

use crate::domain::channel::{Channel, Class};
use crate::domain::ids::{CampaignId, LaneId, MessageId, SenderId, TenantId};
use crate::domain::rate::LanePace;
use crate::domain::release::HoldReason;
use crate::store::brands::grant_of;
use crate::store::halts::Halt;
use crate::store::release::SHARD;
use crate::store::{StoreError, StoreResult, SystemTx};

/// A lane that has something waiting, or that the leader looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneStanding {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What that tenant is called.
    pub tenant: String,
    /// Which lane.
    pub id: LaneId,
    /// Where its messages come from.
    pub sender_id: SenderId,
    /// What they are.
    pub channel: Channel,
    /// Which kind of traffic.
    pub class: Class,
    /// Its campaign, with its name.
    pub campaign: Option<(CampaignId, String)>,
    /// Whether the leader looks at it.
    pub is_active: bool,
    /// The first message of its backlog, and since when it waits there.
    pub head: Option<(MessageId, DateTime<Utc>)>,
    /// What one visit grants it, before the tenant's weight.
    pub quantum: i16,
    /// The tenant's place in the ring: 0 for single messages, 1 for who just woke up, 2 for bulk; none when it is not in it.
    pub ring: Option<i16>,
    /// When it is looked at next, while it is.
    pub next_at: Option<DateTime<Utc>>,
    /// When something of it was looked at last.
    pub last_served_at: Option<DateTime<Utc>>,
    /// Why it must not go at all.
    pub stopped: Option<HoldReason>,
    /// Why its sender must not send, while it must not.
    pub halt: Option<Halt>,
    /// What decides how fast it may go.
    pub pace: LanePace,
}

/// Lanes behind `after`, at most `limit`, of one tenant or of all.
pub async fn list_lanes(
    tx: &mut SystemTx,
    tenant_id: Option<TenantId>,
    after: Option<(TenantId, LaneId)>,
    limit: i64,
) -> StoreResult<Vec<LaneStanding>> {
    let (after_tenant, after_id) = after.map(|(tenant_id, id)| (tenant_id.0, id.0)).unzip();
    let rows = query!(
        r#"
        SELECT l.tenant_id, n.name AS tenant, l.id, l.sender_id, s.channel, l.class, l.campaign_id,
               c.name AS "campaign?", l.active, l.quantum, l.next_at, l.last_served_at, m.id AS "head_id?: Uuid",
               m.phase_at AS "head_at?", t.ring AS "ring?", t.next_at AS "turn_at?",
               CASE WHEN n.status <> 'active' THEN 'tenant_stopped' WHEN s.status = 'released' THEN 'sender_retired'
                    WHEN c.status <> 'sending' THEN 'campaign_stopped' END AS stopped,
               h.reason AS "halt_reason?", h.code AS "halt_code?", h.set_at AS "halted_at?",
               NULLIF(h.until, 'infinity') AS "halted_until?", s.provider, s.account_ref, s.address,
               s.segments_per_sec_override::float8 AS sender_per_sec, c.pace_per_sec::float8 AS campaign_per_sec,
               n.plan_segments_per_sec::float8 AS plan_per_sec,
               (p.quota->>'per_sec')::float8 AS account_per_sec, g.brand_id AS "brand_id?",
               g.messages_per_sec::float8 AS brand_per_sec, g.att_class AS "att_class?",
               g.daily_segment_cap AS "day_segments_max?", g.trust_score AS "trust_score?"
        FROM lanes l
        JOIN tenants n ON n.id = l.tenant_id
        JOIN senders s ON s.tenant_id = l.tenant_id AND s.id = l.sender_id
        LEFT JOIN provider_accounts p ON p.account_ref = s.account_ref
        LEFT JOIN brand_grants g ON g.tenant_id = l.tenant_id AND g.brand_id = s.brand_id
        LEFT JOIN campaigns c ON c.tenant_id = l.tenant_id AND c.id = l.campaign_id
        LEFT JOIN halts h ON h.tenant_id = l.tenant_id AND h.sender_id = l.sender_id AND h.until > app_now()
        LEFT JOIN tenant_turns t ON t.tenant_id = l.tenant_id AND t.shard = $1 AND t.class = l.class AND t.active
        LEFT JOIN LATERAL (
            SELECT m.id, m.phase_at
            FROM messages m
            WHERE m.lane_id = l.id AND m.waiting_phase = 0 AND m.id >= l.head
            ORDER BY m.id
            LIMIT 1
        ) m ON true
        WHERE ($2::uuid IS NULL OR l.tenant_id = $2) AND ($3::uuid IS NULL OR (l.tenant_id, l.id) > ($3, $4::bigint))
          AND (l.active OR m.id IS NOT NULL)
        ORDER BY l.tenant_id, l.id
        LIMIT $5
        "#,
        SHARD,
        tenant_id.map(|id| id.0),
        after_tenant,
        after_id,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let tenant_id = TenantId(row.tenant_id);
            let brand = grant_of!(row)?;
            let campaign_id = row.campaign_id.map(CampaignId);
            let turn_at = row.turn_at.filter(|_| row.active);
            let halt = match (row.halt_reason, row.halted_at) {
                (Some(reason), Some(since)) => Some(Halt {
                    reason,
                    code: row.halt_code,
                    since,
                    until: row.halted_until,
                }),
                _ => None,
            };
            Ok(LaneStanding {
                tenant_id,
                tenant: row.tenant,
                id: LaneId(row.id),
                sender_id: SenderId(row.sender_id),
                channel: row.channel.parse()?,
                class: row.class.parse()?,
                campaign: campaign_id.zip(row.campaign),
                is_active: row.active,
                head: row.head_id.map(MessageId).zip(row.head_at),
                quantum: row.quantum,
                ring: row.ring,
                next_at: turn_at.map(|at| at.max(row.next_at)),
                last_served_at: row.last_served_at,
                stopped: row.stopped.map(|word| word.parse()).transpose()?,
                halt,
                pace: LanePace {
                    tenant_id,
                    campaign: campaign_id.map(|id| (id, row.campaign_per_sec)),
                    provider: row.provider.parse()?,
                    account_ref: row.account_ref,
                    address: row.address,
                    sender_per_sec: row.sender_per_sec,
                    account_per_sec: row.account_per_sec,
                    brand,
                    plan_per_sec: row.plan_per_sec,
                },
            })
        })
        .collect::<Result<_, StoreError>>()
}
