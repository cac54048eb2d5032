//! Lanes, and how they are woken. Whoever has messages for a lane inserts it and appends a wake; the release leader
//! alone updates it (`store::release`); what people see of them is in [`standing`].

pub mod standing;

use sqlx::{PgConnection, query, query_scalar};
use uuid::Uuid;

use super::{StoreResult, SystemTx};
use crate::domain::channel::Class;
use crate::domain::ids::{CampaignId, LaneId, MessageId, SenderId, TenantId};

/// A lane that has messages at or above `head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// Whose lane it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub lane_id: LaneId,
    /// The lowest id among the messages that came.
    pub head: MessageId,
}

/// The lane of a sender, class and campaign; made when it is new.
pub async fn ensure_lane(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    sender_id: SenderId,
    class: Class,
    campaign_id: Option<CampaignId>,
) -> StoreResult<LaneId> {
    let campaign_id = campaign_id.map(|id| id.0);
    query!(
        r#"
        INSERT INTO lanes (tenant_id, sender_id, class, campaign_id)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT ON CONSTRAINT lanes_key DO NOTHING
        "#,
        tenant_id.0,
        sender_id.0,
        class.as_str(),
        campaign_id,
    )
    .execute(&mut *conn)
    .await?;
    let id = query_scalar!(
        r#"
        SELECT id
        FROM lanes
        WHERE tenant_id = $1 AND sender_id = $2 AND class = $3 AND campaign_id IS NOT DISTINCT FROM $4
        "#,
        tenant_id.0,
        sender_id.0,
        class.as_str(),
        campaign_id,
    )
    .fetch_one(conn)
    .await?;
    Ok(LaneId(id))
}

/// Appends a wake per lane, in the transaction that brings the messages: the leader sees both or neither.
pub async fn append_wakes(conn: &mut PgConnection, wakes: &[Wake]) -> StoreResult<()> {
    if wakes.is_empty() {
        return Ok(());
    }
    let tenant_ids: Vec<Uuid> = wakes.iter().map(|wake| wake.tenant_id.0).collect();
    let lane_ids: Vec<i64> = wakes.iter().map(|wake| wake.lane_id.0).collect();
    let heads: Vec<Uuid> = wakes.iter().map(|wake| wake.head.0).collect();
    query!(
        r#"
        INSERT INTO lane_wakes (tenant_id, lane_id, head_id)
        SELECT u.tenant_id, u.lane_id, u.head_id
        FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS u (tenant_id, lane_id, head_id)
        "#,
        &tenant_ids,
        &lane_ids,
        &heads,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Wakes lanes that the leader would pass over although something of theirs may go: among the `limit` lanes above `after`,
/// those that are off, or whose head is too high, and to which no wake is on its way. Each was lost by somebody; says how
/// many, and the last lane looked at, if there was any.
pub async fn wake_lost(
    tx: &mut SystemTx,
    after: LaneId,
    limit: i64,
) -> StoreResult<(u64, Option<LaneId>)> {
    let row = query!(
        r#"
        WITH looked AS MATERIALIZED (
            SELECT l.tenant_id, l.id, l.campaign_id, l.active, l.head
            FROM lanes l
            WHERE l.id > $1
            ORDER BY l.id
            LIMIT $2
        ), lost AS (
            SELECT l.tenant_id, l.id, first.id AS head
            FROM looked l
            JOIN tenants t ON t.id = l.tenant_id AND t.status = 'active'
            LEFT JOIN campaigns c ON c.tenant_id = l.tenant_id AND c.id = l.campaign_id
            JOIN LATERAL (
                SELECT m.id FROM messages m WHERE m.lane_id = l.id AND m.waiting_phase = 0 ORDER BY m.lane_id, m.id LIMIT 1
            ) first ON NOT l.active OR first.id < l.head
            WHERE (c.id IS NULL OR c.status = 'sending')
              AND NOT EXISTS (SELECT FROM lane_wakes w WHERE w.tenant_id = l.tenant_id AND w.lane_id = l.id)
        ), woken AS (
            INSERT INTO lane_wakes (tenant_id, lane_id, head_id)
            SELECT tenant_id, id, head FROM lost
            RETURNING lane_id
        )
        SELECT (SELECT count(*) FROM woken) AS "woken!", (SELECT max(id) FROM looked) AS last
        "#,
        after.0,
        limit,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((row.woken as u64, row.last.map(LaneId)))
}

/// Appends a wake for every lane of a tenant, in the transaction that lets it go on: the leader switched them off.
pub async fn wake_tenant(conn: &mut PgConnection, tenant_id: TenantId) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO lane_wakes (tenant_id, lane_id, head_id)
        SELECT l.tenant_id, l.id, l.head
        FROM lanes l
        WHERE l.tenant_id = $1
        "#,
        tenant_id.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Appends a wake for every lane of a campaign, in the transaction that lets it go on: the leader switches the lanes of a
/// paused campaign off.
pub async fn wake_campaign(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO lane_wakes (tenant_id, lane_id, head_id)
        SELECT l.tenant_id, l.id, l.head
        FROM lanes l
        WHERE l.tenant_id = $1 AND l.campaign_id = $2
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets the leader look at every lane of a sender, or of a campaign, that may have something waiting, in the transaction that
/// changes how fast it goes or whether it goes: one that waits by what held before is due at once.
pub async fn look_at_lanes(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    sender_id: Option<SenderId>,
    campaign_id: Option<CampaignId>,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO lane_wakes (tenant_id, lane_id, head_id, look_now)
        SELECT l.tenant_id, l.id, l.head, true
        FROM lanes l
        LEFT JOIN campaigns c ON c.tenant_id = l.tenant_id AND c.id = l.campaign_id
        WHERE l.tenant_id = $1 AND ($2::uuid IS NULL OR l.sender_id = $2) AND ($3::uuid IS NULL OR l.campaign_id = $3)
          AND (c.id IS NULL OR c.status = 'sending')
        "#,
        tenant_id.0,
        sender_id.map(|id| id.0),
        campaign_id.map(|id| id.0),
    )
    .execute(conn)
    .await?;
    Ok(())
}
