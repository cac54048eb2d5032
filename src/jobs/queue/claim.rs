//! Taking jobs: one statement per claim, and every worker its own.
//!
//! A row is ours because our UPDATE of it committed; `SKIP LOCKED` keeps workers out of each other's way and is
//! not what makes it safe.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query_as};
use uuid::Uuid;

use super::tuning::{LANES_MAX, PRIORITIES_MAX};

/// A job as the claim returns it.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: i64,
    pub(super) kind: String,
    pub(super) lane: Option<Uuid>,
    pub(super) priority: i16,
    pub(super) attempt: i16,
    pub(super) max_attempts: i16,
    pub(super) starts: i16,
    pub(super) unique_key: Option<String>,
    /// As text: a document that this version cannot read must not spoil the others of the claim.
    pub(super) payload: String,
    pub(super) created_at: DateTime<Utc>,
}

/// Whose the claim is, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) number: i64,
    pub(super) secs: f64,
}

/// First in, first out within a priority, the lowest priority first.
pub(super) async fn claim_in_order(
    conn: &mut PgConnection,
    queue: &str,
    low: &LowWater,
    limit: usize,
    lease: Lease,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let segments = low.segments();
    query_as!(
        Claimed,
        r#"
        WITH picked AS MATERIALIZED (
            SELECT ready.id
            FROM unnest($2::smallint[], $3::smallint[], $4::bigint[]) AS segment (priority_min, priority_max, low),
                LATERAL (
                    SELECT j.id
                    FROM jobs j
                    WHERE j.queue = $1 AND j.state = 0
                        AND j.priority BETWEEN segment.priority_min AND segment.priority_max
                        -- Below lie only rows that are taken, and what is left of them in the index.
                        AND j.id >= segment.low
                    ORDER BY j.priority, j.id
                    LIMIT $5
                    FOR UPDATE SKIP LOCKED
                ) AS ready
            LIMIT $5
        )
        UPDATE jobs j
        SET state = 1, attempt = j.attempt + 1, starts = j.starts + 1,
            lease = $6,
            -- Asked once: it costs as much as the rest of a row.
            lease_until = (SELECT app_now() + make_interval(secs => $7))
        -- Not a join: whatever the statistics say, an array is looked up in the index.
        WHERE j.id = ANY (ARRAY(SELECT id FROM picked))
        RETURNING j.id, j.kind, j.lane, j.priority, j.attempt, j.max_attempts, j.starts, j.unique_key,
            j.payload::text AS "payload!", j.created_at
        "#,
        queue,
        &segments.priority_min,
        &segments.priority_max,
        &segments.low,
        limit as i64,
        lease.number,
        lease.secs,
    )
    .fetch_all(conn)
    .await
    .map(in_order)
}

/// The capacity dealt out over lanes that have something ready, [`LANES_MAX`] at most, starting behind the lane that was
/// served last. Jobs without a lane wait for [`claim_in_order`].
pub(super) async fn claim_in_turns(
    conn: &mut PgConnection,
    queue: &str,
    last_lane: Uuid,
    limit: usize,
    lease: Lease,
) -> Result<Vec<Claimed>, sqlx::Error> {
    query_as!(
        Claimed,
        r#"
        WITH RECURSIVE behind AS (
            SELECT $2::uuid AS lane
            UNION ALL
            -- One probe of the index per lane, not one per row.
            SELECT (
                SELECT j.lane FROM jobs j
                WHERE j.queue = $1 AND j.state = 0 AND j.lane > behind.lane
                ORDER BY j.lane LIMIT 1
            )
            FROM behind
            WHERE behind.lane IS NOT NULL
        ),
        ahead AS (
            SELECT '00000000-0000-0000-0000-000000000000'::uuid AS lane
            UNION ALL
            SELECT (
                SELECT j.lane FROM jobs j
                WHERE j.queue = $1 AND j.state = 0 AND j.lane > ahead.lane AND j.lane <= $2
                ORDER BY j.lane LIMIT 1
            )
            FROM ahead
            WHERE ahead.lane IS NOT NULL
        ),
        ring AS MATERIALIZED (
            (SELECT lane FROM behind WHERE lane IS NOT NULL OFFSET 1)
            UNION ALL
            (SELECT lane FROM ahead WHERE lane IS NOT NULL OFFSET 1)
            LIMIT least($3::bigint, $6::bigint)
        ),
        picked AS MATERIALIZED (
            SELECT ready.id
            FROM ring,
                LATERAL (
                    SELECT j.id
                    FROM jobs j
                    WHERE j.queue = $1 AND j.state = 0 AND j.lane = ring.lane
                    ORDER BY j.id
                    LIMIT (SELECT ceil($3::bigint / count(*)::float8)::bigint FROM ring)
                    FOR UPDATE SKIP LOCKED
                ) AS ready
            LIMIT $3
        )
        UPDATE jobs j
        SET state = 1, attempt = j.attempt + 1, starts = j.starts + 1,
            lease = $4,
            -- Asked once: it costs as much as the rest of a row.
            lease_until = (SELECT app_now() + make_interval(secs => $5))
        -- Not a join: whatever the statistics say, an array is looked up in the index.
        WHERE j.id = ANY (ARRAY(SELECT id FROM picked))
        RETURNING j.id, j.kind, j.lane, j.priority, j.attempt, j.max_attempts, j.starts, j.unique_key,
            j.payload::text AS "payload!", j.created_at
        "#,
        queue,
        last_lane,
        limit as i64,
        lease.number,
        lease.secs,
        LANES_MAX,
    )
    .fetch_all(conn)
    .await
    .map(in_order)
}

/// `RETURNING` promises no order.
fn in_order(mut claimed: Vec<Claimed>) -> Vec<Claimed> {
    claimed.sort_unstable_by_key(|job| (job.priority, job.id));
    claimed
}

/// The lane the next claim in turns starts behind: the last one of the ring that was served.
pub(super) fn last_lane_of(claimed: &[Claimed], last_lane: Uuid) -> Uuid {
    let lanes = || claimed.iter().filter_map(|job| job.lane);
    // The ring goes up from the last lane to the end and then from the beginning.
    lanes()
        .filter(|lane| *lane <= last_lane)
        .max()
        .or_else(|| lanes().max())
        .unwrap_or(last_lane)
}

/// Per priority, the id up to which this process has seen everything taken.
///
/// A claim starts at the low end of the ready index, where finished rows leave entries that cannot go while
/// anybody holds a snapshot; without this, claims slow down in step with what has been finished. It may stand
/// too high for a moment, when a transaction with lower ids commits late: that one's announcement carries its
/// lowest id, and [`LowWater::fall`] lets it in. It never stays too high, since it is given up once per
/// [`Tuning::net_every`](super::Tuning::net_every), or later where a claim from the beginning takes long.
#[derive(Debug, Default)]
pub(super) struct LowWater {
    marks: BTreeMap<i16, i64>,
}

/// Ranges of priorities, with the id to start from, in the order of the index.
#[derive(Debug, Default, PartialEq, Eq)]
struct Segments {
    priority_min: Vec<i16>,
    priority_max: Vec<i16>,
    low: Vec<i64>,
}

impl LowWater {
    /// Work was announced from `id` on.
    pub(super) fn fall(&mut self, id: i64) {
        for mark in self.marks.values_mut() {
            *mark = (*mark).min(id);
        }
    }

    /// Everything visible up to these jobs, in their priorities, is taken.
    pub(super) fn rise(&mut self, claimed: &[Claimed]) {
        for job in claimed {
            let mark = self.marks.entry(job.priority).or_default();
            *mark = (*mark).max(job.id + 1);
        }
        if self.marks.len() > PRIORITIES_MAX {
            self.marks.clear();
        }
    }

    /// Each known priority from its mark on, and from the beginning whatever lies between them.
    fn segments(&self) -> Segments {
        let mut segments = Segments::default();
        let mut push = |min: i16, max: i16, low: i64| {
            segments.priority_min.push(min);
            segments.priority_max.push(max);
            segments.low.push(low);
        };
        let mut next = Some(i16::MIN);
        for (&priority, &mark) in &self.marks {
            match next {
                Some(gap) if gap < priority => push(gap, priority - 1, 0),
                _ => {}
            }
            push(priority, priority, mark);
            next = priority.checked_add(1);
        }
        if let Some(gap) = next {
            push(gap, i16::MAX, 0);
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(priority: i16, id: i64) -> Claimed {
        Claimed {
            id,
            kind: String::new(),
            lane: None,
            priority,
            attempt: 1,
            max_attempts: 1,
            starts: 1,
            unique_key: None,
            payload: String::new(),
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    fn ranges(low: &LowWater) -> Vec<(i16, i16, i64)> {
        let segments = low.segments();
        (0..segments.low.len())
            .map(|at| {
                (
                    segments.priority_min[at],
                    segments.priority_max[at],
                    segments.low[at],
                )
            })
            .collect()
    }

    #[test]
    fn nothing_seen_is_one_range_from_the_beginning() {
        assert_eq!(ranges(&LowWater::default()), [(i16::MIN, i16::MAX, 0)]);
    }

    #[test]
    fn a_seen_priority_starts_behind_its_last_job_and_the_others_at_the_beginning() {
        let mut low = LowWater::default();
        low.rise(&[claimed(0, 5), claimed(0, 9), claimed(3, 2)]);
        assert_eq!(
            ranges(&low),
            [
                (i16::MIN, -1, 0),
                (0, 0, 10),
                (1, 2, 0),
                (3, 3, 3),
                (4, i16::MAX, 0)
            ]
        );
    }

    #[test]
    fn the_outermost_priorities_leave_no_range_outside() {
        let mut low = LowWater::default();
        low.rise(&[claimed(i16::MIN, 1), claimed(i16::MAX, 1)]);
        assert_eq!(
            ranges(&low),
            [
                (i16::MIN, i16::MIN, 2),
                (i16::MIN + 1, i16::MAX - 1, 0),
                (i16::MAX, i16::MAX, 2)
            ]
        );
    }

    #[test]
    fn a_late_commit_lowers_the_mark_and_an_early_one_does_not_raise_it() {
        let mut low = LowWater::default();
        low.rise(&[claimed(0, 99)]);
        low.fall(200);
        assert_eq!(ranges(&low)[1], (0, 0, 100));
        low.fall(40);
        assert_eq!(ranges(&low)[1], (0, 0, 40));
    }

    #[test]
    fn more_priorities_than_are_remembered_are_all_forgotten() {
        let mut low = LowWater::default();
        let jobs: Vec<_> = (0..=PRIORITIES_MAX as i16)
            .map(|priority| claimed(priority, 7))
            .collect();
        low.rise(&jobs);
        assert_eq!(ranges(&low), [(i16::MIN, i16::MAX, 0)]);
    }

    #[test]
    fn the_ring_goes_on_behind_the_last_lane_served() {
        let lane = |n: u128| Uuid::from_u128(n);
        let served = |lanes: &[u128], last: u128| {
            let jobs: Vec<_> = lanes
                .iter()
                .map(|n| Claimed {
                    lane: Some(lane(*n)),
                    ..claimed(0, 1)
                })
                .collect();
            last_lane_of(&jobs, lane(last))
        };
        assert_eq!(served(&[6, 7], 5), lane(7));
        assert_eq!(served(&[6, 7, 2, 3], 5), lane(3));
        assert_eq!(served(&[], 5), lane(5));
    }
}
