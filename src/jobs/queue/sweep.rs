//! The two brooms of a process: one makes due jobs ready, one rescues the jobs of dead workers.
//!
//! Every process has both and `SKIP LOCKED` keeps them apart. Each looks from where it looked last, a little
//! further back, since entries of finished rows stay in the index while anybody holds a snapshot; once per
//! [`Tuning::net_every`](super::Tuning::net_every), or later where that takes long, it looks at everything.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::query_as;
use tracing::warn;

use super::engine::Core;
use super::trouble::{Trouble, spread};
use super::tuning::{LOOK_BACK_SECS, NET_PART, SWEEP_MAX};
use crate::clock::answer::answered;
use crate::clock::net::Net;

/// What one stroke found.
#[derive(Debug)]
struct Swept {
    /// Rows it took up, at most [`SWEEP_MAX`].
    found: i64,
    /// Rows that went to the dead jobs.
    dead: i64,
    /// The queues that have something ready now, and from which id on.
    queues: Vec<String>,
    lowest_ids: Vec<i64>,
    /// The database's time, to start from next time; none where it did not look.
    looked_at: Option<DateTime<Utc>>,
}

/// Where the next look starts.
struct Since {
    at: DateTime<Utc>,
    /// The same, while one looks at everything.
    reached: DateTime<Utc>,
    net: Net,
}

impl Since {
    fn new() -> Self {
        Self {
            at: DateTime::UNIX_EPOCH,
            reached: DateTime::UNIX_EPOCH,
            net: Net::new(NET_PART),
        }
    }

    fn start(&mut self, net_every: Duration) -> DateTime<Utc> {
        if self.net.is_due(net_every) {
            self.at = DateTime::UNIX_EPOCH;
        }
        if self.looks_at_everything() {
            self.net.throw();
        }
        self.at
    }

    fn looks_at_everything(&self) -> bool {
        self.at == DateTime::UNIX_EPOCH
    }

    /// Only a look that reached the end moves the start. One that failed, `now`, is not tried again at everything before its
    /// time, or one that takes longer than a statement may would keep all others from their turn.
    fn looked(&mut self, swept: Result<&Swept, &sqlx::Error>, now: DateTime<Utc>) {
        let back = Duration::from_secs_f64(LOOK_BACK_SECS);
        let looked_at_everything = self.looks_at_everything();
        if looked_at_everything {
            self.net.haul();
        }
        match swept {
            Ok(swept) if swept.found < SWEEP_MAX => {
                if let Some(looked_at) = swept.looked_at {
                    // Also back: the database's clock may have been set.
                    self.reached = looked_at - back;
                    self.at = self.reached;
                }
            }
            Ok(_) => {}
            Err(_) if self.reached == DateTime::UNIX_EPOCH => self.at = now - back,
            Err(_) => self.at = self.reached,
        }
    }
}

/// Makes due jobs ready until the engine has ended.
pub(super) async fn promote_due(core: Arc<Core>) {
    let mut trouble = Trouble::new("promote", &core.tuning);
    let mut since = Since::new();
    loop {
        match answered(promote(&core, &mut since)).await {
            Ok(swept) => {
                trouble.over();
                announce(&core, &swept);
                core.counters.promoted(swept.found as u64);
                rest(core.tuning.promote_every, &swept).await;
            }
            Err(error) => trouble.wait(&error).await,
        }
    }
}

/// Rescues the jobs of dead workers until the engine has ended.
pub(super) async fn rescue_expired(core: Arc<Core>) {
    let mut trouble = Trouble::new("rescue", &core.tuning);
    let mut since = Since::new();
    loop {
        match answered(rescue(&core, &mut since)).await {
            Ok(swept) => {
                announce(&core, &swept);
                report(&core, &swept);
                rest(core.tuning.sweep_every, &swept).await;
            }
            Err(error) => {
                trouble.wait(&error).await;
                let_the_living_renew(&core, &mut trouble).await;
            }
        }
    }
}

/// While the database was away nobody could renew. Whoever is alive goes first when it is back.
async fn let_the_living_renew(core: &Core, trouble: &mut Trouble) {
    while let Err(error) = core.system_pool.acquire().await {
        trouble.wait(&error).await;
    }
    trouble.over();
    tokio::time::sleep(core.tuning.sweep_grace).await;
}

fn report(core: &Core, swept: &Swept) {
    if swept.found == 0 {
        return;
    }
    let rescued = swept.found - swept.dead;
    core.counters.rescued(rescued as u64);
    core.counters.dead(swept.dead as u64);
    warn!(
        rescued,
        dead = swept.dead,
        "jobs of workers that gave no sign of life"
    );
}

async fn rest(every: Duration, swept: &Swept) {
    if swept.found < SWEEP_MAX {
        tokio::time::sleep(spread(every, 0.8, 1.2)).await;
    }
}

fn announce(core: &Core, swept: &Swept) {
    for (queue, lowest_id) in swept.queues.iter().zip(&swept.lowest_ids) {
        core.board.announce(queue, *lowest_id);
    }
}

async fn promote(core: &Core, since: &mut Since) -> Result<Swept, sqlx::Error> {
    // While the database is away it takes seconds to get one, which says nothing of how long a look takes.
    let mut conn = core.system_pool.acquire().await?;
    let from = since.start(core.tuning.net_every);
    let swept = query_as!(
        Swept,
        r#"
        WITH clock AS MATERIALIZED (
            SELECT app_now() AS at
        ),
        due AS MATERIALIZED (
            SELECT j.id
            FROM jobs j
            WHERE j.state = 2 AND j.run_at <= (SELECT at FROM clock) AND j.run_at >= $1
            ORDER BY j.run_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        ),
        ready AS (
            UPDATE jobs j
            -- A new id, so that the ids of what is ready only grow.
            SET id = DEFAULT, state = 0
            -- Not a join: whatever the statistics say, an array is looked up in the index.
            WHERE j.id = ANY (ARRAY(SELECT id FROM due))
            RETURNING j.queue, j.id
        ),
        queues AS (
            SELECT queue, min(id) AS lowest_id FROM ready GROUP BY queue
        )
        SELECT
            (SELECT count(*) FROM due) AS "found!",
            0::bigint AS "dead!",
            coalesce((SELECT array_agg(queue ORDER BY queue) FROM queues), '{}') AS "queues!",
            coalesce((SELECT array_agg(lowest_id ORDER BY queue) FROM queues), '{}') AS "lowest_ids!",
            (SELECT at FROM clock) AS looked_at
        "#,
        from,
        SWEEP_MAX,
    )
    .fetch_one(&mut *conn)
    .await;
    since.looked(swept.as_ref(), core.clock.now());
    swept
}

async fn rescue(core: &Core, since: &mut Since) -> Result<Swept, sqlx::Error> {
    let mut conn = core.system_pool.acquire().await?;
    let from = since.start(core.tuning.net_every);
    let swept = query_as!(
        Swept,
        r#"
        WITH clock AS MATERIALIZED (
            SELECT app_now() AS at,
                -- A server that has just come back: living workers renew first.
                -- Unless its clock was set back meanwhile.
                app_now() >= pg_postmaster_start_time()
                    AND app_now() < pg_postmaster_start_time() + make_interval(secs => $4) AS is_early
        ),
        expired AS MATERIALIZED (
            SELECT j.id,
                -- Its tries alone do not end it here: the last one, too, may have met a worker that was killed.
                CASE WHEN j.starts >= $3 THEN 'started ' || j.starts || ' times and never ended' END AS reason
            FROM jobs j
            WHERE j.state = 1 AND j.lease_until <= (SELECT at FROM clock) AND j.lease_until >= $1
                AND NOT (SELECT is_early FROM clock)
            ORDER BY j.lease_until
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        ),
        ready AS (
            UPDATE jobs j
            -- A new id: what the dead worker may still say names one that is gone.
            SET id = DEFAULT, lease = NULL, lease_until = NULL, last_error = 'lease expired',
                -- It may be what kills its workers, or have met three of them that were killed: it waits longer each time,
                -- so that the one takes them down more slowly and the other meets one that lives.
                state = CASE WHEN j.starts >= 3 THEN 2 ELSE 0 END,
                run_at = (SELECT at FROM clock) + make_interval(secs => CASE
                    WHEN j.starts >= 3 THEN $5 * power(2, least(j.starts - 3, 3)) / 4
                    ELSE 0
                END)
            WHERE j.id = ANY (ARRAY(SELECT id FROM expired WHERE reason IS NULL))
            RETURNING j.queue, j.id, j.state
        ),
        gone AS (
            DELETE FROM jobs j
            USING expired
            WHERE j.id = expired.id AND j.id = ANY (ARRAY(SELECT id FROM expired WHERE reason IS NOT NULL))
            RETURNING j.*, expired.reason
        ),
        buried AS (
            INSERT INTO dead_jobs
                (id, queue, kind, lane, priority, unique_key, payload, attempt, starts, reason, last_error, created_at, died_at)
            SELECT id, queue, kind, lane, priority, unique_key, payload, attempt, starts, reason, last_error,
                created_at, (SELECT at FROM clock)
            FROM gone
            RETURNING id
        ),
        queues AS (
            SELECT queue, min(id) AS lowest_id FROM ready WHERE state = 0 GROUP BY queue
        )
        SELECT
            (SELECT count(*) FROM expired) AS "found!",
            (SELECT count(*) FROM buried) AS "dead!",
            coalesce((SELECT array_agg(queue ORDER BY queue) FROM queues), '{}') AS "queues!",
            coalesce((SELECT array_agg(lowest_id ORDER BY queue) FROM queues), '{}') AS "lowest_ids!",
            (SELECT at FROM clock WHERE NOT is_early) AS looked_at
        "#,
        from,
        SWEEP_MAX,
        core.tuning.starts_max,
        core.tuning.sweep_grace.as_secs_f64(),
        core.tuning.lease.as_secs_f64(),
    )
    .fetch_one(&mut *conn)
    .await;
    since.looked(swept.as_ref(), core.clock.now());
    swept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(found: i64, looked_at: Option<DateTime<Utc>>) -> Swept {
        Swept {
            found,
            dead: 0,
            queues: vec![],
            lowest_ids: vec![],
            looked_at,
        }
    }

    #[test]
    fn only_a_look_that_reached_the_end_moves_the_start_and_one_that_failed_does_not_bar_the_next()
    {
        let at = |secs| DateTime::from_timestamp(secs, 0).unwrap();
        let start = |since: &mut Since| since.start(Duration::from_mins(1));
        let mut since = Since::new();
        assert_eq!(start(&mut since), DateTime::UNIX_EPOCH);

        since.looked(Err(&sqlx::Error::PoolTimedOut), at(70));
        assert_eq!(start(&mut since), at(50), "the net is not due again");
        let mut since = Since::new();
        start(&mut since);
        since.looked(Ok(&swept(0, None)), at(70));
        assert_eq!(start(&mut since), DateTime::UNIX_EPOCH, "it did not look");
        since.looked(Ok(&swept(SWEEP_MAX, Some(at(100)))), at(100));
        assert_eq!(start(&mut since), DateTime::UNIX_EPOCH, "there is more");
        since.looked(Ok(&swept(SWEEP_MAX - 1, Some(at(100)))), at(100));
        assert_eq!(start(&mut since), at(80));

        let everything = since.start(Duration::ZERO);
        assert_eq!(everything, DateTime::UNIX_EPOCH);
        since.looked(Err(&sqlx::Error::PoolTimedOut), at(100));
        assert_eq!(start(&mut since), at(80));
        since.looked(Ok(&swept(0, Some(at(50)))), at(100));
        assert_eq!(start(&mut since), at(30), "the clock was set back");
    }
}
