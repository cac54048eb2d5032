//! What every operation may use.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::events::pump::{KEEP_ALIVE, SLOW_READER};
use super::front::Front;
use super::passwords::Passwords;
use crate::clock::Clock;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::mac::MacKey;
use crate::delivery::inbox::events::EventInbox;
use crate::live::Live;
use crate::store::Db;

/// Sign-ins that use the database at one time; its connections serve every other request too.
const SIGN_INS_MAX: usize = 2;

/// Shared by all requests; clones share everything.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The ways into the database.
    pub db: Db,
    /// Addresses are compared by their MAC under it.
    pub mac_key: MacKey,
    /// What the installation knows of its own front.
    pub front: Arc<Front>,
    /// Where passwords are computed.
    pub passwords: Passwords,
    /// Turns of those who sign in.
    pub sign_ins: Arc<Semaphore>,
    /// Live numbers for whoever watches.
    pub live: Live,
    /// Where providers' events come in.
    pub events: EventInbox,
    /// What opens sealed columns.
    pub keys: KeyRing,
    /// Ends every stream of this process.
    pub streams: CancellationToken,
    /// How long the reader of a stream may take nothing.
    pub slow_reader: Duration,
    /// Between two signs of life on a stream that has nothing to say.
    pub keep_alive: Duration,
}

impl ApiState {
    /// State for one process.
    pub fn new(db: Db, mac_key: MacKey) -> Self {
        Self {
            live: Live::new(db.clone()),
            events: EventInbox::spawn(db.clone()),
            keys: KeyRing::default(),
            streams: CancellationToken::new(),
            slow_reader: SLOW_READER,
            keep_alive: KEEP_ALIVE,
            db,
            mac_key,
            front: Arc::default(),
            passwords: Passwords::default(),
            sign_ins: Arc::new(Semaphore::new(SIGN_INS_MAX)),
        }
    }

    /// The same behind a front.
    #[must_use]
    pub fn behind(mut self, front: Front) -> Self {
        self.front = Arc::new(front);
        self
    }

    /// The same with keys for sealed columns.
    #[must_use]
    pub fn with_keys(mut self, keys: KeyRing) -> Self {
        self.keys = keys;
        self
    }

    /// The clock that the database agrees with.
    pub fn clock(&self) -> &Clock {
        self.db.clock()
    }
}
