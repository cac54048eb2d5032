//! One tick's facts, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::channel::{Class, Provider};
use crate::domain::ids::{LaneId, TenantId};
use crate::domain::orders::SendMessage;
use crate::domain::rate::Rule;
use crate::domain::rate::bucket::Bucket;
use crate::domain::release::{
    Grant, HoldReason, Lane, Rounds, Standing, Turn, plan, share_of_slots,
};
use crate::jobs::queue::Payload;
use crate::store::release::UnderWay;
use crate::store::release::dealt::{Dealt, Draw, LookedAt, Turned, save_dealt};
use crate::store::release::due::{DueLane, LaneRow};
use crate::store::release::pick::{Hint, LetOut, pick};
use crate::store::{StoreResult, SystemTx, buckets};
use crate::telemetry;

/// How often one tick deals: what tenants with little waiting leave over goes to the others.
const PASSES_MAX: usize = 4;
/// When a halted lane is looked at again, since a halt may be lifted.
const HALTED_RETRY: TimeDelta = TimeDelta::seconds(1);

/// The jobs that look at messages which were let out. A job is three row writes, so that many messages share some.
const HINT: Hint<'static> = Hint {
    queue: SendMessage::QUEUE,
    kind: SendMessage::KIND,
    priority: 0,
    max_attempts: SendMessage::MAX_ATTEMPTS,
    messages_max: SendMessage::MESSAGES_MAX as i64,
    jobs_apart: 16,
};

#[derive(Debug)]
pub(super) struct Round {
    now: DateTime<Utc>,
    turns: Vec<Turn>,
    /// What becomes of each.
    parts: Vec<Part>,
    buckets: Vec<Bucket>,
    /// Buckets that were drawn on, or whose rate is another one now.
    has_changed: Vec<bool>,
    /// Lanes that were looked at, and when they come again.
    served: BTreeMap<(TenantId, LaneId), DateTime<Utc>>,
    /// Those of them that let something out.
    has_let_out: BTreeSet<LaneId>,
    /// Each lane that may go, with its ring and since when it is its turn.
    due: BTreeMap<LaneId, (i16, DateTime<Utc>)>,
}

/// A turn's part in the round.
#[derive(Debug)]
struct Part {
    class: Class,
    /// What the turn owed before it.
    debt: i64,
    /// Whether a lane of it had its turn.
    is_served: bool,
    /// Whether one let something out.
    has_let_out: bool,
}

impl Part {
    /// What became of the turn, if that has to be written down.
    fn end(self, turn: &Turn) -> Option<Turned> {
        let is_served = turn.is_over(self.is_served, self.debt);
        let turned = Turned {
            tenant_id: turn.tenant_id,
            class: self.class,
            debt: turn.debt,
            is_served,
            has_let_out: self.has_let_out,
        };
        (is_served || turn.debt != self.debt).then_some(turned)
    }
}

impl Round {
    pub(super) async fn gather(
        tx: &mut SystemTx,
        now: DateTime<Utc>,
        due: &[DueLane],
        slots: i64,
        mut under_way: UnderWay,
    ) -> StoreResult<Self> {
        let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
        for (_, lane) in super::lanes(due).filter(|(_, lane)| lane.may_go) {
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
        for (_, lane) in super::lanes(due).filter(|(_, lane)| lane.may_go) {
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
            parts: Vec::new(),
            has_changed: loaded.iter().map(|loaded| loaded.has_changed).collect(),
            buckets: loaded.into_iter().map(|loaded| loaded.bucket).collect(),
            served: BTreeMap::new(),
            has_let_out: BTreeSet::new(),
            due: BTreeMap::new(),
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
            && self.parts.last().map(|part| part.class) == Some(row.class);
        if !is_same {
            let mut turn = Turn {
                tenant_id: row.tenant_id,
                weight: row.weight.into(),
                quantum: row.lane.as_ref().map_or(1, |lane| lane.quantum.into()),
                debt: row.debt.into(),
                lanes: Vec::new(),
            };
            // Its weight may have been more when it was owed that.
            turn.debt = turn.debt.max(-turn.visit());
            self.parts.push(Part {
                class: row.class,
                debt: turn.debt,
                is_served: false,
                has_let_out: false,
            });
            self.turns.push(turn);
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
            self.due.insert(lane.id, (row.ring, lane.due_at));
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
    pub(super) fn let_out(&self) -> Vec<(String, i64)> {
        let accounts = self.buckets.iter().filter_map(|bucket| {
            let account_ref = bucket.rule.account_ref()?.to_owned();
            Some((account_ref, bucket.calls?.under_way))
        });
        accounts.filter(|(_, calls)| *calls > 0).collect()
    }

    pub(super) fn draws(&self) -> Vec<Draw> {
        let lanes = self
            .turns
            .iter()
            .flat_map(|turn| turn.lanes.iter().map(|lane| (turn.tenant_id, lane)));
        lanes
            .flat_map(|(tenant_id, lane)| {
                let own = lane.buckets.iter();
                own.map(move |at| (tenant_id, lane.id, self.buckets[*at].rule.name.clone()))
            })
            .collect()
    }

    /// Plans and picks until the budget is spent, or the rounds are over, or nothing is left.
    pub(super) async fn deal(
        &mut self,
        tx: &mut SystemTx,
        mut budget: i64,
        mut rounds: Rounds,
    ) -> StoreResult<i64> {
        let mut let_out = 0;
        for _ in 0..PASSES_MAX {
            let grants = plan(self.now, &mut self.turns, &self.buckets, budget, rounds);
            if grants.is_empty() {
                break;
            }
            rounds = rounds.again();
            let picked = pick(tx, self.now, &grants, HINT).await?;
            let by_lane: BTreeMap<LaneId, LetOut> =
                picked.into_iter().map(|one| (one.lane_id, one)).collect();
            for grant in grants {
                let picked = by_lane.get(&grant.lane_id);
                let spent = picked.map_or((0, 0), |one| (one.cost, one.messages));
                self.settle(grant, spent);
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

    /// Charges what a lane let out.
    fn settle(&mut self, grant: Grant, (cost, messages): (i64, i64)) {
        let found = self.turns.iter().enumerate().find_map(|(at, turn)| {
            let lane = turn.lanes.iter().find(|lane| lane.id == grant.lane_id);
            lane.filter(|_| turn.tenant_id == grant.tenant_id)
                .map(|lane| (at, lane.buckets.clone()))
        });
        let Some((at, own)) = found else { return };
        if cost > 0 {
            self.note_wait(grant.lane_id);
            self.has_let_out.insert(grant.lane_id);
            self.parts[at].has_let_out = true;
            for bucket in &own {
                self.buckets[*bucket].charge(cost, messages, self.now);
                self.has_changed[*bucket] = true;
            }
        }
        self.turns[at].settle(grant, cost);
        self.parts[at].is_served = true;
        let next_at = self.ready_at(&own).unwrap_or(self.now);
        self.served
            .insert((grant.tenant_id, grant.lane_id), next_at);
    }

    /// Notes how long a lane waited for its turn, once a tick.
    fn note_wait(&mut self, lane_id: LaneId) {
        if let Some((ring, due_at)) = self.due.remove(&lane_id) {
            let wait = (self.now - due_at).to_std().unwrap_or_default();
            metrics::histogram!(telemetry::LANE_WAIT_SECONDS, "ring" => ring.to_string())
                .record(wait.as_secs_f64());
        }
    }

    /// Notes how full the buckets are that were drawn on, the emptiest of each kind.
    fn note_fill(&self) {
        let mut lowest: BTreeMap<&'static str, f64> = BTreeMap::new();
        for (bucket, has_changed) in self.buckets.iter().zip(&self.has_changed) {
            if *has_changed {
                let kind = lowest.entry(bucket.rule.kind.as_str()).or_insert(1.0);
                *kind = kind.min(bucket.fill(self.now));
            }
        }
        for (kind, fill) in lowest {
            metrics::gauge!(telemetry::BUCKET_FILL, "kind" => kind).set(fill);
        }
    }

    /// Writes down what became of it. Answers lanes whose oldest message is past its time.
    pub(super) async fn save(
        self,
        tx: &mut SystemTx,
        draws: Vec<Draw>,
    ) -> StoreResult<Vec<LaneId>> {
        self.note_fill();
        let turns = self.turns.iter().zip(self.parts);
        let dealt = Dealt {
            lanes: in_order(&self.turns, self.served)
                .into_iter()
                .map(|((tenant_id, lane_id), next_at)| LookedAt {
                    tenant_id,
                    lane_id,
                    next_at,
                    has_let_out: self.has_let_out.contains(&lane_id),
                })
                .collect(),
            turns: turns.filter_map(|(turn, part)| part.end(turn)).collect(),
            buckets: self
                .buckets
                .into_iter()
                .zip(self.has_changed)
                .filter_map(|(bucket, has_changed)| has_changed.then_some(bucket))
                .collect(),
            draws,
        };
        save_dealt(tx, self.now, &dealt).await
    }
}

/// Lanes in the order that their turns leave them in.
fn in_order<T>(
    turns: &[Turn],
    lanes: BTreeMap<(TenantId, LaneId), T>,
) -> Vec<((TenantId, LaneId), T)> {
    let all = turns.iter().flat_map(|turn| &turn.lanes);
    let places: BTreeMap<LaneId, usize> = all.map(|lane| lane.id).zip(0..).collect();
    let mut lanes: Vec<_> = lanes.into_iter().collect();
    lanes.sort_by_key(|((_, id), _)| places.get(id));
    lanes
}
