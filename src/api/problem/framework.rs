//! What the framework refuses by itself, as problems of ours.

use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};

use super::{ApiError, ProblemType};

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
    .with_field(name, format!("must be {takes}"))
}
