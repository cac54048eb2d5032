//! Templates by the API: versions that never change, and previews that say what would be missing.

use engageninja::domain::actor::Role;
use serde_json::json;

use crate::harness::app::App;
use crate::harness::world::World;

#[tokio::test]
async fn a_new_version_becomes_the_current_one() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Sender).await;
    let body = json!({"name": "Sale", "channel": "sms", "body": "Hello {{ first_name }}"});
    let made = app.post(&key, "/api/templates", &body).await.ok(201);
    assert_eq!(made["version"]["version"], 1);
    assert_eq!(made["version"]["variables"], json!(["first_name"]));
    let path = format!("/api/templates/{}", made["id"].as_str().unwrap());

    let body = json!({"body": "Hi {{ first_name }}, {{ points | default(0) }}"});
    let second = app
        .post(&key, &format!("{path}/versions"), &body)
        .await
        .ok(201);
    assert_eq!(second["version"]["version"], 2);
    assert_eq!(app.get(&key, &path).await.ok(200), second);
    let list = app.get(&key, "/api/templates").await.ok(200);
    assert_eq!(list["items"], json!([second]));
}

#[tokio::test]
async fn a_text_that_cannot_be_a_templates_is_refused_and_nothing_is_saved() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Sender).await;
    let cases = [
        (
            json!({"channel": "sms", "body": "Hello {{ first_name"}),
            "body",
        ),
        (json!({"channel": "sms", "body": "{{ 'a' * 9 }}"}), "body"),
        (
            json!({"channel": "sms", "body": "a", "subject": "b"}),
            "subject",
        ),
        (
            json!({"channel": "whatsapp", "body": "a", "html": "b"}),
            "html",
        ),
        (json!({"channel": "email", "body": "a"}), "subject"),
        (
            json!({"channel": "email", "body": "a", "subject": "b", "html": "{% x %}"}),
            "html",
        ),
    ];
    for (mut body, field) in cases {
        body["name"] = json!("Sale");
        let refused = app.post(&key, "/api/templates", &body).await;
        let problem = refused.problem(422, "invalid-template");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let list = app.get(&key, "/api/templates").await.ok(200);
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn a_taken_name_is_refused() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Sender).await;
    let body = json!({"name": "Sale", "channel": "sms", "body": "Hello"});
    app.post(&key, "/api/templates", &body).await.ok(201);
    let problem = app.post(&key, "/api/templates", &body).await;
    let problem = problem.problem(409, "name-taken");
    assert!(problem["detail"].as_str().unwrap().contains("template"));
}

#[tokio::test]
async fn a_preview_shows_the_text_its_segments_and_who_lacks_what() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    let anna = world.add_contact("Anna", "+12055550001").await;
    world.add_contact("Bob", "+12055550002").await;
    world
        .db
        .execute(&format!(
            "UPDATE cell.contacts SET attributes = '{{\"points\": 228}}' WHERE id = '{anna}'"
        ))
        .await;
    let body = "Hello {{ first_name }}, {{ points }} points ’til {{ city | default('noon') }}";
    let body = json!({"name": "Sale", "channel": "sms", "body": body});
    let made = app.post(&key, "/api/templates", &body).await.ok(201);
    let path = format!("/api/templates/{}/preview", made["id"].as_str().unwrap());

    let shown = app
        .post(&key, &path, &json!({"contact_id": anna}))
        .await
        .ok(200);
    assert_eq!(
        shown["rendered"]["body"],
        "Hello Anna, 228 points ’til noon"
    );
    assert_eq!(
        shown["segments"],
        json!({"count": 1, "encoding": "ucs2", "units": 32, "forced_by": "’"})
    );
    assert_eq!(shown["people"], 2);
    assert_eq!(
        shown["variables"],
        json!([
            {"name": "city", "is_required": false, "people_missing": 2},
            {"name": "first_name", "is_required": true, "people_missing": 0},
            {"name": "points", "is_required": true, "people_missing": 1},
        ])
    );

    let values = json!({"values": {"first_name": "Zoe"}});
    let nobody = app.post(&key, &path, &values).await.ok(200);
    assert_eq!(nobody["refusal"], "the variable points is missing");
    assert!(nobody.get("rendered").is_none() && nobody.get("segments").is_none());
}

#[tokio::test]
async fn somebody_elses_template_is_not_found() {
    let app = App::start().await;
    let mine = app.tenant("dojo").await;
    let theirs = app.tenant("harbor").await;
    let my_key = app.key(&mine, Role::Sender).await;
    let their_key = app.key(&theirs, Role::Sender).await;
    let body = json!({"name": "Sale", "channel": "sms", "body": "Hello"});
    let made = app.post(&their_key, "/api/templates", &body).await.ok(201);
    let path = format!("/api/templates/{}", made["id"].as_str().unwrap());
    app.get(&my_key, &path).await.problem(404, "not-found");
    let version = json!({"body": "Hi"});
    app.post(&my_key, &format!("{path}/versions"), &version)
        .await
        .problem(404, "not-found");
    app.post(&my_key, &format!("{path}/preview"), &json!({}))
        .await
        .problem(404, "not-found");
    // Their name is free for me.
    app.post(&my_key, "/api/templates", &body).await.ok(201);
}
