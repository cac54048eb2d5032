//! Forgets what is past its time, in bounded batches: kept answers, sessions, uploads of ended imports and those that
//! never ended, fired ticks, dead jobs of schedules, and the demo provider's ledger.
//!
//! Running twice is harmless: a batch takes rows that nobody else holds and that are past their time, and what is gone is
//! gone. What one run leaves comes with the next.

use std::time::Duration;

use super::{Job, JobContext, Outcome, Run};
use crate::domain::orders::PruneHistory;
use crate::store::{Db, StoreResult, control, history};

/// Answers kept under an idempotency key, as docs/api.md says.
const ANSWERS_KEPT: Duration = Duration::from_hours(7 * 24);
/// Uploads that did not end: no file takes that long, so whoever received it was killed.
const UPLOADS_KEPT: Duration = Duration::from_hours(24);
/// Fired ticks: a tick that old is never tried again.
const TICKS_KEPT: Duration = Duration::from_hours(2 * 24);
/// Dead jobs of schedules: one that fails at every tick leaves thousands a day, and two weeks are enough to see why. Other dead
/// jobs wait for a person, since nobody orders them again.
const DEAD_KEPT: Duration = Duration::from_hours(14 * 24);
/// Lines of the demo provider's ledger; looking them up ends within hours.
const LEDGER_KEPT: Duration = Duration::from_hours(30 * 24);

/// Rows of one transaction.
const BATCH_ROWS: i64 = 2_000;
/// Pieces of uploads of one transaction: 1 MiB each.
const BATCH_CHUNKS: i64 = 32;
/// Uploads of one transaction: up to 512 pieces each.
const BATCH_UPLOADS: i64 = 1;
/// Transactions for one table in one run.
const ROUNDS_MAX: usize = 200;

impl Job for PruneHistory {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match prune(&context.db).await {
            Ok(()) => Outcome::Done,
            Err(error) => error.into(),
        }
    }
}

/// What is forgotten.
#[derive(Debug, Clone, Copy)]
enum Pile {
    Answers,
    PlatformAnswers,
    Sessions,
    Chunks,
    Uploads,
    Ticks,
    DeadOfSchedules,
    Ledger,
}

async fn prune(db: &Db) -> StoreResult<()> {
    use Pile::{
        Answers, Chunks, DeadOfSchedules, Ledger, PlatformAnswers, Sessions, Ticks, Uploads,
    };
    for pile in [
        Answers,
        PlatformAnswers,
        Sessions,
        Chunks,
        Uploads,
        Ticks,
        DeadOfSchedules,
        Ledger,
    ] {
        let mut rows = 0;
        for _ in 0..ROUNDS_MAX {
            let gone = prune_batch(db, pile).await?;
            rows += gone;
            if gone == 0 {
                break;
            }
        }
        if rows > 0 {
            tracing::info!(?pile, rows, "history pruned");
        }
    }
    Ok(())
}

async fn prune_batch(db: &Db, pile: Pile) -> StoreResult<u64> {
    if matches!(pile, Pile::PlatformAnswers | Pile::Sessions) {
        let mut tx = db.control_system().begin().await?;
        let gone = match pile {
            Pile::Sessions => control::history::delete_ended_sessions(&mut tx, BATCH_ROWS).await?,
            _ => control::history::delete_old_answers(&mut tx, ANSWERS_KEPT, BATCH_ROWS).await?,
        };
        tx.commit().await?;
        return Ok(gone);
    }
    // System: these are rows of all tenants.
    let mut tx = db.system().begin().await?;
    let gone = match pile {
        Pile::Chunks => history::delete_ended_chunks(&mut tx, BATCH_CHUNKS).await?,
        Pile::Uploads => {
            history::delete_abandoned_uploads(&mut tx, UPLOADS_KEPT, BATCH_UPLOADS).await?
        }
        Pile::Ticks => history::delete_old_ticks(&mut tx, TICKS_KEPT, BATCH_ROWS).await?,
        Pile::DeadOfSchedules => {
            history::delete_dead_of_schedules(&mut tx, DEAD_KEPT, BATCH_ROWS).await?
        }
        Pile::Ledger => history::delete_old_ledger(&mut tx, LEDGER_KEPT, BATCH_ROWS).await?,
        _ => history::delete_old_answers(&mut tx, ANSWERS_KEPT, BATCH_ROWS).await?,
    };
    tx.commit().await?;
    Ok(gone)
}
