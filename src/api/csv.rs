//! CSV in and out: a body that is read as it comes, and a file to download.

use poem::http::{HeaderValue, header};
use poem::{Body, FromRequest, IntoResponse, Request, RequestBody, Response};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{
    MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};

use super::body::{is_media_type, require_content_type};

const MEDIA_TYPE: &str = "text/csv";

/// The body of a request, not read yet.
#[derive(Debug)]
pub struct CsvBody(pub Body);

/// 200: a file.
#[derive(Debug)]
pub struct CsvFile {
    /// What browsers call it; letters, digits, `-` and `.` only.
    pub name: String,
    /// The file.
    pub text: String,
}

fn schema() -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        format: Some("binary"),
        ..MetaSchema::new("string")
    }))
}

fn content() -> Vec<MetaMediaType> {
    vec![MetaMediaType {
        content_type: MEDIA_TYPE,
        schema: schema(),
    }]
}

impl<'a> ApiExtractor<'a> for CsvBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: content(),
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        require_content_type(request, |it| is_media_type(it, MEDIA_TYPE))?;
        Ok(Self(
            <Body as FromRequest>::from_request(request, body).await?,
        ))
    }
}

impl Payload for CsvFile {
    const CONTENT_TYPE: &'static str = MEDIA_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        schema()
    }
}

impl IntoResponse for CsvFile {
    fn into_response(self) -> Response {
        let mut response = Response::builder()
            .content_type("text/csv; charset=utf-8")
            .body(self.text);
        let disposition = format!("attachment; filename=\"{}\"", self.name);
        if let Ok(value) = HeaderValue::from_str(&disposition) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
        response
    }
}

impl ApiResponse for CsvFile {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The file.",
                status: Some(200),
                status_range: None,
                content: content(),
                headers: Vec::new(),
            }],
        }
    }

    fn register(_registry: &mut Registry) {}
}
