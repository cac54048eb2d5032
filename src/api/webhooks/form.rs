//! A signed form: its fields as they came, and the signature over them and the address.

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::registry::{
    MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, MetaSecurityScheme, Registry,
};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::api::body::{is_media_type, require_content_type};
use crate::api::problem::{ApiError, ProblemType};

const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";
const SCHEME: &str = "twilio_signature";
const HEADER: &str = "X-Twilio-Signature";

/// The signature of a request, with the part of the address that the outside and we see alike.
#[derive(Debug)]
pub(super) struct TwilioSignature {
    /// The header.
    pub(super) signature: String,
    /// Path and query as they came.
    pub(super) path_and_query: String,
}

/// The fields of a form, in their order.
#[derive(Debug)]
pub(super) struct FormBody(pub(super) Vec<(String, String)>);

/// The refusal of a call that is not signed as it should be.
pub(super) fn refused(detail: &str) -> ApiError {
    ApiError::new(ProblemType::SignatureRefused, detail)
}

impl<'a> ApiExtractor<'a> for TwilioSignature {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        registry.create_security_scheme(
            SCHEME,
            MetaSecurityScheme {
                ty: "apiKey",
                description: Some(
                    "Twilio's signature: HMAC-SHA1 over the address and the fields, with the account's Auth Token.",
                ),
                name: Some(HEADER),
                key_in: Some("header"),
                scheme: None,
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let signature = request
            .header(HEADER)
            .ok_or_else(|| refused("Calls of Twilio carry the header X-Twilio-Signature."))?;
        let uri = request.original_uri();
        let path_and_query = uri.path_and_query().map(ToString::to_string);
        Ok(Self {
            signature: signature.to_owned(),
            path_and_query: path_and_query.unwrap_or_default(),
        })
    }
}

impl<'a> ApiExtractor<'a> for FormBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: MEDIA_TYPE,
                schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("object"))),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        require_content_type(request, |it| is_media_type(it, MEDIA_TYPE))?;
        let bytes = <Vec<u8> as FromRequest>::from_request(request, body).await?;
        Ok(Self(
            url::form_urlencoded::parse(&bytes).into_owned().collect(),
        ))
    }
}
