//! Passwords, computed two at a time: each takes a core and 19 MiB, and whoever floods the sign-in takes no more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Semaphore;

use super::problem::{ApiError, ApiResult};
use crate::crypto::password::{self, Workspace};

/// Computed at one time.
const HASHES_MAX: usize = 2;
/// Requests that wait for their turn; more are sent away.
const WAITING_MAX: usize = 64;
/// How long a request waits for its turn.
const WAIT: Duration = Duration::from_secs(10);
/// When who was sent away may come again.
const RETRY_SECS: u64 = 5;

/// The one place of a process where passwords are hashed and compared.
#[derive(Debug, Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// As many as were ever in use at one time.
    spare: Arc<Mutex<Vec<Workspace>>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            running: Arc::new(Semaphore::new(HASHES_MAX)),
            waiting: Arc::new(Semaphore::new(HASHES_MAX + WAITING_MAX)),
            spare: Arc::default(),
        }
    }
}

impl Passwords {
    /// Whether the password is the stored one; as slow without a stored one.
    ///
    /// # Errors
    /// 503 when too many wait already.
    pub async fn verify(&self, stored: Option<String>, given: SecretString) -> ApiResult<bool> {
        self.run(move |workspace| password::verify_password(workspace, stored.as_deref(), &given))
            .await
    }

    /// What to store for a password.
    ///
    /// # Errors
    /// As [`Passwords::verify`].
    pub async fn hash(&self, given: SecretString) -> ApiResult<String> {
        let hashed = self.run(move |_| password::hash_password(&given)).await?;
        hashed.map_err(ApiError::internal)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Workspace) -> T + Send + 'static,
    ) -> ApiResult<T> {
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(ApiError::unavailable(RETRY_SECS));
        };
        let turn = tokio::time::timeout(WAIT, self.running.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            return Err(ApiError::unavailable(RETRY_SECS));
        };
        // The work goes on when whoever asked for it hangs up, and so must its turn.
        let spare = self.spare.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let kept = || spare.lock().unwrap_or_else(PoisonError::into_inner);
            let mut workspace = kept().pop().unwrap_or_default();
            let done = work(&mut workspace);
            kept().push(workspace);
            drop(turn);
            done
        });
        worked.await.map_err(ApiError::internal)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::super::problem::ProblemType;
    use super::*;

    #[tokio::test]
    async fn two_are_computed_at_a_time_though_whoever_asked_hangs_up() {
        let passwords = Passwords::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..40 {
            let (passwords, running, most) = (passwords.clone(), running.clone(), most.clone());
            let work = move |_: &mut Workspace| {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            };
            let handle = asked.spawn(async move { passwords.run(work).await.unwrap() });
            if number % 3 == 0 {
                tokio::task::yield_now().await;
                handle.abort();
            }
        }
        while asked.join_next().await.is_some() {}
        let both = passwords.running.acquire_many(HASHES_MAX as u32).await;
        assert!(both.is_ok());
        assert!((1..=HASHES_MAX).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn who_finds_too_many_waiting_is_sent_away_at_once() {
        let passwords = Passwords::default();
        let mut asked = tokio::task::JoinSet::new();
        let mut gates = Vec::new();
        for _ in 0..HASHES_MAX + WAITING_MAX {
            let (gate, closed) = mpsc::channel::<()>();
            gates.push(gate);
            let passwords = passwords.clone();
            asked.spawn(async move { passwords.run(move |_| closed.recv().is_ok()).await });
        }
        while passwords.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }

        let refused = passwords.run(|_| ()).await.unwrap_err();

        assert_eq!(refused.problem(), ProblemType::Unavailable);
        drop(gates);
        while let Some(one) = asked.join_next().await {
            one.unwrap().unwrap();
        }
    }
}
