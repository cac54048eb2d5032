//! Signing in and out by cookie.

use std::time::Duration;

use engageninja::api::front::Front;
use engageninja::domain::actor::Role;
use reqwest::Method;
use reqwest::header::{COOKIE, ORIGIN};
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, Person, answer};

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

/// Somebody's request with their cookie, from a page of ours.
async fn ask(app: &App, cookie: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
    let request = app.with_cookie(cookie, method, path);
    answer(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

#[tokio::test]
async fn a_public_address_with_tls_makes_cookies_secure_and_its_pages_the_only_ones() {
    let app = App::behind(Front {
        public_url: Some("https://app.example.test".parse().unwrap()),
        trusted_proxies: Vec::new(),
    })
    .await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Admin).await;
    let body = json!({"email": person.email, "password": person.password});
    let sign_in = |origin: &str| {
        app.request(Method::POST, "/api/sessions")
            .header(ORIGIN, origin)
            .json(&body)
    };
    answer(sign_in(&app.origin()))
        .await
        .problem(403, "foreign-origin");
    let signed_in = answer(sign_in("https://app.example.test")).await;
    assert!(signed_in.cookie().contains("Secure"));
    // Also for a program that says no page at all.
    assert!(!app.sign_in(&person).await.is_empty());

    let cookie = signed_in.cookie().split(';').next().unwrap();
    let make = |origin: &str| {
        app.request(Method::POST, "/api/keys")
            .header(COOKIE, cookie)
            .header(ORIGIN, origin)
            .json(&json!({"name": "ci", "role": "sender"}))
    };
    for origin in [
        &app.origin(),
        "http://app.example.test",
        "https://evil.example",
    ] {
        answer(make(origin)).await.problem(403, "foreign-origin");
    }
    answer(make("https://app.example.test")).await.ok(201);
}

#[tokio::test]
async fn a_new_password_needs_the_one_before_and_ends_every_other_session() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Viewer).await;
    let here = app.sign_in(&person).await;
    let elsewhere = app.sign_in(&person).await;
    let change = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        ask(&app, &here, Method::PUT, "/api/me/password", Some(body)).await
    };
    let wrong = change("wrong", "a better one by far").await;
    let problem = wrong.problem(422, "unprocessable");
    assert_eq!(problem["errors"][0]["field"], "current_password");
    let short = change(&person.password, "short").await;
    assert_eq!(
        short.problem(422, "invalid-body")["errors"][0]["field"],
        "new_password"
    );
    let changed = change(&person.password, "a better one by far").await;
    assert_eq!(changed.status, 204);

    let current = "/api/sessions/current";
    ask(&app, &here, Method::GET, current, None).await.ok(200);
    ask(&app, &elsewhere, Method::GET, current, None)
        .await
        .problem(401, "unauthenticated");
    let renewed = Person {
        password: "a better one by far".to_owned(),
        ..person.clone()
    };
    app.sign_in(&renewed).await;
    let body = json!({"email": person.email, "password": person.password});
    answer(app.request(Method::POST, "/api/sessions").json(&body))
        .await
        .problem(401, "wrong-credentials");
    let recorded = app
        .db()
        .text("SELECT string_agg(action || coalesce(detail::text, ''), ' ') FROM control.platform_audit")
        .await;
    assert!(recorded.contains("change_password"), "{recorded}");
    assert!(!recorded.contains("better"), "{recorded}");
}

#[tokio::test]
async fn trying_passwords_of_an_open_session_is_throttled_too() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Viewer).await;
    let cookie = app.sign_in(&person).await;
    let body = json!({"current_password": "guess", "new_password": "a better one by far"});
    for tried in 0..6 {
        let got = ask(
            &app,
            &cookie,
            Method::PUT,
            "/api/me/password",
            Some(body.clone()),
        )
        .await;
        let wanted = if tried < 5 { 422 } else { 429 };
        assert_eq!(got.status.as_u16(), wanted, "{}", got.text);
    }
}

#[tokio::test]
async fn one_sees_and_ends_ones_own_sessions_alone() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Viewer).await;
    let other = app.person(&tenant, Role::Sender).await;
    let first = app.sign_in(&person).await;
    let second = app.sign_in(&person).await;
    let theirs = app.sign_in(&other).await;

    let listed = ask(&app, &first, Method::GET, "/api/sessions", None).await;
    assert!(!listed.text.contains("token"), "{}", listed.text);
    let items = listed.ok(200)["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 2, "{items}");
    assert_eq!(items[0]["ip"], "127.0.0.1");
    let newest = format!("/api/sessions/{}", items[0]["id"].as_str().unwrap());

    ask(&app, &theirs, Method::DELETE, &newest, None)
        .await
        .problem(404, "not-found");
    let ended = ask(&app, &first, Method::DELETE, &newest, None).await;
    assert_eq!(ended.status, 204);
    ask(&app, &second, Method::GET, "/api/sessions", None)
        .await
        .problem(401, "unauthenticated");
    let page = ask(&app, &first, Method::GET, "/api/sessions?limit=1", None).await;
    assert_eq!(page.ok(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn one_opens_another_of_ones_tenants_and_none_of_somebody_elses() {
    let app = App::start().await;
    let (dojo, cafe) = (app.tenant("dojo").await, app.tenant("cafe").await);
    let harbor = app.tenant("harbor").await;
    let person = app.person(&dojo, Role::Viewer).await;
    app.join(&person, &cafe, Role::Admin).await;
    let cookie = app.sign_in(&person).await;
    let mine = ask(&app, &cookie, Method::GET, "/api/me/tenants", None).await;
    let mine = mine.ok(200);
    assert_eq!(mine["items"][0]["slug"], "dojo");
    assert_eq!(mine["items"][1]["role"], "admin");

    let open = async |id: String| {
        let path = "/api/sessions/current/tenant";
        ask(
            &app,
            &cookie,
            Method::PUT,
            path,
            Some(json!({"tenant_id": id})),
        )
        .await
    };
    let view = open(cafe.id.to_string()).await.ok(200);
    assert_eq!(
        (&view["tenant"]["slug"], &view["role"]),
        (&json!("cafe"), &json!("admin"))
    );
    ask(&app, &cookie, Method::GET, "/api/keys", None)
        .await
        .ok(200);
    for id in [harbor.id.to_string(), uuid::Uuid::nil().to_string()] {
        open(id).await.problem(422, "unprocessable");
    }
    open(dojo.id.to_string()).await.ok(200);
    ask(&app, &cookie, Method::GET, "/api/keys", None)
        .await
        .problem(403, "forbidden");
}

#[tokio::test]
async fn whoever_runs_the_platform_needs_no_tenant() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let person = app.person(&tenant, Role::Viewer).await;
    app.db().execute("DELETE FROM control.memberships").await;
    let body = json!({"email": person.email, "password": person.password});
    answer(app.request(Method::POST, "/api/sessions").json(&body))
        .await
        .problem(403, "not-a-member");

    app.db()
        .execute("UPDATE control.users SET is_platform_admin = true")
        .await;
    let cookie = app.sign_in(&person).await;
    let view = ask(&app, &cookie, Method::GET, "/api/sessions/current", None).await;
    let view = view.ok(200);
    assert_eq!(view["is_platform_admin"], true);
    assert!(view.get("tenant").is_none() && view.get("role").is_none());
    ask(&app, &cookie, Method::GET, "/api/ops/queues", None)
        .await
        .ok(200);
    ask(&app, &cookie, Method::GET, "/api/contacts", None)
        .await
        .problem(403, "not-a-member");
}

/// The count is the installation's, not the process's.
#[tokio::test]
async fn tries_count_over_all_processes_and_a_flood_is_stopped_at_the_fifth() {
    let app = App::start().await;
    let other = App::serve_again(&app).await;
    let body = json!({"email": "somebody@example.test", "password": "wrong"});
    let tries = (0..40).map(|number| {
        let app = if number % 2 == 0 { &app } else { &other };
        answer(app.request(Method::POST, "/api/sessions").json(&body))
    });
    let answers = futures_util::future::join_all(tries).await;
    let looked_at = answers.iter().filter(|one| one.status == 401).count();
    assert_eq!(looked_at, 5);
    for refused in answers.iter().filter(|one| one.status != 401) {
        refused.problem(429, "too-many-tries");
        let secs: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&secs));
    }
    let kept = "SELECT count(*) FROM control.login_throttle";
    app.db().advance(Duration::from_secs(61)).await;
    for number in 0..3 {
        let body = json!({"email": format!("{number}@example.test"), "password": "wrong"});
        answer(app.request(Method::POST, "/api/sessions").json(&body)).await;
    }
    assert_eq!(app.db().number(kept).await, 3, "what is over goes away");
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
