//! The proof that a job is still the one that was handed out.
//!
//! A statement over many fences finds the jobs by an array of ids and asks for the rest in a subquery that is hashed: `IS TRUE`
//! keeps it from becoming a join. The vacuum of an idle queue leaves statistics of an empty table, and by these the planner
//! would join the other way around and read the whole table once for each fence, until the next vacuum of a queue that has
//! a million jobs by then.

use sqlx::{PgConnection, query, query_scalar};

/// One readiness of one job in the hands of one process: (id, attempt, lease).
///
/// All three are needed. A process that slept through its lease and then claimed again must not let the old
/// handler finish the new run, and the lease alone is the same for all it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub(super) id: i64,
    pub(super) attempt: i16,
    pub(super) lease: i64,
}

impl Fence {
    /// The job's id at this readiness.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> i16 {
        self.attempt
    }

    /// Completes the job inside the caller's transaction; its handler then answers
    /// [`Outcome::Settled`](super::Outcome::Settled).
    ///
    /// Answers whether the job was still ours. If not, whatever else the transaction says stays true.
    pub async fn complete(self, conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let completed = Self::complete_many(conn, &[self]).await?;
        Ok(!completed.is_empty())
    }

    /// Gives the job its tries anew, unless it is somebody else's by now.
    pub async fn renew_tries(self, conn: &mut PgConnection, tries: i16) -> Result<(), sqlx::Error> {
        query!(
            r#"
            UPDATE jobs
            SET max_attempts = LEAST(attempt + $4::int, 32767), starts = 0
            WHERE id = $1 AND attempt = $2 AND lease = $3
            "#,
            self.id,
            self.attempt,
            self.lease,
            i32::from(tries),
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Completes many jobs inside the caller's transaction.
    ///
    /// Returns the ids that were completed. One that is missing has moved on; that is worth a count and never
    /// a rollback.
    pub async fn complete_many(
        conn: &mut PgConnection,
        fences: &[Fence],
    ) -> Result<Vec<i64>, sqlx::Error> {
        let columns = FenceColumns::of(fences.iter());
        query_scalar!(
            r#"
            WITH locked AS MATERIALIZED (
                SELECT j.id
                FROM jobs j
                -- Not a join, see `fence`.
                WHERE j.id = ANY ($1) AND ((j.id, j.attempt, j.lease) IN (
                        SELECT u.id, u.attempt, u.lease
                        FROM unnest($1::bigint[], $2::smallint[], $3::bigint[]) AS u (id, attempt, lease)
                )) IS TRUE
                -- One order for every writer of many rows, so that two of them never deadlock.
                ORDER BY j.id
                FOR UPDATE
            )
            DELETE FROM jobs j
            WHERE j.id = ANY (ARRAY(SELECT id FROM locked))
            RETURNING j.id
            "#,
            &columns.ids,
            &columns.attempts,
            &columns.leases,
        )
        .fetch_all(conn)
        .await
    }
}

/// Fences as the arrays that `unnest` takes.
#[derive(Debug, Default)]
pub(super) struct FenceColumns {
    pub(super) ids: Vec<i64>,
    pub(super) attempts: Vec<i16>,
    pub(super) leases: Vec<i64>,
}

impl FenceColumns {
    pub(super) fn of<'a>(fences: impl Iterator<Item = &'a Fence>) -> Self {
        let mut columns = Self::default();
        for fence in fences {
            columns.ids.push(fence.id);
            columns.attempts.push(fence.attempt);
            columns.leases.push(fence.lease);
        }
        columns
    }
}
