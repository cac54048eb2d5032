//! Messages let out: moved, counted, and put into jobs, in one statement.

use chrono::{DateTime, Utc};
use sqlx::query;
use uuid::Uuid;

use crate::domain::ids::LaneId;
use crate::domain::release::Grant;
use crate::store::{StoreResult, SystemTx};

/// Which jobs look at messages that were let out.
#[derive(Debug, Clone, Copy)]
pub struct Hint<'a> {
    /// The queue it waits in.
    pub queue: &'a str,
    /// Which handler it is for.
    pub kind: &'a str,
    /// Lower goes first.
    pub priority: i16,
    /// How often it is tried.
    pub max_attempts: i16,
    /// Messages of one job, at most.
    pub messages_max: i64,
    /// A job has one message more for each so many that are let out at once: of few each has its own, which may go to another
    /// process.
    pub jobs_apart: i64,
}

/// What one lane let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetOut {
    /// Which lane.
    pub lane_id: LaneId,
    /// How many messages.
    pub messages: i64,
    /// What they cost together.
    pub cost: i64,
}

/// Lets out messages of each lane, the oldest first, as long as some of the granted cost is left for the next one.
///
/// Jobs are claimed in the order of their ids, which is that of the grants. What one lane let out stays together, since a
/// batch of begins pays for each tenant and campaign in it. What is past its time at `now` stays where it is, since it would be
/// charged to rates and to the day's quota in vain.
pub async fn pick(
    tx: &mut SystemTx,
    now: DateTime<Utc>,
    grants: &[Grant],
    hint: Hint<'_>,
) -> StoreResult<Vec<LetOut>> {
    let tenant_ids: Vec<Uuid> = grants.iter().map(|grant| grant.tenant_id.0).collect();
    let lane_ids: Vec<i64> = grants.iter().map(|grant| grant.lane_id.0).collect();
    let costs: Vec<i64> = grants.iter().map(|grant| grant.cost).collect();
    let rows = query!(
        r#"
        WITH granted AS MATERIALIZED (
            SELECT l.tenant_id, l.id, l.head, g.cost, g.place
            FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS g (tenant_id, lane_id, cost, place)
            JOIN lanes l ON l.tenant_id = g.tenant_id AND l.id = g.lane_id
        ), locked AS MATERIALIZED (
            SELECT p.tenant_id, p.id, p.lane_id, p.cost, p.expires_at, g.cost AS granted, g.place
            FROM granted g
            CROSS JOIN LATERAL (
                SELECT m.tenant_id, m.id, m.lane_id, m.cost, m.expires_at
                FROM messages m
                WHERE m.lane_id = g.id AND m.waiting_phase = 0 AND m.id >= g.head
                ORDER BY m.id
                -- No message costs less than 1.
                LIMIT g.cost
                FOR UPDATE SKIP LOCKED
            ) p
        ), picked AS MATERIALIZED (
            SELECT s.tenant_id, s.id, s.place
            FROM (
                SELECT k.tenant_id, k.id, k.granted, k.place,
                       sum(k.cost) OVER (PARTITION BY k.lane_id ORDER BY k.id) - k.cost AS before
                FROM locked k
                WHERE k.expires_at > $8
            ) s
            WHERE s.before < s.granted
        ), let_out AS (
            UPDATE messages m
            SET phase = 1, phase_at = (SELECT app_now())
            FROM picked p
            WHERE m.tenant_id = p.tenant_id AND m.id = p.id
            RETURNING m.tenant_id, m.id, m.lane_id, m.campaign_id, m.channel, m.cost, p.place
        ), parts AS (
            SELECT n.tenant_id, n.place, n.part, jsonb_agg(n.id ORDER BY n.id) AS ids
            FROM (
                SELECT o.tenant_id, o.id, o.place,
                       (row_number() OVER (PARTITION BY o.place ORDER BY o.id) - 1)
                       / LEAST($9, GREATEST(1, count(*) OVER () / $10)) AS part
                FROM let_out o
            ) n
            GROUP BY n.tenant_id, n.place, n.part
        ), hints AS (
            INSERT INTO jobs (queue, kind, priority, state, run_at, max_attempts, payload, created_at)
            SELECT $4, $5, $6, 0, clock.at, $7, jsonb_build_object('tenant_id', p.tenant_id, 'message_ids', p.ids), clock.at
            FROM (SELECT app_now() AS at OFFSET 0) AS clock, parts p
            ORDER BY p.place, p.part
            RETURNING id
        ), of_campaigns AS (
            INSERT INTO campaign_deltas (tenant_id, campaign_id, counts)
            SELECT o.tenant_id, o.campaign_id, jsonb_build_object('queued', -count(*), 'released', count(*))
            FROM let_out o
            WHERE o.campaign_id IS NOT NULL
            GROUP BY o.tenant_id, o.campaign_id
        ), of_singles AS (
            INSERT INTO message_deltas (tenant_id, channel, counts)
            SELECT o.tenant_id, o.channel, jsonb_build_object('queued', -count(*), 'released', count(*))
            FROM let_out o
            WHERE o.campaign_id IS NULL
            GROUP BY o.tenant_id, o.channel
        )
        SELECT o.lane_id, count(*) AS "messages!", sum(o.cost)::bigint AS "cost!", (SELECT min(id) FROM hints) AS "lowest_job!"
        FROM let_out o
        GROUP BY o.lane_id
        "#,
        &tenant_ids,
        &lane_ids,
        &costs,
        hint.queue,
        hint.kind,
        hint.priority,
        hint.max_attempts,
        now,
        hint.messages_max,
        hint.jobs_apart,
    )
    .fetch_all(tx.conn())
    .await?;
    if let Some(row) = rows.first() {
        tx.announce(hint.queue, row.lowest_job);
    }
    let let_out = rows.into_iter().map(|row| LetOut {
        lane_id: LaneId(row.lane_id),
        messages: row.messages,
        cost: row.cost,
    });
    Ok(let_out.collect())
}
