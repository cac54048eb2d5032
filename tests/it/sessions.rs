//! Signing in and out by cookie.

use std::time::Duration;

use engageninja::domain::actor::Role;
use reqwest::Method;
use reqwest::header::{COOKIE, ORIGIN};
use serde_json::json;

use crate::harness::app::{App, answer};

#[tokio::test]
async fn a_person_signs_in_sees_who_they_are_and_signs_out() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Sender).await;
    let body = json!({"email": person.email.to_uppercase(), "password": person.password});
    let signed_in = answer(app.request(Method::POST, "/api/sessions").json(&body)).await;
    let view = signed_in.ok(201);
    assert_eq!(view["tenant"]["slug"], "dojo");
    assert_eq!(view["role"], "sender");
    assert_eq!(view["user"]["email"], person.email);
    let cookie = signed_in.cookie();
    for word in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "the page came without TLS");
    let cookie = cookie.split(';').next().unwrap();

    let current = app
        .request(Method::GET, "/api/sessions/current")
        .header(COOKIE, cookie);
    assert_eq!(answer(current).await.ok(200), view);

    let sign_out = app
        .request(Method::DELETE, "/api/sessions/current")
        .header(COOKIE, cookie)
        .header(ORIGIN, app.origin());
    assert_eq!(answer(sign_out).await.status, 204);
    let current = app
        .request(Method::GET, "/api/sessions/current")
        .header(COOKIE, cookie);
    answer(current).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_page_over_tls_gets_a_secure_cookie() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Viewer).await;
    let body = json!({"email": person.email, "password": person.password});
    let request = app
        .request(Method::POST, "/api/sessions")
        .header(ORIGIN, app.origin().replace("http:", "https:"))
        .json(&body);
    assert!(answer(request).await.cookie().contains("Secure"));
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_get_the_same_answer() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Owner).await;
    let mut bodies = Vec::new();
    for email in [&person.email, "nobody@example.test"] {
        let body = json!({"email": email, "password": "wrong"});
        let refused = answer(app.request(Method::POST, "/api/sessions").json(&body)).await;
        let mut problem = refused.problem(401, "wrong-credentials");
        problem.as_object_mut().unwrap().remove("request_id");
        bodies.push(problem);
    }
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn somebody_disabled_does_not_sign_in_and_their_session_ends() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Owner).await;
    let cookie = app.sign_in(&person).await;
    app.db()
        .execute("UPDATE control.users SET is_disabled = true")
        .await;
    let body = json!({"email": person.email, "password": person.password});
    answer(app.request(Method::POST, "/api/sessions").json(&body))
        .await
        .problem(401, "wrong-credentials");
    let current = app
        .request(Method::GET, "/api/sessions/current")
        .header(COOKIE, cookie);
    answer(current).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn the_sixth_try_in_a_minute_waits() {
    let app = App::start().await;
    let body = json!({"email": "somebody@example.test", "password": "wrong"});
    for _ in 0..5 {
        answer(app.request(Method::POST, "/api/sessions").json(&body))
            .await
            .problem(401, "wrong-credentials");
    }
    let refused = answer(app.request(Method::POST, "/api/sessions").json(&body)).await;
    refused.problem(429, "too-many-tries");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() <= 60);
    app.db().advance(Duration::from_secs(61)).await;
    answer(app.request(Method::POST, "/api/sessions").json(&body))
        .await
        .problem(401, "wrong-credentials");
}

#[tokio::test]
async fn with_a_cookie_changes_come_from_our_own_pages_alone() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Admin).await;
    let cookie = app.sign_in(&person).await;
    let body = json!({"name": "ci", "role": "sender"});
    let request = || {
        app.request(Method::POST, "/api/keys")
            .header(COOKIE, &cookie)
            .json(&body)
    };
    answer(request()).await.problem(403, "foreign-origin");
    for origin in ["http://evil.example", "null", "https://127.0.0.1"] {
        answer(request().header(ORIGIN, origin))
            .await
            .problem(403, "foreign-origin");
    }
    answer(request().header(ORIGIN, app.origin())).await.ok(201);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_sign_anybody_in() {
    let app = App::start().await;
    let body = json!({"email": "a@example.test", "password": "x"});
    let request = app
        .request(Method::POST, "/api/sessions")
        .header(ORIGIN, "http://evil.example")
        .json(&body);
    answer(request).await.problem(403, "foreign-origin");
}

#[tokio::test]
async fn a_tenant_one_does_not_belong_to_is_as_unknown_as_one_that_does_not_exist() {
    let app = App::start().await;
    let mine = app.tenant("dojo").await;
    app.tenant("harbor").await;
    let person = app.person(&mine, Role::Owner).await;
    let mut details = Vec::new();
    for tenant in ["harbor", "nowhere"] {
        let body = json!({"email": person.email, "password": person.password, "tenant": tenant});
        let refused = answer(app.request(Method::POST, "/api/sessions").json(&body)).await;
        details.push(refused.problem(403, "not-a-member")["detail"].clone());
    }
    assert_eq!(details[0], details[1]);
}

#[tokio::test]
async fn a_session_ends_by_itself_and_with_the_membership() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Viewer).await;
    let cookie = app.sign_in(&person).await;
    let current = || {
        app.request(Method::GET, "/api/sessions/current")
            .header(COOKIE, &cookie)
    };
    app.db().advance(Duration::from_hours(24 * 13)).await;
    answer(current()).await.ok(200);
    app.db().advance(Duration::from_hours(25)).await;
    answer(current()).await.problem(401, "unauthenticated");

    let cookie = app.sign_in(&person).await;
    app.db().execute("DELETE FROM control.memberships").await;
    let current = app
        .request(Method::GET, "/api/sessions/current")
        .header(COOKIE, cookie);
    answer(current).await.problem(401, "unauthenticated");
}
