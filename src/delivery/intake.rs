//! The one door for messages: message, body, count, lane and wake commit together or not at all. Release makes the jobs.

use super::moves::append_counted;
use crate::domain::channel::Class;
use crate::domain::counts::{CountDelta, CountWord, CountedIn};
use crate::store::lanes::{Wake, append_wakes, ensure_lane};
use crate::store::messages::{BatchHead, Inserted, NewMessage, count_present, insert_messages};
use crate::store::senders::Sender;
use crate::store::{LANES, StoreError, StoreResult, Tx};

/// Messages of one sender, class and campaign.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    /// Where they come from.
    pub sender: &'a Sender,
    /// What kind of traffic they are.
    pub class: Class,
    /// What they have in common; the lane is filled in.
    pub head: BatchHead,
    /// The messages.
    pub messages: &'a [NewMessage],
}

/// Accepts messages. Accepting the same ones again changes nothing.
///
/// # Errors
/// [`StoreError::Moved`] when an id is taken by another person's message: nothing is accepted then.
pub async fn accept_messages<K>(tx: &mut Tx<K>, commands: Commands<'_>) -> StoreResult<Inserted> {
    let Commands {
        sender,
        class,
        mut head,
        messages,
    } = commands;
    if messages.is_empty() {
        return Ok(Inserted::default());
    }
    head.lane_id = ensure_lane(
        tx.conn(),
        head.tenant_id,
        sender.id,
        class,
        head.campaign_id,
    )
    .await?;
    let inserted = insert_messages(tx.conn(), &head, messages).await?;
    let added = inserted.queued + inserted.deferred;
    let asked = messages.len() as i64;
    // A repeated chunk finds its own messages; anything else under these ids would lose somebody.
    if added != asked && count_present(tx.conn(), &head, messages).await? != asked {
        return Err(StoreError::Moved { what: "message id" });
    }
    let mut delta = CountDelta::default();
    delta
        .add(CountWord::Queued, inserted.queued)
        .add(CountWord::Deferred, inserted.deferred);
    let counted_in = CountedIn::of(head.campaign_id, head.channel);
    append_counted(tx, [((head.tenant_id, counted_in), delta)]).await?;
    if let Some(first) = inserted.head {
        let wake = Wake {
            tenant_id: head.tenant_id,
            lane_id: head.lane_id,
            head: first,
        };
        append_wakes(tx.conn(), &[wake]).await?;
        tx.announce(LANES, 0);
    }
    Ok(inserted)
}
