//! How a worker hears of work: at once in its own process, within milliseconds in another one.
//!
//! A committed transaction announces (queue, lowest new id). The process's own fetchers are woken directly;
//! the rest of the installation by at most one NOTIFY per [`Tuning::notify_gap`], sent outside of any
//! transaction that matters. All of it is a hint: what is lost is found by the fallback poll.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{Connection, query};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Tuning;
use super::trouble::Trouble;
use crate::clock::answer::answered_within;

/// One channel for all queues; the payload says which.
const CHANNEL: &str = "jobs";
/// Silence after which the listening connection is asked whether it still is one.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How long it has for the answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// Stands for all topics.
const ALL: &str = "*";
/// Queues of one NOTIFY statement.
const TOPICS_MAX: usize = 1_000;

/// What committed transactions of this process say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// A queue, or another topic somebody waits on, has work from this id on.
    Work {
        /// The queue or topic.
        topic: String,
        /// The lowest new id, 0 when it does not matter.
        lowest_id: i64,
    },
    /// Announcements were lost; everybody should look.
    Missed,
}

/// Announcements as a stream; ends with the process.
pub type Announcements = BoxStream<'static, Announced>;

/// Hands what is announced to whoever waits for it, here and elsewhere. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Switchboard {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ears: Mutex<HashMap<String, Vec<Weak<EarState>>>>,
    /// What other processes have not been told yet: topic and lowest id.
    untold: Mutex<Untold>,
    has_untold: Notify,
    all_told: Notify,
    /// Tells our own notifications from others'.
    sender: u64,
}

#[derive(Debug, Default)]
struct Untold {
    lowest_ids: BTreeMap<String, i64>,
    /// Some more are on their way.
    is_telling: bool,
}

impl Untold {
    fn add(&mut self, topic: String, lowest_id: i64) {
        let known = self.lowest_ids.entry(topic).or_insert(lowest_id);
        *known = (*known).min(lowest_id);
    }
}

impl Switchboard {
    /// A switchboard whose tasks end when `ended` is cancelled.
    pub(super) fn start(
        direct: PgConnectOptions,
        announcements: Announcements,
        tuning: &Tuning,
        ended: CancellationToken,
    ) -> Self {
        let board = Self {
            inner: Arc::new(Inner {
                ears: Mutex::default(),
                untold: Mutex::default(),
                has_untold: Notify::new(),
                all_told: Notify::new(),
                sender: rand::random(),
            }),
        };
        let hear = board.clone().hear(announcements);
        let notify = board.clone().notify(direct, tuning.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                ((), ()) = async { tokio::join!(hear, notify) } => {}
            }
        });
        board
    }

    /// Listens to the other processes, until `ended`.
    pub(super) fn listen(
        &self,
        direct: PgConnectOptions,
        tuning: &Tuning,
        ended: CancellationToken,
    ) {
        let listen = self.clone().listening(direct, tuning.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = listen => {}
            }
        });
    }

    /// Somebody who waits for `topic`.
    pub(super) fn ear(&self, topic: &str) -> Ear {
        let state = Arc::new(EarState {
            // The first look starts from the beginning.
            lowest_id: AtomicI64::new(0),
            woken: Notify::new(),
        });
        let mut ears = lock(&self.inner.ears);
        let topic_ears = ears.entry(topic.to_owned()).or_default();
        topic_ears.retain(|ear| ear.strong_count() > 0);
        topic_ears.push(Arc::downgrade(&state));
        Ear { state }
    }

    /// Says that `topic` has work from `lowest_id` on: here at once, elsewhere soon.
    pub(super) fn announce(&self, topic: &str, lowest_id: i64) {
        self.wake(topic, lowest_id);
        self.pass_on(topic, lowest_id);
    }

    fn pass_on(&self, topic: &str, lowest_id: i64) {
        lock(&self.inner.untold).add(topic.to_owned(), lowest_id);
        self.inner.has_untold.notify_one();
    }

    /// Waits until the others have been told all that was announced.
    pub(super) async fn until_told(&self) {
        loop {
            let told = self.inner.all_told.notified();
            {
                let untold = lock(&self.inner.untold);
                if untold.lowest_ids.is_empty() && !untold.is_telling {
                    return;
                }
            }
            told.await;
        }
    }

    fn wake(&self, topic: &str, lowest_id: i64) {
        if let Some(ears) = lock(&self.inner.ears).get(topic) {
            for ear in ears.iter().filter_map(Weak::upgrade) {
                ear.hear(lowest_id);
            }
        }
    }

    fn wake_all(&self) {
        for ear in lock(&self.inner.ears).values().flatten() {
            if let Some(ear) = ear.upgrade() {
                ear.hear(0);
            }
        }
    }

    /// What was announced is lost here and to the others: of all that anybody waits for there may be more, from the first on.
    fn announce_all(&self) {
        self.wake_all();
        self.pass_on(ALL, 0);
    }

    async fn hear(self, mut announcements: Announcements) {
        while let Some(announced) = announcements.next().await {
            match announced {
                Announced::Work { topic, lowest_id } => self.announce(&topic, lowest_id),
                Announced::Missed => self.announce_all(),
            }
        }
    }

    /// The first announcement after a pause is told at once, those that follow together.
    async fn notify(self, direct: PgConnectOptions, tuning: Tuning) {
        let mut trouble = Trouble::new("notify", &tuning);
        let mut connection = None;
        loop {
            self.inner.has_untold.notified().await;
            let told = {
                let mut untold = lock(&self.inner.untold);
                untold.is_telling = true;
                std::mem::take(&mut untold.lowest_ids)
            };
            let telling = self.tell(&direct, &mut connection, &told);
            match answered_within(PROBE_PATIENCE, telling).await {
                Ok(()) => {
                    lock(&self.inner.untold).is_telling = false;
                    self.inner.all_told.notify_waiters();
                    trouble.over();
                    tokio::time::sleep(tuning.notify_gap).await;
                }
                Err(error) => {
                    connection = None;
                    for (topic, lowest_id) in told {
                        lock(&self.inner.untold).add(topic, lowest_id);
                    }
                    self.inner.has_untold.notify_one();
                    trouble.wait(&error).await;
                }
            }
        }
    }

    async fn tell(
        &self,
        direct: &PgConnectOptions,
        connection: &mut Option<PgConnection>,
        untold: &BTreeMap<String, i64>,
    ) -> Result<(), sqlx::Error> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(PgConnection::connect_with(direct).await?),
        };
        let payloads: Vec<String> = untold
            .iter()
            .take(TOPICS_MAX)
            .map(|(topic, lowest_id)| format!("{:x}:{lowest_id}:{topic}", self.inner.sender))
            .collect();
        query!(
            "SELECT pg_notify($1, told) FROM unnest($2::text[]) AS told",
            CHANNEL,
            &payloads
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn listening(self, direct: PgConnectOptions, tuning: Tuning) {
        let mut trouble = Trouble::new("listen", &tuning);
        loop {
            let error = match self.listen_once(&direct, &mut trouble).await {
                Ok(()) => sqlx::Error::PoolClosed,
                Err(error) => error,
            };
            trouble.wait(&error).await;
        }
    }

    /// One connection's life. Ends without an error when the server closed it.
    async fn listen_once(
        &self,
        direct: &PgConnectOptions,
        trouble: &mut Trouble,
    ) -> Result<(), sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(direct.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        // A new connection is made here, so that everybody looks again afterwards.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        trouble.over();
        // Listen before looking: what was committed while nobody listened is found by this look.
        self.wake_all();
        loop {
            match tokio::time::timeout(PROBE_EVERY, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.heard(notification.payload()),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => probe(&mut listener).await?,
            }
        }
    }

    fn heard(&self, payload: &str) {
        let mut parts = payload.splitn(3, ':');
        let (Some(sender), Some(lowest_id), Some(topic)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return self.wake_all();
        };
        if u64::from_str_radix(sender, 16) == Ok(self.inner.sender) {
            return;
        }
        match topic {
            ALL => self.wake_all(),
            topic => self.wake(topic, lowest_id.parse().unwrap_or(0)),
        }
    }
}

/// A connection whose other end vanished says nothing; only a question finds out.
async fn probe(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    let answer = query!("SELECT 1 AS one").fetch_one(listener);
    match tokio::time::timeout(PROBE_PATIENCE, answer).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// Somebody who waits for one topic.
#[derive(Debug)]
pub struct Ear {
    state: Arc<EarState>,
}

#[derive(Debug)]
struct EarState {
    /// The lowest id announced since it was last taken; [`NOTHING`] when there is none.
    lowest_id: AtomicI64,
    woken: Notify,
}

const NOTHING: i64 = i64::MAX;

impl EarState {
    fn hear(&self, lowest_id: i64) {
        self.lowest_id.fetch_min(lowest_id, Ordering::AcqRel);
        self.woken.notify_one();
    }
}

impl Ear {
    /// Waits until something is announced. An announcement made while nobody waited counts.
    pub async fn heard(&self) {
        self.state.woken.notified().await;
    }

    /// The lowest id announced since the last call.
    pub fn take_lowest_id(&self) -> Option<i64> {
        let lowest_id = self.state.lowest_id.swap(NOTHING, Ordering::AcqRel);
        (lowest_id != NOTHING).then_some(lowest_id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole after every statement that changes it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
