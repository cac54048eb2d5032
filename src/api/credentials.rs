//! Whether somebody is who they say: email and password, five tries a minute per account and address, over all processes.
//!
//! An unknown account and a wrong password get the same answer, after the same work.

use std::net::IpAddr;

use secrecy::SecretString;

use super::problem::{ApiError, ApiResult, ProblemType};
use super::state::ApiState;
use crate::crypto::password::PASSWORD_CHARS_MIN;
use crate::domain::actor::normalized_login;
use crate::domain::ids::UserId;
use crate::store::control::{login_throttle, users};
use crate::store::{ControlTx, StoreResult};

/// Tries in one minute.
const TRIES_MAX: i32 = 5;
/// What a minute is to who loses the race for its last try.
const MINUTE_SECS: i64 = 60;

/// Somebody whose password was right.
#[derive(Debug)]
pub struct Proven {
    /// Who.
    pub user_id: UserId,
    tried: Tried,
}

impl Proven {
    /// The count of tries starts anew.
    pub async fn forget_tries(&self, tx: &mut ControlTx) -> StoreResult<()> {
        login_throttle::delete_tries(tx, &self.tried.key_mac).await
    }
}

/// Who it is, when the password is right.
///
/// # Errors
/// 401 when it is not; 429 after too many tries; 503 when too many others try at this moment.
pub async fn prove(
    state: &ApiState,
    ip: Option<IpAddr>,
    email: &str,
    password: &str,
) -> ApiResult<Proven> {
    let tried = Tried::new(state, email, ip);
    tried.count(state).await?;
    let mut tx = state.db.control_system().begin().await?;
    let known = users::find_credentials(&mut tx, email).await?;
    // Given back before the hash is computed, which takes longer than everything else here.
    drop(tx);
    let (id, stored) = known.map_or((None, None), |known| (Some(known.id), known.password_hash));
    match (state.passwords.verify(stored, password.into()).await?, id) {
        (true, Some(user_id)) => Ok(Proven { user_id, tried }),
        _ => Err(ApiError::new(
            ProblemType::WrongCredentials,
            "Check both and try again. An operator can set a new password with 'engageninja user password'.",
        )),
    }
}

/// What to store for a new password.
///
/// # Errors
/// 422 when it is too short.
pub async fn hash_new(state: &ApiState, field: &str, password: &str) -> ApiResult<String> {
    if password.chars().count() < PASSWORD_CHARS_MIN {
        let wanted = format!("must have at least {PASSWORD_CHARS_MIN} characters");
        return Err(ApiError::invalid_field(field, &wanted));
    }
    state.passwords.hash(SecretString::from(password)).await
}

/// An account and the address it is tried from, as the database knows them.
#[derive(Debug)]
struct Tried {
    key_mac: Vec<u8>,
}

impl Tried {
    fn new(state: &ApiState, email: &str, ip: Option<IpAddr>) -> Self {
        let ip = ip.map(|ip| ip.to_string()).unwrap_or_default();
        Self {
            key_mac: state.mac_key.login(&[&normalized_login(email), &ip]),
        }
    }

    /// Counts one try, durably, before the password is looked at.
    async fn count(&self, state: &ApiState) -> ApiResult<()> {
        // Two at a time: a flood waits here, and not where every other request reaches the database.
        let _turn = state.sign_ins.acquire().await.map_err(ApiError::internal)?;
        let mut tx = state.db.control_system().begin().await?;
        let wait = login_throttle::find_wait_secs(&mut tx, &self.key_mac, TRIES_MAX).await?;
        if let Some(secs) = wait {
            return Err(too_many(secs));
        }
        let tries = login_throttle::count_try(&mut tx, &self.key_mac).await?;
        tx.commit().await?;
        if tries > TRIES_MAX {
            return Err(too_many(MINUTE_SECS));
        }
        Ok(())
    }
}

fn too_many(secs: i64) -> ApiError {
    let secs = secs.max(1);
    ApiError::new(
        ProblemType::TooManyTries,
        format!("There were too many tries for this account. Try again in {secs} seconds."),
    )
    .with_retry_after(secs.cast_unsigned())
}
