//! One line per job: its queue, how long a run may take, how often it is tried, and who may run it beside whom.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::queue::{
    Backoff, Delivered, EnqueueIn, Handlers, KindSpec, Outcome, Payload, QueueSpec, Weight,
};
use super::{Job, JobContext, Run};
use crate::domain::orders::{
    CancelCampaign, CheckOrphans, ClearTenant, DemoAdvanceStatus, ExpandCampaign,
    FoldCampaignDeltas, FoldProviderEvents, ImportContacts, MaintainPartitions, PruneHistory,
    ReconcileProvider, ResolveDoubt, RetryFailed, RetryMessage, SendMessage, StartDueCampaigns,
    SyncTenants,
};
use crate::store::Tx;

/// A queue, and how much of it one process takes on.
#[derive(Debug, Clone, Copy)]
pub struct QueueLine {
    /// Its name in rows.
    pub name: &'static str,
    /// Jobs of one process at once, each by its weight.
    pub concurrency: usize,
    /// What a job counts for.
    pub weight: Weight,
    /// Whether tenants take turns.
    pub claims_in_turns: bool,
}

/// Messages to send. First in, first out: who may send next was decided before.
pub const SEND: &str = "send";
/// Files to read.
pub const IMPORTS: &str = "imports";
/// Campaigns to expand.
pub const CAMPAIGNS: &str = "campaigns";
/// What the schedules order.
pub const HOUSE: &str = "house";

/// Every queue.
pub const QUEUES: &[QueueLine] = &[
    // Each handler mostly waits for a batch of 64 or for a provider.
    QueueLine {
        name: SEND,
        concurrency: 256,
        weight: Weight {
            of: messages_of,
            most: SendMessage::MESSAGES_MAX,
        },
        claims_in_turns: false,
    },
    QueueLine {
        name: IMPORTS,
        concurrency: 2,
        weight: Weight::ONE,
        claims_in_turns: true,
    },
    QueueLine {
        name: CAMPAIGNS,
        concurrency: 2,
        weight: Weight::ONE,
        claims_in_turns: true,
    },
    // Some of them run for minutes, each mostly in one statement or in wait for a provider; those that come every second must
    // not wait for these.
    QueueLine {
        name: HOUSE,
        concurrency: 12,
        weight: Weight::ONE,
        claims_in_turns: false,
    },
];

/// Messages of a [`SendMessage`].
fn messages_of(payload: &Value) -> usize {
    payload["message_ids"].as_array().map_or(1, Vec::len)
}

macro_rules! orders {
    ($($order:ident { queue: $queue:expr, timeout_secs: $timeout:literal, tries: $tries:expr, lane: $lane:expr, unique: $unique:expr }),+ $(,)?) => {
        $(impl Payload for $order {
            const KIND: &'static str = $order::NAME;
            const QUEUE: &'static str = $queue;
            const MAX_ATTEMPTS: i16 = $tries;

            fn lane(&self) -> Option<Uuid> {
                let lane: fn(&$order) -> Option<Uuid> = $lane;
                lane(self)
            }

            fn unique_key(&self) -> Option<String> {
                let unique: fn(&$order) -> Option<String> = $unique;
                unique(self)
            }
        })+

        /// The handlers of one queue.
        fn handlers(queue: &str, context: &JobContext) -> Handlers {
            let mut handlers = Handlers::default();
            $(if $queue == queue {
                handlers = with::<$order>(handlers, Duration::from_secs($timeout), context.clone());
            })+
            handlers
        }
    };
}

orders! {
    SendMessage { queue: SEND, timeout_secs: 60, tries: 12, lane: |_| None, unique: |_| None },
    // Freezing an audience of millions is one statement.
    ExpandCampaign { queue: CAMPAIGNS, timeout_secs: 660, tries: 12, lane: |o| Some(o.tenant_id.0),
        unique: |o| Some(format!("expand:{}", o.campaign_id)) },
    // A run ends itself after seconds.
    CancelCampaign { queue: CAMPAIGNS, timeout_secs: 60, tries: 12, lane: |o| Some(o.tenant_id.0),
        unique: |o| Some(format!("cancel:{}", o.campaign_id)) },
    // A run ends itself after seconds.
    RetryFailed { queue: CAMPAIGNS, timeout_secs: 60, tries: 12, lane: |o| Some(o.tenant_id.0),
        unique: |o| Some(format!("retry:{}:{}", o.campaign_id, o.asked_at.timestamp_micros())) },
    RetryMessage { queue: CAMPAIGNS, timeout_secs: 30, tries: 12, lane: |o| Some(o.tenant_id.0),
        unique: |o| Some(format!("retry:{}", o.message_id)) },
    StartDueCampaigns { queue: HOUSE, timeout_secs: 60, tries: 3, lane: |_| None,
        unique: |_| Some(StartDueCampaigns::NAME.into()) },
    // A run ends itself after seconds; one chunk of 1 MiB may wait for a slow disk.
    ImportContacts { queue: IMPORTS, timeout_secs: 120, tries: 12, lane: |o| Some(o.tenant_id.0),
        unique: |o| Some(format!("import:{}", o.import_id)) },
    // The next tick orders them again: tried often, kept dead never for long.
    FoldCampaignDeltas { queue: HOUSE, timeout_secs: 30, tries: 3, lane: |_| None,
        unique: |_| Some(FoldCampaignDeltas::NAME.into()) },
    MaintainPartitions { queue: HOUSE, timeout_secs: 60, tries: 3, lane: |_| None,
        unique: |_| Some(MaintainPartitions::NAME.into()) },
    // All of a large tenant may take a minute, and there may be a thousand.
    CheckOrphans { queue: HOUSE, timeout_secs: 3_600, tries: 3, lane: |_| None,
        unique: |_| Some(CheckOrphans::NAME.into()) },
    PruneHistory { queue: HOUSE, timeout_secs: 600, tries: 3, lane: |_| None,
        unique: |_| Some(PruneHistory::NAME.into()) },
    DemoAdvanceStatus { queue: HOUSE, timeout_secs: 60, tries: 3, lane: |_| None,
        unique: |_| Some(DemoAdvanceStatus::NAME.into()) },
    FoldProviderEvents { queue: HOUSE, timeout_secs: 120, tries: 3, lane: |_| None,
        unique: |_| Some(FoldProviderEvents::NAME.into()) },
    // Each account has its share of time for look-ups, all accounts at once; a round that began is ended.
    ResolveDoubt { queue: HOUSE, timeout_secs: 330, tries: 3, lane: |_| None,
        unique: |_| Some(ResolveDoubt::NAME.into()) },
    // Some accounts a run, eight at once; in quarantine alone.
    ReconcileProvider { queue: HOUSE, timeout_secs: 900, tries: 3, lane: |_| None,
        unique: |_| Some(ReconcileProvider::NAME.into()) },
    SyncTenants { queue: HOUSE, timeout_secs: 60, tries: 3, lane: |_| None,
        unique: |_| Some(SyncTenants::NAME.into()) },
    // A run ends itself after 20 seconds and comes again.
    ClearTenant { queue: HOUSE, timeout_secs: 60, tries: 12, lane: |_| None,
        unique: |o| Some(format!("clear:{}", o.tenant_id)) },
}

fn with<J: Job>(handlers: Handlers, timeout: Duration, context: JobContext) -> Handlers {
    let spec = KindSpec {
        kind: J::KIND,
        timeout,
        backoff: Backoff::default(),
    };
    handlers.with(spec, move |delivered: Delivered| {
        let context = context.clone();
        async move {
            match serde_json::from_value::<J>(delivered.payload) {
                Ok(order) => {
                    let run = Run {
                        fence: delivered.fence,
                        load: delivered.load,
                        attempt: delivered.attempt,
                    };
                    order.run(&context, run).await
                }
                // A newer version may have written it, and reads it.
                Err(error) => Outcome::retry(format!("unreadable payload: {error}")),
            }
        }
    })
}

/// What this process serves of a queue, and with which handlers.
pub fn service(line: QueueLine, context: &JobContext) -> (QueueSpec, Handlers) {
    let spec = QueueSpec {
        queue: line.name.into(),
        concurrency: line.concurrency,
        weight: line.weight,
        claims_in_turns: line.claims_in_turns,
    };
    (spec, handlers(line.name, context))
}

impl<K: Send> EnqueueIn for Tx<K> {
    fn conn(&mut self) -> &mut PgConnection {
        Self::conn(self)
    }

    fn announce(&mut self, queue: &str, lowest_id: i64) {
        Self::announce(self, queue, lowest_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::orders::NAMES;

    #[test]
    fn every_order_has_a_line_in_a_queue_that_is_served() {
        let lines = [
            (SendMessage::KIND, SendMessage::QUEUE),
            (ExpandCampaign::KIND, ExpandCampaign::QUEUE),
            (CancelCampaign::KIND, CancelCampaign::QUEUE),
            (RetryFailed::KIND, RetryFailed::QUEUE),
            (RetryMessage::KIND, RetryMessage::QUEUE),
            (StartDueCampaigns::KIND, StartDueCampaigns::QUEUE),
            (ImportContacts::KIND, ImportContacts::QUEUE),
            (FoldCampaignDeltas::KIND, FoldCampaignDeltas::QUEUE),
            (MaintainPartitions::KIND, MaintainPartitions::QUEUE),
            (CheckOrphans::KIND, CheckOrphans::QUEUE),
            (PruneHistory::KIND, PruneHistory::QUEUE),
            (DemoAdvanceStatus::KIND, DemoAdvanceStatus::QUEUE),
            (SyncTenants::KIND, SyncTenants::QUEUE),
            (ClearTenant::KIND, ClearTenant::QUEUE),
            (FoldProviderEvents::KIND, FoldProviderEvents::QUEUE),
            (ResolveDoubt::KIND, ResolveDoubt::QUEUE),
            (ReconcileProvider::KIND, ReconcileProvider::QUEUE),
        ];
        for name in NAMES {
            let (_, queue) = lines.iter().find(|(kind, _)| kind == name).unwrap();
            assert!(
                QUEUES.iter().any(|line| line.name == *queue),
                "{name} in {queue}"
            );
        }
    }
}
