//! The OpenAPI document, as clients are generated from it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem_openapi::registry::{MetaApi, Registry};
use poem_openapi::{LicenseObject, OpenApi, OpenApiService, ServerObject};
use serde_json::{Value, json};

use super::Resources;
use super::change::{IDEMPOTENCY_KEY_DESCRIPTION, IDEMPOTENCY_KEY_NAME};

/// The document of all operations, with a line feed at its end; `openapi/openapi.json` is this text.
pub fn openapi_document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(write_document);
    &DOCUMENT
}

fn write_document() -> String {
    let mut document: Value =
        serde_json::from_str(&service(TypesOnly::<Resources>(PhantomData)).spec())
            .unwrap_or_default();
    mend(&mut document);
    format!("{document:#}\n")
}

/// The page at `/api/docs`.
pub(super) fn swagger_page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(write_page);
    &PAGE
}

fn write_page() -> String {
    let service = service(TypesOnly::<Resources>(PhantomData));
    // The page carries the document as the framework wrote it; people shall see the one clients get.
    service
        .swagger_ui_html()
        .replace(&service.spec(), openapi_document())
        .replace(
            "<title>Swagger UI</title>",
            "<title>EngageNinja API</title>",
        )
}

/// The operations under `/api`.
pub(super) fn service<T: OpenApi>(resources: T) -> OpenApiService<T, ()> {
    OpenApiService::new(resources, "EngageNinja", env!("CARGO_PKG_VERSION"))
        .description(
            "Campaigns by SMS, WhatsApp and email, each message delivered exactly once in effect. Errors are \
             `application/problem+json` with a stable `type`; a field that is absent has no value; lists are paged by \
             `cursor`.",
        )
        .license(
            LicenseObject::new("MIT OR Apache-2.0").identifier("MIT OR Apache-2.0"),
        )
        .server(ServerObject::new("/api").description("This server"))
}

/// The operations without anything behind them: the document needs their types alone.
struct TypesOnly<T>(PhantomData<T>);

impl<T: OpenApi> OpenApi for TypesOnly<T> {
    fn meta() -> Vec<MetaApi> {
        T::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

/// What generators stumble over in the document as the framework writes it.
fn mend(document: &mut Value) {
    // `identifier` is of OpenAPI 3.1; the document is 3.0.
    if let Some(license) = document["info"]["license"].as_object_mut() {
        license.remove("identifier");
    }
    let paths = document["paths"].as_object_mut();
    for (_, operations) in paths.into_iter().flatten() {
        for (_, operation) in operations.as_object_mut().into_iter().flatten() {
            mend_operation(operation);
        }
    }
}

fn mend_operation(operation: &mut Value) {
    let Some(operation) = operation.as_object_mut() else {
        return;
    };
    // Said aloud: nobody has to sign in for it.
    operation.entry("security").or_insert_with(|| json!([]));
    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        // The framework names a parameter after the argument.
        if parameter["in"] == "header" && parameter["name"] == "once" {
            parameter["name"] = json!(IDEMPOTENCY_KEY_NAME);
            parameter["description"] = json!(IDEMPOTENCY_KEY_DESCRIPTION);
        }
    }
    let mut is_stream = false;
    let responses = operation
        .get_mut("responses")
        .and_then(Value::as_object_mut);
    for (_, response) in responses.into_iter().flatten() {
        if response["description"] == "" {
            response["description"] = json!("Done as asked.");
        }
        let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) else {
            continue;
        };
        // Generators make a type name of the charset.
        if let Some(schema) = content.remove("application/json; charset=utf-8") {
            content.insert("application/json".to_owned(), schema);
        }
        is_stream |= content.contains_key("text/event-stream");
    }
    if is_stream {
        operation.insert("x-streaming".to_owned(), json!(true));
    }
}
