//! The plain page at `/`: sign in, see the campaigns, watch one. It loads nothing from anywhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poem::http::header;
use poem::web::Html;
use poem::{Endpoint, IntoResponse, Response, endpoint};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

/// The page, with a policy that lets nothing but its own script and style run.
pub fn page() -> impl Endpoint<Output = Response> {
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         script-src '{}'; style-src '{}'",
        hash_of("script"),
        hash_of("style"),
    );
    endpoint::make_sync(move |_| {
        Html(PAGE)
            .with_header(header::CONTENT_SECURITY_POLICY, policy.clone())
            .with_header(header::CACHE_CONTROL, "no-cache")
            .into_response()
    })
}

/// What a policy names the page's one element of this kind by.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let text = PAGE
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close))
        .map_or("", |(text, _)| text);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}
