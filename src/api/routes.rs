//! What the document says of each address: its methods, and the parameters it takes.
//!
//! The framework routes by itself; this table is for what it does not do: the header Allow, refusing a misspelt
//! parameter instead of ignoring it, and saying what a parameter should have been.

use serde_json::Value;

/// All addresses of the document.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

/// One address with its operations.
#[derive(Debug)]
pub struct Route {
    segments: Vec<Segment>,
    operations: Vec<Operation>,
}

#[derive(Debug)]
enum Segment {
    Fixed(String),
    Parameter(String),
}

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// Its `operationId`.
    pub name: String,
    method: String,
    parameters: Vec<Parameter>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    is_query: bool,
    /// What it takes, in words.
    takes: String,
}

impl Routes {
    /// Reads the document; paths are below `/api`.
    pub fn from_document(document: &Value) -> Self {
        let routes = document["paths"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(path, operations)| Route {
                segments: path.trim_matches('/').split('/').map(segment).collect(),
                operations: operations
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(method, operation)| operation_of(method, operation))
                    .collect(),
            })
            .collect();
        Self { routes }
    }

    /// The address a request means. A fixed segment wins over a parameter, as it does in the router.
    pub fn find(&self, path: &str) -> Option<&Route> {
        let path = path.strip_prefix("/api/")?;
        let asked: Vec<_> = path.split('/').collect();
        self.routes
            .iter()
            .filter(|route| route.fits(&asked))
            .min_by_key(|route| route.parameters().count())
    }
}

impl Route {
    /// The value of the header Allow.
    pub fn allow(&self) -> String {
        let mut methods: Vec<_> = self.operations.iter().map(|o| o.method.clone()).collect();
        if methods.iter().any(|method| method == "GET") {
            methods.push("HEAD".to_owned());
        }
        methods.sort();
        methods.join(", ")
    }

    /// The operation for a method; HEAD is answered by GET.
    pub fn operation(&self, method: &str) -> Option<&Operation> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.operations.iter().find(|o| o.method == method)
    }

    /// The names of the variable parts of the address, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Fixed(_) => None,
        })
    }

    fn fits(&self, asked: &[&str]) -> bool {
        self.segments.len() == asked.len()
            && self
                .segments
                .iter()
                .zip(asked)
                .all(|(segment, part)| match segment {
                    Segment::Fixed(text) => text == part,
                    Segment::Parameter(_) => !part.is_empty(),
                })
    }
}

impl Operation {
    /// The names of the parameters after the question mark.
    pub fn query_names(&self) -> impl Iterator<Item = &str> {
        self.parameters
            .iter()
            .filter(|parameter| parameter.is_query)
            .map(|parameter| parameter.name.as_str())
    }

    /// What a parameter takes: "a whole number from 1 to 200".
    pub fn takes(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|parameter| parameter.name == name)
            .map(|parameter| parameter.takes.as_str())
    }
}

fn segment(part: &str) -> Segment {
    match part
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        Some(name) => Segment::Parameter(name.to_owned()),
        None => Segment::Fixed(part.to_owned()),
    }
}

fn operation_of(method: &str, operation: &Value) -> Operation {
    let parameters = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|parameter| {
            Some(Parameter {
                name: parameter["name"].as_str()?.to_owned(),
                is_query: parameter["in"] == "query",
                takes: takes(&parameter["schema"]),
            })
        })
        .collect();
    Operation {
        name: operation["operationId"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        method: method.to_uppercase(),
        parameters,
    }
}

fn takes(schema: &Value) -> String {
    let words: Vec<_> = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !words.is_empty() {
        return format!("one of {}", words.join(", "));
    }
    let kind = match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("integer"), _) => "a whole number",
        (Some("number"), _) => "a number",
        (Some("boolean"), _) => "true or false",
        (_, Some("uuid")) => "a UUID",
        (_, Some("date-time")) => "a time like 2026-11-25T09:30:00Z",
        _ => "a text",
    };
    let bound = |name: &str| schema[name].as_f64();
    match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!("{kind} from {min} to {max}"),
        (Some(min), None) => format!("{kind} from {min}"),
        (None, Some(max)) => format!("{kind} up to {max}"),
        (None, None) => match (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
            (Some(min), Some(max)) => format!("{kind} of {min} to {max} characters"),
            (None, Some(max)) => format!("{kind} of at most {max} characters"),
            (_, None) => kind.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routes() -> Routes {
        Routes::from_document(&json!({"paths": {
            "/things": {"get": {"parameters": [
                {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200}}]},
                "post": {}},
            "/things/{thing_id}": {"delete": {"parameters": [
                {"name": "thing_id", "in": "path", "schema": {"type": "string", "format": "uuid"}}]}},
            "/things/newest": {"get": {}},
        }}))
    }

    #[test]
    fn an_address_is_found_by_its_shape() {
        let routes = routes();
        assert_eq!(
            routes.find("/api/things").unwrap().allow(),
            "GET, HEAD, POST"
        );
        assert_eq!(routes.find("/api/things/7").unwrap().allow(), "DELETE");
        assert_eq!(
            routes.find("/api/things/newest").unwrap().allow(),
            "GET, HEAD"
        );
        for path in [
            "/api/thing",
            "/things",
            "/api/things/",
            "/api/things/7/parts",
        ] {
            assert!(routes.find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_parameter_is_described_in_words() {
        let routes = routes();
        let list = routes
            .find("/api/things")
            .unwrap()
            .operation("GET")
            .unwrap();
        assert_eq!(list.takes("limit"), Some("a whole number from 1 to 200"));
        assert_eq!(list.query_names().collect::<Vec<_>>(), ["limit"]);
        let one = routes
            .find("/api/things/7")
            .unwrap()
            .operation("DELETE")
            .unwrap();
        assert_eq!(one.takes("thing_id"), Some("a UUID"));
        assert_eq!(one.query_names().count(), 0);
    }
}
