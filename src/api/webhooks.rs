//! What providers tell us of messages: signed by them, stored at once, understood later.
//!
//! The answer 204 means that the event is durable. Whose message it speaks of says our own mark in the address, which is
//! signed with it; an event that names nothing of ours does no harm.

mod accounts;
mod form;

use std::sync::Arc;

use poem_openapi::OpenApi;
use poem_openapi::param::Query;
use serde_json::{Map, Value};

use self::accounts::Accounts;
use self::form::{FormBody, TwilioSignature};
use super::Tag;
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Done;
use super::state::ApiState;
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};
use crate::providers::twilio::verify::{
    CALLBACK_FIELDS, CallbackError, StatusCallback, read_callback,
};
use crate::store::provider_events::NewEvent;

/// Seconds after which a provider may try again, when nothing could be stored.
const RETRY_AFTER_SECS: u64 = 5;

/// The operations of providers.
#[derive(Debug)]
pub struct Webhooks {
    state: ApiState,
    accounts: Arc<Accounts>,
}

impl Webhooks {
    /// On this state.
    pub fn new(state: ApiState) -> Self {
        Self {
            accounts: Arc::new(Accounts::new(state.clone())),
            state,
        }
    }
}

#[OpenApi]
impl Webhooks {
    /// Twilio tells the status of a text message.
    ///
    /// The address is set with each message and names it. The call is checked with the Auth Token of the account that
    /// sent the message (`X-Twilio-Signature`), stored, and merged into the message within a second. Repeats do nothing.
    #[oai(
        path = "/webhooks/twilio/sms",
        method = "post",
        operation_id = "receive_twilio_status",
        tag = "Tag::Webhooks"
    )]
    async fn receive_twilio_status(
        &self,
        signature: TwilioSignature,
        /// The tenant whose message it is.
        #[oai(name = "t")]
        tenant_id: Query<TenantId>,
        /// The message.
        #[oai(name = "m")]
        message_id: Query<MessageId>,
        /// The attempt that made it.
        #[oai(name = "a")]
        attempt_id: Query<AttemptId>,
        form: FormBody,
    ) -> ApiResult<Done> {
        let callback = read_callback(&form.0).map_err(invalid)?;
        self.accounts
            .check(tenant_id.0, Channel::Sms, &callback, &form.0, &signature)
            .await?;
        let key = MessageKey {
            tenant_id: tenant_id.0,
            id: message_id.0,
        };
        let event = event(key, attempt_id.0, callback, form.0);
        if self.state.events.accept(event).await {
            Ok(Done)
        } else {
            Err(ApiError::unavailable(RETRY_AFTER_SECS))
        }
    }
}

/// Tells one address from another: an event that was sent to a wrong one must not stand in the way of the right one.
fn address_mark(key: MessageKey, attempt_id: AttemptId) -> u32 {
    let mark = key.tenant_id.0.as_u128() ^ key.id.0.as_u128() ^ attempt_id.0.as_u128();
    mark as u32
}

/// What is wrong with a form that is no callback of Twilio's.
fn invalid(error: CallbackError) -> ApiError {
    let problem = |detail: &str| ApiError::new(ProblemType::InvalidBody, detail);
    match error {
        CallbackError::Incomplete => {
            problem("A status callback names MessageSid, AccountSid and MessageStatus.")
        }
        CallbackError::Nul => problem("No field of a status callback has a NUL."),
        CallbackError::Sid => {
            ApiError::invalid_field("MessageSid", "must be SM or MM and 32 hexadecimal digits")
        }
        CallbackError::Word(field) => ApiError::invalid_field(
            field,
            "must be a word of 1 to 32 letters, digits, '-' or '_'",
        ),
    }
}

fn event(
    key: MessageKey,
    attempt_id: AttemptId,
    callback: StatusCallback,
    form: Vec<(String, String)>,
) -> NewEvent {
    let StatusCallback {
        message_sid,
        account_sid,
        status,
        error_code,
    } = callback;
    let code = error_code.unwrap_or_default();
    let body: Map<String, Value> = form
        .into_iter()
        .filter(|(name, _)| !CALLBACK_FIELDS.contains(&name.as_str()))
        .map(|(name, value)| (name, Value::from(value)))
        .collect();
    NewEvent {
        dedup_key: format!(
            "tw:{message_sid}:{status}:{code}:{:08x}",
            address_mark(key, attempt_id)
        ),
        provider: Provider::Twilio,
        account_ref: account_sid,
        key,
        attempt_id,
        provider_message_id: message_sid,
        status,
        body: Value::Object(body),
    }
}
