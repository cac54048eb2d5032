//! What every request passes on its way in and every answer on its way out: the request's id, the limits, and the
//! promise that each error is a problem.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{FutureExt, StreamExt};
use poem::http::{HeaderName, HeaderValue, Method, header};
use poem::{Body, Endpoint, IntoResponse, Middleware, Request, Response};
use sha2::{Digest, Sha256};
use tracing::Instrument;
use uuid::Uuid;

use super::change::Facts;
use super::front::Front;
use super::problem::{self, ApiError, ProblemType};
use super::routes::{Operation, Route, Routes};
use crate::telemetry::{HTTP_REQUEST_SECONDS, HTTP_REQUESTS_TOTAL};

/// Bytes of a request's body at most, but for [`STREAMED`] operations.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What is read and thrown away above the limit, so that the client is still there to read the refusal.
pub(super) const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Operations that read their body piece by piece and keep their own limit.
const STREAMED: &[(Method, &str)] = &[(Method::POST, "/api/contacts/imports")];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Wraps the whole public port.
#[derive(Debug, Clone)]
pub struct Gate {
    /// What the document says of each address.
    pub routes: Arc<Routes>,
    /// Who stands before it.
    pub front: Arc<Front>,
}

impl<E: Endpoint> Middleware<E> for Gate {
    type Output = GateEndpoint<E>;

    fn transform(&self, inner: E) -> Self::Output {
        GateEndpoint {
            inner,
            routes: self.routes.clone(),
            front: self.front.clone(),
        }
    }
}

/// See [`Gate`].
#[derive(Debug)]
pub struct GateEndpoint<E> {
    inner: E,
    routes: Arc<Routes>,
    front: Arc<Front>,
}

impl<E: Endpoint> Endpoint for GateEndpoint<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        // Never the client's: two requests must not share one, and a log line must not hold what a stranger wrote.
        let id = Uuid::now_v7();
        let request_id = id.to_string();
        let operation = self.operation_name(&request);
        let span = tracing::info_span!(
            "request",
            request.id = request_id,
            http.method = %request.method(),
            http.operation = operation,
        );
        let begun = Instant::now();
        let is_api = request.uri().path().starts_with("/api/");
        let mut response = match self.pass(request, id).instrument(span.clone()).await {
            Ok(response) => response,
            Err(refusal) => span.in_scope(|| refusal.into_answer(&request_id)),
        };
        let (status, elapsed) = (response.status(), begun.elapsed());
        span.in_scope(|| {
            tracing::debug!(
                http.status = status.as_u16(),
                elapsed_ms = elapsed.as_millis() as u64,
                "answered"
            );
        });
        metrics::counter!(HTTP_REQUESTS_TOTAL, "operation" => operation.clone(), "status" => status.as_str().to_owned())
            .increment(1);
        metrics::histogram!(HTTP_REQUEST_SECONDS, "operation" => operation).record(elapsed);
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(REQUEST_ID, value);
        }
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(
            header::REFERRER_POLICY,
            HeaderValue::from_static("same-origin"),
        );
        if is_api && !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Ok(response)
    }
}

/// A refusal with the methods of the address, where that is the answer.
struct Refusal {
    error: ApiError,
    allow: Option<String>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, allow: None }
    }
}

impl Refusal {
    fn into_answer(self, request_id: &str) -> Response {
        let mut response = self.error.into_answer(request_id);
        if let Some(value) = self
            .allow
            .and_then(|allow| HeaderValue::from_str(&allow).ok())
        {
            response.headers_mut().insert(header::ALLOW, value);
        }
        response
    }
}

impl<E: Endpoint> GateEndpoint<E> {
    /// What logs and metrics call the request: never by its address, which a stranger chooses and which may hold a secret.
    fn operation_name(&self, request: &Request) -> String {
        self.routes
            .find(request.uri().path())
            .and_then(|route| route.operation(request.method().as_str()))
            .map_or_else(|| "other".to_owned(), |operation| operation.name.clone())
    }

    async fn pass(&self, mut request: Request, request_id: Uuid) -> Result<Response, Refusal> {
        refuse_nul(&request.uri().to_string())?;
        let route = self.routes.find(request.uri().path());
        let method = request.method().clone();
        let operation = route.and_then(|route| route.operation(method.as_str()));
        if let Some(operation) = operation {
            refuse_unknown_parameters(operation, request.uri().query().unwrap_or_default())?;
        }
        let is_streamed = STREAMED
            .iter()
            .any(|(streamed, path)| *streamed == method && *path == request.uri().path());
        let mut hash = Sha256::new();
        for part in [method.as_str(), " ", &request.uri().to_string(), " "] {
            hash.update(part);
        }
        if !is_streamed {
            let body = read_limited(request.take_body(), BODY_BYTES_MAX).await?;
            hash.update(&body);
            request.set_body(body);
        }
        let facts = Facts {
            request_id,
            ip: self.front.client_ip(&request),
            hash: hash.finalize().into(),
        };
        request.extensions_mut().insert(facts);
        // A handler that panics has changed nothing: its transaction is gone with it.
        let answer = AssertUnwindSafe(self.inner.call(request))
            .catch_unwind()
            .await;
        match answer {
            Ok(Ok(response)) => Ok(response.into_response()),
            Ok(Err(error)) => Err(refusal(error, route, operation)),
            Err(_) => Err(ApiError::internal("the handler panicked").into()),
        }
    }
}

fn refusal(error: poem::Error, route: Option<&Route>, operation: Option<&Operation>) -> Refusal {
    let path_parameters: Vec<String> = route
        .into_iter()
        .flat_map(Route::parameters)
        .map(str::to_owned)
        .collect();
    let takes = |name: &str| operation.and_then(|o| o.takes(name)).map(str::to_owned);
    let error = problem::framework::from_framework(error, &path_parameters, takes);
    // Pages outside the document are for reading.
    let allow = (error.problem() == ProblemType::MethodNotAllowed)
        .then(|| route.map_or_else(|| "GET, HEAD".to_owned(), Route::allow));
    Refusal { error, allow }
}

/// No text of the database holds a NUL: nothing has such a name, and a statement with one would fail.
fn refuse_nul(address: &str) -> Result<(), ApiError> {
    if address.contains("%00") {
        return Err(ApiError::new(
            ProblemType::InvalidParameter,
            "The address holds a NUL character (%00). Leave it out.",
        ));
    }
    Ok(())
}

/// A misspelt filter that is ignored shows the wrong list; refused, it shows the mistake.
fn refuse_unknown_parameters(operation: &Operation, query: &str) -> Result<(), ApiError> {
    let known: Vec<_> = operation.query_names().collect();
    let unknown = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
        .find(|name| !known.contains(name));
    let Some(name) = unknown else { return Ok(()) };
    let takes = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    let name: String = name.chars().take(64).collect();
    Err(ApiError::new(
        ProblemType::InvalidParameter,
        format!("This operation has no parameter '{name}'. It takes: {takes}."),
    )
    .with_field(name, "is not a parameter of this operation"))
}

async fn read_limited(body: Body, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let mut stream = body.into_bytes_stream();
    let mut bytes = Vec::new();
    let mut seen = 0;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            ApiError::new(
                ProblemType::MalformedRequest,
                "The body broke off. Send it again.",
            )
            .with_source(error)
        })?;
        seen += piece.len();
        if seen <= bytes_max {
            bytes.extend_from_slice(&piece);
        } else {
            bytes = Vec::new();
        }
        if seen > DRAIN_BYTES_MAX {
            break;
        }
    }
    if seen > bytes_max {
        return Err(ApiError::new(
            ProblemType::BodyTooLarge,
            format!("The body may have at most {bytes_max} bytes."),
        ));
    }
    Ok(bytes)
}
