//! A JSON body, and what is wrong with it by field when it is not what the operation takes.

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::error::ContentTypeError;
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde_json::{Map, Value};

use super::problem::{ApiError, ApiResult, FieldError, ProblemType};

/// The parsed JSON body of a request.
#[derive(Debug)]
pub struct Body<T>(pub T);

/// Errors listed at most; the first ones are enough to go on.
const ERRORS_MAX: usize = 20;

impl<'a, T: ParseFromJSON> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: T::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        require_content_type(request, Json::<T>::check_content_type)?;
        let bytes = <Vec<u8> as FromRequest>::from_request(request, body).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// Goes on only when the body is of a kind that the operation takes.
pub fn require_content_type(
    request: &Request,
    is_taken: impl FnOnce(&str) -> bool,
) -> Result<(), ContentTypeError> {
    match request.content_type() {
        Some(content_type) if is_taken(content_type) => Ok(()),
        Some(content_type) => Err(ContentTypeError::NotSupported {
            content_type: content_type.to_owned(),
        }),
        None => Err(ContentTypeError::ExpectContentType),
    }
}

/// Whether a `Content-Type` is this media type, whatever parameters follow.
pub fn is_media_type(content_type: &str, media_type: &str) -> bool {
    let named = content_type.split(';').next().unwrap_or_default();
    named.trim().eq_ignore_ascii_case(media_type)
}

/// A name in a body, without the blanks around it.
///
/// # Errors
/// 422 when there is nothing else.
pub fn named(text: &str) -> ApiResult<&str> {
    match text.trim() {
        "" => Err(ApiError::invalid_field("name", "must not be empty")),
        name => Ok(name),
    }
}

fn parse<T: ParseFromJSON>(bytes: &[u8]) -> Result<T, ApiError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        ApiError::new(
            ProblemType::MalformedJson,
            format!(
                "The body stops being JSON at line {}, column {}. Mend it there and send it again.",
                error.line(),
                error.column()
            ),
        )
    })?;
    // First by the schema that the document shows: the framework's own messages do not name the field, and it takes a
    // number for a text.
    let errors = faults::<T>(&value);
    if !errors.is_empty() {
        return Err(refusal(errors));
    }
    T::parse_from_json(Some(value)).map_err(|_| refusal(Vec::new()))
}

fn faults<T: Type>(value: &Value) -> Vec<FieldError> {
    let mut registry = Registry::new();
    T::register(&mut registry);
    let mut checker = Checker {
        registry: &registry,
        errors: Vec::new(),
    };
    checker.check(&T::schema_ref(), value, String::new());
    checker.errors
}

fn refusal(errors: Vec<FieldError>) -> ApiError {
    let detail = match errors.as_slice() {
        [] => "The body is not what /api/docs shows for this operation.".to_owned(),
        [error] if error.field.is_empty() => format!("The body {}.", error.message),
        [error] => format!("The field '{}' {}.", error.field, error.message),
        errors => format!("{} fields are not valid; errors names them.", errors.len()),
    };
    ApiError::new(ProblemType::InvalidBody, detail).with_errors(errors)
}

struct Checker<'a> {
    registry: &'a Registry,
    errors: Vec<FieldError>,
}

impl Checker<'_> {
    fn refuse(&mut self, field: String, message: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let message = message.into();
            self.errors.push(FieldError { field, message });
        }
    }

    fn check(&mut self, schema: &MetaSchemaRef, value: &Value, field: String) {
        let registry = self.registry;
        let schema = match schema {
            MetaSchemaRef::Inline(schema) => schema,
            MetaSchemaRef::Reference(name) => match registry.schemas.get(name) {
                Some(schema) => schema,
                None => return,
            },
        };
        // A wrapped reference: the schema beside it only adds a description.
        for part in &schema.all_of {
            self.check(part, value, field.clone());
        }
        match (schema.ty, value) {
            ("object", Value::Object(object)) => self.check_object(schema, object, &field),
            ("array", Value::Array(items)) => self.check_array(schema, items, &field),
            ("string", Value::String(text)) => self.check_text(schema, text, field),
            ("integer" | "number", Value::Number(_)) => self.check_number(schema, value, field),
            ("boolean", Value::Bool(_)) | ("", _) => {}
            (wanted, _) => self.refuse(field, format!("must be {}", with_article(wanted))),
        }
    }

    fn check_object(&mut self, schema: &MetaSchema, object: &Map<String, Value>, field: &str) {
        if let Some(values) = &schema.additional_properties {
            for (name, value) in object {
                self.check(values, value, join(field, name));
            }
            return;
        }
        for name in &schema.required {
            if object.get(*name).is_none_or(Value::is_null) {
                self.refuse(join(field, name), "is missing");
            }
        }
        for (name, value) in object {
            match schema.properties.iter().find(|(known, _)| known == name) {
                Some(_) if value.is_null() => {}
                Some((_, schema)) => self.check(schema, value, join(field, name)),
                None => self.refuse(join(field, name), "is not a field of this operation"),
            }
        }
    }

    fn check_array(&mut self, schema: &MetaSchema, items: &[Value], field: &str) {
        if let Some(max) = schema.max_items.filter(|max| items.len() > *max) {
            self.refuse(field.to_owned(), format!("may have at most {max} items"));
        }
        if let Some(min) = schema.min_items.filter(|min| items.len() < *min) {
            self.refuse(field.to_owned(), format!("must have at least {min} items"));
        }
        if let Some(schema) = &schema.items {
            for (position, item) in items.iter().enumerate() {
                self.check(schema, item, format!("{field}[{position}]"));
            }
        }
    }

    fn check_text(&mut self, schema: &MetaSchema, text: &str, field: String) {
        let chars = text.chars().count();
        if !schema.enum_items.is_empty() && !schema.enum_items.iter().any(|word| word == text) {
            let words: Vec<_> = schema.enum_items.iter().filter_map(Value::as_str).collect();
            self.refuse(field, format!("must be one of {}", words.join(", ")));
        } else if schema.min_length.is_some_and(|min| chars < min) && text.is_empty() {
            self.refuse(field, "must not be empty");
        } else if let Some(min) = schema.min_length.filter(|min| chars < *min) {
            self.refuse(field, format!("must have at least {min} characters"));
        } else if let Some(max) = schema.max_length.filter(|max| chars > *max) {
            self.refuse(field, format!("may have at most {max} characters"));
        } else if schema.format == Some("uuid") && uuid::Uuid::parse_str(text).is_err() {
            self.refuse(field, "must be a UUID");
        } else if schema.format == Some("date-time")
            && chrono::DateTime::parse_from_rfc3339(text).is_err()
        {
            self.refuse(field, "must be a time like 2026-11-25T09:30:00Z");
        }
    }

    fn check_number(&mut self, schema: &MetaSchema, value: &Value, field: String) {
        let number = value.as_f64().unwrap_or_default();
        if schema.ty == "integer" && !(value.is_i64() || value.is_u64()) {
            self.refuse(field, "must be a whole number");
        } else if let Some(max) = schema.maximum.filter(|max| number > *max) {
            self.refuse(field, format!("may be at most {max}"));
        } else if let Some(min) = schema.minimum.filter(|min| number < *min) {
            self.refuse(field, format!("must be at least {min}"));
        }
    }
}

fn join(field: &str, name: &str) -> String {
    if field.is_empty() {
        name.to_owned()
    } else {
        format!("{field}.{name}")
    }
}

fn with_article(kind: &str) -> String {
    match kind {
        "object" | "array" | "integer" => format!("an {kind}"),
        kind => format!("a {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::Object;

    use super::*;

    #[derive(Debug, Object)]
    #[oai(deny_unknown_fields)]
    struct Inner {
        id: uuid::Uuid,
    }

    #[derive(Debug, Object)]
    #[oai(deny_unknown_fields)]
    struct Outer {
        #[oai(validator(min_length = 1, max_length = 5))]
        name: String,
        #[oai(validator(maximum(value = "9")))]
        size: Option<i32>,
        inner: Option<Inner>,
        tags: Option<Vec<String>>,
    }

    fn errors(body: &str) -> Vec<(String, String)> {
        parse::<Outer>(body.as_bytes())
            .unwrap_err()
            .errors()
            .iter()
            .map(|error| (error.field.clone(), error.message.clone()))
            .collect()
    }

    #[test]
    fn each_fault_is_named_by_its_field() {
        let cases = [
            (r"{}", "name", "is missing"),
            (r#"{"name": null}"#, "name", "is missing"),
            (r#"{"name": 3}"#, "name", "must be a string"),
            (r#"{"name": ""}"#, "name", "must not be empty"),
            (
                r#"{"name": "abcdef"}"#,
                "name",
                "may have at most 5 characters",
            ),
            (r#"{"name": "a", "size": 10}"#, "size", "may be at most 9"),
            (
                r#"{"name": "a", "size": 1.5}"#,
                "size",
                "must be a whole number",
            ),
            (
                r#"{"name": "a", "sise": 1}"#,
                "sise",
                "is not a field of this operation",
            ),
            (r#"{"name": "a", "inner": {}}"#, "inner.id", "is missing"),
            (
                r#"{"name": "a", "inner": {"id": "x"}}"#,
                "inner.id",
                "must be a UUID",
            ),
            (
                r#"{"name": "a", "tags": ["b", 1]}"#,
                "tags[1]",
                "must be a string",
            ),
            ("[]", "", "must be an object"),
        ];
        for (body, field, message) in cases {
            assert_eq!(
                errors(body),
                [(field.to_owned(), message.to_owned())],
                "{body}"
            );
        }
    }

    #[test]
    fn broken_json_says_where() {
        let error = parse::<Outer>(b"{\"name\": ").unwrap_err();
        assert_eq!(error.problem(), ProblemType::MalformedJson);
        assert!(error.to_string().contains("line 1, column 9"), "{error}");
    }
}
