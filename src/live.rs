//! What is watched is read once per process, however many watch.
//!
//! Each kind of topic has one reader. While anybody watches a topic of its kind, it reads all that are watched, of every
//! tenant, with the same statements: they cost the same for one watcher and for a thousand. Nobody watches: nothing is
//! read. Whoever begins to watch gets the newest snapshot at once; what nobody watched before is read then and there. A
//! watcher that is slow misses snapshots, never the newest one, and holds nobody up.

pub mod topic;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt, select_all};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::WatchStream;

use self::topic::{Snapshot, Topic, TopicKind};
use crate::clock::answer::answered;
use crate::store::Db;
use crate::telemetry::{LIVE_READS_TOTAL, LIVE_WATCHERS};

/// The time between two reads while the database does not answer.
const PERIOD_IN_TROUBLE: Duration = Duration::from_secs(2);
/// How long who begins to watch waits for what nobody watched before.
const FIRST_READ_WITHIN: Duration = Duration::from_secs(5);
/// Watchers of one process at most, whatever they watch.
const WATCHERS_MAX: usize = 2_000;

/// Hands snapshots to whoever watches. Clones share everything.
#[derive(Debug, Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    places: Arc<Semaphore>,
    /// By the number of the kind.
    feeds: [Feed; TopicKind::ALL.len()],
}

/// What is watched of one kind.
#[derive(Debug, Default)]
struct Feed {
    watched: Mutex<Watched>,
    /// Somebody watches what nobody watched before.
    newcomers: Notify,
    reads: AtomicU64,
}

#[derive(Debug, Default)]
struct Watched {
    topics: HashMap<Topic, watch::Sender<Newest>>,
    is_read: bool,
}

/// The newest that is known of a topic.
#[derive(Debug, Clone)]
enum Newest {
    /// It was not read yet.
    Unread,
    /// It is not there.
    Missing,
    /// It is this.
    Read(Arc<Snapshot>),
}

/// Why somebody cannot watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// This process has as many watchers as it takes.
    #[error("there are {WATCHERS_MAX} watchers already")]
    TooMany,
    /// There is nothing of this name.
    #[error("{} is not there", .0.kind().as_str())]
    Missing(Topic),
    /// The database does not answer.
    #[error("{} could not be read in time", .0.kind().as_str())]
    Unread(Topic),
}

/// Somebody's place, and the topics they watch from it.
#[derive(Debug)]
pub struct Watch {
    newest: Vec<watch::Receiver<Newest>>,
    place: Place,
}

#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(places: &Arc<Semaphore>) -> Option<Self> {
        let permit = places.clone().try_acquire_owned().ok()?;
        metrics::gauge!(LIVE_WATCHERS).increment(1);
        Some(Self { _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!(LIVE_WATCHERS).decrement(1);
    }
}

impl Watch {
    /// The newest snapshot of each topic, then every one that is newer when the stream is asked. Ends with the process.
    pub fn snapshots(self) -> impl Stream<Item = Arc<Snapshot>> + Send + Unpin {
        let Self { newest, place } = self;
        select_all(newest.into_iter().map(WatchStream::new)).filter_map(move |newest| {
            // The place is kept as long as the stream.
            let _ = &place;
            std::future::ready(match newest {
                Newest::Read(snapshot) => Some(snapshot),
                Newest::Unread | Newest::Missing => None,
            })
        })
    }
}

impl Live {
    /// On the databases of this process.
    pub fn new(db: Db) -> Self {
        Self {
            inner: Arc::new(Inner {
                db,
                places: Arc::new(Semaphore::new(WATCHERS_MAX)),
                feeds: Default::default(),
            }),
        }
    }

    /// Watches topics from now on, for as long as what is returned is kept. The caller has made sure that whoever asks
    /// may see them: a topic names its tenant.
    ///
    /// # Errors
    /// [`WatchError`]: nothing is watched then.
    pub async fn watch(&self, topics: &[Topic]) -> Result<Watch, WatchError> {
        let place = Place::take(&self.inner.places).ok_or(WatchError::TooMany)?;
        let mut newest: Vec<_> = topics.iter().map(|topic| self.subscribe(*topic)).collect();
        for (topic, receiver) in topics.iter().zip(&mut newest) {
            let is_known = |newest: &Newest| !matches!(newest, Newest::Unread);
            match timeout(FIRST_READ_WITHIN, receiver.wait_for(is_known)).await {
                Ok(Ok(known)) if matches!(*known, Newest::Read(_)) => {}
                Ok(Ok(_)) => return Err(WatchError::Missing(*topic)),
                Ok(Err(_)) | Err(_) => return Err(WatchError::Unread(*topic)),
            }
        }
        Ok(Watch { newest, place })
    }

    fn subscribe(&self, topic: Topic) -> watch::Receiver<Newest> {
        let feed = self.inner.feed(topic.kind());
        let mut watched = feed.watched();
        let sender = watched
            .topics
            .entry(topic)
            .or_insert_with(|| watch::channel(Newest::Unread).0);
        let receiver = sender.subscribe();
        // What was not there may be there by now.
        sender.send_if_modified(|newest| {
            let is_missing = matches!(newest, Newest::Missing);
            if is_missing {
                *newest = Newest::Unread;
            }
            is_missing
        });
        if matches!(*receiver.borrow(), Newest::Unread) {
            feed.newcomers.notify_one();
        }
        if !watched.is_read {
            watched.is_read = true;
            tokio::spawn(read_while_watched(self.inner.clone(), topic.kind()));
        }
        receiver
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        WATCHERS_MAX - self.inner.places.available_permits()
    }

    /// How often topics of a kind were read since the process started.
    pub fn reads(&self, kind: TopicKind) -> u64 {
        self.inner.feed(kind).reads.load(Ordering::Relaxed)
    }

    /// Whether any topic of a kind is being read.
    pub fn is_reading(&self, kind: TopicKind) -> bool {
        self.inner.feed(kind).watched().is_read
    }
}

impl Inner {
    fn feed(&self, kind: TopicKind) -> &Feed {
        &self.feeds[kind as usize]
    }
}

impl Feed {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody still watches; when that is nothing, the reading ends with this call.
    fn all_topics(&self) -> Vec<Topic> {
        let mut watched = self.watched();
        watched
            .topics
            .retain(|_, sender| sender.receiver_count() > 0);
        watched.is_read = !watched.topics.is_empty();
        watched.topics.keys().copied().collect()
    }

    /// What was not read yet.
    fn unread_topics(&self) -> Vec<Topic> {
        let watched = self.watched();
        let unread = watched
            .topics
            .iter()
            .filter(|(_, sender)| matches!(*sender.borrow(), Newest::Unread));
        unread.map(|(topic, _)| *topic).collect()
    }

    /// Hands out what was read of these topics.
    fn publish(&self, topics: &[Topic], snapshots: Vec<Snapshot>) {
        let watched = self.watched();
        for snapshot in snapshots {
            if let Some(sender) = watched.topics.get(&snapshot.topic) {
                sender.send_if_modified(|newest| {
                    let is_news = match newest {
                        Newest::Read(known) => known.content != snapshot.content,
                        Newest::Unread | Newest::Missing => true,
                    };
                    if is_news {
                        *newest = Newest::Read(Arc::new(snapshot));
                    }
                    is_news
                });
            }
        }
        for sender in topics.iter().filter_map(|topic| watched.topics.get(topic)) {
            sender.send_if_modified(|newest| {
                let is_missing = matches!(newest, Newest::Unread);
                if is_missing {
                    *newest = Newest::Missing;
                }
                is_missing
            });
        }
    }
}

async fn read_while_watched(inner: Arc<Inner>, kind: TopicKind) {
    let feed = inner.feed(kind);
    let (mut next, mut is_in_trouble) = (Instant::now(), false);
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            () = feed.newcomers.notified() => {}
        }
        let started = Instant::now();
        let is_due = started >= next;
        let topics = if is_due {
            feed.all_topics()
        } else {
            feed.unread_topics()
        };
        if topics.is_empty() {
            if is_due {
                return;
            }
            continue;
        }
        feed.reads.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(LIVE_READS_TOTAL, "topic" => kind.as_str()).increment(1);
        let period = match answered(topic::read(&inner.db, kind, &topics)).await {
            Ok(snapshots) => {
                feed.publish(&topics, snapshots);
                is_in_trouble = false;
                kind.period()
            }
            Err(error) => {
                if !is_in_trouble {
                    tracing::warn!(topic = kind.as_str(), %error, "live numbers cannot be read; trying on");
                }
                is_in_trouble = true;
                PERIOD_IN_TROUBLE
            }
        };
        if is_due || is_in_trouble {
            next = started + period;
        }
    }
}
