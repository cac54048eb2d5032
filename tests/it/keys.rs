//! API keys: shown once, found by hash, ended by time or by hand.

use std::time::Duration;

use engageninja::domain::actor::Role;
use serde_json::json;

use crate::harness::app::App;

#[tokio::test]
async fn a_key_is_shown_once_and_works() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let admin = app.key(&tenant, Role::Admin).await;
    let made = app
        .post(
            &admin,
            "/api/keys",
            &json!({"name": "ci", "role": "sender"}),
        )
        .await
        .ok(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("en_") && secret.len() == 46);
    assert_eq!(made["key"]["prefix"], secret[..11]);

    let who = app.get(secret, "/api/sessions/current").await.ok(200);
    assert_eq!(who["api_key_id"], made["key"]["id"]);
    assert_eq!(who["role"], "sender");
    assert_eq!(who["tenant"]["id"], tenant.id.to_string());

    let list = app.get(&admin, "/api/keys").await;
    assert!(!list.text.contains(secret), "the secret is shown once");
    let newest = &list.ok(200)["items"][0];
    assert_eq!(newest["name"], "ci");
    assert!(newest["last_used_at"].is_string());
}

#[tokio::test]
async fn a_wrong_an_expired_and_a_revoked_key_are_refused_alike() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let admin = app.key(&tenant, Role::Admin).await;
    let soon = app.db().clock().now() + chrono::TimeDelta::minutes(5);
    let body = json!({"name": "short", "role": "viewer", "expires_at": soon});
    let short = app.post(&admin, "/api/keys", &body).await.ok(201);
    let body = json!({"name": "ended", "role": "viewer"});
    let ended = app.post(&admin, "/api/keys", &body).await.ok(201);
    let id = ended["key"]["id"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(
            app.delete(&admin, &format!("/api/keys/{id}")).await.status,
            204
        );
    }
    let secret = short["secret"].as_str().unwrap();
    app.get(secret, "/api/sessions/current").await.ok(200);
    app.db().advance(Duration::from_mins(6)).await;
    let wrong = format!("{}x", &secret[..secret.len() - 1]);
    for key in [
        secret,
        ended["secret"].as_str().unwrap(),
        &wrong,
        "en_",
        "sk_live",
    ] {
        app.get(key, "/api/sessions/current")
            .await
            .problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn the_last_use_is_noted_once_a_minute() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let admin = app.key(&tenant, Role::Admin).await;
    let last_use =
        async || app.get(&admin, "/api/keys").await.ok(200)["items"][0]["last_used_at"].clone();
    let first = last_use().await;
    assert_eq!(last_use().await, first);
    app.db().advance(Duration::from_secs(61)).await;
    assert_ne!(last_use().await, first);
}

#[tokio::test]
async fn a_key_that_would_have_ended_already_is_not_made() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let admin = app.key(&tenant, Role::Admin).await;
    let body = json!({"name": "late", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"});
    app.post(&admin, "/api/keys", &body)
        .await
        .problem(422, "unprocessable");
    assert_eq!(
        app.get(&admin, "/api/keys").await.ok(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn somebody_elses_key_is_not_found() {
    let app = App::start().await;
    let mine = app.tenant("dojo").await;
    let theirs = app.tenant("harbor").await;
    let my_key = app.key(&mine, Role::Admin).await;
    let their_key = app.key(&theirs, Role::Admin).await;
    let id = app.get(&their_key, "/api/keys").await.ok(200)["items"][0]["id"].clone();
    let path = format!("/api/keys/{}", id.as_str().unwrap());
    app.delete(&my_key, &path).await.problem(404, "not-found");
    app.get(&their_key, "/api/keys").await.ok(200);
}

#[tokio::test]
async fn a_role_below_admin_manages_no_keys() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let sender = app.key(&tenant, Role::Sender).await;
    let problem = app
        .get(&sender, "/api/keys")
        .await
        .problem(403, "forbidden");
    assert!(problem["detail"].as_str().unwrap().contains("admin"));
    let body = json!({"name": "x", "role": "admin"});
    app.post(&sender, "/api/keys", &body)
        .await
        .problem(403, "forbidden");
}

#[tokio::test]
async fn keys_are_paged_the_newest_first() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let admin = app.key(&tenant, Role::Admin).await;
    for number in 0..4 {
        let body = json!({"name": format!("key {number}"), "role": "viewer"});
        app.post(&admin, "/api/keys", &body).await.ok(201);
    }
    let (mut names, mut path) = (Vec::new(), "/api/keys?limit=2".to_owned());
    loop {
        let page = app.get(&admin, &path).await.ok(200);
        for key in page["items"].as_array().unwrap() {
            names.push(key["name"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/keys?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(names, ["key 3", "key 2", "key 1", "key 0", "admin"]);
}
