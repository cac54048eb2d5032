//! Templates by the API: versions that never change, and previews that say what would be missing.

use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::json;

use crate::harness::app::{App, answer};
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

#[tokio::test]
async fn every_version_is_shown_by_its_number_and_listed_by_pages() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Sender).await;
    let path = make_template(&app, &key, "Sale").await;
    let mut wanted = vec![app.get(&key, &path).await.ok(200)["version"].clone()];
    for body in ["Two", "Three"] {
        let versions = format!("{path}/versions");
        let made = app.post(&key, &versions, &json!({"body": body})).await;
        wanted.insert(0, made.ok(201)["version"].clone());
    }

    let mut listed = Vec::new();
    let mut page = format!("{path}/versions?limit=2");
    loop {
        let answer = app.get(&key, &page).await.ok(200);
        listed.extend(answer["items"].as_array().unwrap().clone());
        let Some(cursor) = answer["next_cursor"].as_str() else {
            break;
        };
        page = format!("{path}/versions?limit=2&cursor={cursor}");
    }
    assert_eq!(listed, wanted);
    let first = app.get(&key, &format!("{path}/versions/1")).await.ok(200);
    assert_eq!(&first, wanted.last().unwrap());
    assert_eq!(first["body"], "Hello");
    for (number, status, slug) in [
        ("4", 404, "not-found"),
        ("0", 404, "not-found"),
        ("first", 400, "invalid-parameter"),
    ] {
        let missing = app.get(&key, &format!("{path}/versions/{number}")).await;
        missing.problem(status, slug);
    }
}

async fn make_template(app: &App, key: &str, name: &str) -> String {
    let body = json!({"name": name, "channel": "sms", "body": "Hello"});
    let made = app.post(key, "/api/templates", &body).await.ok(201);
    format!("/api/templates/{}", made["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_template_is_renamed_to_a_name_that_is_free() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Sender).await;
    let path = make_template(&app, &key, "Sale").await;
    let archived = make_template(&app, &key, "Old").await;
    let archive = format!("{archived}/archive");
    app.post(&key, &archive, &json!({})).await.ok(200);
    let rename = async |name: &str| {
        let request = app.with_key(&key, Method::PATCH, &path);
        answer(request.json(&json!({"name": name}))).await
    };

    rename("Old").await.problem(409, "name-taken");
    rename("  ").await.problem(422, "invalid-body");
    assert_eq!(app.get(&key, &path).await.ok(200)["name"], "Sale");
    let renamed = rename(" Spring ").await.ok(200);
    assert_eq!(renamed["name"], "Spring");
    assert_eq!(app.get(&key, &path).await.ok(200), renamed);
    // The same again is no change.
    rename("Spring").await.ok(200);
    let record = "SELECT string_agg(detail #>> '{before,name}' || ' to ' || (detail #>> '{after,name}'), ', ')
        FROM cell.audit_log WHERE action = 'update_template'";
    assert_eq!(app.db().text(record).await, "Sale to Spring");
}

#[tokio::test]
async fn nothing_new_is_made_of_an_archived_template_and_what_was_made_goes_on() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    world.add_contact("Anna", "+12055550001").await;
    let path = make_template(&app, &key, "Sale").await;
    let template = app.get(&key, &path).await.ok(200);
    let id = &template["id"];
    let campaign = json!({"name": "x", "template_id": id, "audience": {"kind": "everybody"}});
    let made = app.post(&key, "/api/campaigns", &campaign).await.ok(201);
    let made = format!("/api/campaigns/{}", made["id"].as_str().unwrap());

    for _ in 0..2 {
        let archive = format!("{path}/archive");
        let archived = app.post(&key, &archive, &json!({})).await.ok(200);
        assert_eq!(archived["is_archived"], true);
    }

    let listed = async |query: &str| {
        let list = app.get(&key, &format!("/api/templates{query}")).await;
        list.ok(200)["items"].as_array().unwrap().len()
    };
    assert_eq!(listed("").await, 0);
    assert_eq!(listed("?include_archived=false").await, 0);
    assert_eq!(listed("?include_archived=true").await, 1);
    assert_eq!(app.get(&key, &path).await.ok(200)["name"], "Sale");
    let message = json!({"channel": "sms", "to": "+13054048480", "template_id": id});
    let version = json!({"body": "Hi"});
    for (path, body) in [
        ("/api/campaigns", &campaign),
        ("/api/messages", &message),
        (&format!("{path}/versions"), &version),
    ] {
        let refused = app.post(&key, path, body).await;
        let problem = refused.problem(409, "template-archived");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("\"Sale\"") && detail.contains("unarchive it"),
            "{detail}"
        );
    }
    let change = app
        .with_key(&key, Method::PATCH, &made)
        .json(&json!({"template_id": id}));
    answer(change).await.problem(409, "template-archived");

    // It keeps its version, and goes out.
    let path_to_send = format!("{made}/send");
    let sent = app.post(&key, &path_to_send, &json!({})).await.ok(202);
    assert_eq!(sent["template_version_id"], template["version"]["id"]);
    let unarchive = format!("{path}/unarchive");
    app.post(&key, &unarchive, &json!({})).await.ok(200);
    assert_eq!(listed("").await, 1);
    app.post(&key, "/api/campaigns", &campaign).await.ok(201);
    let record =
        "SELECT count(*) FROM audit_log WHERE action IN ('archive_template', 'unarchive_template')";
    assert_eq!(world.number(record).await, 2);
}
