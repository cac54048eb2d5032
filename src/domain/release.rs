//! Who may send next: turns between tenants, then between the lanes of one tenant.
//!
//! Pure: the leader reads the facts, this plans, the leader writes what was granted.

use super::ids::{LaneId, TenantId};

/// A tenant whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it is.
    pub tenant_id: TenantId,
    /// The tenant's share, 1 to 100.
    pub weight: i64,
    /// What one visit grants one lane, before the weight; 1 or more.
    pub quantum: i64,
    /// The lanes that may go, those served longest ago first.
    pub lanes: Vec<LaneId>,
}

/// What one lane may let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Whose lane it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub lane_id: LaneId,
    /// How many messages, 1 or more.
    pub messages: i64,
}

/// Deals `budget` messages out over the turns, in their order.
///
/// Each round visits every tenant once and grants its weight times its quantum, dealt out over its lanes in turn; rounds go
/// on until the budget is spent. So tenants of equal weight never differ by more than one visit, whether one has one
/// lane or fifty.
pub fn plan(turns: &[Turn], budget: i64) -> Vec<Grant> {
    let turns: Vec<&Turn> = turns.iter().filter(|turn| !turn.lanes.is_empty()).collect();
    let mut granted: Vec<Vec<i64>> = turns.iter().map(|turn| vec![0; turn.lanes.len()]).collect();
    let mut next_lane: Vec<usize> = vec![0; turns.len()];
    let mut left = budget;
    while left > 0 && !turns.is_empty() {
        for (at, turn) in turns.iter().enumerate() {
            let mut visit = (turn.weight.max(1) * turn.quantum.max(1)).min(left);
            left -= visit;
            while visit > 0 {
                let share = turn.quantum.max(1).min(visit);
                granted[at][next_lane[at]] += share;
                next_lane[at] = (next_lane[at] + 1) % turn.lanes.len();
                visit -= share;
            }
            if left == 0 {
                break;
            }
        }
    }
    let grants = turns.iter().zip(&granted).flat_map(|(turn, counts)| {
        turn.lanes
            .iter()
            .zip(counts)
            .map(|(lane_id, messages)| Grant {
                tenant_id: turn.tenant_id,
                lane_id: *lane_id,
                messages: *messages,
            })
    });
    grants.filter(|grant| grant.messages > 0).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn turn(tenant: u128, weight: i64, lanes: i64) -> Turn {
        Turn {
            tenant_id: TenantId(Uuid::from_u128(tenant)),
            weight,
            quantum: 10,
            lanes: (0..lanes)
                .map(|lane| LaneId(tenant as i64 * 1000 + lane))
                .collect(),
        }
    }

    fn total(grants: &[Grant], tenant: u128) -> i64 {
        let tenant_id = TenantId(Uuid::from_u128(tenant));
        grants
            .iter()
            .filter(|g| g.tenant_id == tenant_id)
            .map(|g| g.messages)
            .sum()
    }

    #[test]
    fn a_lone_lane_gets_the_whole_budget() {
        let grants = plan(&[turn(1, 1, 1)], 512);
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].messages, 512);
    }

    #[test]
    fn fifty_lanes_get_no_more_than_one() {
        let grants = plan(&[turn(1, 1, 50), turn(2, 1, 1)], 1000);
        assert_eq!(total(&grants, 1), total(&grants, 2));
    }

    #[test]
    fn weight_three_gets_three_times_as_much() {
        let grants = plan(&[turn(1, 3, 2), turn(2, 1, 2)], 4000);
        assert_eq!(total(&grants, 1), 3 * total(&grants, 2));
    }

    #[test]
    fn nothing_to_do_grants_nothing() {
        assert!(plan(&[], 100).is_empty());
        assert!(plan(&[turn(1, 1, 0)], 100).is_empty());
        assert!(plan(&[turn(1, 1, 1)], 0).is_empty());
    }

    proptest! {
        #[test]
        fn the_budget_is_spent_and_equal_weights_differ_by_one_visit_at_most(
            lanes in prop::collection::vec(1i64..6, 1..20),
            budget in 1i64..5000,
        ) {
            let turns: Vec<Turn> =
                lanes.iter().enumerate().map(|(at, n)| turn(at as u128 + 1, 1, *n)).collect();
            let grants = plan(&turns, budget);
            let totals: Vec<i64> = (1..=turns.len()).map(|at| total(&grants, at as u128)).collect();

            prop_assert_eq!(totals.iter().sum::<i64>(), budget);
            let spread = totals.iter().max().unwrap() - totals.iter().min().unwrap();
            prop_assert!(spread <= 10, "spread {}", spread);
        }
    }
}
