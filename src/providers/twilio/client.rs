//! The HTTP client: bounded in time and size, and blind to everything that would repeat a request.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::RETRY_AFTER;
use secrecy::ExposeSecret;

use super::Account;
use super::sms::TwilioSms;
use crate::crypto::sealed::SealError;
use crate::domain::holds::Holds;
use crate::providers::ProviderSettings;

/// An idle connection is given up after this, before the other side gives it up under a request.
const IDLE: Duration = Duration::from_secs(20);
/// Bytes of one message or of an error, at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one page of a list: a thousand messages of the longest kind.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The way to Twilio. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Twilio {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Or why there is none: TLS cannot be set up on this machine.
    client: Result<reqwest::Client, String>,
    settings: ProviderSettings,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    /// None when it broke off or was too long.
    pub(super) body: Option<Vec<u8>>,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The token does not open.
    #[error("{0}")]
    Sealed(#[from] SealError),
    /// There is no HTTP client.
    #[error("no HTTP client: {0}")]
    NoClient(String),
    /// No request was made of it.
    #[error("{}", plain(.0))]
    Unmade(reqwest::Error),
    /// No connection: no byte left us.
    #[error("{}", plain(.0))]
    Unreachable(reqwest::Error),
    /// Anything else.
    #[error("{}", plain(.0))]
    Broken(reqwest::Error),
}

/// The error and its causes, without the address, which may name a person.
fn plain(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "broke off"
    };
    let mut told = kind.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        told.push_str(": ");
        told.push_str(&cause.to_string());
        source = cause.source();
    }
    told
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_builder() {
            Self::Unmade(error)
        } else if error.is_connect() {
            Self::Unreachable(error)
        } else {
            Self::Broken(error)
        }
    }
}

impl Twilio {
    /// A client for one installation.
    pub fn new(settings: ProviderSettings, holds: &Holds) -> Self {
        let client = reqwest::Client::builder()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .connect_timeout(holds.connect)
            .timeout(holds.call)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("engageninja/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| plain(&error));
        if let Err(reason) = &client {
            tracing::error!(reason, "no real provider can be called");
        }
        Self {
            shared: Arc::new(Shared { client, settings }),
        }
    }

    /// Text messages with a tenant's account.
    pub fn sms(&self, account: Account) -> TwilioSms {
        TwilioSms::new(self.clone(), account)
    }

    pub(super) fn public_url(&self) -> Option<&str> {
        self.shared.settings.public_url.as_deref()
    }

    /// Posts a form, once.
    pub(super) async fn post(
        &self,
        account: &Account,
        path: &str,
        form: &[(&str, String)],
    ) -> Result<Answer, CallError> {
        let request = self.request(account, Method::POST, path)?.form(form);
        answer(request.send().await?, ANSWER_BYTES_MAX).await
    }

    /// Reads one thing or one page.
    pub(super) async fn get(&self, account: &Account, path: &str) -> Result<Answer, CallError> {
        let request = self.request(account, Method::GET, path)?;
        answer(request.send().await?, PAGE_BYTES_MAX).await
    }

    fn request(
        &self,
        account: &Account,
        method: Method,
        path: &str,
    ) -> Result<reqwest::RequestBuilder, CallError> {
        let token = account.token(&self.shared.settings.keys)?;
        // Put together as text: what the API calls next is a path with a query, and no other host may be.
        let base = self
            .shared
            .settings
            .twilio_api_url
            .as_str()
            .trim_end_matches('/');
        let client = self.shared.client.as_ref();
        let client = client.map_err(|reason| CallError::NoClient(reason.clone()))?;
        let request = client.request(method, format!("{base}{path}"));
        Ok(request.basic_auth(&account.account_sid, Some(token.expose_secret())))
    }
}

async fn answer(mut response: reqwest::Response, bytes_max: usize) -> Result<Answer, CallError> {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok().map(str::to_owned));
    let status = response.status().as_u16();
    let mut body = Some(Vec::new());
    while let Some(bytes) = &mut body {
        match response.chunk().await {
            Ok(Some(piece)) if bytes.len() + piece.len() <= bytes_max => bytes.extend(&piece[..]),
            Ok(None) => break,
            // The status is known; that its body is not is for the caller to weigh.
            Ok(Some(_)) | Err(_) => body = None,
        }
    }
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}
