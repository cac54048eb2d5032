//! What one tick lets out: read whose turn it is, plan, pick, charge the buckets, and say when each lane comes again.

mod round;

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};

use self::round::Round;
use super::moves::Moves;
use crate::domain::ids::{LaneId, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::domain::release::Rounds;
use crate::store::messages::locked::{Locked, Step, lock_queued, save_steps};
use crate::store::release::dealt::Draw;
use crate::store::release::due::{DueLane, LAST_RING, LaneRow, list_due_lanes};
use crate::store::release::{self, UnderWay};
use crate::store::{StoreResult, SystemTx};

/// Tenants whose turn comes in one tick, by ring.
const TURNS_MAX: i64 = 48;
/// Tenants of each later ring that come in one tick, however many go before.
const BULK_TURNS_MAX: i64 = 16;
/// What the tick after one of those who go ahead lets out at most, in cost: the next of them wait for its end.
const PORTION_MAX: i64 = 256;
/// Lanes of one tenant that are looked at in one tick.
const LANES_MAX: i64 = 64;
/// Messages that one tick drops for one reason.
const DROPS_MAX: i64 = 1_000;
/// Draws remembered as noted; beyond, each is noted anew.
const DRAWS_MAX: usize = 50_000;

/// What the workers can take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Messages to let out, at most.
    pub(super) budget: i64,
    /// Calls of all workers at once.
    pub(super) slots: i64,
}

/// What one tick did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// Messages let out.
    pub(super) messages: i64,
    /// Whether others wait for the next tick, since some went ahead or the tick was kept short.
    pub(super) has_more: bool,
}

/// What one tick lets out at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Most {
    /// One visit of each turn.
    OneVisit,
    /// [`PORTION_MAX`].
    Portion,
    /// All there is room for.
    Room,
}

/// What the leader remembers from tick to tick; forgetting it costs a few writes.
#[derive(Debug, Default)]
pub(super) struct Dealer {
    noted: HashSet<(LaneId, String)>,
    /// Calls of each account that were let out or under way after the last tick.
    let_out: BTreeMap<String, i64>,
    /// Whether the last tick was of those who go ahead.
    went_ahead: bool,
}

impl Dealer {
    /// Lets out as many messages as there is room for beside what is under way.
    pub(super) async fn deal(
        &mut self,
        tx: &mut SystemTx,
        now: DateTime<Utc>,
        room: Room,
        mut under_way: UnderWay,
    ) -> StoreResult<Done> {
        self.count_over(&mut under_way);
        if room.budget <= 0 {
            return Ok(Done::default());
        }
        let mut due = list_due_lanes(tx, now, (TURNS_MAX, BULK_TURNS_MAX), LANES_MAX).await?;
        let has_others = count_turns(&due) >= TURNS_MAX;
        let most = self.split_off(&mut due);
        let mut off: Vec<(TenantId, LaneId)> = lanes(&due)
            .filter(|(_, lane)| !lane.may_go)
            .map(|(tenant_id, lane)| (tenant_id, lane.id))
            .collect();
        let left_behind: Vec<LaneId> = lanes(&due)
            .filter(|(_, lane)| lane.is_retired && lane.campaign_id.is_none())
            .map(|(_, lane)| lane.id)
            .collect();
        if !drop_left_behind(tx, &left_behind).await? {
            // The rest of them goes with the next tick.
            off.retain(|(_, id)| !left_behind.contains(id));
        }
        if !off.is_empty() {
            release::switch_off(tx, &off).await?;
        }
        let mut round = Round::gather(tx, now, &due, room.slots, under_way).await?;
        let draws = self.note_draws(&round);
        let rounds = Rounds::of(has_others || most == Most::OneVisit);
        let budget = match most {
            Most::Portion => room.budget.min(PORTION_MAX),
            Most::OneVisit | Most::Room => room.budget,
        };
        let messages = round.deal(tx, budget, rounds).await?;
        self.let_out.extend(round.let_out());
        let stale = round.save(tx, draws).await?;
        let has_dropped = drop_expired(tx, now, &stale).await? > 0;
        let has_room = match most {
            Most::Portion => room.budget > PORTION_MAX,
            // For as much again.
            Most::OneVisit | Most::Room => has_others && room.budget >= 2 * messages,
        };
        let has_more = self.went_ahead || has_dropped || (messages > 0 && has_room);
        Ok(Done { messages, has_more })
    }

    /// Leaves only those who go ahead of the others, if both are due: most of a tick is spent on those who always have
    /// something to send, and who rarely has should not wait for that. Every other tick is everybody's, and short.
    fn split_off(&mut self, due: &mut Vec<DueLane>) -> Most {
        let goes_ahead = |row: &DueLane| row.ring < LAST_RING;
        if self.went_ahead {
            self.went_ahead = false;
            // The others first: those who go ahead may have enough to take all of a short tick, each time.
            due.sort_by_key(goes_ahead);
            return Most::Portion;
        }
        self.went_ahead = due.iter().any(goes_ahead) && !due.iter().all(goes_ahead);
        if !self.went_ahead {
            return Most::Room;
        }
        due.retain(goes_ahead);
        Most::OneVisit
    }

    /// Compares with what was let out after the last tick.
    fn count_over(&mut self, under_way: &mut UnderWay) {
        for (account_ref, let_out) in std::mem::take(&mut self.let_out) {
            let traffic = under_way.calls.entry(account_ref).or_default();
            traffic.over = (let_out - traffic.under_way).max(0);
        }
        let now = under_way.calls.iter();
        self.let_out = now
            .filter(|(_, traffic)| traffic.under_way > 0)
            .map(|(account_ref, traffic)| (account_ref.clone(), traffic.under_way))
            .collect();
    }

    /// Which lane draws on which bucket, as far as that is new.
    fn note_draws(&mut self, round: &Round) -> Vec<Draw> {
        if self.noted.len() > DRAWS_MAX {
            self.noted.clear();
        }
        let mut draws = round.draws();
        draws.retain(|(_, lane_id, name)| self.noted.insert((*lane_id, name.clone())));
        draws
    }
}

fn count_turns(due: &[DueLane]) -> i64 {
    let turns =
        due.chunk_by(|one, next| (one.tenant_id, one.class) == (next.tenant_id, next.class));
    turns.count() as i64
}

fn lanes(due: &[DueLane]) -> impl Iterator<Item = (TenantId, &LaneRow)> {
    due.iter()
        .filter_map(|row| Some((row.tenant_id, row.lane.as_ref()?)))
}

/// Drops single messages that wait behind senders that were retired: nobody could call them off as one does a campaign.
/// Says whether none is left; one that somebody else holds is.
async fn drop_left_behind(tx: &mut SystemTx, lanes: &[LaneId]) -> StoreResult<bool> {
    if lanes.is_empty() {
        return Ok(true);
    }
    let locked = lock_queued(tx, lanes, None, DROPS_MAX).await?;
    drop_all(tx, &locked, DropReason::Cancelled).await?;
    Ok(!release::has_backlog(tx, lanes).await?)
}

/// Drops what is past its time at the head of these lanes, whether their senders may send or not: what comes behind it shall not
/// wait until all of it has been let out. Says how many.
async fn drop_expired(
    tx: &mut SystemTx,
    now: DateTime<Utc>,
    lanes: &[LaneId],
) -> StoreResult<usize> {
    if lanes.is_empty() {
        return Ok(0);
    }
    let locked = lock_queued(tx, lanes, Some(now), DROPS_MAX).await?;
    drop_all(tx, &locked, DropReason::Expired).await?;
    Ok(locked.len())
}

async fn drop_all(tx: &mut SystemTx, locked: &[Locked], reason: DropReason) -> StoreResult<()> {
    let (phase, reason) = (Phase::Dropped, Some(reason));
    let mut moves = Moves::default();
    let mut steps = Vec::with_capacity(locked.len());
    for message in locked {
        moves.add(message, phase, reason);
        let step = Step {
            drop_reason: reason,
            ..Step::to(phase)
        };
        steps.push((message.key, step));
    }
    save_steps(tx, &steps).await?;
    moves.save(tx).await
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::channel::Class;

    fn due(rings: &[i16]) -> Vec<DueLane> {
        let row = |ring: &i16| DueLane {
            tenant_id: TenantId(Uuid::nil()),
            class: Class::Bulk,
            weight: 1,
            ring: *ring,
            debt: 0,
            lane: None,
        };
        rings.iter().map(row).collect()
    }

    #[test]
    fn who_rarely_sends_goes_ahead_in_every_other_tick() {
        let mut dealer = Dealer::default();
        let mut rings = |rings: &[i16]| {
            let mut due = due(rings);
            let most = dealer.split_off(&mut due);
            (due.iter().map(|row| row.ring).collect(), most)
        };
        assert_eq!(rings(&[0, 1, 2, 2]), (vec![0, 1], Most::OneVisit));
        assert_eq!(rings(&[0, 1, 2, 2]), (vec![2, 2, 0, 1], Most::Portion));
        assert_eq!(rings(&[1, 2]), (vec![1], Most::OneVisit));
        assert_eq!(rings(&[2]), (vec![2], Most::Portion));
        assert_eq!(rings(&[2]), (vec![2], Most::Room));
        assert_eq!(rings(&[1]), (vec![1], Most::Room));
    }
}
