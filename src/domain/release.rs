//! Who may send next: turns between tenants, then between the lanes of one tenant, as fast as their buckets allow.
//!
//! Pure: the leader reads the facts, this plans, the leader writes what was granted. It is deficit round robin between
//! tenants: each visit gives a tenant its weight times a quantum of cost, dealt out over its lanes; a message may overdraw
//! that, and the debt shortens the tenant's next visit. Whom the end of a budget cuts short gets the rest of that visit with
//! the next budget.

use chrono::{DateTime, TimeDelta, Utc};

use super::channel::text_enum;
use super::ids::{LaneId, TenantId};
use super::rate::BucketKind;
use super::rate::bucket::Bucket;

/// A lane that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Which one.
    pub id: LaneId,
    /// The buckets it draws on, by their place in the list the planner is given.
    pub buckets: Vec<usize>,
}

/// A tenant whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it is.
    pub tenant_id: TenantId,
    /// The tenant's share, 1 to 100.
    pub weight: i64,
    /// Cost that one visit grants one lane, before the weight; 1 or more.
    pub quantum: i64,
    /// Cost overdrawn in earlier visits; below 0 what is left of one that a budget cut short.
    pub debt: i64,
    /// The lanes that may go, those served longest ago first.
    pub lanes: Vec<Lane>,
}

impl Turn {
    /// Cost that one visit grants it.
    pub fn visit(&self) -> i64 {
        self.weight.max(1) * self.quantum.max(1)
    }
}

/// What one lane may let out: messages as long as some of the cost is left for the next one to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Whose lane it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub lane_id: LaneId,
    /// Cost at most, but for what the last message overdraws; 1 or more.
    pub cost: i64,
}

/// What a tick lets out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By lane.
    pub grants: Vec<Grant>,
    /// What each turn still owes, in the order of the turns.
    pub debts: Vec<i64>,
}

/// How many of the workers' `slots` one account may hold while `accounts` have something under way or waiting, 1 or more.
///
/// A provider that hangs holds a slot for as long as a call may take. Its accounts hold three quarters at most between them, so
/// that a quarter is left for those whose provider answers.
pub fn share_of_slots(slots: i64, accounts: usize) -> i64 {
    (slots * 3 / 4 / accounts.max(1) as i64).max(1)
}

text_enum! {
    /// What keeps a lane from letting anything out.
    HoldReason {
        /// Its tenant is not active.
        TenantStopped = "tenant_stopped",
        /// Its campaign is not sending.
        CampaignStopped = "campaign_stopped",
        /// Its sender was retired.
        SenderRetired = "sender_retired",
        /// Its sender must not send for now.
        SenderHalted = "sender_halted",
        /// What it has let out is not begun: the workers have no time for it.
        Unbegun = "unbegun",
        /// Its sender's rate.
        Sender = "sender",
        /// Its brand's rate.
        Brand = "brand",
        /// Its brand has sent what carriers take of it in a day.
        BrandDay = "brand_day",
        /// Its provider account: its rate, or the calls that are under way.
        Account = "account",
        /// Its campaign's own brake.
        Campaign = "campaign",
        /// Its tenant's plan.
        Plan = "plan",
    }
}

impl From<BucketKind> for HoldReason {
    fn from(kind: BucketKind) -> Self {
        match kind {
            BucketKind::Sender => Self::Sender,
            BucketKind::Brand => Self::Brand,
            BucketKind::Account => Self::Account,
            BucketKind::Campaign => Self::Campaign,
            BucketKind::Plan => Self::Plan,
        }
    }
}

/// Why a lane has to wait, and until when as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// Until when; none when somebody has to act.
    pub until: Option<DateTime<Utc>>,
}

/// What decides whether a lane may go, besides its buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Why it must not go at all: the tenant, the campaign or the sender has stopped.
    pub stopped: Option<HoldReason>,
    /// Its sender must not send before.
    pub halted_until: Option<DateTime<Utc>>,
    /// What one visit grants it, before the tenant's weight.
    pub quantum: i64,
    /// Messages it has let out that are not begun.
    pub released: i64,
}

/// When a lane is looked at again whose messages are let out and not begun.
const CROWDED_RETRY: TimeDelta = TimeDelta::milliseconds(250);

impl Standing {
    /// What keeps the lane from letting anything out now.
    pub fn hold(&self, buckets: &[&Bucket], now: DateTime<Utc>) -> Option<Hold> {
        let until = |reason, until| Some(Hold { reason, until });
        if let Some(reason) = self.stopped {
            return until(reason, None);
        }
        if let Some(at) = self.halted_until.filter(|at| *at > now) {
            return until(HoldReason::SenderHalted, Some(at));
        }
        if self
            .window(buckets)
            .is_some_and(|most| self.released >= most)
        {
            return until(HoldReason::Unbegun, Some(now + CROWDED_RETRY));
        }
        let empty = buckets.iter().filter(|bucket| bucket.left(now) == 0);
        let last = empty.max_by_key(|bucket| bucket.ready_at(now))?;
        let reason = if last.is_day_spent(now) {
            HoldReason::BrandDay
        } else {
            last.rule.kind.into()
        };
        until(reason, Some(last.ready_at(now)))
    }

    /// Messages it may have let out and not begun: two seconds of its rate, which bounds the burst after a stall of the
    /// workers. None where no rate limits it.
    pub fn window(&self, buckets: &[&Bucket]) -> Option<i64> {
        let rates = buckets.iter().map(|bucket| bucket.rule.rate_per_sec);
        let slowest = rates.reduce(f64::min)?;
        Some(((2.0 * slowest).ceil() as i64).max(self.quantum))
    }
}

/// Deals `budget` of cost out over the turns, in their order.
///
/// Each round visits every tenant that still has a lane with something left; rounds go on until the budget is spent or
/// nothing may go. So tenants of equal weight never differ by more than one visit, whether one has one lane or fifty.
pub fn plan(now: DateTime<Utc>, turns: &[Turn], buckets: &[Bucket], budget: i64) -> Plan {
    let mut table = Table {
        left: buckets.iter().map(|bucket| bucket.left(now)).collect(),
        budget,
    };
    let mut seats: Vec<Seat> = turns.iter().map(Seat::new).collect();
    // A round may only pay debts off; the next ones let something out.
    while seats.iter().any(|seat| seat.may_go(&table)) {
        for seat in &mut seats {
            seat.visit(&mut table);
        }
    }
    Plan {
        debts: seats.iter().map(|seat| -seat.credit).collect(),
        grants: seats.into_iter().flat_map(Seat::into_grants).collect(),
    }
}

/// What all draw on.
struct Table {
    left: Vec<i64>,
    budget: i64,
}

impl Table {
    fn may_go(&self, lane: &Lane) -> bool {
        self.budget > 0 && self.has_room(lane)
    }

    fn has_room(&self, lane: &Lane) -> bool {
        lane.buckets.iter().all(|bucket| self.left[*bucket] > 0)
    }

    /// Takes up to `cost` for a lane that may go, 1 at least.
    fn take(&mut self, lane: &Lane, cost: i64) -> i64 {
        let buckets = lane.buckets.iter().map(|bucket| self.left[*bucket]);
        let cost = buckets.fold(cost.min(self.budget), i64::min);
        self.budget -= cost;
        for bucket in &lane.buckets {
            self.left[*bucket] -= cost;
        }
        cost
    }
}

/// A turn while it is being dealt to.
struct Seat<'a> {
    turn: &'a Turn,
    credit: i64,
    next: usize,
    granted: Vec<i64>,
}

impl<'a> Seat<'a> {
    fn new(turn: &'a Turn) -> Self {
        Self {
            turn,
            credit: (-turn.debt).min(turn.visit()),
            next: 0,
            granted: vec![0; turn.lanes.len()],
        }
    }

    /// One visit: the quantum, dealt out over the lanes that may go.
    fn visit(&mut self, table: &mut Table) {
        if !self.has_room(table) {
            return;
        }
        let lanes = &self.turn.lanes;
        let quantum = self.turn.quantum.max(1);
        // The rest of a visit comes first.
        if self.credit <= 0 {
            self.credit += self.turn.visit();
        }
        let mut passed_over = 0;
        while self.credit > 0 && passed_over < lanes.len() {
            let at = self.next;
            self.next = (at + 1) % lanes.len();
            if !table.may_go(&lanes[at]) {
                passed_over += 1;
                continue;
            }
            passed_over = 0;
            let cost = table.take(&lanes[at], quantum.min(self.credit));
            self.granted[at] += cost;
            self.credit -= cost;
        }
        // What a lane could not use is not saved up, what the budget did not reach is: those who come first would gain by
        // each tick.
        let is_cut_short = table.budget == 0 && self.has_room(table);
        if !is_cut_short {
            self.credit = self.credit.min(0);
        }
    }

    /// Whether nothing but a debt keeps it from going.
    fn may_go(&self, table: &Table) -> bool {
        table.budget > 0 && self.has_room(table)
    }

    /// The same, had the budget no end.
    fn has_room(&self, table: &Table) -> bool {
        self.turn.lanes.iter().any(|lane| table.has_room(lane))
    }

    fn into_grants(self) -> impl Iterator<Item = Grant> {
        let tenant_id = self.turn.tenant_id;
        let lanes = self.turn.lanes.iter().zip(self.granted);
        lanes
            .filter(|(_, cost)| *cost > 0)
            .map(move |(lane, cost)| Grant {
                tenant_id,
                lane_id: lane.id,
                cost,
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::rate::bucket::tests::bucket;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_764_000_000_000).unwrap()
    }

    fn lane(id: i64) -> Lane {
        Lane {
            id: LaneId(id),
            buckets: Vec::new(),
        }
    }

    fn turn(tenant: u128, weight: i64, lanes: i64) -> Turn {
        Turn {
            tenant_id: TenantId(Uuid::from_u128(tenant)),
            weight,
            quantum: 10,
            debt: 0,
            lanes: (0..lanes)
                .map(|at| lane(tenant as i64 * 1000 + at))
                .collect(),
        }
    }

    fn free(turns: &[Turn], budget: i64) -> Vec<Grant> {
        plan(now(), turns, &[], budget).grants
    }

    fn total(grants: &[Grant], tenant: u128) -> i64 {
        let tenant_id = TenantId(Uuid::from_u128(tenant));
        let of = grants.iter().filter(|g| g.tenant_id == tenant_id);
        of.map(|g| g.cost).sum()
    }

    #[test]
    fn a_lone_lane_gets_the_whole_budget() {
        let grants = free(&[turn(1, 1, 1)], 512);
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].cost, 512);
    }

    #[test]
    fn fifty_lanes_get_no_more_than_one() {
        let grants = free(&[turn(1, 1, 50), turn(2, 1, 1)], 1000);
        assert_eq!(total(&grants, 1), total(&grants, 2));
    }

    #[test]
    fn weight_three_gets_three_times_as_much() {
        let grants = free(&[turn(1, 3, 2), turn(2, 1, 2)], 4000);
        assert_eq!(total(&grants, 1), 3 * total(&grants, 2));
    }

    #[test]
    fn nothing_to_do_grants_nothing() {
        assert!(free(&[], 100).is_empty());
        assert!(free(&[turn(1, 1, 0)], 100).is_empty());
        assert!(free(&[turn(1, 1, 1)], 0).is_empty());
    }

    #[test]
    fn a_lane_gets_what_its_tightest_bucket_has_and_the_others_go_on() {
        let mut paced = turn(1, 1, 2);
        paced.lanes[0].buckets = vec![0, 1];
        // 1 + 0.1 s at 50/s, and 1 + 0.1 s at 1,000/s.
        let buckets = [bucket(50.0), bucket(1000.0)];
        let grants = plan(now(), &[paced, turn(2, 1, 1)], &buckets, 500).grants;
        assert_eq!(grants[0].cost, 6);
        assert_eq!(grants.iter().map(|g| g.cost).sum::<i64>(), 500);
    }

    #[test]
    fn lanes_of_two_tenants_share_the_bucket_of_their_account() {
        let mut turns = [turn(1, 1, 1), turn(2, 1, 1)];
        for turn in &mut turns {
            turn.lanes[0].buckets = vec![0];
        }
        let grants = plan(now(), &turns, &[bucket(390.0)], 500).grants;
        assert_eq!((total(&grants, 1), total(&grants, 2)), (20, 20));
    }

    #[test]
    fn what_was_overdrawn_is_paid_back_by_the_next_visits() {
        let debtor = Turn {
            debt: 25,
            ..turn(1, 1, 1)
        };
        let grants = free(&[debtor.clone(), turn(2, 1, 1)], 100);
        assert!(total(&grants, 2) - total(&grants, 1) >= 20, "{grants:?}");
        // Too little for it to be paid off: the rest is owed still.
        let plan = plan(now(), &[debtor, turn(2, 1, 1)], &[], 10);
        assert_eq!((total(&plan.grants, 1), total(&plan.grants, 2)), (0, 10));
        assert_eq!(plan.debts, [15, 0]);
        let plan = super::plan(now(), &[turn(1, 1, 1), turn(2, 3, 1)], &[], 5);
        assert_eq!(plan.debts, [-5, -30]);
    }

    #[test]
    fn a_tenant_that_is_alone_pays_its_debt_and_goes_on() {
        let grants = free(
            &[Turn {
                debt: 1000,
                ..turn(1, 1, 1)
            }],
            10,
        );
        assert_eq!(total(&grants, 1), 10);
    }

    #[test]
    fn a_lane_says_what_it_waits_for_the_last_thing_last() {
        let free = Standing {
            quantum: 10,
            ..Standing::default()
        };
        let at = |millis| Some(now() + TimeDelta::milliseconds(millis));
        let hold = |reason, until| Some(Hold { reason, until });
        let empty = |kind, rate| {
            let mut empty = bucket(rate);
            empty.rule.kind = kind;
            empty.charge(2, 1, now());
            empty
        };
        let (sender, plan) = (empty(BucketKind::Sender, 1.0), empty(BucketKind::Plan, 0.5));
        assert_eq!(free.hold(&[], now()), None);
        assert_eq!(free.hold(&[&bucket(1.0)], now()), None);
        assert_eq!(
            free.hold(&[&plan, &sender], now()),
            hold(HoldReason::Plan, at(3_900))
        );
        let crowded = Standing {
            released: 10,
            ..free
        };
        assert_eq!(crowded.hold(&[], now()), None);
        assert_eq!(
            crowded.hold(&[&bucket(5.0)], now()),
            hold(HoldReason::Unbegun, at(250))
        );
        assert_eq!(crowded.hold(&[&bucket(5.1)], now()), None);
        let halted = Standing {
            halted_until: at(1),
            ..crowded
        };
        let reason = HoldReason::SenderHalted;
        assert_eq!(halted.hold(&[&sender], now()), hold(reason, at(1)));
        let stopped = Standing {
            stopped: Some(HoldReason::CampaignStopped),
            ..halted
        };
        let reason = HoldReason::CampaignStopped;
        assert_eq!(stopped.hold(&[&sender], now()), hold(reason, None));
    }

    #[test]
    fn accounts_leave_a_quarter_of_the_slots_to_others() {
        assert_eq!(share_of_slots(256, 0), 192);
        assert_eq!(share_of_slots(256, 1), 192);
        assert_eq!(share_of_slots(256, 3), 64);
        assert_eq!(share_of_slots(8, 100), 1);
        assert_eq!(share_of_slots(0, 1), 1);
    }

    proptest! {
        #[test]
        fn over_many_ticks_shares_follow_the_weights_wherever_budgets_end(
            weights in prop::collection::vec(1i64..5, 2..8),
            budgets in prop::collection::vec(1i64..500, 1..60),
        ) {
            let mut turns: Vec<Turn> =
                weights.iter().enumerate().map(|(at, weight)| turn(at as u128 + 1, *weight, 2)).collect();
            let mut sums = vec![0; weights.len()];
            for budget in budgets {
                let planned = plan(now(), &turns, &[], budget);
                for (turn, debt) in turns.iter_mut().zip(planned.debts) {
                    // Nobody writes down what becomes of those whose turn did not come; they go first the next time.
                    if total(&planned.grants, turn.tenant_id.0.as_u128()) > 0 {
                        turn.debt = debt;
                    }
                }
                // Who is owed something keeps its place as well.
                turns.sort_by_key(|turn| {
                    turn.debt >= 0 && total(&planned.grants, turn.tenant_id.0.as_u128()) > 0
                });
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum += total(&planned.grants, at as u128 + 1);
                }
                let visits: Vec<f64> =
                    sums.iter().zip(&weights).map(|(sum, weight)| *sum as f64 / (10 * weight) as f64).collect();
                let most = visits.iter().copied().fold(f64::MIN, f64::max);
                let least = visits.iter().copied().fold(f64::MAX, f64::min);
                prop_assert!(most - least <= 1.0 + 1e-9, "visits {visits:?}");
            }
        }

        #[test]
        fn the_budget_is_spent_and_equal_weights_differ_by_one_visit_at_most(
            lanes in prop::collection::vec(1i64..6, 1..20),
            budget in 1i64..5000,
        ) {
            let turns: Vec<Turn> =
                lanes.iter().enumerate().map(|(at, n)| turn(at as u128 + 1, 1, *n)).collect();
            let grants = free(&turns, budget);
            let totals: Vec<i64> = (1..=turns.len()).map(|at| total(&grants, at as u128)).collect();

            prop_assert_eq!(totals.iter().sum::<i64>(), budget);
            let spread = totals.iter().max().unwrap() - totals.iter().min().unwrap();
            prop_assert!(spread <= 10, "spread {}", spread);
        }

        #[test]
        fn no_bucket_is_overdrawn(
            lanes in prop::collection::vec(0usize..4, 1..30),
            rates in prop::collection::vec(0.5f64..2000.0, 4),
            budget in 1i64..3000,
        ) {
            let buckets: Vec<Bucket> = rates.iter().map(|rate| bucket(*rate)).collect();
            let turns: Vec<Turn> = lanes.iter().enumerate().map(|(at, bucket)| {
                let mut turn = turn(at as u128 + 1, 1, 1);
                turn.lanes[0].buckets = vec![*bucket];
                turn
            }).collect();
            let grants = plan(now(), &turns, &buckets, budget).grants;
            for (at, bucket) in buckets.iter().enumerate() {
                let drawn: i64 = turns.iter()
                    .filter(|turn| turn.lanes[0].buckets == [at])
                    .filter_map(|turn| grants.iter().find(|g| g.tenant_id == turn.tenant_id))
                    .map(|grant| grant.cost)
                    .sum();
                prop_assert!(drawn <= bucket.left(now()), "{drawn}");
            }
            prop_assert!(grants.iter().map(|g| g.cost).sum::<i64>() <= budget);
        }
    }
}
