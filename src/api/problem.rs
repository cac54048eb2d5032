//! The one place where an error becomes HTTP: problem details (RFC 9457) with a type that never changes.
//!
//! Handlers return [`ApiError`]; what the framework refuses by itself becomes one in [`from_framework`]. The gate
//! writes the answer, with the request's id in it.

use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError, ResponseError};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, Object};

use crate::domain::actor::Forbidden;
use crate::store::StoreError;

/// What an operation answers.
pub type ApiResult<T> = Result<T, ApiError>;

macro_rules! problem_types {
    ($($(#[$doc:meta])* $name:ident = $status:literal $slug:literal $title:literal,)+) => {
        /// What went wrong, by the part of the answer that programs compare.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ProblemType { $($(#[$doc])* $name),+ }

        impl ProblemType {
            /// Every type, by status.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The last part of the `type`. Never changes.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug),+ }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status),+ }
            }

            /// The same few words for each problem of this type.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),+ }
            }
        }
    };
}

problem_types! {
    /// The request is not HTTP as we understand it, or broke off.
    MalformedRequest = 400 "malformed-request" "The request could not be read",
    /// The body is not JSON.
    MalformedJson = 400 "malformed-json" "The body is not JSON",
    /// A parameter in the address is unknown or cannot be read.
    InvalidParameter = 400 "invalid-parameter" "A parameter is not valid",
    /// The cursor is not one of ours, or another list's.
    InvalidCursor = 400 "invalid-cursor" "The cursor is not valid",
    /// No session and no key, or one that no longer counts.
    Unauthenticated = 401 "unauthenticated" "Sign in first",
    /// Email and password do not fit.
    WrongCredentials = 401 "wrong-credentials" "Email or password is wrong",
    /// The role does not allow it.
    Forbidden = 403 "forbidden" "Your role does not allow this",
    /// A browser sent it from another site.
    ForeignOrigin = 403 "foreign-origin" "The request comes from another site",
    /// Signed in, but a member of no such tenant.
    NotAMember = 403 "not-a-member" "You are not a member of this tenant",
    /// The caller did not sign it as a provider's account does.
    SignatureRefused = 403 "signature-refused" "The signature is missing or wrong",
    /// The tenant is not active.
    TenantInactive = 403 "tenant-inactive" "This tenant is not active",
    /// The role that is given or touched is above one's own.
    RoleAboveOwn = 403 "role-above-own" "The role is above your own",
    /// No operation has this address.
    UnknownAddress = 404 "unknown-address" "There is nothing at this address",
    /// The thing is not there, or is somebody else's.
    NotFound = 404 "not-found" "Not found",
    /// The address exists, with other methods.
    MethodNotAllowed = 405 "method-not-allowed" "This address does not take this method",
    /// The name is taken.
    NameTaken = 409 "name-taken" "The name is taken",
    /// Somebody else changed it meanwhile.
    Conflict = 409 "conflict" "It was changed meanwhile",
    /// The person is a member.
    AlreadyMember = 409 "already-member" "They are a member already",
    /// The person has an open invitation.
    AlreadyInvited = 409 "already-invited" "They are invited already",
    /// The invitation was used, taken back or ran out.
    InvitationEnded = 409 "invitation-ended" "The invitation has ended",
    /// A tenant keeps one owner at least.
    LastOwner = 409 "last-owner" "The last owner cannot go",
    /// Only an active tenant can be stopped.
    TenantNotActive = 409 "tenant-not-active" "The tenant is not active",
    /// Only a suspended tenant can be resumed.
    TenantNotSuspended = 409 "tenant-not-suspended" "The tenant is not suspended",
    /// The campaign was sent before.
    CampaignAlreadySent = 409 "campaign-already-sent" "The campaign was sent before",
    /// Only a campaign that is sending can be paused.
    CampaignNotSending = 409 "campaign-not-sending" "The campaign is not sending",
    /// Nothing of it was sent that could be sent again.
    CampaignNotSent = 409 "campaign-not-sent" "The campaign was not sent",
    /// Only a paused campaign can go on.
    CampaignNotPaused = 409 "campaign-not-paused" "The campaign is not paused",
    /// Only a scheduled campaign can be unscheduled.
    CampaignNotScheduled = 409 "campaign-not-scheduled" "The campaign is not scheduled",
    /// The sender sends nothing any more.
    SenderRetired = 409 "sender-retired" "The sender was retired",
    /// There is no halt to lift.
    SenderNotHalted = 409 "sender-not-halted" "The sender is not halted",
    /// An address is one sender's alone.
    SenderTaken = 409 "sender-taken" "The address is another sender's",
    /// The channel has no provider account.
    ChannelNotConnected = 409 "channel-not-connected" "The channel has no provider account",
    /// Only a draft can be changed.
    CampaignNotDraft = 409 "campaign-not-draft" "The campaign is not a draft",
    /// It has completed or was cancelled before.
    CampaignEnded = 409 "campaign-ended" "The campaign has ended",
    /// A live job does what the dead one would.
    JobAlreadyLive = 409 "job-already-live" "A live job does the same work",
    /// Evidence or another person settled the message.
    MessageNotParked = 409 "message-not-parked" "The message is not parked",
    /// The message is past its time.
    MessageExpired = 409 "message-expired" "The message is past its time",
    /// The first request with this idempotency key has not ended.
    IdempotencyKeyBusy = 409 "idempotency-key-busy" "The first request with this key is at work",
    /// The file is still coming in.
    ImportNotUploaded = 409 "import-not-uploaded" "The upload has not ended",
    /// The import was started before.
    ImportAlreadyStarted = 409 "import-already-started" "The import was started before",
    /// The import has ended, one way or another.
    ImportEnded = 409 "import-ended" "The import has ended",
    /// Somebody has the same number and the same address.
    ContactExists = 409 "contact-exists" "The contact is there already",
    /// Nothing new is made of an archived template.
    TemplateArchived = 409 "template-archived" "The template is archived",
    /// A campaign or an import needs the list.
    ListInUse = 409 "list-in-use" "The list is needed",
    /// The import the campaign is written to has not completed.
    ImportUnfinished = 409 "import-unfinished" "The import has not completed",
    /// The body is larger than the operation takes.
    BodyTooLarge = 413 "body-too-large" "The body is too large",
    /// The operation takes another media type.
    UnsupportedMediaType = 415 "unsupported-media-type" "The media type is not supported",
    /// The idempotency key was used for another request.
    IdempotencyKeyReused = 422 "idempotency-key-reused" "The key was used for another request",
    /// The body is JSON, but not what the operation takes.
    InvalidBody = 422 "invalid-body" "The body is not valid",
    /// A text cannot be a template's.
    InvalidTemplate = 422 "invalid-template" "The template cannot be used",
    /// The campaign has no template.
    CampaignWithoutTemplate = 422 "campaign-without-template" "The campaign has no template",
    /// The pace is none, or something else is slower.
    InvalidPace = 422 "invalid-pace" "The pace cannot be set",
    /// The rate is none, or more than a sender of the kind does.
    InvalidRate = 422 "invalid-rate" "The rate cannot be set",
    /// What was written is no number and no email address.
    InvalidAddress = 422 "invalid-address" "The address cannot be used",
    /// The address opted out, or was suppressed otherwise.
    Suppressed = 422 "suppressed" "Nothing is sent to this address",
    /// Bulk needs consent.
    NoConsent = 422 "no-consent" "There is no consent",
    /// The text asks for what this person lacks.
    MissingVariable = 422 "missing-variable" "A variable is missing",
    /// There is no active sender for the channel.
    NoSender = 422 "no-sender" "There is nothing to send from",
    /// A campaign cannot start then.
    InvalidSendAt = 422 "invalid-send-at" "The campaign cannot start then",
    /// Nobody would get it.
    EmptyAudience = 422 "empty-audience" "Nobody would get it",
    /// The template names what no contact has.
    UnknownVariable = 422 "unknown-variable" "No contact has this variable",
    /// What the body says cannot be done.
    Unprocessable = 422 "unprocessable" "This cannot be done",
    /// The file is no table of contacts.
    UnreadableFile = 422 "unreadable-file" "The file cannot be read",
    /// Too many tries; wait.
    TooManyTries = 429 "too-many-tries" "Too many tries",
    /// Our fault. Nothing was changed.
    Internal = 500 "internal" "We could not do this",
    /// Not now. Nothing was changed; try again.
    Unavailable = 503 "unavailable" "Not available now",
}

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
        .with_errors(vec![FieldError {
            field: field.to_owned(),
            message: message.to_owned(),
        }])
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

/// Turns what the framework refuses by itself into a problem. Its own texts are never shown: they name its types.
///
/// `path_parameters` are the names of the variable parts of the address; `takes` says what a parameter should be.
pub fn from_framework(
    error: poem::Error,
    path_parameters: &[String],
    takes: impl Fn(&str) -> Option<String>,
) -> ApiError {
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        // The framework knows the parameter by its position alone: param0.
        let name = error
            .name
            .strip_prefix("param")
            .and_then(|position| position.parse::<usize>().ok())
            .and_then(|position| path_parameters.get(position))
            .map_or("id", String::as_str);
        return invalid_parameter(name, takes(name));
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return invalid_parameter(error.name, takes(error.name));
    }
    if error.is::<AuthorizationError>() {
        return ApiError::unauthenticated();
    }
    if error.is::<NotFoundError>() {
        return ApiError::new(
            ProblemType::UnknownAddress,
            "No operation has this address. /api/docs lists them.",
        );
    }
    if error.is::<MethodNotAllowedError>() {
        return ApiError::new(
            ProblemType::MethodNotAllowed,
            "Use one of the methods in the header Allow.",
        );
    }
    if error.is::<ContentTypeError>() {
        return ApiError::new(
            ProblemType::UnsupportedMediaType,
            "Send the body with the Content-Type that /api/docs names for this operation.",
        );
    }
    if error.is::<ParseRequestPayloadError>() || error.is::<ReadBodyError>() {
        return ApiError::new(
            ProblemType::MalformedRequest,
            "The body could not be read to its end. Send it again.",
        );
    }
    match error.downcast::<ApiError>() {
        Ok(error) => error,
        Err(error) if error.status().is_client_error() => ApiError::new(
            ProblemType::MalformedRequest,
            "The request could not be understood. /api/docs shows what this operation takes.",
        ),
        Err(error) => ApiError::internal(error.to_string()),
    }
}

fn invalid_parameter(name: &str, takes: Option<String>) -> ApiError {
    let takes = takes.unwrap_or_else(|| "something else".to_owned());
    ApiError::new(
        ProblemType::InvalidParameter,
        format!("The parameter '{name}' must be {takes}."),
    )
    .with_errors(vec![FieldError {
        field: name.to_owned(),
        message: format!("must be {takes}"),
    }])
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
