//! What one tick leaves behind, written in one statement: on a machine that is busy with sending, each round trip of the
//! leader waits for its turn.

use chrono::{DateTime, Utc};
use sqlx::query_scalar;
use uuid::Uuid;

use super::SHARD;
use crate::domain::channel::Class;
use crate::domain::ids::{LaneId, TenantId};
use crate::domain::rate::bucket::Bucket;
use crate::store::{StoreResult, SystemTx};

/// A lane and the name of a bucket it draws on.
pub type Draw = (TenantId, LaneId, String);

/// A lane that was looked at.
#[derive(Debug, Clone, Copy)]
pub struct LookedAt {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub lane_id: LaneId,
    /// When to look at it next.
    pub next_at: DateTime<Utc>,
    /// Whether it let something out.
    pub has_let_out: bool,
}

/// A tenant that had its turn, or is owed one since the budget ended before it.
#[derive(Debug, Clone, Copy)]
pub struct Turned {
    /// Which one.
    pub tenant_id: TenantId,
    /// Which kind of traffic.
    pub class: Class,
    /// What it owes, below 0 what is owed to it.
    pub debt: i64,
    /// Whether it had its turn.
    pub is_served: bool,
    /// Whether one of its lanes let something out.
    pub has_let_out: bool,
}

/// What became of lanes, turns and buckets; lanes and turns in the order in which they come again.
#[derive(Debug, Default)]
pub struct Dealt {
    /// Lanes that were looked at.
    pub lanes: Vec<LookedAt>,
    /// Tenants that had their turn or are owed one.
    pub turns: Vec<Turned>,
    /// Buckets that were drawn on, or whose rate is another one now.
    pub buckets: Vec<Bucket>,
    /// Which lane draws on which bucket, as far as that was not noted yet.
    pub draws: Vec<Draw>,
}

impl Dealt {
    fn is_empty(&self) -> bool {
        self.lanes.is_empty()
            && self.turns.is_empty()
            && self.buckets.is_empty()
            && self.draws.is_empty()
    }
}

/// Puts lanes that were looked at behind the others, and so their tenants, and keeps what was drawn and by which rate; notes
/// who draws on which bucket, so that people can be shown what limits them.
///
/// A lane that has nothing queued any more is switched off. The look is a statement after the pick, so that a message
/// skipped because somebody held its lock keeps its lane on, and `head` never passes one that is still queued. A tenant
/// without an active lane leaves the ring, one whose lanes all have to wait comes again when the first of them may go.
///
/// Answers those lanes whose oldest message is past its time.
pub async fn save_dealt(
    tx: &mut SystemTx,
    now: DateTime<Utc>,
    dealt: &Dealt,
) -> StoreResult<Vec<LaneId>> {
    if dealt.is_empty() {
        return Ok(Vec::new());
    }
    let lanes = LaneColumns::of(&dealt.lanes);
    let turns = TurnColumns::of(&dealt.turns);
    let drawn = Drawn::of(&dealt.buckets);
    let draw_tenants: Vec<Uuid> = dealt.draws.iter().map(|(id, ..)| id.0).collect();
    let draw_lanes: Vec<i64> = dealt.draws.iter().map(|(_, id, _)| id.0).collect();
    let draw_names: Vec<&str> = dealt.draws.iter().map(|(.., name)| &**name).collect();
    let stale = query_scalar!(
        r#"
        WITH drawn AS (
            UPDATE buckets b
            SET tat = COALESCE(u.tat, b.tat), rate_per_sec = u.rate, burst = u.burst, cap = u.cap,
                used = COALESCE(u.used, b.used), resets_at = COALESCE(u.resets_at, b.resets_at), updated_at = $2
            FROM unnest($9::text[], $10::float8[], $11::float8[], $12::timestamptz[], $13::bigint[], $14::bigint[],
                        $15::timestamptz[])
                 AS u (name, rate, burst, tat, cap, used, resets_at)
            WHERE b.name = u.name
        ), noted AS (
            INSERT INTO lane_buckets (tenant_id, lane_id, bucket_id)
            SELECT u.tenant_id, u.lane_id, b.id
            FROM unnest($16::uuid[], $17::bigint[], $18::text[]) AS u (tenant_id, lane_id, name)
            JOIN buckets b ON b.name = u.name
            ON CONFLICT DO NOTHING
        ), served AS (
            UPDATE lanes l
            SET active = n.id IS NOT NULL, head = COALESCE(n.id, l.head), next_at = u.next_at, last_served_at = $2,
                -- They are all due again at this instant: a little apart, this keeps their order.
                let_out_at = CASE WHEN u.has_let_out THEN $2 + u.place * INTERVAL '1 microsecond' ELSE l.let_out_at END
            FROM unnest($3::uuid[], $4::bigint[], $5::timestamptz[], $19::boolean[]) WITH ORDINALITY
                 AS u (tenant_id, lane_id, next_at, has_let_out, place)
            JOIN lanes o ON o.tenant_id = u.tenant_id AND o.id = u.lane_id
            LEFT JOIN LATERAL (
                SELECT m.id, m.expires_at
                FROM messages m
                WHERE m.lane_id = o.id AND m.waiting_phase = 0 AND m.id >= o.head
                ORDER BY m.id
                LIMIT 1
            ) n ON true
            WHERE l.tenant_id = o.tenant_id AND l.id = o.id
            RETURNING l.tenant_id, l.id, l.class, l.active, l.next_at, n.expires_at <= $2 AS is_stale
        ), turned AS (
            UPDATE tenant_turns t
            SET next_at = CASE WHEN k.keeps_place THEN t.next_at ELSE GREATEST($2, n.next_at) END,
                last_served_at = CASE WHEN u.is_served THEN $2 ELSE t.last_served_at END,
                active = n.next_at IS NOT NULL, deficit = u.deficit,
                ring = CASE WHEN NOT u.is_served THEN t.ring WHEN t.class = 'txn' THEN 0 ELSE 2 END,
                let_out_at = CASE WHEN u.has_let_out AND NOT k.keeps_place THEN $2 + u.place * INTERVAL '1 microsecond'
                             ELSE t.let_out_at END
            FROM unnest($6::uuid[], $7::text[], $8::int[], $20::boolean[], $21::boolean[]) WITH ORDINALITY
                 AS u (tenant_id, class, deficit, has_let_out, is_served, place)
            CROSS JOIN LATERAL (
                SELECT min(x.next_at) AS next_at
                FROM (
                    SELECT s.next_at
                    FROM served s
                    WHERE s.tenant_id = u.tenant_id AND s.class = u.class AND s.active
                    UNION ALL
                    -- This statement sees the lanes as they were before it: those it changes are left to the branch above.
                    SELECT l.next_at
                    FROM lanes l
                    WHERE l.tenant_id = u.tenant_id AND l.shard = $1 AND l.class = u.class AND l.active
                      AND l.id NOT IN (SELECT s.id FROM served s)
                ) x
            ) n
            -- Who is owed the rest of a visit comes before those who had theirs.
            CROSS JOIN LATERAL (SELECT NOT u.is_served OR (u.deficit > 0 AND n.next_at <= $2) AS keeps_place) k
            WHERE t.tenant_id = u.tenant_id AND t.shard = $1 AND t.class = u.class
        )
        SELECT id FROM served WHERE is_stale
        "#,
        SHARD,
        now,
        &lanes.tenants,
        &lanes.ids,
        &lanes.next,
        &turns.tenants,
        &turns.classes as &[&str],
        &turns.deficits,
        &drawn.names as &[&str],
        &drawn.rates,
        &drawn.bursts,
        &drawn.tats as &[Option<DateTime<Utc>>],
        &drawn.caps as &[Option<i64>],
        &drawn.used as &[Option<i64>],
        &drawn.resets as &[Option<DateTime<Utc>>],
        &draw_tenants,
        &draw_lanes,
        &draw_names as &[&str],
        &lanes.let_out,
        &turns.let_out,
        &turns.served,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(stale.into_iter().map(LaneId).collect())
}

/// As it is stored: below zero for who owes, above for who is owed.
fn deficit(debt: i64) -> i32 {
    i32::try_from(-debt).unwrap_or(i32::MIN)
}

/// Lanes as the arrays that `unnest` takes.
struct LaneColumns {
    tenants: Vec<Uuid>,
    ids: Vec<i64>,
    next: Vec<DateTime<Utc>>,
    let_out: Vec<bool>,
}

impl LaneColumns {
    fn of(lanes: &[LookedAt]) -> Self {
        Self {
            tenants: lanes.iter().map(|lane| lane.tenant_id.0).collect(),
            ids: lanes.iter().map(|lane| lane.lane_id.0).collect(),
            next: lanes.iter().map(|lane| lane.next_at).collect(),
            let_out: lanes.iter().map(|lane| lane.has_let_out).collect(),
        }
    }
}

/// The same of turns.
struct TurnColumns {
    tenants: Vec<Uuid>,
    classes: Vec<&'static str>,
    deficits: Vec<i32>,
    let_out: Vec<bool>,
    served: Vec<bool>,
}

impl TurnColumns {
    fn of(turns: &[Turned]) -> Self {
        Self {
            tenants: turns.iter().map(|turn| turn.tenant_id.0).collect(),
            classes: turns.iter().map(|turn| turn.class.as_str()).collect(),
            deficits: turns.iter().map(|turn| deficit(turn.debt)).collect(),
            let_out: turns.iter().map(|turn| turn.has_let_out).collect(),
            served: turns.iter().map(|turn| turn.is_served).collect(),
        }
    }
}

/// The same of buckets.
#[derive(Debug, Default)]
struct Drawn<'a> {
    names: Vec<&'a str>,
    rates: Vec<f64>,
    bursts: Vec<f64>,
    tats: Vec<Option<DateTime<Utc>>>,
    caps: Vec<Option<i64>>,
    used: Vec<Option<i64>>,
    resets: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Drawn<'a> {
    fn of(buckets: &'a [Bucket]) -> Self {
        let mut drawn = Self::default();
        for bucket in buckets {
            drawn.names.push(&bucket.rule.name);
            drawn.rates.push(bucket.rule.rate_per_sec);
            drawn.bursts.push(bucket.rule.burst());
            drawn.tats.push(bucket.tat);
            drawn.caps.push(bucket.rule.day_cap);
            drawn.used.push(bucket.day.map(|day| day.used));
            drawn.resets.push(bucket.day.map(|day| day.resets_at));
        }
        drawn
    }
}
