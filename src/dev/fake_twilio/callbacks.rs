//! What the provider says of messages afterwards: signed posts to the address each message came with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use sha1::Sha1;
use tokio::sync::Semaphore;

use super::ledger::Accepted;

/// Posts under way at once.
const POSTS_MAX: usize = 128;
/// How long one post may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries of one post.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Tries after the first, whatever its address asks for.
const RETRIES_MAX: u32 = 5;

/// One callback, ready to go.
#[derive(Debug, Clone)]
pub struct Callback {
    /// Where it goes, without the fragment.
    pub url: String,
    /// What it says.
    pub form: Vec<(String, String)>,
    /// `X-Twilio-Signature`.
    pub signature: String,
    retries: u32,
}

impl Callback {
    /// A callback of any content, signed with the token of an account.
    pub fn new(address: &str, form: Vec<(String, String)>, auth_token: &str) -> Self {
        let (url, fragment) = address.split_once('#').unwrap_or((address, ""));
        let signature = sign(url, &form, auth_token);
        Self {
            url: url.to_owned(),
            form,
            signature,
            retries: retries(fragment),
        }
    }

    /// What the provider says when a message reaches a status.
    pub(super) fn of(
        message: &Accepted,
        status: &str,
        error_code: Option<u32>,
        auth_token: &str,
    ) -> Option<Self> {
        let address = message.status_callback.as_deref()?;
        let mut form: Vec<(String, String)> = [
            ("ApiVersion", "2010-04-01"),
            ("AccountSid", &message.account_sid),
            ("From", message.from.as_deref().unwrap_or_default()),
            ("To", &message.to),
            ("MessageSid", &message.sid),
            ("SmsSid", &message.sid),
            ("MessageStatus", status),
            ("SmsStatus", status),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        if let Some(sid) = &message.messaging_service_sid {
            form.push(("MessagingServiceSid".into(), sid.clone()));
        }
        if let Some(code) = error_code {
            form.push(("ErrorCode".into(), code.to_string()));
        }
        Some(Self::new(address, form, auth_token))
    }
}

/// Tries after the first: `rc` of the fragment, where `rp` says that answers are tried again too.
fn retries(fragment: &str) -> u32 {
    let pairs: Vec<(&str, &str)> = fragment
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let find = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    match (find("rp"), find("rc")) {
        (Some("all" | "5xx"), Some(count)) => count.parse().unwrap_or(1).min(RETRIES_MAX),
        _ => 1,
    }
}

/// `X-Twilio-Signature` of a form post: the address, then every key with its value, sorted by key.
///
/// Source: Twilio, "Webhooks Security".
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn sign(url: &str, form: &[(String, String)], auth_token: &str) -> String {
    let mut sorted: Vec<&(String, String)> = form.iter().collect();
    sorted.sort();
    sorted.dedup();
    let mut mac = Hmac::<Sha1>::new_from_slice(auth_token.as_bytes()).expect("a key of any length");
    mac.update(url.as_bytes());
    for (key, value) in sorted {
        mac.update(key.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD.encode(mac.finalize().into_bytes())
}

/// Brings callbacks to their addresses. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Postman {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    posts: Semaphore,
    under_way: AtomicUsize,
    held: Mutex<Vec<Callback>>,
}

/// Counts something under way until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Postman {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .http1_only()
            .build()?;
        let shared = Shared {
            client,
            posts: Semaphore::new(POSTS_MAX),
            under_way: AtomicUsize::new(0),
            held: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Something that callbacks come of is under way.
    pub(super) fn begin(&self) -> UnderWay {
        self.shared.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self.shared.clone())
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.under_way.load(Ordering::Acquire) == 0
    }

    pub(super) fn hold(&self, callback: Callback) {
        self.held().push(callback);
    }

    /// Takes what was held back.
    pub(super) fn take_held(&self) -> Vec<Callback> {
        std::mem::take(&mut *self.held())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Callback>> {
        self.shared
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts until it is taken or its tries are over. Answers the last status; none without an answer.
    pub(super) async fn post(&self, callback: &Callback) -> Option<u16> {
        let mut last = None;
        for attempt in 0..=callback.retries {
            if attempt > 0 {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            let Ok(_turn) = self.shared.posts.acquire().await else {
                return None;
            };
            let post = self
                .shared
                .client
                .post(&callback.url)
                .header("X-Twilio-Signature", &callback.signature)
                .form(&callback.form);
            last = post
                .send()
                .await
                .ok()
                .map(|answer| answer.status().as_u16());
            if last.is_some_and(|status| status < 400) {
                return last;
            }
        }
        tracing::debug!(status = last, "a callback was not taken");
        last
    }

    /// Posts many at once, in an order drawn from `seed`. Answers the statuses.
    pub(super) async fn post_shuffled(
        &self,
        mut callbacks: Vec<Callback>,
        seed: u64,
    ) -> Vec<Option<u16>> {
        callbacks.shuffle(&mut StdRng::seed_from_u64(seed));
        let mut tasks = tokio::task::JoinSet::new();
        for callback in callbacks {
            let postman = self.clone();
            tasks.spawn(async move { postman.post(&callback).await });
        }
        tasks.join_all().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first official vector.
    #[test]
    fn a_signature_is_what_the_provider_makes() {
        let form: Vec<(String, String)> = [
            ("To", "+18005551212"),
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        let callback = Callback::new(
            "https://mycompany.com/myapp.php?foo=1&bar=2#rc=5&rp=all",
            form,
            "12345",
        );
        assert_eq!(callback.signature, "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
        assert_eq!(callback.url, "https://mycompany.com/myapp.php?foo=1&bar=2");
        assert_eq!(callback.retries, 5);
        assert_eq!(retries("rc=9&rp=all"), 5);
        assert_eq!(retries(""), 1);
    }
}
