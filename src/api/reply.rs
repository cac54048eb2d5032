//! The success answers that are not 200. An operation has one success answer.

use poem::http::StatusCode;
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};

/// 201: it exists now.
#[derive(Debug)]
pub struct Created<T>(pub T);

/// 202: it is on its way; the body says how to follow it.
#[derive(Debug)]
pub struct Accepted<T>(pub T);

/// 204: done, and nothing to say.
#[derive(Debug)]
pub struct Done;

/// What a thing looks like in a record of its change.
pub trait AsJson {
    /// It, as clients see it.
    fn as_json(&self) -> serde_json::Value;
}

impl<T: ToJSON> AsJson for T {
    fn as_json(&self) -> serde_json::Value {
        self.to_json().unwrap_or_default()
    }
}

/// An answer that can be kept and given again.
pub trait Reply: Sized {
    /// Its status.
    const STATUS: u16;
    /// Its body.
    type Body: ToJSON + ParseFromJSON;

    /// The body.
    fn body(&self) -> &Self::Body;
    /// The answer with this body.
    fn of(body: Self::Body) -> Self;
}

macro_rules! with_status {
    ($name:ident, $status:literal, $description:literal) => {
        impl<T: ToJSON> IntoResponse for $name<T> {
            fn into_response(self) -> Response {
                let mut response = Json(self.0).into_response();
                response.set_status(StatusCode::from_u16($status).unwrap_or_default());
                response
            }
        }

        impl<T: ToJSON> ApiResponse for $name<T> {
            fn meta() -> MetaResponses {
                let content = vec![MetaMediaType {
                    content_type: Json::<T>::CONTENT_TYPE,
                    schema: T::schema_ref(),
                }];
                MetaResponses {
                    responses: vec![response($status, $description, content)],
                }
            }

            fn register(registry: &mut Registry) {
                <T as Type>::register(registry);
            }
        }

        impl<T: ToJSON + ParseFromJSON> Reply for $name<T> {
            const STATUS: u16 = $status;
            type Body = T;

            fn body(&self) -> &T {
                &self.0
            }

            fn of(body: T) -> Self {
                Self(body)
            }
        }
    };
}

with_status!(Created, 201, "It exists now.");
with_status!(Accepted, 202, "It is on its way.");

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl ApiResponse for Done {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![response(204, "Done.", Vec::new())],
        }
    }

    fn register(_registry: &mut Registry) {}
}

fn response(status: u16, description: &'static str, content: Vec<MetaMediaType>) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content,
        headers: Vec::new(),
    }
}
