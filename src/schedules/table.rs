//! The list: which job is ordered when.

use crate::domain::orders::{
    DemoAdvanceStatus, FoldCampaignDeltas, MaintainPartitions, ResolveDoubt, StartDueCampaigns,
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
    schedule::<DemoAdvanceStatus>("demo-advance", "*/5 * * * * *"),
    schedule::<StartDueCampaigns>("start-due", "*/5 * * * * *"),
    schedule::<ResolveDoubt>("resolve-doubt", "*/5 * * * * *"),
    schedule::<MaintainPartitions>("partitions", "0 0 * * * *"),
];
