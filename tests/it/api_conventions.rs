//! What every operation keeps to: each error is a problem, each answer has a request id, nothing is null.

use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::harness::app::{App, answer};
use crate::harness::db::Cluster;

#[tokio::test]
async fn an_unknown_address_is_a_problem() {
    let app = App::start().await;
    for path in ["/api/nothing", "/api", "/nothing", "/api/keys/1/2"] {
        answer(app.request(Method::GET, path))
            .await
            .problem(404, "unknown-address");
    }
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let app = App::start().await;
    for (method, path, allow) in [
        (Method::PUT, "/api/keys", "GET, HEAD, POST"),
        (Method::POST, "/api/sessions/current", "DELETE, GET, HEAD"),
        (Method::POST, "/health/live", "GET, HEAD"),
        (Method::DELETE, "/", "GET, HEAD"),
    ] {
        let refused = answer(app.request(method, path)).await;
        refused.problem(405, "method-not-allowed");
        assert_eq!(refused.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn without_session_or_key_nothing_is_shown() {
    let app = App::start().await;
    let refused = answer(app.request(Method::GET, "/api/keys")).await;
    refused.problem(401, "unauthenticated");
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
}

#[tokio::test]
async fn malformed_json_says_where() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let request = app
        .with_key(&key, Method::POST, "/api/keys")
        .header("content-type", "application/json")
        .body("{\"name\": ");
    let problem = answer(request).await.problem(400, "malformed-json");
    assert!(problem["detail"].as_str().unwrap().contains("line 1"));
}

#[tokio::test]
async fn a_body_of_another_shape_names_each_field() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let refused = app
        .post(&key, "/api/keys", &json!({"nmae": "x", "role": "owner"}))
        .await;
    let problem = refused.problem(422, "invalid-body");
    assert_eq!(
        problem["errors"],
        json!([
            {"field": "name", "message": "is missing"},
            {"field": "nmae", "message": "is not a field of this operation"},
            {"field": "role", "message": "must be one of viewer, sender, admin"},
        ])
    );
}

#[tokio::test]
async fn another_media_type_is_refused() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    for content_type in ["text/plain", "application/xml", "nonsense"] {
        let request = app
            .with_key(&key, Method::POST, "/api/keys")
            .header("content-type", content_type)
            .body("{}");
        answer(request).await.problem(415, "unsupported-media-type");
    }
    let request = app.with_key(&key, Method::POST, "/api/keys").body("{}");
    answer(request).await.problem(415, "unsupported-media-type");
}

/// With a length in front and without one.
#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_the_limit() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let long = vec![b' '; 1024 * 1024 + 1];
    let piece = |bytes: &[u8]| Ok::<_, std::io::Error>(bytes.to_vec());
    let pieces: Vec<_> = long.chunks(65_536).map(piece).collect();
    let streamed = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    for body in [reqwest::Body::from(long.clone()), streamed] {
        let request = app
            .with_key(&key, Method::POST, "/api/keys")
            .header("content-type", "application/json")
            .body(body);
        let problem = answer(request).await.problem(413, "body-too-large");
        assert!(problem["detail"].as_str().unwrap().contains("1048576"));
    }
}

#[tokio::test]
async fn a_parameter_that_cannot_be_read_is_named_with_what_it_takes() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    for (path, name, takes) in [
        (
            "/api/keys?limit=201",
            "limit",
            "must be a whole number from 1 to 200",
        ),
        (
            "/api/keys?limit=many",
            "limit",
            "must be a whole number from 1 to 200",
        ),
        (
            "/api/keys?limt=3",
            "limt",
            "is not a parameter of this operation",
        ),
    ] {
        let problem = app.get(&key, path).await.problem(400, "invalid-parameter");
        assert_eq!(
            problem["errors"],
            json!([{"field": name, "message": takes}])
        );
    }
    let problem = app
        .delete(&key, "/api/keys/7")
        .await
        .problem(400, "invalid-parameter");
    assert_eq!(
        problem["errors"],
        json!([{"field": "key_id", "message": "must be a UUID"}])
    );
    for cursor in ["rubbish", "eyJsIjoib3RoZXJzIiwiayI6M30"] {
        app.get(&key, &format!("/api/keys?cursor={cursor}"))
            .await
            .problem(400, "invalid-cursor");
    }
}

#[tokio::test]
async fn a_request_id_is_ours_and_new_each_time() {
    let app = App::start().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = app
            .request(Method::GET, "/health/live")
            .header("x-request-id", "mine");
        ids.push(answer(request).await.header("x-request-id").to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| Uuid::parse_str(id).is_ok()));
}

#[tokio::test]
async fn absent_means_none_and_nothing_is_null() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let list = app.get(&key, "/api/keys").await;
    list.ok(200);
    assert!(!list.text.contains("null"), "{}", list.text);
    assert!(!list.text.contains("next_cursor"));
}

#[tokio::test]
async fn health_and_documents_are_open() {
    let app = App::start().await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(
            answer(app.request(Method::GET, path)).await.ok(200),
            json!({"status": "ok"})
        );
    }
    let document = answer(app.request(Method::GET, "/api/openapi.json")).await;
    assert_eq!(document.text, engageninja::api::openapi_document());
    let docs = answer(app.request(Method::GET, "/api/docs")).await;
    assert!(docs.text.contains("SwaggerUIBundle") && docs.text.contains("create_session"));
    // The page works without any other server.
    assert!(!docs.text.contains("<script src") && !docs.text.contains("<link "));
    let page = answer(app.request(Method::GET, "/")).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'sha256-"));
    // Whatever it asks, it asks this server.
    assert!(!page.text.contains("://") && !page.text.contains("src="));
    // Metrics are the operator's: on the admin address alone.
    answer(app.request(Method::GET, "/metrics"))
        .await
        .problem(404, "unknown-address");
}

/// The tenant of a session that was opened for a tenant that is gone, or not active.
#[tokio::test]
async fn an_inactive_tenant_is_refused_with_its_reason() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    app.db()
        .execute("UPDATE control.tenant_directory SET status = 'suspended'")
        .await;
    let problem = app
        .get(&key, "/api/keys")
        .await
        .problem(403, "tenant-inactive");
    assert!(problem["detail"].as_str().unwrap().contains("suspended"));
}

#[tokio::test]
async fn without_postgresql_the_answer_is_503_and_says_when_to_come_back() {
    let mut cluster = Cluster::dedicated(false).await;
    let app = App::on(cluster.db().await).await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    app.get(&key, "/api/keys").await.ok(200);

    cluster.stop().await;
    let refused = app.get(&key, "/api/keys").await;
    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), "5");
    answer(app.request(Method::GET, "/health/ready"))
        .await
        .problem(503, "unavailable");
    answer(app.request(Method::GET, "/health/live"))
        .await
        .ok(200);

    cluster.start().await;
    app.get(&key, "/api/keys").await.ok(200);
}

#[tokio::test]
async fn the_admin_address_has_health_and_metrics_and_nothing_else() {
    let app = App::start().await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        metrics::counter!("engageninja_probe_total").increment(3);
    });
    let endpoint = engageninja::api::health::admin(app.state.db.clone(), recorder.handle());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(engageninja::api::run(endpoint, listener, stop.clone()));
    let get = |path: &str| {
        answer(
            reqwest::Client::builder()
                .build()
                .unwrap()
                .get(format!("{address}{path}")),
        )
    };

    let metrics = get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    assert!(metrics.text.contains("engageninja_probe_total 3"));
    get("/health/ready").await.ok(200);
    get("/health/live").await.ok(200);
    get("/api/keys").await.problem(404, "unknown-address");
    stop.cancel();
}

#[tokio::test]
async fn a_name_of_blanks_is_none_wherever_something_is_named() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let audience = json!({"kind": "everybody"});
    let template = json!({"name": "Sale", "channel": "sms", "body": "Hello"});
    let made = app.post(&key, "/api/templates", &template).await.ok(201);
    let campaign = json!({"name": "  ", "template_id": made["id"], "audience": audience});
    let cases = [
        ("/api/lists", json!({"name": "  "})),
        ("/api/keys", json!({"name": "  ", "role": "viewer"})),
        (
            "/api/templates",
            json!({"name": "  ", "channel": "sms", "body": "x"}),
        ),
        ("/api/campaigns", campaign),
    ];
    for (path, body) in cases {
        let refused = app.post(&key, path, &body).await;
        let problem = refused.problem(422, "invalid-body");
        assert_eq!(problem["detail"], "The field 'name' must not be empty.");
        assert_eq!(problem["errors"][0]["field"], "name", "{path}");
    }
}
