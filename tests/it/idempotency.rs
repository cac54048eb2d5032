//! A request that makes something makes it once, however often it is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use engageninja::domain::actor::Role;
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{Answer, App, answer};
use crate::harness::twins::Twin;

/// Sends until the first request with the key has ended, as a client would.
async fn send_until_answered(once: &str, request: impl Fn() -> RequestBuilder) -> Answer {
    loop {
        let answer = answer(request().header("Idempotency-Key", once)).await;
        if !answer.text.contains("problem:idempotency-key-busy") {
            return answer;
        }
        answer.problem(409, "idempotency-key-busy");
        assert_eq!(answer.header("retry-after"), "1");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn send_once(app: &App, key: &str, path: &str, once: &str, body: &Value) -> Answer {
    send_until_answered(once, || app.with_key(key, Method::POST, path).json(body)).await
}

fn template(name: &str) -> Value {
    json!({"name": name, "channel": "sms", "body": "Hello"})
}

/// What a request carries.
#[derive(Debug)]
enum Sends {
    Json(Value),
    Csv(&'static str),
}

/// Every request of a tenant that makes something: its operation, its path and what it carries.
fn makers(twin: &Twin) -> Vec<(&'static str, String, Sends)> {
    let of = |path: &str| twin.path(path).unwrap();
    let campaign = json!({
        "name": "Sale", "template_id": twin.ids["template_id"], "audience": {"kind": "everybody"},
    });
    let message = json!({"channel": "sms", "to": "+13054048480", "body": "Hello", "class": "txn"});
    let suppression = json!({"channel": "sms", "address": "+13054048481"});
    let invitation = json!({"email": "new@example.com", "role": "viewer"});
    let file = Sends::Csv("phone\n+13054048482\n");
    let json = |name: &'static str, path: &str, body: Value| (name, of(path), Sends::Json(body));
    vec![
        json("create_campaign", "/campaigns", campaign),
        json("send_campaign", "/campaigns/{campaign_id}/send", json!({})),
        json(
            "create_contact",
            "/contacts",
            json!({"phone": "+13054048480"}),
        ),
        ("create_import", of("/contacts/imports"), file),
        json(
            "start_import",
            "/contacts/imports/{import_id}/start",
            json!({}),
        ),
        json("create_invitation", "/invitations", invitation),
        json(
            "create_key",
            "/keys",
            json!({"name": "shop", "role": "sender"}),
        ),
        json(
            "retry_failed_messages",
            "/campaigns/{campaign_id}/retry-failed",
            json!({}),
        ),
        json("create_list", "/lists", json!({"name": "x"})),
        json(
            "create_sender",
            "/senders",
            json!({"channel": "sms", "address": "+12025550123"}),
        ),
        json("send_message", "/messages", message),
        json("create_suppression", "/suppressions", suppression),
        json("create_template", "/templates", template("Spring")),
        json(
            "create_template_version",
            "/templates/{template_id}/versions",
            json!({"body": "Hi"}),
        ),
    ]
}

/// The same of those who run the platform.
fn operators_makers() -> Vec<(&'static str, String, Sends)> {
    let named = |slug: &str| Sends::Json(json!({"name": "Tea House", "slug": slug}));
    vec![
        (
            "create_tenant",
            "/api/admin/tenants".to_owned(),
            named("tea"),
        ),
        (
            "create_demo_tenant",
            "/api/admin/demo-tenants".to_owned(),
            named("demo-tea"),
        ),
    ]
}

/// How often something was done, as the audit of both schemas has it.
async fn done(app: &App, operation: &str) -> i64 {
    let count =
        |table: &str| format!("(SELECT count(*) FROM {table} WHERE action = '{operation}')");
    let sql = format!(
        "SELECT {} + {}",
        count("cell.audit_log"),
        count("control.platform_audit")
    );
    app.db().number(&sql).await
}

#[tokio::test]
async fn fifty_repeats_at_once_make_one_thing_and_get_one_answer() {
    let app = App::start().await;
    let twin = Twin::make(&app, "dojo").await;
    app.db()
        .execute(
            "INSERT INTO cell.contact_consents (tenant_id, contact_id, channel, state, consent_id, at)
             SELECT tenant_id, id, 'sms', 'granted', id, public.app_now() FROM cell.contacts WHERE phone_mac IS NOT NULL",
        )
        .await;
    let operator = app.operator(&app.tenant("office").await).await;
    let tenants = makers(&twin).into_iter().map(|maker| (maker, false));
    let operators = operators_makers().into_iter().map(|maker| (maker, true));
    for ((operation, path, sends), is_operators) in tenants.chain(operators) {
        let once = Uuid::now_v7().to_string();
        let before = done(&app, operation).await;
        let request = || {
            let request = if is_operators {
                app.with_cookie(&operator, Method::POST, &path)
            } else {
                app.with_key(&twin.key, Method::POST, &path)
            };
            match &sends {
                Sends::Json(body) => request.json(body),
                Sends::Csv(file) => request.header("content-type", "text/csv").body(*file),
            }
        };
        let answers = join_all((0..50).map(|_| send_until_answered(&once, request))).await;
        for answer in &answers {
            assert!(answer.status.is_success(), "{operation}: {}", answer.text);
            assert_eq!(answer.text, answers[0].text);
            assert_eq!(answer.status, answers[0].status);
        }
        assert_eq!(done(&app, operation).await - before, 1, "{operation}");
    }
    let made = "SELECT (SELECT count(*) FROM cell.imports) * 100 + (SELECT count(*) FROM control.tenant_directory)";
    // The twin's import and this one; the twin, the office, and the two that were made.
    assert_eq!(app.db().number(made).await, 204);
    let open = "SELECT count(*) FROM control.platform_idempotency_keys WHERE jsonb_typeof(answer) <> 'string'";
    assert_eq!(
        app.db().number(open).await,
        0,
        "answers of control are sealed"
    );
}

#[tokio::test]
async fn every_operation_that_takes_a_key_is_shown_to_keep_it() {
    let app = App::start().await;
    let twin = Twin::make(&app, "dojo").await;
    let document: Value = serde_json::from_str(engageninja::api::openapi_document()).unwrap();
    let operations = document["paths"].as_object().unwrap().values();
    let operations = operations.flat_map(|path| path.as_object().unwrap().values());
    let takes: BTreeSet<&str> = operations
        .filter(|operation| {
            let mut parameters = operation["parameters"].as_array().into_iter().flatten();
            parameters.any(|parameter| parameter["name"] == "Idempotency-Key")
        })
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let shown = makers(&twin).into_iter().chain(operators_makers());
    let shown: BTreeSet<&str> = shown.map(|(name, ..)| name).collect();
    assert_eq!(takes, shown);
}

#[tokio::test]
async fn a_secret_that_is_shown_once_is_kept_sealed() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let body = json!({"name": "shop", "role": "sender"});
    let made = send_once(&app, &key, "/api/keys", "one", &body)
        .await
        .json();
    let secret = made["secret"].as_str().unwrap();

    let kept = app
        .db()
        .text("SELECT answer::text FROM control.platform_idempotency_keys")
        .await;
    assert!(!kept.contains(secret) && !kept.contains("shop"), "{kept}");
    let record = app
        .db()
        .text("SELECT string_agg(detail::text, ' ') FROM control.platform_audit")
        .await;
    assert!(
        record.contains("shop") && !record.contains(secret),
        "{record}"
    );
}

#[tokio::test]
async fn a_key_that_was_used_for_something_else_is_refused() {
    let app = App::start().await;
    let (dojo, cafe) = (app.tenant("dojo").await, app.tenant("cafe").await);
    let key = app.key(&dojo, Role::Admin).await;
    let path = "/api/templates";
    let first = send_once(&app, &key, path, "one", &template("Spring")).await;
    assert_eq!(first.status, 201);

    let other_body = send_once(&app, &key, path, "one", &template("Autumn")).await;
    other_body.problem(422, "idempotency-key-reused");
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let other_path = format!("/api/templates/{id}/versions");
    let other_route = send_once(&app, &key, &other_path, "one", &json!({"body": "Hi"})).await;
    other_route.problem(422, "idempotency-key-reused");

    // Another tenant's keys are its own.
    let other = app.key(&cafe, Role::Admin).await;
    let theirs = send_once(&app, &other, path, "one", &template("Spring")).await;
    assert_eq!(theirs.status, 201);
    assert_ne!(theirs.json()["id"], first.json()["id"]);
    assert_eq!(
        app.db().number("SELECT count(*) FROM cell.templates").await,
        2
    );
}

#[tokio::test]
async fn a_refusal_is_not_kept_and_a_key_is_free_again_after_seven_days() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let path = "/api/templates";
    let refused = send_once(
        &app,
        &key,
        path,
        "one",
        &json!({"name": "x", "channel": "sms", "body": "{{"}),
    )
    .await;
    assert_eq!(refused.status, 422);
    let made = send_once(&app, &key, path, "one", &template("Spring")).await;
    assert_eq!(made.status, 201, "{}", made.text);

    app.db().advance(Duration::from_hours(7 * 24 + 1)).await;
    let anew = send_once(&app, &key, path, "one", &template("Autumn")).await;
    assert_eq!(anew.status, 201, "{}", anew.text);
    assert_ne!(anew.json()["id"], made.json()["id"]);
}

#[tokio::test]
async fn a_key_that_is_empty_or_endless_is_refused() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    for once in [String::new(), "x".repeat(256)] {
        let refused = send_once(&app, &key, "/api/templates", &once, &template("x")).await;
        refused.problem(400, "invalid-parameter");
    }
    assert_eq!(
        app.db().number("SELECT count(*) FROM cell.templates").await,
        0
    );
}
