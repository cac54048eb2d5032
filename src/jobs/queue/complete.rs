//! What became of the jobs, written many at once.
//!
//! One task takes all endings that wait as soon as its last write is done, so that a commit carries as many as
//! came in during the one before. A write that fails is kept and tried again while the leases are renewed.
//! Every statement is fenced by (id, attempt, lease): repeating one that did commit changes nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, query_as, query_scalar};
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::engine::Core;
use super::fence::FenceColumns;
use super::ticket::{Ending, Ticket};
use super::trouble::{Trouble, is_passing};
use super::tuning::{COMPLETE_ENOUGH, COMPLETE_MAX, REASON_BYTES_MAX};
use crate::clock::answer::{answered, answered_within};

type Ended = (Arc<Ticket>, Ending);

/// Writes endings until `core` has ended and nothing is held any more.
pub(super) async fn run(core: Arc<Core>, mut endings: mpsc::UnboundedReceiver<Ended>) {
    let mut trouble = Trouble::new("complete", &core.tuning);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = core.ended.cancelled() => return,
            _ = endings.recv_many(&mut batch, COMPLETE_MAX) => {}
        }
        if batch.len() < COMPLETE_ENOUGH {
            tokio::time::sleep(core.tuning.complete_linger).await;
            while batch.len() < COMPLETE_MAX
                && let Ok(ended) = endings.try_recv()
            {
                batch.push(ended);
            }
        }
        batch.sort_unstable_by_key(|(ticket, _)| ticket.fence.id);
        write(&core, &mut trouble, &batch).await;
        core.desk
            .dismiss(batch.iter().map(|(ticket, _)| ticket.as_ref()));
        batch.clear();
    }
}

/// Does not come back before the database has taken the batch.
async fn write(core: &Core, trouble: &mut Trouble, batch: &[Ended]) {
    let mut todo = Todo::of(batch, core.tuning.cut_offs_max);
    loop {
        match answered(todo.write(core)).await {
            Ok(()) => {
                trouble.over();
                return;
            }
            Err(error) if is_passing(&error) => trouble.wait(&error).await,
            Err(error) if batch.len() == 1 => {
                // Nothing we can say makes this statement possible. The lease runs out and the job runs again.
                error!(job.id = batch[0].0.fence.id, %error, "a job's ending cannot be written");
                return;
            }
            // One of them spoils the statement for all.
            Err(_) => break,
        }
    }
    for one in batch {
        Box::pin(write(core, trouble, std::slice::from_ref(one))).await;
    }
}

/// A batch by what has to be written; each part is emptied when it is done.
#[derive(Default)]
struct Todo<'a> {
    done: Vec<&'a Ticket>,
    /// Failed, with no try left when they were claimed.
    used_up: Vec<(&'a Ticket, Again<'a>)>,
    again: Vec<(&'a Ticket, Again<'a>)>,
    dead: Vec<(&'a Ticket, &'a str, Option<&'a str>)>,
}

/// How a job comes back.
#[derive(Clone, Copy)]
struct Again<'a> {
    delay: Duration,
    error: Option<&'a str>,
    counts: Counts,
}

/// What of a run is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// The attempt.
    Attempt,
    /// The attempt, and one more is granted: somebody else ended it. The starts before it are forgotten, since its worker lives.
    CutOff,
    /// Neither attempt nor start, and the starts before it are forgotten: it ended in good order.
    Nothing,
    /// It never happened.
    Undone,
}

impl<'a> Todo<'a> {
    fn of(batch: &'a [Ended], cut_offs_max: i16) -> Self {
        let mut todo = Self::default();
        for (ticket, ending) in batch {
            let again = |delay, error, counts| {
                (
                    ticket.as_ref(),
                    Again {
                        delay,
                        error,
                        counts,
                    },
                )
            };
            match ending {
                Ending::Done => todo.done.push(ticket),
                Ending::Retry { delay, error } => {
                    let again = again(*delay, Some(error.as_str()), Counts::Attempt);
                    if ticket.fence.attempt >= ticket.max_attempts {
                        todo.used_up.push(again);
                    } else {
                        todo.again.push(again);
                    }
                }
                Ending::CutOff { error, .. } if ticket.fence.attempt >= cut_offs_max => {
                    todo.dead
                        .push((ticket, "cut off each time", Some(error.as_str())));
                }
                Ending::CutOff { delay, error } => {
                    todo.again
                        .push(again(*delay, Some(error.as_str()), Counts::CutOff));
                }
                Ending::Snooze(delay) => {
                    todo.again.push(again(*delay, None, Counts::Nothing));
                }
                Ending::GivenBack => {
                    todo.again.push(again(Duration::ZERO, None, Counts::Undone));
                }
                Ending::Dead { reason, error } => {
                    todo.dead.push((ticket, reason, error.as_deref()));
                }
                Ending::Settled | Ending::Lost => {}
            }
        }
        todo
    }

    async fn write(&mut self, core: &Core) -> Result<(), sqlx::Error> {
        if !self.done.is_empty() {
            let deletion = async {
                let _alone = core.own_rows.lock().await;
                delete(&core.system_pool, &self.done).await
            };
            let ids = answered_within(core.tuning.own_rows_max(), deletion).await?;
            core.counters.done(ids.len() as u64);
            report_missing(core, self.done.iter().copied(), ids);
            self.done.clear();
        }
        if !self.used_up.is_empty() {
            self.judge_used_up(core).await?;
        }
        if !self.again.is_empty() {
            let rows = reschedule(&core.system_pool, &self.again).await?;
            for row in rows.iter().filter(|row| row.state == 0) {
                core.board.announce(&row.queue, row.id);
            }
            core.counters.again(rows.len() as u64);
            report_missing(
                core,
                self.again.iter().map(|(ticket, _)| *ticket),
                rows.into_iter().map(|row| row.old_id).collect(),
            );
            self.again.clear();
        }
        if !self.dead.is_empty() {
            let ids = bury(&core.system_pool, &self.dead).await?;
            core.counters.dead(ids.len() as u64);
            report_missing(core, self.dead.iter().map(|(ticket, ..)| *ticket), ids);
            self.dead.clear();
        }
        Ok(())
    }
}

impl Todo<'_> {
    /// The row has the last word: the run may have been given its tries anew meanwhile.
    async fn judge_used_up(&mut self, core: &Core) -> Result<(), sqlx::Error> {
        let ids: Vec<i64> = self
            .used_up
            .iter()
            .map(|(ticket, _)| ticket.fence.id)
            .collect();
        let renewed = query_scalar!(
            "SELECT id FROM jobs WHERE id = ANY ($1) AND attempt < max_attempts",
            &ids,
        )
        .fetch_all(&core.system_pool)
        .await?;
        for (ticket, again) in self.used_up.drain(..) {
            if renewed.contains(&ticket.fence.id) {
                self.again.push((ticket, again));
            } else {
                self.dead.push((ticket, "attempts used up", again.error));
            }
        }
        Ok(())
    }
}

/// An ending that found nothing is true all the same; somebody else has the job, or an operator took it away.
fn report_missing<'a>(core: &Core, asked: impl Iterator<Item = &'a Ticket>, found: Vec<i64>) {
    let found: HashSet<i64> = found.into_iter().collect();
    for ticket in asked.filter(|ticket| !found.contains(&ticket.fence.id)) {
        core.counters.missed(1);
        warn!(
            job.id = ticket.fence.id,
            job.attempt = ticket.fence.attempt,
            job.queue = ticket.queue(),
            "a job had moved on before its ending was written"
        );
    }
}

/// Not locked in order first, as every other statement that writes to many rows: these are ours alone, the
/// renewal waits meanwhile, and nobody else waits for more than one of them.
async fn delete(pool: &PgPool, done: &[&Ticket]) -> Result<Vec<i64>, sqlx::Error> {
    let fences = FenceColumns::of(done.iter().map(|ticket| &ticket.fence));
    query_scalar!(
        r#"
        DELETE FROM jobs j
        -- Not a join, see `fence`.
        WHERE j.id = ANY ($1) AND ((j.id, j.attempt, j.lease) IN (
        SELECT u.id, u.attempt, u.lease
        FROM unnest($1::bigint[], $2::smallint[], $3::bigint[]) AS u (id, attempt, lease)
        )) IS TRUE
        RETURNING j.id
        "#,
        &fences.ids,
        &fences.attempts,
        &fences.leases,
    )
    .fetch_all(pool)
    .await
}

struct Rescheduled {
    old_id: i64,
    id: i64,
    queue: String,
    state: i16,
}

async fn reschedule(
    pool: &PgPool,
    again: &[(&Ticket, Again<'_>)],
) -> Result<Vec<Rescheduled>, sqlx::Error> {
    let fences = FenceColumns::of(again.iter().map(|(ticket, _)| &ticket.fence));
    let delays: Vec<f64> = again.iter().map(|(_, a)| a.delay.as_secs_f64()).collect();
    let errors: Vec<Option<String>> = again.iter().map(|(_, a)| a.error.map(plain)).collect();
    let attempts_back: Vec<i16> = again
        .iter()
        .map(|(_, a)| i16::from(matches!(a.counts, Counts::Nothing | Counts::Undone)))
        .collect();
    let granted: Vec<i16> = again
        .iter()
        .map(|(_, a)| i16::from(a.counts == Counts::CutOff))
        .collect();
    let starts: Vec<i16> = again
        .iter()
        .map(|(ticket, a)| match a.counts {
            Counts::Attempt | Counts::CutOff | Counts::Nothing => 0,
            Counts::Undone => ticket.starts - 1,
        })
        .collect();
    query_as!(
        Rescheduled,
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
        UPDATE jobs j
        -- A new id: it names one readiness, and the ids of what is ready only grow.
        SET id = DEFAULT,
            state = CASE WHEN u.delay_secs > 0 THEN 2 ELSE 0 END,
            run_at = (SELECT app_now()) + make_interval(secs => u.delay_secs),
            attempt = j.attempt - u.attempts_back, max_attempts = j.max_attempts + u.granted,
            starts = u.starts,
            lease = NULL, lease_until = NULL,
            last_error = coalesce(u.error, j.last_error)
        FROM unnest($1::bigint[], $4::float8[], $5::text[], $6::smallint[], $7::smallint[], $8::smallint[])
             AS u (id, delay_secs, error, attempts_back, granted, starts)
        WHERE j.id = u.id AND j.id = ANY (ARRAY(SELECT id FROM locked))
        RETURNING u.id AS "old_id!", j.id, j.queue, j.state
        "#,
        &fences.ids,
        &fences.attempts,
        &fences.leases,
        &delays,
        &errors as &[Option<String>],
        &attempts_back,
        &granted,
        &starts,
    )
    .fetch_all(pool)
    .await
}

async fn bury(
    pool: &PgPool,
    dead: &[(&Ticket, &str, Option<&str>)],
) -> Result<Vec<i64>, sqlx::Error> {
    let fences = FenceColumns::of(dead.iter().map(|(ticket, ..)| &ticket.fence));
    let reasons: Vec<String> = dead.iter().map(|(_, reason, _)| plain(reason)).collect();
    let errors: Vec<Option<String>> = dead.iter().map(|(.., error)| error.map(plain)).collect();
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
        ),
        gone AS (
            DELETE FROM jobs j
            USING unnest($1::bigint[], $4::text[], $5::text[]) AS u (id, reason, error)
            WHERE j.id = u.id AND j.id = ANY (ARRAY(SELECT id FROM locked))
            RETURNING j.*, u.reason, u.error
        )
        INSERT INTO dead_jobs
            (id, queue, kind, lane, priority, unique_key, payload, attempt, starts, reason, last_error, created_at, died_at)
        SELECT id, queue, kind, lane, priority, unique_key, payload, attempt, starts, reason,
            coalesce(error, last_error), created_at, (SELECT app_now())
        FROM gone
        RETURNING id
        "#,
        &fences.ids,
        &fences.attempts,
        &fences.leases,
        &reasons,
        &errors as &[Option<String>],
    )
    .fetch_all(pool)
    .await
}

/// Text that a column takes: without NUL, and not longer than helps.
fn plain(text: &str) -> String {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character_and_loses_what_no_column_takes() {
        assert_eq!(plain("a\0b"), "ab");
        let long = format!("{}é", "x".repeat(REASON_BYTES_MAX - 1));
        assert_eq!(plain(&long), "x".repeat(REASON_BYTES_MAX - 1));
    }
}
