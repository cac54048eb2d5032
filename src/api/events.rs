//! Streams to browsers and programs: whole snapshots, each with its version as id.
//!
//! A reconnect needs no replay: the first event is the newest snapshot. A reader that takes nothing for
//! [`SLOW_READER`] is dropped, and so is every stream after [`LIFETIME`]: the reader comes back, and shows again who it
//! is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use poem::web::sse::Event;
use poem_openapi::payload::EventStream;
use poem_openapi::types::ToJSON;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::progress::CampaignProgress;
use crate::live::Snapshots;
use crate::store::campaign_counts::CountSnapshot;

/// The name of a campaign's events.
pub const CAMPAIGN_EVENT: &str = "campaign";

/// A sign of life when nothing else is sent, so that no proxy takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a reader may take nothing.
const SLOW_READER: Duration = Duration::from_secs(30);
/// How long one stream lasts; a session may end meanwhile, and a key be revoked.
const LIFETIME: Duration = Duration::from_mins(15);

/// What an operation that streams a campaign answers with.
pub type CampaignStream = EventStream<BoxStream<'static, CampaignProgress>>;

/// Streams snapshots until the reader goes, is too slow, or the process ends.
pub fn stream_campaign(snapshots: Snapshots, stop: CancellationToken) -> CampaignStream {
    let stream = pumped(snapshots, stop, SLOW_READER)
        // A status of a newer version beside this one: the next event, or a reload, will tell.
        .filter_map(|snapshot| async move { CampaignProgress::try_from(&*snapshot).ok() })
        .boxed();
    EventStream::new(stream)
        .to_event(|progress| {
            Event::message(progress.to_json_string())
                .id(progress.version.to_string())
                .event_type(CAMPAIGN_EVENT)
        })
        .keep_alive(KEEP_ALIVE)
}

/// The server asks a stream for more only while its reader takes what it has; whether one takes anything is seen from
/// outside, by a task that hands over one snapshot at a time.
fn pumped(
    mut snapshots: Snapshots,
    stop: CancellationToken,
    slow_reader: Duration,
) -> impl Stream<Item = Arc<CountSnapshot>> + Send {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let end = tokio::time::sleep(LIFETIME);
        tokio::pin!(end);
        loop {
            let newest = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = newest
                && sender.send_timeout(snapshot, slow_reader).await.is_err()
            {
                return;
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
                () = stop.cancelled() => return,
                () = &mut end => return,
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;
    use crate::domain::counts::Counts;
    use crate::domain::ids::{CampaignId, TenantId};

    fn snapshot(version: i64) -> Arc<CountSnapshot> {
        Arc::new(CountSnapshot {
            tenant_id: TenantId(Uuid::nil()),
            campaign_id: CampaignId(Uuid::nil()),
            status: "sending".to_owned(),
            version,
            counts: Counts::default(),
            halt: None,
            pace: None,
        })
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_dropped() {
        let (sender, snapshots) = watch::channel(Some(snapshot(1)));
        let patience = Duration::from_millis(20);
        let mut stream = Box::pin(pumped(snapshots, CancellationToken::new(), patience));
        // The first waits in the channel; nobody takes it, so the second has no room.
        while sender.receiver_count() > 0 {
            sender.send_modify(|newest| *newest = Some(snapshot(2)));
            tokio::task::yield_now().await;
        }
        assert!(stream.next().await.is_some());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_gets_the_newest() {
        let (sender, snapshots) = watch::channel(Some(snapshot(1)));
        let stream = pumped(snapshots, CancellationToken::new(), SLOW_READER);
        let mut stream = Box::pin(stream);
        assert_eq!(stream.next().await.map(|s| s.version), Some(1));
        for version in 2..=9 {
            sender.send_modify(|newest| *newest = Some(snapshot(version)));
        }
        assert_eq!(stream.next().await.map(|s| s.version), Some(9));
    }

    #[tokio::test]
    async fn the_end_of_the_process_ends_every_stream() {
        let (_sender, snapshots) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut stream = Box::pin(pumped(snapshots, stop.clone(), SLOW_READER));
        stop.cancel();
        assert!(stream.next().await.is_none());
    }
}
