//! What every operation may use.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::{ApiError, ApiResult};
use super::throttle::Throttle;
use crate::clock::Clock;
use crate::crypto::mac::MacKey;
use crate::crypto::password;
use crate::live::Live;
use crate::store::Db;

/// Password hashes computed at one time: each takes a core and 19 MiB.
const HASHES_MAX: usize = 2;
/// How long a sign-in waits for its turn.
const HASH_WAIT: Duration = Duration::from_secs(10);

/// Shared by all requests; clones share everything.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The ways into the database.
    pub db: Db,
    /// Addresses are compared by their MAC under it.
    pub mac_key: MacKey,
    /// Sign-ins tried lately.
    pub throttle: Arc<Throttle>,
    /// Live numbers for whoever watches.
    pub live: Live,
    /// Ends every stream of this process.
    pub streams: CancellationToken,
    hashes: Arc<Semaphore>,
}

impl ApiState {
    /// State for one process.
    pub fn new(db: Db, mac_key: MacKey) -> Self {
        Self {
            live: Live::new(db.clone()),
            streams: CancellationToken::new(),
            db,
            mac_key,
            throttle: Arc::new(Throttle::default()),
            hashes: Arc::new(Semaphore::new(HASHES_MAX)),
        }
    }

    /// The clock that the database agrees with.
    pub fn clock(&self) -> &Clock {
        self.db.clock()
    }

    /// Whether the password is the stored one; as slow without a stored one.
    pub async fn verify_password(
        &self,
        stored: Option<String>,
        given: SecretString,
    ) -> ApiResult<bool> {
        let turn = tokio::time::timeout(HASH_WAIT, self.hashes.acquire());
        let Ok(Ok(_permit)) = turn.await else {
            return Err(ApiError::unavailable(5));
        };
        tokio::task::spawn_blocking(move || password::verify_password(stored.as_deref(), &given))
            .await
            .map_err(ApiError::internal)
    }
}
