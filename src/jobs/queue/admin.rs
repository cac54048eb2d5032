//! What an operator may see and do: how full the queues are, what died and why, replay, discard, cancel.
//!
//! Each takes a connection of a role that sees all tenants, inside whatever transaction the caller has open.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query_as, query_scalar};
use uuid::Uuid;

use super::EnqueueIn;

/// Dead jobs of one page.
const PAGE_MAX: i64 = 500;

/// How full a queue is.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueCounts {
    /// Its name.
    pub queue: String,
    /// Jobs that wait for a worker.
    pub ready: i64,
    /// Jobs that a worker has.
    pub leased: i64,
    /// Jobs that rest until their time.
    pub scheduled: i64,
    /// Jobs that died.
    pub dead: i64,
    /// When the oldest job that waits for a worker was enqueued.
    pub oldest_ready_at: Option<DateTime<Utc>>,
}

/// A job that will not be tried again unless somebody says so.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadJob {
    /// The id of its last readiness.
    pub id: i64,
    /// The queue it was in.
    pub queue: String,
    /// The kind of job.
    pub kind: String,
    /// Whose turn it was.
    pub lane: Option<Uuid>,
    /// Lower went first.
    pub priority: i16,
    /// The key that no other live job of the queue had.
    pub unique_key: Option<String>,
    /// What it carried, as JSON text: it may be dead because it cannot be read.
    pub payload: String,
    /// How often it was tried.
    pub attempt: i16,
    /// How often in a row it was started and never ended.
    pub starts: i16,
    /// Why it is dead.
    pub reason: String,
    /// What its last failure said.
    pub last_error: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it died.
    pub died_at: DateTime<Utc>,
}

/// What a cancellation met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// A job that nobody had. It will not run.
    Waiting,
    /// A job that a worker has: its handler is stopped when the worker next renews its leases, and what it says
    /// until then changes nothing.
    Running,
    /// No such job: it never was, it is done, it is dead, or it has become ready again under another id.
    Gone,
}

/// Every queue that has a job, alive or dead, by name. Reads all live rows.
pub async fn list_queues(conn: &mut PgConnection) -> Result<Vec<QueueCounts>, sqlx::Error> {
    query_as!(
        QueueCounts,
        r#"
        WITH live AS (
            SELECT queue,
                count(*) FILTER (WHERE state = 0) AS ready,
                count(*) FILTER (WHERE state = 1) AS leased,
                count(*) FILTER (WHERE state = 2) AS scheduled,
                min(created_at) FILTER (WHERE state = 0) AS oldest_ready_at
            FROM jobs
            GROUP BY queue
        ),
        dead AS (
            SELECT queue, count(*) AS dead FROM dead_jobs GROUP BY queue
        )
        SELECT queue AS "queue!",
            coalesce(live.ready, 0) AS "ready!",
            coalesce(live.leased, 0) AS "leased!",
            coalesce(live.scheduled, 0) AS "scheduled!",
            coalesce(dead.dead, 0) AS "dead!",
            live.oldest_ready_at
        FROM live
        FULL JOIN dead USING (queue)
        ORDER BY queue
        "#
    )
    .fetch_all(conn)
    .await
}

/// Dead jobs, the last to die first, of one queue or of all; the page behind `before`, which is the last one
/// seen.
pub async fn list_dead(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<(DateTime<Utc>, i64)>,
    limit: i64,
) -> Result<Vec<DeadJob>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    query_as!(
        DeadJob,
        r#"
        SELECT id, queue, kind, lane, priority, unique_key, payload::text AS "payload!", attempt, starts,
            reason, last_error, created_at, died_at
        FROM dead_jobs
        WHERE ($1::text IS NULL OR queue = $1)
            AND ($2::timestamptz IS NULL OR (died_at, id) < ($2, $3::bigint))
        ORDER BY died_at DESC, id DESC
        LIMIT $4
        "#,
        queue,
        before_at,
        before_id,
        limit.clamp(1, PAGE_MAX),
    )
    .fetch_all(conn)
    .await
}

/// One dead job.
pub async fn find_dead(conn: &mut PgConnection, id: i64) -> Result<Option<DeadJob>, sqlx::Error> {
    query_as!(
        DeadJob,
        r#"
        SELECT id, queue, kind, lane, priority, unique_key, payload::text AS "payload!", attempt, starts,
            reason, last_error, created_at, died_at
        FROM dead_jobs
        WHERE id = $1
        "#,
        id
    )
    .fetch_optional(conn)
    .await
}

/// How the newest job of one kind fares, where at most one is live at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct KindState {
    /// The kind, which is its unique key, too.
    pub kind: String,
    /// Whether a live one waits (0), runs (1) or rests (2); none when there is none.
    pub state: Option<i16>,
    /// What the last failure of the live one said.
    pub last_error: Option<String>,
    /// When the last one to die died.
    pub died_at: Option<DateTime<Utc>>,
    /// Why it died.
    pub death: Option<String>,
}

/// How jobs of these kinds fare, each named by its queue and its kind.
pub async fn list_kind_states(
    conn: &mut PgConnection,
    kinds: &[(String, String)],
) -> Result<Vec<KindState>, sqlx::Error> {
    let (queues, kinds): (Vec<String>, Vec<String>) = kinds.iter().cloned().unzip();
    query_as!(
        KindState,
        r#"
        SELECT u.kind AS "kind!", j.state AS "state?", j.last_error AS "last_error?", d.died_at AS "died_at?",
            coalesce(d.last_error, d.reason) AS death
        FROM unnest($1::text[], $2::text[]) AS u (queue, kind)
        LEFT JOIN jobs j ON j.queue = u.queue AND j.unique_key = u.kind
        LEFT JOIN LATERAL (
            SELECT d.died_at, d.reason, d.last_error
            FROM dead_jobs d
            WHERE d.queue = u.queue AND d.kind = u.kind
            ORDER BY d.died_at DESC
            LIMIT 1
        ) d ON true
        "#,
        &queues,
        &kinds,
    )
    .fetch_all(conn)
    .await
}

struct Replayed {
    old_id: i64,
    queue: Option<String>,
    id: Option<i64>,
}

/// Gives dead jobs a new life, with all their attempts before them.
///
/// Returns the ids of the dead jobs that were replayed. One that is missing is not there, or a live job has its
/// unique key: that work is waiting already.
pub async fn replay_dead(tx: &mut impl EnqueueIn, ids: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
    let replayed = query_as!(
        Replayed,
        r#"
        WITH dead AS (
            SELECT * FROM dead_jobs
            WHERE id = ANY($1)
            -- One order for every writer of many rows, so that two of them never deadlock.
            ORDER BY id
            FOR UPDATE
        ),
        born AS (
            INSERT INTO jobs (queue, kind, lane, priority, unique_key, payload, last_error, created_at)
            SELECT queue, kind, lane, priority, unique_key, payload, last_error, created_at
            FROM dead
            ORDER BY unique_key NULLS FIRST, id
            ON CONFLICT DO NOTHING
            RETURNING id, queue, unique_key
        ),
        lowest AS (
            SELECT queue, min(id) AS id FROM born GROUP BY queue
        ),
        gone AS (
            DELETE FROM dead_jobs d
            USING dead
            -- Two dead jobs with one key are one piece of work.
            WHERE d.id = dead.id
                AND (dead.unique_key IS NULL
                    OR EXISTS (SELECT FROM born b WHERE b.queue = dead.queue AND b.unique_key = dead.unique_key))
            RETURNING d.id, d.queue
        )
        SELECT gone.id AS "old_id!", lowest.queue AS "queue?", lowest.id AS "id?"
        FROM gone
        LEFT JOIN lowest USING (queue)
        ORDER BY gone.id
        "#,
        ids
    )
    .fetch_all(tx.conn())
    .await?;
    for row in &replayed {
        if let (Some(queue), Some(id)) = (&row.queue, row.id) {
            tx.announce(queue, id);
        }
    }
    Ok(replayed.into_iter().map(|row| row.old_id).collect())
}

/// Forgets dead jobs. Returns the ids of those that were there.
pub async fn discard_dead(conn: &mut PgConnection, ids: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
    query_scalar!(
        r#"
        WITH dead AS (
            SELECT id FROM dead_jobs
            WHERE id = ANY($1)
            -- One order for every writer of many rows, so that two of them never deadlock.
            ORDER BY id
            FOR UPDATE
        )
        DELETE FROM dead_jobs d
        USING dead
        WHERE d.id = dead.id
        RETURNING d.id
        "#,
        ids
    )
    .fetch_all(conn)
    .await
}

/// Takes the live job with this unique key out of the queue.
pub async fn cancel(
    conn: &mut PgConnection,
    queue: &str,
    unique_key: &str,
) -> Result<Cancelled, sqlx::Error> {
    let state = query_scalar!(
        "DELETE FROM jobs WHERE queue = $1 AND unique_key = $2 RETURNING state",
        queue,
        unique_key
    )
    .fetch_optional(conn)
    .await?;
    Ok(cancelled(state))
}

/// Takes the job with an id just seen out of its queue. A job that became ready again has another id by now.
pub async fn cancel_by_id(conn: &mut PgConnection, id: i64) -> Result<Cancelled, sqlx::Error> {
    let state = query_scalar!("DELETE FROM jobs WHERE id = $1 RETURNING state", id)
        .fetch_optional(conn)
        .await?;
    Ok(cancelled(state))
}

fn cancelled(state: Option<i16>) -> Cancelled {
    match state {
        Some(1) => Cancelled::Running,
        Some(_) => Cancelled::Waiting,
        None => Cancelled::Gone,
    }
}
