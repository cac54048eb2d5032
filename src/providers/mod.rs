//! The outside: one client per provider, and the errors that say what a caller may do next.
//!
//! A provider names no store and no job. It is never called inside a transaction, and it never repeats a request by
//! itself.

pub mod demo;
pub mod twilio;

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use url::Url;

use crate::crypto::key_ring::KeyRing;
use crate::domain::channel::Channel;
use crate::domain::ids::{AttemptId, MessageKey};
use crate::domain::reconcile_provider::Listed;
use crate::domain::status::Status;

/// What providers need to know of the installation.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// What opens the credentials of tenants.
    pub keys: KeyRing,
    /// Where callbacks find us: `https://host`. Without it no real provider sends.
    pub public_url: Option<String>,
    /// Where Twilio's API for messages is.
    pub twilio_api_url: Url,
}

/// One message for one person, as a provider is asked to carry it.
#[derive(Debug, Clone)]
pub struct SendRequest {
    /// Which message; part of the callback address.
    pub key: MessageKey,
    /// Which attempt; the token that callbacks carry.
    pub attempt_id: AttemptId,
    /// Its number among those of the message, from 1.
    pub attempt_no: i16,
    /// How it reaches the person.
    pub channel: Channel,
    /// The sender's address.
    pub from: String,
    /// The provider's pool of senders that chooses one, where the sender has one.
    pub messaging_service_sid: Option<String>,
    /// How long it is worth sending.
    pub validity: Duration,
    /// The person's address.
    pub to: String,
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text.
    pub body: String,
    /// The HTML, of emails.
    pub html: Option<String>,
}

/// The provider's yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendReceipt {
    /// What it calls the message.
    pub provider_message_id: String,
    /// What it says of it now.
    pub status: Status,
}

/// Why a provider did not take a message, or why we do not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The provider will never take it: wrong number, opted out.
    #[error("rejected by provider: {code}")]
    Rejected {
        /// The provider's error code.
        code: String,
    },
    /// Too fast. Nothing was accepted.
    #[error("throttled by provider: {code}")]
    Throttled {
        /// The provider's error code.
        code: String,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
    /// The account or the sender may not send. Nothing was accepted, and nothing will be until somebody mends it.
    #[error("account refused by provider: {code}")]
    Account {
        /// The provider's error code, or ours for what is missing.
        code: String,
    },
    /// The request never reached the provider. Safe to repeat.
    #[error("provider unreachable: {reason}")]
    Unavailable {
        /// What kept us.
        reason: String,
    },
    /// The request went out and no clear answer came back. Not safe to repeat.
    #[error("outcome unknown: {reason}")]
    Uncertain {
        /// What we saw instead of an answer.
        reason: String,
    },
}

/// An attempt whose answer never came, as we ask the provider about it.
#[derive(Debug, Clone)]
pub struct LookUp {
    /// Which message.
    pub key: MessageKey,
    /// Which attempt.
    pub attempt_id: AttemptId,
    /// How it was to reach the person.
    pub channel: Channel,
    /// The sender's address.
    pub from: String,
    /// The person's address.
    pub to: String,
    /// The text as it was sent.
    pub body: String,
    /// The provider cannot have made it before this instant.
    pub since: DateTime<Utc>,
    /// Nor after this one.
    pub until: DateTime<Utc>,
}

/// A message that the provider has and that may be the one we ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What the provider calls it.
    pub provider_message_id: String,
    /// Whether it says what we asked to be said.
    pub has_same_text: bool,
    /// When the provider made it.
    pub created_at: DateTime<Utc>,
    /// What the provider says of it now.
    pub status: Status,
    /// Its error code, where it has one.
    pub error_code: Option<String>,
}

/// What a provider has to the person within the asked window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUpAnswer {
    /// Every message of ours to that person, whatever its text, oldest first. Which of them are other attempts' the
    /// provider does not know.
    pub candidates: Vec<Candidate>,
    /// Whether the whole window was seen. An empty answer proves nothing otherwise.
    pub is_complete: bool,
}

/// What an account has sent since an instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Every message that the account made, by whomever, the newest first.
    pub messages: Vec<Listed>,
    /// Whether nothing lies behind them.
    pub is_complete: bool,
}

/// Why a provider account is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The provider does not know these credentials, or does not let them send.
    #[error("the provider refuses these credentials: {0}")]
    Refused(String),
    /// The provider cannot be asked now.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(String),
}

/// A provider that carries messages out.
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Asks for one message, once. The caller bounds the time.
    fn send<'a>(
        &'a self,
        request: &'a SendRequest,
    ) -> BoxFuture<'a, Result<SendReceipt, SendError>>;

    /// Asks what the provider has of an attempt whose answer never came. Reads alone, so it may be repeated.
    fn look_up<'a>(
        &'a self,
        question: &'a LookUp,
    ) -> BoxFuture<'a, Result<LookUpAnswer, AccountError>>;

    /// Lists what the account has sent since an instant, whoever asked for it. Reads alone, so it may be repeated. The
    /// caller bounds the time.
    fn list_sent(&self, since: DateTime<Utc>) -> BoxFuture<'_, Result<Listing, AccountError>>;

    /// Checks that the account's credentials work.
    fn verify<'a>(&'a self, account_ref: &'a str) -> BoxFuture<'a, Result<(), AccountError>>;
}
