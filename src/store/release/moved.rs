//! What goes back to the backlog: deferred messages whose time has come, and released ones that nobody began.

use std::time::Duration;

use sqlx::query_as;
use uuid::Uuid;

use super::LowWater;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, LaneId, MessageId, TenantId};
use crate::store::lanes::Wake;
use crate::store::{StoreError, StoreResult, SystemTx, interval};

/// Messages of one lane and campaign that one statement moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Whose they are.
    pub tenant_id: TenantId,
    /// Where they wait.
    pub lane_id: LaneId,
    /// Their campaign.
    pub campaign_id: Option<CampaignId>,
    /// Their channel.
    pub channel: Channel,
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
    channel: String,
    messages: i64,
    head: Uuid,
}

impl TryFrom<MovedRow> for Moved {
    type Error = StoreError;

    fn try_from(row: MovedRow) -> StoreResult<Self> {
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            lane_id: LaneId(row.lane_id),
            campaign_id: row.campaign_id.map(CampaignId),
            channel: row.channel.parse()?,
            messages: row.messages,
            head: MessageId(row.head),
        })
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
            WHERE waiting_phase = -1 AND ready_at <= app_now()
            ORDER BY ready_at, id
            LIMIT $1
        ), locked AS (
            SELECT m.tenant_id, m.id
            FROM due d
            JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.id AND m.waiting_phase = -1
            ORDER BY m.tenant_id, m.id
            FOR UPDATE OF m SKIP LOCKED
        ), moved AS (
            UPDATE messages m
            SET phase = 0, phase_at = app_now()
            FROM locked k
            WHERE m.tenant_id = k.tenant_id AND m.id = k.id
            RETURNING m.tenant_id, m.id, m.lane_id, m.campaign_id, m.channel
        )
        SELECT tenant_id AS "tenant_id!", lane_id AS "lane_id!", campaign_id, channel AS "channel!", count(*) AS "messages!",
               (array_agg(id ORDER BY id))[1] AS "head!"
        FROM moved
        GROUP BY tenant_id, lane_id, campaign_id, channel
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(Moved::try_from).collect()
}

/// Puts released messages back whose slot is over: their job was lost with its worker. Looks from `low` on; at most `limit`.
pub async fn return_expired_slots(
    tx: &mut SystemTx,
    slot: Duration,
    low: LowWater,
    limit: i64,
) -> StoreResult<Vec<Moved>> {
    let rows = query_as!(
        MovedRow,
        r#"
        WITH old AS (
            SELECT tenant_id, id
            FROM messages
            WHERE released_at < app_now() - $1::interval AND released_at >= COALESCE($3, '-infinity'::timestamptz)
            ORDER BY released_at
            LIMIT $2
        ), locked AS (
            SELECT m.tenant_id, m.id
            FROM old o
            JOIN messages m ON m.tenant_id = o.tenant_id AND m.id = o.id AND m.released_at IS NOT NULL
            ORDER BY m.tenant_id, m.id
            FOR UPDATE OF m SKIP LOCKED
        ), moved AS (
            UPDATE messages m
            SET phase = 0, phase_at = app_now()
            FROM locked k
            WHERE m.tenant_id = k.tenant_id AND m.id = k.id
            RETURNING m.tenant_id, m.id, m.lane_id, m.campaign_id, m.channel
        )
        SELECT tenant_id AS "tenant_id!", lane_id AS "lane_id!", campaign_id, channel AS "channel!", count(*) AS "messages!",
               (array_agg(id ORDER BY id))[1] AS "head!"
        FROM moved
        GROUP BY tenant_id, lane_id, campaign_id, channel
        "#,
        interval(slot),
        limit,
        low.released_at,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(Moved::try_from).collect()
}
