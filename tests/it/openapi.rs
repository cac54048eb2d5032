//! The document: checked in as it is, and fit for generators.

use std::collections::BTreeSet;

use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(engageninja::api::openapi_document()).unwrap()
}

/// Every operation with its path and method.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            all.push((path.clone(), method.clone(), operation));
        }
    }
    assert!(!all.is_empty());
    all
}

#[test]
fn the_checked_in_document_is_the_live_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    let live = engageninja::api::openapi_document();
    if checked_in != live {
        let copy = concat!(env!("CARGO_TARGET_TMPDIR"), "/openapi.json");
        std::fs::write(copy, live).unwrap();
        panic!(
            "openapi/openapi.json is not the live document, which lies in {copy}: look at what changes for clients"
        );
    }
}

#[test]
fn every_operation_says_what_generators_and_people_need() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let name = operation["operationId"].as_str().unwrap_or_default();
        let (verb, noun) = name.split_once('_').unwrap_or_default();
        assert!(
            !verb.is_empty() && !noun.is_empty(),
            "{at}: operationId {name}"
        );
        assert!(names.insert(name.to_owned()), "{at}: {name} twice");
        for word in ["summary", "description"] {
            let text = operation[word].as_str().unwrap_or_default();
            assert!(text.len() > 5, "{at}: no {word}");
        }
        assert_eq!(
            operation["tags"].as_array().map(Vec::len),
            Some(1),
            "{at}: one tag"
        );
        assert!(operation["security"].is_array(), "{at}: security");
        assert!(operation["deprecated"].is_null(), "{at}");
    }
}

#[test]
fn every_variable_of_a_path_is_a_described_parameter() {
    for (path, method, operation) in operations(&document()) {
        let variables: BTreeSet<&str> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let parameters = operation["parameters"].as_array();
        let declared: BTreeSet<&str> = parameters
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(variables, declared, "{method} {path}");
        for parameter in parameters.into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            assert!(!name.starts_with('_'), "{method} {path}: {name}");
            assert!(
                parameter["description"].is_string(),
                "{method} {path}: {name}"
            );
            assert!(
                parameter["schema"]
                    .get("default")
                    .is_none_or(|d| !d.is_null())
            );
        }
    }
}

#[test]
fn an_operation_has_one_success_answer_and_one_error_type() {
    for (path, method, operation) in operations(&document()) {
        let at = format!("{method} {path}");
        let responses = operation["responses"].as_object().unwrap();
        let successes: Vec<_> = responses.keys().filter(|s| s.starts_with('2')).collect();
        assert_eq!(successes.len(), 1, "{at}: {successes:?}");
        for (status, response) in responses {
            assert!(
                !response["description"].as_str().unwrap().is_empty(),
                "{at} {status}"
            );
            let content = response["content"].as_object();
            let types: Vec<_> = content.into_iter().flat_map(|c| c.keys()).collect();
            if status.starts_with('2') {
                assert!(
                    !types.iter().any(|t| t.contains("charset")),
                    "{at}: {types:?}"
                );
                continue;
            }
            assert_eq!(types, ["application/problem+json"], "{at} {status}");
            let schema = &content.unwrap()["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{at} {status}");
        }
        for status in [
            "400", "401", "403", "404", "413", "415", "422", "500", "503",
        ] {
            assert!(
                responses.contains_key(status),
                "{at}: {status} is not documented"
            );
        }
    }
}

/// Absent means none: what an answer may leave out is not written as null, so no schema is nullable.
#[test]
fn nothing_is_nullable_and_every_field_is_described() {
    let document = document();
    let text = document.to_string();
    assert!(!text.contains("\"nullable\""), "absent = none");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            // A reference alone may not carry a description in 3.0; the framework wraps it.
            assert!(property["description"].is_string(), "{name}.{field}");
        }
    }
}

/// The framework writes `null` for an absent value unless told otherwise, against its own schema.
#[test]
fn every_answer_object_leaves_out_what_is_absent() {
    let room = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut checked = 0;
    for file in std::fs::read_dir(room).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for object in text.split("#[derive(").skip(1) {
            let (derives, rest) = object.split_once(")]").unwrap();
            if !derives.split(", ").any(|derive| derive == "Object") {
                continue;
            }
            let (head, body) = rest.split_once('{').unwrap();
            let body = body.split("\n}").next().unwrap();
            checked += 1;
            assert!(
                !body.contains(": Option<") || head.contains("skip_serializing_if_is_none"),
                "{}: {}",
                path.display(),
                head.trim()
            );
        }
    }
    assert!(checked > 5, "the test reads the sources");
}

/// Makes or starts something: its answer says so.
fn makes(operation: &Value) -> bool {
    let responses = operation["responses"].as_object().unwrap();
    responses.contains_key("201") || responses.contains_key("202")
}

#[test]
fn what_makes_something_takes_an_idempotency_key_and_nothing_else_does() {
    for (path, method, operation) in operations(&document()) {
        let name = operation["operationId"].as_str().unwrap();
        let parameters = operation["parameters"].as_array();
        let key = parameters
            .into_iter()
            .flatten()
            .find(|parameter| parameter["in"] == "header");
        // A session's cookie is in no body that could be kept.
        let is_kept = name != "create_session";
        let wants_key = method == "post" && makes(operation) && is_kept;
        assert_eq!(key.is_some(), wants_key, "{method} {path}");
        if let Some(key) = key {
            assert_eq!(key["name"], "Idempotency-Key", "{method} {path}");
            assert_eq!(key["required"], false, "{method} {path}");
            assert_eq!(key["schema"]["maxLength"], 255, "{method} {path}");
        }
    }
}

#[test]
fn every_paged_list_is_paged_alike() {
    let document = document();
    let mut paged = 0;
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let named = |name: &str| {
            let mut parameters = operation["parameters"].as_array().into_iter().flatten();
            parameters.find(|parameter| parameter["name"] == name)
        };
        let (Some(limit), Some(cursor)) = (named("limit"), named("cursor")) else {
            assert!(named("cursor").is_none(), "{at}: a cursor without a limit");
            continue;
        };
        paged += 1;
        assert_eq!(limit["schema"]["minimum"], 1.0, "{at}");
        assert_eq!(limit["schema"]["maximum"], 200.0, "{at}");
        assert_eq!(
            (&limit["required"], &cursor["required"]),
            (&false.into(), &false.into()),
            "{at}"
        );
        let schema =
            &operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
        let name = schema.as_str().unwrap().rsplit('/').next().unwrap();
        let page = &document["components"]["schemas"][name];
        assert_eq!(page["properties"]["items"]["type"], "array", "{at}");
        assert_eq!(page["properties"]["next_cursor"]["type"], "string", "{at}");
        assert_eq!(page["required"], serde_json::json!(["items"]), "{at}");
    }
    assert!(paged > 5, "{paged}");
}

#[test]
fn names_are_written_alike_everywhere() {
    let is_snake = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let document = document();
    for (path, method, operation) in operations(&document) {
        assert!(
            is_snake(operation["operationId"].as_str().unwrap()),
            "{method} {path}"
        );
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let variable = part
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            let is_fine = match variable {
                Some(name) => is_snake(name),
                None => is_snake(&part.replace(['-', '.'], "_")) || part.starts_with("10dlc"),
            };
            assert!(is_fine, "{path}");
        }
        let parameters = operation["parameters"].as_array();
        for parameter in parameters.into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            assert!(
                parameter["in"] == "header" || is_snake(name),
                "{method} {path}: {name}"
            );
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for field in schema["properties"].as_object().into_iter().flatten() {
            assert!(is_snake(field.0), "{name}.{}", field.0);
        }
        for word in schema["enum"].as_array().into_iter().flatten() {
            let word = word.as_str().unwrap();
            assert!(is_snake(word), "{name}: {word}");
        }
    }
}
