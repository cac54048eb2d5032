//! How often somebody may try to sign in: five times a minute per account and address, in each process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::problem::{ApiError, ApiResult, ProblemType};

/// Tries in one window.
const TRIES_MAX: u32 = 5;
/// The window's length.
const WINDOW: TimeDelta = TimeDelta::minutes(1);
/// Accounts remembered at most; beyond, everybody starts anew.
const ACCOUNTS_MAX: usize = 10_000;

type Account = (String, Option<IpAddr>);

/// Sign-ins tried lately.
#[derive(Debug, Default)]
pub struct Throttle {
    tries: Mutex<HashMap<Account, Tries>>,
}

#[derive(Debug)]
struct Tries {
    since: DateTime<Utc>,
    count: u32,
}

impl Throttle {
    /// Counts one try.
    ///
    /// # Errors
    /// 429 with the seconds until the window is over, whether the password would have been right or not.
    pub fn count_try(&self, login: &str, ip: Option<IpAddr>, now: DateTime<Utc>) -> ApiResult<()> {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= ACCOUNTS_MAX {
            tries.retain(|_, tries| now - tries.since < WINDOW);
        }
        if tries.len() >= ACCOUNTS_MAX {
            tries.clear();
        }
        let account = tries.entry((login.to_owned(), ip)).or_insert(Tries {
            since: now,
            count: 0,
        });
        if now - account.since >= WINDOW {
            *account = Tries {
                since: now,
                count: 0,
            };
        }
        account.count = account.count.saturating_add(1);
        if account.count <= TRIES_MAX {
            return Ok(());
        }
        let secs = (WINDOW - (now - account.since)).num_seconds().max(1);
        Err(ApiError::new(
            ProblemType::TooManyTries,
            format!("That were too many tries to sign in. Try again in {secs} seconds."),
        )
        .with_retry_after(secs as u64))
    }

    /// A right password: the count starts anew.
    pub fn forget(&self, login: &str, ip: Option<IpAddr>) {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        tries.remove(&(login.to_owned(), ip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_try_in_a_minute_is_refused_and_the_next_minute_is_free() {
        let throttle = Throttle::default();
        let start = DateTime::UNIX_EPOCH;
        for _ in 0..5 {
            throttle.count_try("a@example.test", None, start).unwrap();
        }
        let later = start + TimeDelta::seconds(10);
        let error = throttle
            .count_try("a@example.test", None, later)
            .unwrap_err();
        assert_eq!(error.problem(), ProblemType::TooManyTries);
        assert!(error.to_string().contains("50 seconds"), "{error}");
        throttle.count_try("b@example.test", None, later).unwrap();
        throttle
            .count_try("a@example.test", None, start + WINDOW)
            .unwrap();
    }
}
