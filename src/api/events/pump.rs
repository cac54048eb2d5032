//! Streams to browsers and programs: whole snapshots, each with its version as id.
//!
//! A reconnect needs no replay: the first event of each topic is its newest snapshot. A reader that takes nothing for
//! [`SLOW_READER`] is dropped, and so is every stream after [`LIFETIME`]: the reader comes back, and shows again who it
//! is.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use poem::web::sse::Event;
use poem_openapi::payload::EventStream;
use poem_openapi::types::{ToJSON, Type};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::api::state::ApiState;
use crate::live::Watch;
use crate::live::topic::Snapshot;
use crate::telemetry::STREAMS_DROPPED_TOTAL;

/// How long a reader may take nothing, of a process that serves people.
pub const SLOW_READER: Duration = Duration::from_secs(30);
/// Between two signs of life when nothing else is sent, so that no proxy takes the stream for dead.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long one stream lasts; a session may end meanwhile, and a key be revoked.
const LIFETIME: Duration = Duration::from_mins(15);

/// What an operation that streams answers with.
pub type LiveStream<T> = EventStream<BoxStream<'static, T>>;

/// What one snapshot says to those who read a stream.
pub trait LiveEvent: Type + ToJSON + Sized + 'static {
    /// The snapshot as it is shown at `now`. None when it says a word of a newer version beside this one: the next event,
    /// or a reload, will tell.
    fn of(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Self>;

    /// The event's name.
    fn name(&self) -> &'static str;

    /// The event's id.
    fn version(&self) -> i64;
}

/// Streams snapshots until the reader goes, is too slow, or the process ends.
pub fn stream<T: LiveEvent>(state: &ApiState, watch: Watch) -> LiveStream<T> {
    let clock = state.clock().clone();
    let stream = pumped(watch.snapshots(), state.streams.clone(), state.slow_reader)
        .filter_map(move |snapshot| std::future::ready(T::of(&snapshot, clock.now())))
        .boxed();
    EventStream::new(stream)
        .to_event(|event| {
            Event::message(event.to_json_string())
                .id(event.version().to_string())
                .event_type(event.name())
        })
        .keep_alive(state.keep_alive)
}

/// The server asks a stream for more only while its reader takes what it has; whether one takes anything is seen from
/// outside, by a task that hands over one snapshot at a time.
fn pumped(
    mut snapshots: impl Stream<Item = Arc<Snapshot>> + Send + Unpin + 'static,
    stop: CancellationToken,
    slow_reader: Duration,
) -> impl Stream<Item = Arc<Snapshot>> + Send {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let end = tokio::time::sleep(LIFETIME);
        tokio::pin!(end);
        loop {
            let snapshot = tokio::select! {
                next = snapshots.next() => match next {
                    Some(snapshot) => snapshot,
                    None => return,
                },
                () = sender.closed() => return,
                () = stop.cancelled() => return,
                () = &mut end => return,
            };
            let sent = tokio::select! {
                sent = sender.send_timeout(snapshot, slow_reader) => sent,
                () = stop.cancelled() => return,
            };
            if let Err(SendTimeoutError::Timeout(_)) = sent {
                metrics::counter!(STREAMS_DROPPED_TOTAL).increment(1);
            }
            if sent.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio_stream::wrappers::WatchStream;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::TenantId;
    use crate::live::topic::{Content, Topic};

    fn snapshot(version: i64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            topic: Topic::Campaigns(TenantId(Uuid::nil())),
            version,
            content: Content::Campaigns(Vec::new()),
        })
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_dropped() {
        let (sender, snapshots) = watch::channel(snapshot(1));
        let (patience, stop) = (Duration::from_millis(20), CancellationToken::new());
        let mut stream = Box::pin(pumped(WatchStream::new(snapshots), stop, patience));
        // The first waits in the channel; nobody takes it, so the second has no room.
        while sender.receiver_count() > 0 {
            sender.send_replace(snapshot(2));
            tokio::task::yield_now().await;
        }
        assert!(stream.next().await.is_some());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_gets_the_newest() {
        let (sender, snapshots) = watch::channel(snapshot(1));
        let stop = CancellationToken::new();
        let stream = pumped(WatchStream::new(snapshots), stop, SLOW_READER);
        let mut stream = Box::pin(stream);
        assert_eq!(stream.next().await.map(|s| s.version), Some(1));
        for version in 2..=9 {
            sender.send_replace(snapshot(version));
        }
        assert_eq!(stream.next().await.map(|s| s.version), Some(9));
    }

    #[tokio::test]
    async fn the_end_of_the_process_ends_every_stream() {
        let stop = CancellationToken::new();
        let nothing = futures_util::stream::pending();
        let mut stream = Box::pin(pumped(nothing, stop.clone(), SLOW_READER));
        stop.cancel();
        assert!(stream.next().await.is_none());
    }
}
