//! A single message as a request writes it, and why it is not sent.

use std::collections::BTreeMap;
use std::time::Duration;

use poem_openapi::Object;

use crate::api::campaigns::unknown_field;
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::delivery::single::{Saying, Single, SingleError, To};
use crate::domain::actor::Actor;
use crate::domain::campaign::Campaign;
use crate::domain::channel::{Channel, Class};
use crate::domain::ids::{ContactId, SenderId, TemplateId};
use crate::domain::single::SingleRefusal;
use crate::domain::template::RenderRefusal;

/// A message to one person.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub(super) struct NewMessage {
    /// How it reaches the person.
    channel: Channel,
    /// `txn` when somebody waits for it, which needs no consent; `bulk` when it is one of many, which does. `txn` when
    /// absent.
    class: Option<Class>,
    /// Whom it is for; this or `to`.
    contact_id: Option<ContactId>,
    /// Number or email address; this or `contact_id`. A number without a country code is read in the tenant's country.
    #[oai(validator(min_length = 1, max_length = 320))]
    to: Option<String>,
    /// What it says: the template's current version; this or `body`.
    template_id: Option<TemplateId>,
    /// The text; this or `template_id`. It may name variables as a template does: `Hello {{ first_name }}`.
    #[oai(validator(min_length = 1))]
    body: Option<String>,
    /// The subject of an email; with `body`.
    #[oai(validator(max_length = 1000))]
    subject: Option<String>,
    /// The HTML of an email; with `body`.
    html: Option<String>,
    /// Values for variables, above what is known of the contact.
    values: Option<BTreeMap<String, String>>,
    /// Where it comes from; the channel's default when absent.
    sender_id: Option<SenderId>,
    /// It is not sent when it waits longer, in seconds; three days when absent.
    #[oai(validator(minimum(value = "60"), maximum(value = "604800")))]
    expires_after_secs: Option<u32>,
}

impl NewMessage {
    /// What to send.
    ///
    /// # Errors
    /// 422 when it names nobody or two people, no text or two of them.
    pub(super) fn parse(self, actor: &Actor) -> ApiResult<Single> {
        let to = match (self.contact_id, self.to) {
            (Some(id), None) => To::Contact(id),
            (None, Some(address)) => To::Address(address),
            (None, None) => return Err(one_of("contact_id", "to", "is missing")),
            (Some(_), Some(_)) => return Err(one_of("to", "contact_id", "is there too")),
        };
        let saying = match (self.template_id, self.body) {
            (Some(id), None) if self.subject.is_none() && self.html.is_none() => {
                Saying::Template(id)
            }
            (None, Some(body)) => Saying::Text {
                subject: self.subject,
                body,
                html: self.html,
            },
            (None, None) => return Err(one_of("template_id", "body", "is missing")),
            (Some(_), _) => {
                return Err(one_of("template_id", "body, subject and html", "is there"));
            }
        };
        Ok(Single {
            tenant_id: actor.tenant_id,
            channel: self.channel,
            class: self.class.unwrap_or(Class::Txn),
            to,
            saying,
            values: self.values.unwrap_or_default(),
            sender_id: self.sender_id,
            expires_after: self
                .expires_after_secs
                .map_or(Campaign::EXPIRES_AFTER, |secs| {
                    Duration::from_secs(secs.into())
                }),
        })
    }
}

fn one_of(field: &str, other: &str, fault: &str) -> ApiError {
    ApiError::new(
        ProblemType::InvalidBody,
        format!("Send either '{field}' or '{other}', and not both: '{field}' {fault}."),
    )
    .with_field(field, format!("either this or {other}, and not both"))
}

impl From<SingleError> for ApiError {
    fn from(error: SingleError) -> Self {
        match error {
            SingleError::Store(error) => error.into(),
            SingleError::Unknown { what } => unknown_field(what, &format!("{what}_id")),
            SingleError::Refused(refusal) => refusal.into(),
        }
    }
}

impl From<SingleRefusal> for ApiError {
    fn from(refusal: SingleRefusal) -> Self {
        let (problem, field) = match &refusal {
            SingleRefusal::NoSender { .. } => (ProblemType::NoSender, None),
            SingleRefusal::NoAddress { .. } => (ProblemType::Unprocessable, Some("contact_id")),
            SingleRefusal::BadAddress { .. } => (ProblemType::InvalidAddress, None),
            SingleRefusal::Suppressed { .. } => (ProblemType::Suppressed, None),
            SingleRefusal::NoConsent { .. } => (ProblemType::NoConsent, None),
            SingleRefusal::OtherChannel { .. } => (ProblemType::Unprocessable, Some("channel")),
            SingleRefusal::Archived(_) => (ProblemType::TemplateArchived, Some("template_id")),
            SingleRefusal::Content(refusal) => {
                (ProblemType::InvalidTemplate, Some(refusal.field()))
            }
            SingleRefusal::Render(RenderRefusal::MissingVariable(_)) => {
                (ProblemType::MissingVariable, Some("values"))
            }
            SingleRefusal::Render(_) => (ProblemType::InvalidTemplate, Some("body")),
            SingleRefusal::Body(_) => (ProblemType::Unprocessable, Some("body")),
        };
        match field {
            Some(field) => Self::unchanged_by_field(problem, field, &refusal),
            None => Self::unchanged(problem, &refusal),
        }
    }
}
