//! Every few seconds: whether a lane was forgotten, and from where on something is under way. Read beside the ticks, which would
//! wait for it: it walks over the index entries of all that has ended and is not swept out.

use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use crate::clock::answer::answered;
use crate::clock::net::Net;
use crate::domain::holds::Holds;
use crate::domain::ids::LaneId;
use crate::store::release::{LowWater, count_under_way};
use crate::store::settings::read_now;
use crate::store::{Db, StoreResult, lanes};
use crate::telemetry;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A look takes one part in so many of the time at most: while anybody holds a snapshot there is much to walk over.
const PART: u32 = 20;
/// Lanes of one look.
const LANES_MAX: i64 = 1_000;

/// An alarm: nobody relies on it.
#[derive(Debug)]
pub(super) struct LostLanes {
    net: Net,
    /// Up to which lane it was looked.
    after: Option<LaneId>,
    running: Option<AbortOnDropHandle<StoreResult<Looked>>>,
}

#[derive(Debug)]
struct Looked {
    lost: u64,
    last: Option<LaneId>,
    low: LowWater,
    took: Duration,
}

impl LostLanes {
    /// The first look is due at once.
    pub(super) fn new() -> Self {
        Self {
            net: Net::new(PART),
            after: None,
            running: None,
        }
    }

    /// What a look that is over says of what is under way, once; begins the next one when it is due.
    pub(super) async fn look(&mut self, db: &Db, holds: &Holds) -> Option<LowWater> {
        let Some(running) = self.running.take_if(|running| running.is_finished()) else {
            if self.running.is_none() && self.net.is_due(LOOK_EVERY) {
                self.net.throw();
                let after = self.after.unwrap_or(LaneId(0));
                let look = look(db.clone(), holds.deadline, holds.first_look, after);
                let look = answered(look);
                self.running = Some(AbortOnDropHandle::new(tokio::spawn(look)));
            }
            return None;
        };
        let looked = match running.await {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                tracing::warn!(%error, "forgotten lanes are looked for a little later");
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "forgotten lanes are looked for a little later");
                return None;
            }
        };
        self.net.haul_after(looked.took);
        self.after = looked.last;
        if looked.lost > 0 {
            let lost = looked.lost;
            tracing::error!(lost, "lanes with messages were forgotten; they are woken");
            metrics::counter!(telemetry::LOST_WAKE_TOTAL).increment(lost);
        }
        Some(looked.low)
    }
}

async fn look(
    db: Db,
    call_max: Duration,
    first_look: Duration,
    after: LaneId,
) -> StoreResult<Looked> {
    let started_at = Instant::now();
    let mut tx = db.batch().begin().await?;
    let (woken, last) = lanes::wake_lost(&mut tx, after, LANES_MAX).await?;
    tx.commit().await?;
    let mut tx = db.batch().begin().await?;
    let now = read_now(&mut tx).await?;
    let under_way = count_under_way(&mut tx, call_max, LowWater::default()).await?;
    Ok(Looked {
        lost: woken,
        last,
        low: under_way.low(now, first_look),
        took: started_at.elapsed(),
    })
}
