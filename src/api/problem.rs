//! The one place where an error becomes HTTP: problem details (RFC 9457) with a type that never changes.
//!
//! Handlers return [`ApiError`]; what the framework refuses by itself becomes one in [`framework`]. The gate
//! writes the answer, with the request's id in it.

pub mod framework;
mod types;

use std::fmt::Display;

use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, Object};

pub use self::types::ProblemType;
use crate::domain::actor::Forbidden;
use crate::store::StoreError;

/// What an operation answers.
pub type ApiResult<T> = Result<T, ApiError>;

/// What stands before the slug in every `type`.
pub const TYPE_PREFIX: &str = "urn:engageninja:problem:";

/// The media type of every error.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was not done.
#[derive(Debug, Clone, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct Problem {
    /// Stable: programs compare this. docs/api.md lists them.
    #[oai(rename = "type")]
    pub kind: String,
    /// The same for each problem of this type.
    pub title: String,
    /// The HTTP status.
    pub status: i32,
    /// What happened here, and what to do.
    pub detail: String,
    /// Names this request in our logs.
    pub request_id: String,
    /// What is wrong with single fields.
    pub errors: Option<Vec<FieldError>>,
}

/// What is wrong with one field of the request.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
pub struct FieldError {
    /// The field, by dots and positions: `audience.import_id`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

/// An error on its way to the client.
#[derive(Debug, thiserror::Error)]
#[error("{}: {detail}", .problem.slug())]
pub struct ApiError {
    problem: ProblemType,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_secs: Option<u64>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ApiError {
    /// `detail` says what happened and what to do, as whole sentences.
    pub fn new(problem: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            problem,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_secs: None,
            source: None,
        }
    }

    /// A refusal as a whole sentence: `refusal` says what is wrong and what to do, without a full stop.
    pub fn unchanged(problem: ProblemType, refusal: &(impl Display + ?Sized)) -> Self {
        Self::new(problem, format!("Nothing was changed: {refusal}."))
    }

    /// The same where one field is at fault.
    pub fn unchanged_by_field(
        problem: ProblemType,
        field: &str,
        refusal: &(impl Display + ?Sized),
    ) -> Self {
        Self::unchanged(problem, refusal).with_field(field, refusal.to_string())
    }

    /// Names the one field that is wrong.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.with_errors(vec![FieldError {
            field: field.into(),
            message: message.into(),
        }])
    }

    /// Names the fields that are wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Says when another try makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    /// Keeps the cause for the log; clients never see it.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// No session, no key, or one that no longer counts.
    pub fn unauthenticated() -> Self {
        Self::new(
            ProblemType::Unauthenticated,
            "Sign in at POST /api/sessions, or send a valid key as 'Authorization: Bearer en_…'. A key may have \
             expired or been revoked.",
        )
    }

    /// A field of the body is not what it has to be; `message` goes on behind its name, as "must not be empty" does.
    pub fn invalid_field(field: &str, message: &str) -> Self {
        Self::new(
            ProblemType::InvalidBody,
            format!("The field '{field}' {message}."),
        )
        .with_field(field, message)
    }

    /// Somebody else's thing and one that never was get the same answer.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            ProblemType::NotFound,
            format!("There is no {what} with this id in your tenant."),
        )
    }

    /// Our fault; the cause goes to the log.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(
            ProblemType::Internal,
            "Nothing was changed. Try again, or send us the request id.",
        )
        .with_source(source)
    }

    /// Not now; nothing was changed.
    pub fn unavailable(retry_after_secs: u64) -> Self {
        Self::new(
            ProblemType::Unavailable,
            format!("Nothing was changed. Try again in {retry_after_secs} seconds."),
        )
        .with_retry_after(retry_after_secs)
    }

    /// What kind of problem it is.
    pub fn problem(&self) -> ProblemType {
        self.problem
    }

    /// The fields that are wrong.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The answer. A fault of ours is logged here, once.
    pub fn into_answer(self, request_id: &str) -> Response {
        if self.problem.status() >= 500 {
            tracing::error!(
                request.id = request_id,
                problem = self.problem.slug(),
                error = self.source.as_ref().map(|source| error_chain(&**source)),
                "request failed"
            );
        }
        let problem = Problem {
            kind: format!("{TYPE_PREFIX}{}", self.problem.slug()),
            title: self.problem.title().to_owned(),
            status: self.problem.status().into(),
            detail: self.detail,
            request_id: request_id.to_owned(),
            errors: (!self.errors.is_empty()).then_some(self.errors),
        };
        let mut response = Json(problem).into_response();
        response.set_status(
            StatusCode::from_u16(self.problem.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        );
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, secs.into());
        }
        if self.problem.status() == 401 {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"engageninja\""),
            );
        }
        response
    }
}

/// An error and what caused it, in one line.
fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// The statuses every operation may answer with, and what they mean.
const DOCUMENTED: &[(u16, &str)] = &[
    (400, "The request cannot be read."),
    (401, "No session or key, or one that no longer counts."),
    (
        403,
        "The role does not allow it, or a browser sent it from another site.",
    ),
    (404, "Not there, or somebody else's."),
    (
        409,
        "The name is taken, or the present state does not allow it.",
    ),
    (413, "The body is too large."),
    (415, "The media type is not supported."),
    (
        422,
        "The body is not valid, or what it says cannot be done.",
    ),
    (429, "Too many tries."),
    (500, "Our fault. Nothing was changed."),
    (503, "Not now. Nothing was changed; try again."),
];

impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let responses = DOCUMENTED
            .iter()
            .map(|(status, description)| MetaResponse {
                description,
                status: Some(*status),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: MEDIA_TYPE,
                    schema: Problem::schema_ref(),
                }],
                headers: if matches!(status, 429 | 503) {
                    vec![retry_after_header()]
                } else {
                    Vec::new()
                },
            })
            .collect();
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        <Json<Problem> as Payload>::register(registry);
    }
}

fn retry_after_header() -> MetaHeader {
    MetaHeader {
        name: "Retry-After".to_owned(),
        description: Some("Seconds to wait before another try.".to_owned()),
        required: true,
        deprecated: false,
        schema: i32::schema_ref(),
    }
}

impl From<Forbidden> for ApiError {
    fn from(refusal: Forbidden) -> Self {
        Self::new(
            ProblemType::Forbidden,
            format!(
                "This needs the role {} or higher. Ask an admin of your tenant.",
                refusal.lowest
            ),
        )
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotFound { what } => Self::not_found(what),
            StoreError::Moved { what } => Self::new(
                ProblemType::Conflict,
                format!("The {what} was changed meanwhile. Load it again, then decide."),
            ),
            StoreError::Constraint { constraint, .. } if constraint == "contacts_identity_key" => {
                Self::new(
                    ProblemType::ContactExists,
                    "A contact with the same number and the same email address was made meanwhile. Nothing was changed.",
                )
            }
            StoreError::Constraint { constraint, .. }
                if constraint == "senders_provider_address_key" =>
            {
                Self::new(
                    ProblemType::SenderTaken,
                    "Another sender has this address, of this tenant or of another one, and a reply has to find one tenant. \
                     Retire that one first, or choose another address. Nothing was changed.",
                )
            }
            StoreError::Constraint { constraint, .. } if constraint == "senders_default_key" => {
                Self::new(
                    ProblemType::Conflict,
                    "The channel's default was changed meanwhile. Load the senders again, then decide.",
                )
            }
            StoreError::Constraint { constraint, .. } => match taken_name(constraint) {
                Some(what) => Self::new(
                    ProblemType::NameTaken,
                    format!("There is already a {what} with this name. Choose another."),
                ),
                None => Self::internal(error),
            },
            StoreError::Unavailable(_) => Self::unavailable(5).with_source(error),
            StoreError::Deadlock(_) => Self::unavailable(1).with_source(error),
            StoreError::Unreadable(_) | StoreError::Database(_) => Self::internal(error),
        }
    }
}

/// What has the name, when the constraint is one that keeps names unique.
fn taken_name(constraint: &str) -> Option<&'static str> {
    match constraint {
        "contact_lists_tenant_id_name_key" => Some("list"),
        "templates_tenant_id_name_key" => Some("template"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn slugs_are_unique_and_statuses_documented() {
        let slugs: BTreeSet<_> = ProblemType::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemType::ALL.len());
        for kind in ProblemType::ALL {
            let is_documented = DOCUMENTED
                .iter()
                .any(|(status, _)| *status == kind.status());
            // 405 belongs to an address, not to an operation.
            assert!(is_documented || kind.status() == 405, "{}", kind.slug());
        }
    }

    #[test]
    fn every_type_is_listed_in_the_docs() {
        let docs = include_str!("../../docs/api.md");
        for kind in ProblemType::ALL {
            assert!(
                docs.contains(&format!("`{}`", kind.slug())),
                "{}",
                kind.slug()
            );
        }
    }
}
