//! What the release leader reads and writes. Nobody else updates lanes and turns.

pub mod dealt;
pub mod due;
pub mod moved;
pub mod pick;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::interval;
use super::{StoreResult, SystemTx};
use crate::domain::ids::{Incarnation, LaneId, TenantId};
use crate::domain::rate::bucket::Traffic;

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
        WHERE shard = $1 AND (until < app_now() OR owner = $2)
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

/// What a tick finds when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What time it is, by which the tick plans.
    pub now: DateTime<Utc>,
    /// Whether somebody had to say something of a rate.
    pub has_signals: bool,
    /// Whether deferred messages are due again.
    pub has_due: bool,
    /// Whether the database is in quarantine, so that nothing begins.
    pub is_quarantined: bool,
}

/// The fence: the first statement of each tick. It says what there is to do; nothing when another leader took over, and the
/// caller writes nothing then.
///
/// It eats wakes, at most `wakes_max`: their lanes and their tenants' turns are active, and due in this tick.
pub async fn renew_term(
    tx: &mut SystemTx,
    epoch: i64,
    term: Duration,
    wakes_max: i64,
) -> StoreResult<Option<Found>> {
    let found = query_as!(
        Found,
        r#"
        WITH term AS (
            UPDATE release_shards
            SET until = app_now() + $3
            WHERE shard = $1 AND epoch = $2
            RETURNING app_now() AS now
        ), gone AS (
            DELETE FROM lane_wakes w
            USING (SELECT id FROM lane_wakes WHERE EXISTS (SELECT FROM term) ORDER BY id LIMIT $4) o
            WHERE w.id = o.id
            RETURNING w.tenant_id, w.lane_id, w.head_id, w.look_now
        ), heads AS (
            SELECT g.tenant_id, g.lane_id, (array_agg(g.head_id ORDER BY g.head_id))[1] AS head_id,
                   bool_or(g.look_now) AS look_now
            FROM gone g
            GROUP BY g.tenant_id, g.lane_id
        ), woken AS (
            UPDATE lanes l
            SET active = true, head = LEAST(l.head, h.head_id),
                next_at = CASE WHEN l.active AND NOT h.look_now THEN l.next_at ELSE LEAST(l.next_at, t.now) END
            FROM heads h
            CROSS JOIN term t
            WHERE l.tenant_id = h.tenant_id AND l.id = h.lane_id
            RETURNING l.tenant_id, l.class
        ), turned AS (
            INSERT INTO tenant_turns (tenant_id, shard, class, ring, next_at, weight, active)
            SELECT DISTINCT w.tenant_id, $1::smallint, w.class, CASE w.class WHEN 'txn' THEN 0 ELSE 1 END, e.now, t.weight,
                   true
            FROM woken w
            JOIN tenants t ON t.id = w.tenant_id
            CROSS JOIN term e
            ON CONFLICT (tenant_id, shard, class) DO UPDATE
            SET active = true, weight = excluded.weight,
                -- Who was idle goes behind those who have waited; who waits for a bucket has a lane now that may not have to.
                next_at = CASE
                    WHEN tenant_turns.active THEN LEAST(tenant_turns.next_at, excluded.next_at) ELSE excluded.next_at END,
                -- Sparse flows first: who rested for a while goes once before those who never do.
                ring = CASE
                    WHEN tenant_turns.active OR tenant_turns.last_served_at > excluded.next_at - INTERVAL '5 seconds'
                    THEN tenant_turns.ring ELSE excluded.ring END
        )
        SELECT term.now AS "now!",
               EXISTS (SELECT FROM bucket_signals) AS "has_signals!",
               EXISTS (SELECT FROM messages WHERE waiting_phase = -1 AND ready_at <= (SELECT app_now())) AS "has_due!",
               NOT EXISTS (SELECT FROM database_timelines d WHERE d.released_at IS NOT NULL
                           AND d.timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)) AS "is_quarantined!"
        FROM term
        "#,
        SHARD,
        epoch,
        interval(term),
        wakes_max,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found)
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

/// What is under way: let out and not begun, or begun and not over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Messages of each lane that are let out and not begun.
    pub released: BTreeMap<LaneId, i64>,
    /// The same of each account, and its calls that are being made. The simulated ones never hang and are not counted.
    pub calls: BTreeMap<String, Traffic>,
    /// When the oldest of these messages was let out.
    oldest_released_at: Option<DateTime<Utc>>,
    /// When the first of these calls is looked at, should nobody tell of it.
    first_look_at: Option<DateTime<Utc>>,
}

/// From where on something may be under way. Below lie entries of what has ended, by the hundred thousand until they are
/// swept out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LowWater {
    // None, which is below all others, is the beginning.
    released_at: Option<DateTime<Utc>>,
    next_look_at: Option<DateTime<Utc>>,
}

impl LowWater {
    /// The lower of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            released_at: self.released_at.min(other.released_at),
            next_look_at: self.next_look_at.min(other.next_look_at),
        }
    }
}

/// A begin that had not committed at one count may be older by this much than all that had.
const BEGIN_MAX: TimeDelta = TimeDelta::seconds(5);

impl UnderWay {
    /// Messages that are let out and not begun.
    pub fn count_released(&self) -> i64 {
        self.released.values().sum()
    }

    /// From where on the next count has to look; this one was made at `now`, and what begins is looked at after `first_look`.
    pub fn low(&self, now: DateTime<Utc>, first_look: Duration) -> LowWater {
        let next_look_at = now + first_look;
        let first_look_at = self.first_look_at.unwrap_or(next_look_at);
        LowWater {
            released_at: Some(self.oldest_released_at.unwrap_or(now)),
            next_look_at: Some(first_look_at.min(next_look_at) - BEGIN_MAX),
        }
    }
}

/// What is under way now, from `low` on. A call that nobody ended within `call_max` is in doubt, and not under way.
pub async fn count_under_way(
    tx: &mut SystemTx,
    call_max: Duration,
    low: LowWater,
) -> StoreResult<UnderWay> {
    let rows = query!(
        r#"
        SELECT lane_id, provider_account_sid AS "account_ref!", provider = 'demo' AS "is_demo!", count(*) AS "messages!",
               min(released_at) AS "oldest!"
        FROM messages
        WHERE released_at >= COALESCE($2, '-infinity'::timestamptz)
        GROUP BY lane_id, provider_account_sid, provider
        UNION ALL
        -- An open attempt is looked at by nobody before its first look, which lies ahead by more than its call takes.
        SELECT NULL, account_ref, false, count(*), min(next_look_at)
        FROM send_attempts
        WHERE state = 0 AND provider <> 'demo'
          AND next_look_at > GREATEST(app_now(), $3) AND started_at > app_now() - $1::interval
        GROUP BY account_ref
        "#,
        interval(call_max),
        low.released_at,
        low.next_look_at,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut under_way = UnderWay::default();
    for row in rows {
        let oldest = Some(row.oldest);
        if let Some(lane_id) = row.lane_id {
            *under_way.released.entry(LaneId(lane_id)).or_default() += row.messages;
            let known = under_way.oldest_released_at;
            under_way.oldest_released_at = known.min(oldest).or(oldest);
        } else {
            under_way.first_look_at = under_way.first_look_at.min(oldest).or(oldest);
        }
        if !row.is_demo {
            let traffic = under_way.calls.entry(row.account_ref).or_default();
            traffic.under_way += row.messages;
        }
    }
    Ok(under_way)
}

/// How long until a tick would find anything to do, as far as is known now; zero when it would at once. Read outside a
/// transaction of the leader's.
pub async fn time_to_work(tx: &mut SystemTx) -> StoreResult<Option<Duration>> {
    let secs = query_scalar!(
        r#"
        SELECT CASE
            WHEN EXISTS (SELECT FROM lane_wakes) THEN 0
            WHEN EXISTS (SELECT FROM messages WHERE waiting_phase = -1 AND ready_at <= app_now()) THEN 0
            ELSE (SELECT EXTRACT(epoch FROM min(next_at) - app_now())::float8 FROM tenant_turns WHERE shard = $1 AND active)
        END
        "#,
        SHARD,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(secs.map(|secs| Duration::from_secs_f64(secs.max(0.0))))
}

/// Whether anything waits in one of these lanes.
pub async fn has_backlog(tx: &mut SystemTx, lanes: &[LaneId]) -> StoreResult<bool> {
    let lane_ids: Vec<i64> = lanes.iter().map(|id| id.0).collect();
    let has_backlog = query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT FROM unnest($1::bigint[]) AS u (id)
            CROSS JOIN LATERAL (SELECT FROM messages m WHERE m.lane_id = u.id AND m.waiting_phase = 0 LIMIT 1) m
        ) AS "has_backlog!"
        "#,
        &lane_ids,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(has_backlog)
}

/// Switches lanes off whose campaign or tenant is stopped.
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
