//! What one tick lets out: read whose turn it is, plan, pick, charge the buckets, and say when each lane comes again.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::moves::Moves;
use crate::domain::channel::{Class, Provider};
use crate::domain::ids::{LaneId, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::domain::orders::SendMessage;
use crate::domain::rate::Rule;
use crate::domain::rate::bucket::Bucket;
use crate::domain::release::{HoldReason, Lane, Standing, Turn, plan, share_of_slots};
use crate::jobs::queue::Payload;
use crate::store::messages::locked::{Step, lock_queued, save_steps};
use crate::store::release::dealt::{Dealt, save_dealt};
use crate::store::release::due::{DueLane, LaneRow, list_due_lanes};
use crate::store::release::pick::{Hint, LetOut, pick};
use crate::store::release::{self, UnderWay};
use crate::store::{StoreResult, SystemTx, buckets};

/// Tenants whose turn comes in one tick, by ring.
const TURNS_MAX: i64 = 48;
/// Tenants of the last ring that come in one tick, however many go before.
const BULK_TURNS_MAX: i64 = 16;
/// Lanes of one tenant that are looked at in one tick.
const LANES_MAX: i64 = 64;
/// How often one tick deals: what tenants with little waiting leave over goes to the others.
const PASSES_MAX: usize = 4;
/// When a halted lane is looked at again, since a halt may be lifted.
const HALTED_RETRY: TimeDelta = TimeDelta::seconds(1);
/// Messages of retired senders that one tick drops.
const DROPS_MAX: i64 = 1_000;
/// Draws remembered as noted; beyond, each is noted anew.
const DRAWS_MAX: usize = 50_000;

/// The job that looks at a message which was let out.
const HINT: Hint<'static> = Hint {
    queue: SendMessage::QUEUE,
    kind: SendMessage::KIND,
    priority: 0,
    max_attempts: SendMessage::MAX_ATTEMPTS,
};

/// What the workers can take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Messages to let out, at most.
    pub(super) budget: i64,
    /// Calls of all workers at once.
    pub(super) slots: i64,
}

/// What the leader remembers from tick to tick; forgetting it costs a few writes.
#[derive(Debug, Default)]
pub(super) struct Dealer {
    noted: HashSet<(LaneId, String)>,
    /// Calls of each account that were let out or under way after the last tick.
    let_out: BTreeMap<String, i64>,
}

impl Dealer {
    /// Lets out as many messages as there is room for beside what is under way.
    pub(super) async fn deal(
        &mut self,
        tx: &mut SystemTx,
        now: DateTime<Utc>,
        room: Room,
        mut under_way: UnderWay,
    ) -> StoreResult<i64> {
        self.count_over(&mut under_way);
        if room.budget <= 0 {
            return Ok(0);
        }
        let due = list_due_lanes(tx, now, (TURNS_MAX, BULK_TURNS_MAX), LANES_MAX).await?;
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
        self.note_draws(tx, &round).await?;
        let messages = round.deal(tx, room.budget).await?;
        self.let_out.extend(round.let_out());
        round.save(tx).await?;
        Ok(messages)
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

    async fn note_draws(&mut self, tx: &mut SystemTx, round: &Round) -> StoreResult<()> {
        if self.noted.len() > DRAWS_MAX {
            self.noted.clear();
        }
        let draws = round.draws();
        let new: Vec<_> = draws
            .into_iter()
            .filter(|(_, lane_id, name)| self.noted.insert((*lane_id, (*name).to_owned())))
            .collect();
        buckets::insert_lane_buckets(tx, &new).await
    }
}

fn lanes(due: &[DueLane]) -> impl Iterator<Item = (TenantId, &LaneRow)> {
    due.iter()
        .filter_map(|row| Some((row.tenant_id, row.lane.as_ref()?)))
}

/// One tick's facts, and what became of them.
struct Round {
    now: DateTime<Utc>,
    turns: Vec<Turn>,
    classes: Vec<Class>,
    buckets: Vec<Bucket>,
    /// Buckets that were drawn on, or whose rate is another one now.
    has_changed: Vec<bool>,
    /// Lanes that were looked at, and when they come again.
    served: BTreeMap<(TenantId, LaneId), DateTime<Utc>>,
    /// Turns of which a lane was let out.
    is_served: Vec<bool>,
}

impl Round {
    async fn gather(
        tx: &mut SystemTx,
        now: DateTime<Utc>,
        due: &[DueLane],
        slots: i64,
        mut under_way: UnderWay,
    ) -> StoreResult<Self> {
        let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
        for (_, lane) in lanes(due).filter(|(_, lane)| lane.may_go) {
            rules.extend(
                lane.pace
                    .rules()
                    .into_iter()
                    .map(|rule| (rule.name.clone(), rule)),
            );
        }
        let places: BTreeMap<String, usize> = rules
            .keys()
            .cloned()
            .enumerate()
            .map(|(at, name)| (name, at))
            .collect();
        let mut loaded = buckets::load_buckets(tx, rules.into_values().collect(), now).await?;
        for (_, lane) in lanes(due).filter(|(_, lane)| lane.may_go) {
            if lane.pace.provider != Provider::Demo {
                let account_ref = lane.pace.account_ref.clone();
                under_way.calls.entry(account_ref).or_default();
            }
        }
        let share = share_of_slots(slots, under_way.calls.len());
        for bucket in loaded.iter_mut().map(|loaded| &mut loaded.bucket) {
            bucket.count_calls(&under_way.calls, share);
        }
        let mut round = Self {
            now,
            turns: Vec::new(),
            classes: Vec::new(),
            has_changed: loaded.iter().map(|loaded| loaded.has_changed).collect(),
            buckets: loaded.into_iter().map(|loaded| loaded.bucket).collect(),
            served: BTreeMap::new(),
            is_served: Vec::new(),
        };
        for row in due {
            round.seat(row, &places, &under_way.released);
        }
        Ok(round)
    }

    /// Gives a row its place: a turn, and a lane of it unless it has to wait.
    fn seat(
        &mut self,
        row: &DueLane,
        places: &BTreeMap<String, usize>,
        released: &BTreeMap<LaneId, i64>,
    ) {
        let is_same = self
            .turns
            .last()
            .is_some_and(|turn| turn.tenant_id == row.tenant_id)
            && self.classes.last() == Some(&row.class);
        if !is_same {
            self.turns.push(Turn {
                tenant_id: row.tenant_id,
                weight: row.weight.into(),
                quantum: row.lane.as_ref().map_or(1, |lane| lane.quantum.into()),
                debt: row.debt.into(),
                lanes: Vec::new(),
            });
            self.classes.push(row.class);
            self.is_served.push(false);
        }
        let at = self.turns.len() - 1;
        let Some(lane) = row.lane.as_ref().filter(|lane| lane.may_go) else {
            return;
        };
        let rules = lane.pace.rules();
        let own: Vec<usize> = rules.iter().map(|rule| places[&rule.name]).collect();
        let wait = self.wait(lane, &own, released);
        if let Some(until) = wait {
            self.served.insert((row.tenant_id, lane.id), until);
        } else {
            self.turns[at].lanes.push(Lane {
                id: lane.id,
                buckets: own,
            });
        }
    }

    /// Until when a lane has to wait, if it has to.
    fn wait(
        &self,
        lane: &LaneRow,
        own: &[usize],
        released: &BTreeMap<LaneId, i64>,
    ) -> Option<DateTime<Utc>> {
        let standing = Standing {
            stopped: None,
            halted_until: lane.halted_until,
            quantum: lane.quantum.into(),
            released: released.get(&lane.id).copied().unwrap_or(0),
        };
        let buckets: Vec<&Bucket> = own.iter().map(|at| &self.buckets[*at]).collect();
        let hold = standing.hold(&buckets, self.now)?;
        match (hold.reason, hold.until) {
            (HoldReason::SenderHalted, Some(until)) => Some(until.min(self.now + HALTED_RETRY)),
            (_, until) => until,
        }
    }

    /// When the buckets let something out again, if they do not now.
    fn ready_at(&self, own: &[usize]) -> Option<DateTime<Utc>> {
        let empty = own
            .iter()
            .map(|at| &self.buckets[*at])
            .filter(|bucket| bucket.left(self.now) == 0);
        empty.map(|bucket| bucket.ready_at(self.now)).max()
    }

    /// Calls of each account that are let out or under way now.
    fn let_out(&self) -> Vec<(String, i64)> {
        let accounts = self.buckets.iter().filter_map(|bucket| {
            let account_ref = bucket.rule.account_ref()?.to_owned();
            Some((account_ref, bucket.calls?.under_way))
        });
        accounts.filter(|(_, calls)| *calls > 0).collect()
    }

    fn draws(&self) -> Vec<buckets::Draw<'_>> {
        let lanes = self
            .turns
            .iter()
            .flat_map(|turn| turn.lanes.iter().map(|lane| (turn.tenant_id, lane)));
        lanes
            .flat_map(|(tenant_id, lane)| {
                let own = lane.buckets.iter();
                own.map(move |at| (tenant_id, lane.id, self.buckets[*at].rule.name.as_str()))
            })
            .collect()
    }

    /// Plans and picks until the budget is spent or nothing is left.
    async fn deal(&mut self, tx: &mut SystemTx, mut budget: i64) -> StoreResult<i64> {
        let mut let_out = 0;
        for _ in 0..PASSES_MAX {
            let planned = plan(self.now, &self.turns, &self.buckets, budget);
            if planned.grants.is_empty() {
                break;
            }
            let picked = pick(tx, &planned.grants, HINT).await?;
            for (turn, debt) in self.turns.iter_mut().zip(planned.debts) {
                turn.debt = debt;
            }
            let by_lane: BTreeMap<LaneId, LetOut> =
                picked.into_iter().map(|one| (one.lane_id, one)).collect();
            for grant in &planned.grants {
                let picked = by_lane.get(&grant.lane_id);
                let spent = picked.map_or((0, 0), |one| (one.cost, one.messages));
                self.settle((grant.tenant_id, grant.lane_id), grant.cost, spent);
            }
            let messages: i64 = by_lane.values().map(|one| one.messages).sum();
            let_out += messages;
            budget -= messages;
            if budget <= 0 {
                break;
            }
        }
        Ok(let_out)
    }

    /// Charges what a lane let out, and takes it out of the round when it has nothing left.
    fn settle(&mut self, key: (TenantId, LaneId), granted: i64, (cost, messages): (i64, i64)) {
        let found = self.turns.iter().enumerate().find_map(|(at, turn)| {
            let lane = turn.lanes.iter().position(|lane| lane.id == key.1);
            lane.filter(|_| turn.tenant_id == key.0)
                .map(|lane| (at, lane))
        });
        let Some((at, lane)) = found else { return };
        let own = self.turns[at].lanes[lane].buckets.clone();
        if cost > 0 {
            for bucket in &own {
                self.buckets[*bucket].charge(cost, messages, self.now);
                self.has_changed[*bucket] = true;
            }
        }
        let turn = &mut self.turns[at];
        turn.debt += (cost - granted).max(0);
        if cost < granted {
            turn.lanes.remove(lane);
        }
        self.is_served[at] = true;
        let next_at = self.ready_at(&own).unwrap_or(self.now);
        self.served.insert(key, next_at);
    }

    async fn save(self, tx: &mut SystemTx) -> StoreResult<()> {
        let dealt = Dealt {
            lanes: self
                .served
                .into_iter()
                .map(|((tenant_id, lane_id), next_at)| (tenant_id, lane_id, next_at))
                .collect(),
            turns: self
                .turns
                .iter()
                .zip(self.classes)
                .zip(self.is_served)
                // Whose lanes all wait, or are none, had its turn too: it leaves the ring or comes again with the first of
                // them. Whom the budget did not reach keeps its place.
                .filter(|((turn, _), is_served)| *is_served || turn.lanes.is_empty())
                .map(|((turn, class), _)| (turn.tenant_id, class, turn.debt))
                .collect(),
            buckets: self
                .buckets
                .into_iter()
                .zip(self.has_changed)
                .filter_map(|(bucket, has_changed)| has_changed.then_some(bucket))
                .collect(),
        };
        save_dealt(tx, self.now, &dealt).await
    }
}

/// Drops single messages that wait behind senders that were retired: nobody could call them off as one does a campaign.
/// Says whether none is left.
async fn drop_left_behind(tx: &mut SystemTx, lanes: &[LaneId]) -> StoreResult<bool> {
    if lanes.is_empty() {
        return Ok(true);
    }
    let locked = lock_queued(tx, lanes, DROPS_MAX).await?;
    let (phase, reason) = (Phase::Dropped, Some(DropReason::Cancelled));
    let mut moves = Moves::default();
    let mut steps = Vec::with_capacity(locked.len());
    for message in &locked {
        moves.add(message, phase, reason);
        let step = Step {
            drop_reason: reason,
            ..Step::to(phase)
        };
        steps.push((message.key, step));
    }
    save_steps(tx, &steps).await?;
    moves.save(tx).await?;
    Ok((locked.len() as i64) < DROPS_MAX)
}
