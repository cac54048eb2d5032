//! What the release leader reads and writes. Nobody else updates lanes and turns.

use std::time::Duration;

use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::interval;
use super::lanes::Wake;
use super::{StoreError, StoreResult, SystemTx};
use crate::domain::channel::Class;
use crate::domain::ids::{CampaignId, Incarnation, LaneId, MessageId, MessageKey, TenantId};

/// The one shard of a cell whose provider accounts fit one leader.
pub const SHARD: i16 = 0;

/// Takes the leadership, if nobody holds it or our own term still runs.
///
/// Returns the epoch that fences every later write of this term.
pub async fn take_term(
    tx: &mut SystemTx,
    owner: Incarnation,
    term: Duration,
) -> StoreResult<Option<i64>> {
    let epoch = query_scalar!(
        r#"
        UPDATE release_shards
        SET epoch = epoch + 1, owner = $2, until = app_now() + $3
        WHERE shard = $1 AND until < app_now()
        RETURNING epoch
        "#,
        SHARD,
        owner.0,
        interval(term),
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(epoch)
}

/// The fence: the first statement of each tick. False when another leader took over; the caller writes nothing then.
pub async fn renew_term(tx: &mut SystemTx, epoch: i64, term: Duration) -> StoreResult<bool> {
    let done = query!(
        "UPDATE release_shards SET until = app_now() + $3 WHERE shard = $1 AND epoch = $2",
        SHARD,
        epoch,
        interval(term),
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets the next leader begin at once.
pub async fn end_term(tx: &mut SystemTx, epoch: i64) -> StoreResult<()> {
    query!(
        "UPDATE release_shards SET until = '-infinity', owner = NULL WHERE shard = $1 AND epoch = $2",
        SHARD,
        epoch,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Messages of one lane and campaign that one statement moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Whose they are.
    pub tenant_id: TenantId,
    /// Where they wait.
    pub lane_id: LaneId,
    /// Their campaign.
    pub campaign_id: Option<CampaignId>,
    /// How many.
    pub messages: i64,
    /// The lowest id among them.
    pub head: MessageId,
}

impl Moved {
    /// The wake their lane needs.
    pub fn wake(&self) -> Wake {
        Wake {
            tenant_id: self.tenant_id,
            lane_id: self.lane_id,
            head: self.head,
        }
    }
}

struct MovedRow {
    tenant_id: Uuid,
    lane_id: i64,
    campaign_id: Option<Uuid>,
    messages: i64,
    head: Uuid,
}

impl From<MovedRow> for Moved {
    fn from(row: MovedRow) -> Self {
        Self {
            tenant_id: TenantId(row.tenant_id),
            lane_id: LaneId(row.lane_id),
            campaign_id: row.campaign_id.map(CampaignId),
            messages: row.messages,
            head: MessageId(row.head),
        }
    }
}

/// Puts deferred messages whose time has come into the backlog, at most `limit`.
pub async fn promote_due(tx: &mut SystemTx, limit: i64) -> StoreResult<Vec<Moved>> {
    let rows = query_as!(
        MovedRow,
        r#"
        WITH due AS (
            SELECT tenant_id, id
            FROM messages
            WHERE phase = -1 AND ready_at <= app_now()
            ORDER BY ready_at, id
            LIMIT $1
        ), locked AS (
            SELECT m.tenant_id, m.id
            FROM due d
            JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.id AND m.phase = -1
            ORDER BY m.tenant_id, m.id
            FOR UPDATE OF m SKIP LOCKED
        ), moved AS (
            UPDATE messages m
            SET phase = 0, phase_at = app_now()
            FROM locked k
            WHERE m.tenant_id = k.tenant_id AND m.id = k.id
            RETURNING m.tenant_id, m.id, m.lane_id, m.campaign_id
        )
        SELECT tenant_id AS "tenant_id!", lane_id AS "lane_id!", campaign_id, count(*) AS "messages!",
               (array_agg(id ORDER BY id))[1] AS "head!"
        FROM moved
        GROUP BY tenant_id, lane_id, campaign_id
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(Moved::from).collect())
}

/// Puts released messages back whose slot is over: their job was lost with its worker. At most `limit`.
pub async fn return_expired_slots(
    tx: &mut SystemTx,
    slot: Duration,
    limit: i64,
) -> StoreResult<Vec<Moved>> {
    let rows = query_as!(
        MovedRow,
        r#"
        WITH old AS (
            SELECT tenant_id, id
            FROM messages
            WHERE phase = 1 AND phase_at < app_now() - $1::interval
            ORDER BY phase_at
            LIMIT $2
        ), locked AS (
            SELECT m.tenant_id, m.id
            FROM old o
            JOIN messages m ON m.tenant_id = o.tenant_id AND m.id = o.id AND m.phase = 1
            ORDER BY m.tenant_id, m.id
            FOR UPDATE OF m SKIP LOCKED
        ), moved AS (
            UPDATE messages m
            SET phase = 0, phase_at = app_now()
            FROM locked k
            WHERE m.tenant_id = k.tenant_id AND m.id = k.id
            RETURNING m.tenant_id, m.id, m.lane_id, m.campaign_id
        )
        SELECT tenant_id AS "tenant_id!", lane_id AS "lane_id!", campaign_id, count(*) AS "messages!",
               (array_agg(id ORDER BY id))[1] AS "head!"
        FROM moved
        GROUP BY tenant_id, lane_id, campaign_id
        "#,
        interval(slot),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(Moved::from).collect())
}

/// Eats wakes, at most `limit`: their lanes and their tenants' turns are active from here on.
pub async fn eat_wakes(tx: &mut SystemTx, limit: i64) -> StoreResult<u64> {
    let done = query!(
        r#"
        WITH gone AS (
            DELETE FROM lane_wakes w
            USING (SELECT id FROM lane_wakes ORDER BY id LIMIT $2) o
            WHERE w.id = o.id
            RETURNING w.tenant_id, w.lane_id, w.head_id
        ), heads AS (
            SELECT DISTINCT ON (g.tenant_id, g.lane_id) g.tenant_id, g.lane_id, g.head_id
            FROM gone g
            ORDER BY g.tenant_id, g.lane_id, g.head_id
        ), woken AS (
            UPDATE lanes l
            SET active = true, head = LEAST(l.head, h.head_id)
            FROM heads h
            WHERE l.tenant_id = h.tenant_id AND l.id = h.lane_id
            RETURNING l.tenant_id, l.class
        )
        INSERT INTO tenant_turns (tenant_id, shard, class, weight, active)
        SELECT DISTINCT w.tenant_id, $1::smallint, w.class, t.weight, true
        FROM woken w
        JOIN tenants t ON t.id = w.tenant_id
        ON CONFLICT (tenant_id, shard, class) DO UPDATE
        SET active = true, weight = excluded.weight,
            -- Who was idle goes behind those who have waited.
            next_at = CASE WHEN tenant_turns.active THEN tenant_turns.next_at ELSE app_now() END
        "#,
        SHARD,
        limit,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// How many messages are let out and not begun.
pub async fn count_released(tx: &mut SystemTx) -> StoreResult<i64> {
    let count = query_scalar!(r#"SELECT count(*) AS "count!" FROM messages WHERE phase = 1"#)
        .fetch_one(tx.conn())
        .await?;
    Ok(count)
}

/// Whether a tick would find anything to do; read outside a transaction of the leader's.
pub async fn has_work(tx: &mut SystemTx) -> StoreResult<bool> {
    let has_work = query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM lane_wakes)
            OR EXISTS (SELECT FROM tenant_turns WHERE shard = $1 AND active)
            OR EXISTS (SELECT FROM messages WHERE phase = -1 AND ready_at <= app_now()) AS "has_work!"
        "#,
        SHARD,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(has_work)
}

/// A tenant whose turn it is, with one of its lanes that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueLane {
    /// Whose turn it is.
    pub tenant_id: TenantId,
    /// Which kind of traffic.
    pub class: Class,
    /// The tenant's share.
    pub weight: i16,
    /// One of its active lanes; none when it has none left.
    pub lane_id: Option<LaneId>,
    /// What one visit grants a lane, before the tenant's weight.
    pub quantum: i16,
    /// False while the campaign is paused or over: the lane is switched off, and a resume wakes it.
    pub may_go: bool,
    /// True while a sender is halted: the lane stays on and is passed over.
    pub is_halted: bool,
}

/// The tenants that have waited longest, `turns_max` of them, each with its active lanes, those served longest ago first.
pub async fn list_due_lanes(
    tx: &mut SystemTx,
    turns_max: i64,
    lanes_max: i64,
) -> StoreResult<Vec<DueLane>> {
    let rows = query!(
        r#"
        WITH due AS (
            SELECT t.tenant_id, t.class, t.weight, t.ring, t.next_at
            FROM tenant_turns t
            WHERE t.shard = $1 AND t.active
            ORDER BY t.ring, t.next_at
            LIMIT $2
        )
        SELECT d.tenant_id, d.class, d.weight, l.id AS "lane_id?", l.quantum AS "quantum?",
               (n.status = 'active' AND (c.id IS NULL OR c.status = 'sending')) AS "may_go?",
               (h.until > app_now()) AS "is_halted?"
        FROM due d
        JOIN tenants n ON n.id = d.tenant_id
        LEFT JOIN LATERAL (
            SELECT l.id, l.quantum, l.sender_id, l.campaign_id, l.next_at
            FROM lanes l
            WHERE l.tenant_id = d.tenant_id AND l.shard = $1 AND l.class = d.class AND l.active
            ORDER BY l.next_at
            LIMIT $3
        ) l ON true
        LEFT JOIN campaigns c ON c.tenant_id = d.tenant_id AND c.id = l.campaign_id
        LEFT JOIN halts h ON h.tenant_id = d.tenant_id AND h.sender_id = l.sender_id
        ORDER BY d.ring, d.next_at, d.tenant_id, d.class, l.next_at
        "#,
        SHARD,
        turns_max,
        lanes_max,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(DueLane {
                tenant_id: TenantId(row.tenant_id),
                class: row.class.parse()?,
                weight: row.weight,
                lane_id: row.lane_id.map(LaneId),
                quantum: row.quantum.unwrap_or(0),
                may_go: row.may_go.unwrap_or(false),
                is_halted: row.is_halted.unwrap_or(false),
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// A message that was let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// Which message.
    pub key: MessageKey,
    /// From which lane.
    pub lane_id: LaneId,
    /// Its campaign.
    pub campaign_id: Option<CampaignId>,
}

/// Lets out up to the granted number of messages of each lane, the oldest first.
pub async fn pick(
    tx: &mut SystemTx,
    grants: &[(TenantId, LaneId, i64)],
) -> StoreResult<Vec<Picked>> {
    let (tenant_ids, lane_ids, counts) = grant_columns(grants);
    let rows = query!(
        r#"
        WITH granted AS MATERIALIZED (
            SELECT l.tenant_id, l.id, l.head, g.n
            FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS g (tenant_id, lane_id, n)
            JOIN lanes l ON l.tenant_id = g.tenant_id AND l.id = g.lane_id
        ), picked AS MATERIALIZED (
            SELECT p.tenant_id, p.id
            FROM granted g
            CROSS JOIN LATERAL (
                SELECT m.tenant_id, m.id
                FROM messages m
                WHERE m.lane_id = g.id AND m.phase = 0 AND m.id >= g.head
                ORDER BY m.id
                LIMIT g.n
                FOR UPDATE SKIP LOCKED
            ) p
        )
        UPDATE messages m
        SET phase = 1, phase_at = app_now()
        FROM picked p
        WHERE m.tenant_id = p.tenant_id AND m.id = p.id
        RETURNING m.tenant_id, m.id, m.lane_id, m.campaign_id
        "#,
        &tenant_ids,
        &lane_ids,
        &counts,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Picked {
            key: MessageKey {
                tenant_id: TenantId(row.tenant_id),
                id: MessageId(row.id),
            },
            lane_id: LaneId(row.lane_id),
            campaign_id: row.campaign_id.map(CampaignId),
        })
        .collect())
}

fn grant_columns(grants: &[(TenantId, LaneId, i64)]) -> (Vec<Uuid>, Vec<i64>, Vec<i64>) {
    let tenant_ids = grants.iter().map(|(tenant_id, ..)| tenant_id.0).collect();
    let lane_ids = grants.iter().map(|(_, lane_id, _)| lane_id.0).collect();
    (
        tenant_ids,
        lane_ids,
        grants.iter().map(|(.., n)| *n).collect(),
    )
}

/// Puts served lanes behind the others. One that has nothing queued any more is switched off.
///
/// The look is a statement after the pick, so that a message skipped because somebody held its lock keeps its lane on,
/// and `head` never passes one that is still queued.
pub async fn save_served(tx: &mut SystemTx, lanes: &[(TenantId, LaneId, i64)]) -> StoreResult<()> {
    let (tenant_ids, lane_ids, _) = grant_columns(lanes);
    query!(
        r#"
        UPDATE lanes l
        SET active = n.id IS NOT NULL, head = COALESCE(n.id, l.head), next_at = app_now(), last_served_at = app_now()
        FROM unnest($1::uuid[], $2::bigint[]) AS u (tenant_id, lane_id)
        JOIN lanes o ON o.tenant_id = u.tenant_id AND o.id = u.lane_id
        LEFT JOIN LATERAL (
            SELECT m.id
            FROM messages m
            WHERE m.lane_id = o.id AND m.phase = 0 AND m.id >= o.head
            ORDER BY m.id
            LIMIT 1
        ) n ON true
        WHERE l.tenant_id = o.tenant_id AND l.id = o.id
        "#,
        &tenant_ids,
        &lane_ids,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Switches lanes off whose campaign is paused or over.
pub async fn switch_off(tx: &mut SystemTx, lanes: &[(TenantId, LaneId)]) -> StoreResult<()> {
    let (tenant_ids, lane_ids): (Vec<Uuid>, Vec<i64>) = lanes
        .iter()
        .map(|(tenant_id, lane_id)| (tenant_id.0, lane_id.0))
        .unzip();
    query!(
        r#"
        UPDATE lanes l
        SET active = false
        FROM unnest($1::uuid[], $2::bigint[]) AS u (tenant_id, lane_id)
        WHERE l.tenant_id = u.tenant_id AND l.id = u.lane_id
        "#,
        &tenant_ids,
        &lane_ids,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Puts tenants that had their turn behind the others; one without an active lane leaves the ring.
pub async fn save_turns(tx: &mut SystemTx, turns: &[(TenantId, Class)]) -> StoreResult<()> {
    let tenant_ids: Vec<Uuid> = turns.iter().map(|(tenant_id, _)| tenant_id.0).collect();
    let classes: Vec<&str> = turns.iter().map(|(_, class)| class.as_str()).collect();
    query!(
        r#"
        UPDATE tenant_turns t
        SET next_at = app_now(), last_served_at = app_now(),
            active = EXISTS (
                SELECT FROM lanes l
                WHERE l.tenant_id = t.tenant_id AND l.shard = t.shard AND l.class = t.class AND l.active)
        FROM unnest($2::uuid[], $3::text[]) AS u (tenant_id, class)
        WHERE t.tenant_id = u.tenant_id AND t.shard = $1 AND t.class = u.class
        "#,
        SHARD,
        &tenant_ids,
        &classes as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
