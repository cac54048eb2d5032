//! Who am I: one start of one process, with a lock that proves it alive.
//!
//! The lock hangs on a connection of its own. kill -9 frees it at once, a stopped process keeps it, and a process that
//! loses the connection stops beginning and goes on as a new incarnation.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::clock::answer::answered_within;
use crate::domain::ids::Incarnation;
use crate::store::StoreResult;
use crate::store::incarnations::{self, NewIncarnation};

/// How often the lock's connection is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A connection that takes longer to be opened, looked at or ended is lost.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// The longest that a connection may take to be opened, after others that took too long: a server that waits for its standby
/// keeps each of them until that is back.
const OPEN_MAX: Duration = Duration::from_mins(1);
/// Between two tries to be somebody again.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// This process's incarnation, renewed in the background. Clones share it.
#[derive(Debug, Clone)]
pub struct Myself {
    current: Arc<watch::Receiver<Option<Incarnation>>>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Myself {
    /// Starts to be somebody. Waits until the first incarnation stands.
    pub async fn start(direct: PgConnectOptions, new: NewIncarnation) -> Self {
        let (sender, receiver) = watch::channel(None);
        let stop = CancellationToken::new();
        let ended = CancellationToken::new();
        tokio::spawn(live(direct, new, sender, stop.clone(), ended.clone()));
        let mut first = receiver.clone();
        let _ = first.wait_for(Option::is_some).await;
        Self {
            current: Arc::new(receiver),
            stop,
            ended,
        }
    }

    /// Who this process is now; none while the lock is lost: then nothing may begin.
    pub fn current(&self) -> Option<Incarnation> {
        *self.current.borrow()
    }

    /// Writes down that this incarnation ends in order. Nothing begins afterwards.
    pub async fn end(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }
}

async fn live(
    direct: PgConnectOptions,
    new: NewIncarnation,
    current: watch::Sender<Option<Incarnation>>,
    stop: CancellationToken,
    ended: CancellationToken,
) {
    let _ended = ended.drop_guard();
    let mut patience = LOOK_MAX;
    while !stop.is_cancelled() {
        let asked_at = Clock::boottime();
        let opened = tokio::select! {
            opened = answered_within(patience, open(&direct, &new)) => opened,
            () = stop.cancelled() => return,
        };
        match opened {
            Ok((mut conn, incarnation)) => {
                patience = LOOK_MAX;
                tracing::info!(incarnation = incarnation.0, "incarnation opened");
                current.send_replace(Some(incarnation));
                keep(&mut conn, incarnation, &stop).await;
                current.send_replace(None);
                if stop.is_cancelled() {
                    let _ = answered_within(LOOK_MAX, close(conn, incarnation)).await;
                    return;
                }
                tracing::warn!(
                    incarnation = incarnation.0,
                    "incarnation lost its connection"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "no incarnation yet");
                if Clock::boottime().saturating_sub(asked_at) >= patience {
                    patience = (2 * patience).min(OPEN_MAX);
                }
                tokio::select! {
                    () = tokio::time::sleep(TRY_EVERY) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

async fn open(
    direct: &PgConnectOptions,
    new: &NewIncarnation,
) -> StoreResult<(PgConnection, Incarnation)> {
    let mut conn = direct.connect().await?;
    let incarnation = incarnations::open_incarnation(&mut conn, new).await?;
    Ok((conn, incarnation))
}

/// Says that it has ended. In vain when the connection is lost; then the lock, which is free, has to say it.
async fn close(mut conn: PgConnection, incarnation: Incarnation) -> StoreResult<()> {
    incarnations::mark_ended(&mut conn, incarnation).await?;
    Ok(conn.close().await?)
}

/// Returns when the connection is lost, or the process is to end.
async fn keep(conn: &mut PgConnection, incarnation: Incarnation, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let look = incarnations::mark_seen(conn, incarnation);
        if answered_within(LOOK_MAX, look).await.is_err() {
            return;
        }
    }
}
