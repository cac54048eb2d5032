//! How a job gets in: inside the caller's transaction, one statement for one job as for ten thousand.
//!
//! No trigger and no NOTIFY here: a transaction that notifies takes a database-wide lock around its commit,
//! and group commit is gone. The transaction announces the lowest new id once it has committed.

use sqlx::{PgConnection, query_scalar};
use uuid::Uuid;

use super::{NewJob, Payload};

/// Jobs of one statement; more go in several.
const ROWS_MAX: usize = 10_000;

/// A transaction jobs can be enqueued in.
pub trait EnqueueIn {
    /// The connection the transaction is open on.
    fn conn(&mut self) -> &mut PgConnection;

    /// Says, once the transaction has committed and not before, that `queue` has work from `lowest_id` on.
    fn announce(&mut self, queue: &str, lowest_id: i64);
}

/// One order, one job, or many jobs.
pub trait IntoJobs {
    /// The rows to insert.
    fn into_jobs(self) -> Vec<NewJob>;
}

impl<P: Payload> IntoJobs for P {
    fn into_jobs(self) -> Vec<NewJob> {
        vec![self.into()]
    }
}

impl IntoJobs for NewJob {
    fn into_jobs(self) -> Vec<NewJob> {
        vec![self]
    }
}

impl IntoJobs for Vec<NewJob> {
    fn into_jobs(self) -> Vec<NewJob> {
        self
    }
}

/// Inserts jobs in the caller's transaction: they exist exactly if it commits.
///
/// Returns the ids of the jobs that were inserted. One that is missing had a unique key that a live job
/// already has. An id names one readiness of a job and not its life; what callers remember is the unique key.
pub async fn enqueue(
    tx: &mut impl EnqueueIn,
    jobs: impl IntoJobs,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut jobs = jobs.into_jobs();
    // Two transactions that insert the same keys wait for each other in one order. Those without a key come
    // first and keep theirs.
    jobs.sort_by(|a, b| (&a.queue, &a.unique_key).cmp(&(&b.queue, &b.unique_key)));
    let mut ids = Vec::with_capacity(jobs.len());
    for of_queue in jobs.chunk_by(|a, b| a.queue == b.queue) {
        let queue = &of_queue[0].queue;
        for chunk in of_queue.chunks(ROWS_MAX) {
            let columns = Columns::of(chunk);
            // Looking out for conflicts costs a sixth of the insert, so it is left to those that can have one.
            let inserted = if chunk.iter().any(|job| job.unique_key.is_some()) {
                insert_unless_live(tx.conn(), queue, &columns).await?
            } else {
                insert(tx.conn(), queue, &columns).await?
            };
            if let Some(lowest) = inserted.iter().min() {
                tx.announce(queue, *lowest);
            }
            ids.extend(inserted);
        }
    }
    Ok(ids)
}

/// The jobs as the arrays that `unnest` takes.
#[derive(Debug, Default)]
struct Columns<'a> {
    kinds: Vec<&'a str>,
    lanes: Vec<Option<Uuid>>,
    priorities: Vec<i16>,
    delays_secs: Vec<f64>,
    max_attempts: Vec<i16>,
    unique_keys: Vec<Option<&'a str>>,
    payloads: Vec<&'a serde_json::Value>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &'a [NewJob]) -> Self {
        let mut columns = Self::default();
        for job in jobs {
            columns.kinds.push(&job.kind);
            columns.lanes.push(job.lane);
            columns.priorities.push(job.priority);
            columns
                .delays_secs
                .push(job.delay.unwrap_or_default().as_secs_f64());
            columns.max_attempts.push(job.max_attempts);
            columns.unique_keys.push(job.unique_key.as_deref());
            columns.payloads.push(&job.payload);
        }
        columns
    }
}

async fn insert(
    conn: &mut PgConnection,
    queue: &str,
    columns: &Columns<'_>,
) -> Result<Vec<i64>, sqlx::Error> {
    query_scalar!(
        r#"
        INSERT INTO jobs (queue, kind, lane, priority, state, run_at, max_attempts, payload, created_at)
        SELECT
            $1, u.kind, u.lane, u.priority,
            -- Scheduled rows stay out of the ready index until they are due.
            CASE WHEN u.delay_secs > 0 THEN 2 ELSE 0 END,
            clock.at + make_interval(secs => u.delay_secs),
            u.max_attempts, u.payload, clock.at
        FROM (SELECT app_now() AS at OFFSET 0) AS clock,
            unnest($2::text[], $3::uuid[], $4::smallint[], $5::float8[], $6::smallint[], $7::jsonb[])
                AS u (kind, lane, priority, delay_secs, max_attempts, payload)
        RETURNING id
        "#,
        queue,
        &columns.kinds as &[&str],
        &columns.lanes as &[Option<Uuid>],
        &columns.priorities,
        &columns.delays_secs,
        &columns.max_attempts,
        &columns.payloads as &[&serde_json::Value],
    )
    .fetch_all(conn)
    .await
}

async fn insert_unless_live(
    conn: &mut PgConnection,
    queue: &str,
    columns: &Columns<'_>,
) -> Result<Vec<i64>, sqlx::Error> {
    query_scalar!(
        r#"
        INSERT INTO jobs (queue, kind, lane, priority, state, run_at, max_attempts, unique_key, payload, created_at)
        SELECT
            $1, u.kind, u.lane, u.priority,
            -- Scheduled rows stay out of the ready index until they are due.
            CASE WHEN u.delay_secs > 0 THEN 2 ELSE 0 END,
            clock.at + make_interval(secs => u.delay_secs),
            u.max_attempts, u.unique_key, u.payload, clock.at
        FROM (SELECT app_now() AS at OFFSET 0) AS clock,
            unnest($2::text[], $3::uuid[], $4::smallint[], $5::float8[], $6::smallint[], $7::text[], $8::jsonb[])
                AS u (kind, lane, priority, delay_secs, max_attempts, unique_key, payload)
        ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
        RETURNING id
        "#,
        queue,
        &columns.kinds as &[&str],
        &columns.lanes as &[Option<Uuid>],
        &columns.priorities,
        &columns.delays_secs,
        &columns.max_attempts,
        &columns.unique_keys as &[Option<&str>],
        &columns.payloads as &[&serde_json::Value],
    )
    .fetch_all(conn)
    .await
}
