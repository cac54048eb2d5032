//! Saying that this process is alive: one task renews every lease it holds, whatever the handlers do.
//!
//! By ids and not by the lease number: rows of a claim whose answer was lost belong to nobody here, and must run
//! out.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::{PgPool, query_scalar};
use tracing::warn;

use super::engine::Core;
use super::fence::FenceColumns;
use super::ticket::Ticket;
use super::trouble::Trouble;
use super::tuning::RENEW_MAX;
use crate::clock::Clock;
use crate::clock::answer::answered_within;

/// Renews until the engine has ended.
pub(super) async fn run(core: Arc<Core>) {
    let mut trouble = Trouble::new("renew", &core.tuning);
    loop {
        tokio::time::sleep(core.tuning.renew_every).await;
        while let Err(error) = renew_all(&core).await {
            trouble.wait(&error).await;
        }
        trouble.over();
    }
}

async fn renew_all(core: &Arc<Core>) -> Result<(), sqlx::Error> {
    let held = core.desk.held();
    let mut missing = Vec::new();
    for asked in held.chunks(RENEW_MAX) {
        let renewal = async {
            let _alone = core.own_rows.lock().await;
            let lease_ends = Clock::boottime() + core.tuning.lease;
            let ids = renew(&core.system_pool, asked, core.tuning.lease.as_secs_f64()).await?;
            Ok::<_, sqlx::Error>((lease_ends, ids))
        };
        let (lease_ends, ids) = answered_within(core.tuning.own_rows_max(), renewal).await?;
        let ids: HashSet<i64> = ids.into_iter().collect();
        for ticket in asked {
            if ids.contains(&ticket.fence.id) {
                ticket.renewed(lease_ends);
            } else if !ticket.has_ended() {
                missing.push(Arc::clone(ticket));
            }
        }
    }
    if !missing.is_empty() {
        tokio::spawn(give_up(Arc::clone(core), missing));
    }
    Ok(())
}

/// These rows are not ours. Either their handlers have just completed them, in a transaction of their own, or
/// this process slept through its leases and somebody else has them.
async fn give_up(core: Arc<Core>, missing: Vec<Arc<Ticket>>) {
    tokio::time::sleep(core.tuning.lost_grace).await;
    let lost: Vec<_> = missing
        .iter()
        .filter(|ticket| !ticket.has_ended())
        .collect();
    if lost.is_empty() {
        return;
    }
    // What is claimed from now on must not be finished by a handler that started before.
    core.renumber_lease();
    core.counters.lost(lost.len() as u64);
    for ticket in lost {
        warn!(
            job.id = ticket.fence.id,
            job.attempt = ticket.fence.attempt,
            job.queue = ticket.queue(),
            "a lease is lost; its handler is cancelled"
        );
        ticket.lose();
    }
}

async fn renew(
    pool: &PgPool,
    tickets: &[Arc<Ticket>],
    lease_secs: f64,
) -> Result<Vec<i64>, sqlx::Error> {
    let fences = FenceColumns::of(tickets.iter().map(|ticket| &ticket.fence));
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
        UPDATE jobs j
        SET lease_until = (SELECT app_now() + make_interval(secs => $4))
        WHERE j.id = ANY (ARRAY(SELECT id FROM locked))
        RETURNING j.id
        "#,
        &fences.ids,
        &fences.attempts,
        &fences.leases,
        lease_secs,
    )
    .fetch_all(pool)
    .await
}
