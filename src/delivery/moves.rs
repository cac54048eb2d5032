//! What one transaction moved, so that it can say so: a delta per campaign or
//! channel, a wake per lane that got messages back, and
//! an event for each decision that a person would ask about.

use std::collections::BTreeMap;

use crate::domain::counts::{CountDelta, CountWord, CountedIn};
use crate::domain::ids::{LaneId, MessageId, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::store::campaign_counts::append_deltas;
use crate::store::lanes::{Wake, append_wakes};
use crate::store::message_events::{Event, EventKind, insert_events};
use crate::store::message_hours::append_single_deltas;
use crate::store::messages::locked::Locked;
use crate::store::{LANES, StoreResult, Tx};

/// Collects the moves of one transaction.
#[derive(Debug, Default)]
pub(super) struct Moves {
    deltas: BTreeMap<(TenantId, CountedIn), CountDelta>,
    heads: BTreeMap<(TenantId, LaneId), MessageId>,
    events: Vec<Event>,
}

impl Moves {
    /// A locked message goes to another phase.
    pub(super) fn add(&mut self, message: &Locked, to: Phase, drop_reason: Option<DropReason>) {
        let (tenant_id, id) = (message.key.tenant_id, message.key.id);
        // The person is counted by the message that took its place.
        if !message.is_replaced {
            self.shift(
                tenant_id,
                CountedIn::of(message.campaign_id, message.channel),
                CountWord::of(message.phase, message.drop_reason),
                CountWord::of(to, drop_reason),
                1,
            );
        }
        if let Some(kind) = EventKind::of(to) {
            self.events.push(Event {
                key: message.key,
                kind,
                attempt_no: message.attempt_no,
                reason: drop_reason.map(DropReason::as_str),
            });
        }
        if to == Phase::Queued {
            self.wake(Wake {
                tenant_id,
                lane_id: message.lane_id,
                head: id,
            });
        }
    }

    /// Messages went from one number to another.
    pub(super) fn shift(
        &mut self,
        tenant_id: TenantId,
        counted_in: CountedIn,
        from: CountWord,
        to: CountWord,
        messages: i64,
    ) {
        self.deltas
            .entry((tenant_id, counted_in))
            .or_default()
            .shift(from, to, messages);
    }

    /// Several numbers change together.
    pub(super) fn merge(&mut self, tenant_id: TenantId, counted_in: CountedIn, delta: &CountDelta) {
        self.deltas
            .entry((tenant_id, counted_in))
            .or_default()
            .merge(delta);
    }

    /// One number changes by itself.
    pub(super) fn add_word(
        &mut self,
        tenant_id: TenantId,
        counted_in: CountedIn,
        word: CountWord,
        messages: i64,
    ) {
        self.deltas
            .entry((tenant_id, counted_in))
            .or_default()
            .add(word, messages);
    }

    /// A lane got messages.
    pub(super) fn wake(&mut self, wake: Wake) {
        self.heads
            .entry((wake.tenant_id, wake.lane_id))
            .and_modify(|head| *head = wake.head.min(*head))
            .or_insert(wake.head);
    }

    /// Appends what was collected, in the transaction that moved it.
    pub(super) async fn save<K>(self, tx: &mut Tx<K>) -> StoreResult<()> {
        append_counted(tx, self.deltas).await?;
        insert_events(tx.conn(), &self.events).await?;
        let wakes: Vec<Wake> = self
            .heads
            .into_iter()
            .map(|((tenant_id, lane_id), head)| Wake {
                tenant_id,
                lane_id,
                head,
            })
            .collect();
        append_wakes(tx.conn(), &wakes).await?;
        if !wakes.is_empty() {
            tx.announce(LANES, 0);
        }
        Ok(())
    }
}

/// Writes deltas where they are counted.
pub(super) async fn append_counted<K>(
    tx: &mut Tx<K>,
    deltas: impl IntoIterator<Item = ((TenantId, CountedIn), CountDelta)>,
) -> StoreResult<()> {
    let (mut campaigns, mut singles) = (Vec::new(), Vec::new());
    for ((tenant_id, counted_in), delta) in deltas {
        match counted_in {
            CountedIn::Campaign(id) => campaigns.push((tenant_id, id, delta)),
            CountedIn::Single(channel) => singles.push((tenant_id, channel, delta)),
        }
    }
    append_deltas(tx.conn(), &campaigns).await?;
    append_single_deltas(tx.conn(), &singles).await
}
