//! The list: which job is ordered when.

use crate::domain::orders::{
    CheckOrphans, DemoAdvanceStatus, FoldCampaignDeltas, FoldProviderEvents, MaintainPartitions,
    PruneHistory, ReconcileProvider, ResolveDoubt, StartDueCampaigns, SyncTenants,
};
use crate::jobs::queue::{NewJob, Payload};
use crate::store::schedules::NewSchedule;

/// One schedule.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// As it is stored.
    pub row: NewSchedule,
    /// Makes the job of one tick.
    pub order: fn() -> NewJob,
}

const fn schedule<P: Payload + Default>(id: &'static str, cron: &'static str) -> Schedule {
    Schedule {
        row: NewSchedule {
            id,
            cron,
            queue: P::QUEUE,
            kind: P::KIND,
        },
        order: || NewJob::from(P::default()),
    }
}

/// Every schedule: seconds, minutes, hours, day of month, month, day of week; in UTC.
pub const SCHEDULES: &[Schedule] = &[
    schedule::<FoldCampaignDeltas>("fold-deltas", "* * * * * *"),
    schedule::<FoldProviderEvents>("fold-events", "* * * * * *"),
    schedule::<DemoAdvanceStatus>("demo-advance", "*/5 * * * * *"),
    schedule::<StartDueCampaigns>("start-due", "*/5 * * * * *"),
    schedule::<ResolveDoubt>("resolve-doubt", "*/5 * * * * *"),
    // A look that finds nothing to do, but for a server in quarantine.
    schedule::<ReconcileProvider>("reconcile", "*/5 * * * * *"),
    schedule::<SyncTenants>("sync-tenants", "*/10 * * * * *"),
    schedule::<MaintainPartitions>("partitions", "0 0 * * * *"),
    // Not at the full hour, when others are busy.
    schedule::<PruneHistory>("prune", "0 20 * * * *"),
    // While America sleeps.
    schedule::<CheckOrphans>("orphans", "0 40 8 * * *"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schedules::{RUN_TRIES, run_payload};

    /// An operator's run is made from the row alone, since only this table knows the order.
    #[test]
    fn a_run_made_from_the_row_is_the_order_of_a_tick() {
        for schedule in SCHEDULES {
            let job = (schedule.order)();
            assert_eq!(job.unique_key.as_deref(), Some(schedule.row.kind));
            assert_eq!(job.payload, run_payload(), "{}", schedule.row.id);
            assert_eq!(job.max_attempts, RUN_TRIES, "{}", schedule.row.id);
            assert_eq!(
                (job.queue.as_str(), job.kind.as_str()),
                (schedule.row.queue, schedule.row.kind)
            );
        }
    }
}
