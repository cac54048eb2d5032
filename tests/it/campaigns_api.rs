//! A campaign by the API alone: made, sent, followed by stream, looked at message by message; and what is refused.

use engageninja::domain::actor::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{App, Tenant};
use crate::harness::world::World;

async fn make_template(app: &App, key: &str, body: &str) -> Value {
    let name = format!("Template {}", Uuid::now_v7());
    let body = json!({"name": name, "channel": "sms", "body": body});
    app.post(key, "/api/templates", &body).await.ok(201)["id"].clone()
}

/// Makes a campaign to everybody and returns its path.
async fn make_campaign(app: &App, key: &str, text: &str) -> String {
    let template_id = make_template(app, key, text).await;
    let body =
        json!({"name": "Sale", "template_id": template_id, "audience": {"kind": "everybody"}});
    let made = app.post(key, "/api/campaigns", &body).await.ok(201);
    format!("/api/campaigns/{}", made["id"].as_str().unwrap())
}

fn sum(progress: &Value) -> i64 {
    let counts = progress["counts"].as_object().unwrap();
    counts.values().map(|count| count.as_i64().unwrap()).sum()
}

async fn world_with_sender() -> (World, App, Tenant, String) {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    (world, app, tenant, key)
}

#[tokio::test]
async fn a_campaign_goes_out_and_is_followed_by_stream_to_its_end() {
    let (world, app, _, key) = world_with_sender().await;
    world.add_contacts(60).await;
    world.add_contact("Twin", "+12055550000").await;
    let campaign = make_campaign(&app, &key, "Hello {{ first_name }}").await;
    let draft = app.get(&key, &campaign).await.ok(200);
    assert_eq!(draft["progress"]["status"], "draft");

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let mut events = app.events(&key, &format!("{campaign}/sse")).await;
    let accepted = app
        .post(&key, &format!("{campaign}/send"), &json!({}))
        .await
        .ok(202);
    assert_eq!(accepted["progress"]["status"], "sending");

    let (mut version, mut last) = (-1, Value::Null);
    while last["status"] != "completed" {
        let event = events.next().await.unwrap();
        assert!(event.id >= version, "{event:?}");
        assert_eq!(
            sum(&event.data),
            event.data["audience"].as_i64().unwrap(),
            "{event:?}"
        );
        (version, last) = (event.id, event.data);
    }
    worker.drain(std::time::Duration::from_secs(5)).await;
    assert_eq!(last["audience"], 61);
    assert_eq!(last["skipped_by_reason"]["skipped_duplicate_address"], 1);
    assert_eq!(last["counts"]["waiting"], 0);

    let id = campaign.rsplit('/').next().unwrap();
    let messages = app
        .get(&key, &format!("/api/messages?campaign_id={id}&limit=200"))
        .await;
    let messages = messages.ok(200);
    let messages = messages["items"].as_array().unwrap();
    assert_eq!(messages.len(), 60);
    let sent = messages
        .iter()
        .find(|message| message["phase"] == "handed_over")
        .unwrap();
    assert!(
        ["sent", "delivered", "failed"].contains(&sent["state"].as_str().unwrap()),
        "{sent}"
    );
    let one = app
        .get(
            &key,
            &format!("/api/messages/{}", sent["id"].as_str().unwrap()),
        )
        .await
        .ok(200);
    assert!(
        one["content"]["body"]
            .as_str()
            .unwrap()
            .starts_with("Hello Person")
    );
    assert_eq!(one["attempts"][0]["state"], "accepted");
    assert_eq!(one["attempts"][0]["provider"], "demo");

    let contact = sent["contact_id"].as_str().unwrap();
    let theirs = app
        .get(&key, &format!("/api/messages?contact_id={contact}"))
        .await
        .ok(200);
    assert_eq!(theirs["items"][0]["id"], sent["id"]);
}

#[tokio::test]
async fn an_empty_audience_is_refused() {
    let (_world, app, _, key) = world_with_sender().await;
    let campaign = make_campaign(&app, &key, "Hello").await;
    let refused = app
        .post(&key, &format!("{campaign}/send"), &json!({}))
        .await;
    let problem = refused.problem(422, "empty-audience");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("import contacts first")
    );
    assert_eq!(
        app.get(&key, &campaign).await.ok(200)["progress"]["status"],
        "draft"
    );
}

#[tokio::test]
async fn an_unknown_variable_is_refused_by_name() {
    let (world, app, _, key) = world_with_sender().await;
    world.add_contacts(1).await;
    let campaign = make_campaign(&app, &key, "Hello {{ frist_name }}").await;
    let refused = app
        .post(&key, &format!("{campaign}/send"), &json!({}))
        .await;
    let problem = refused.problem(422, "unknown-variable");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("{{ frist_name }}")
    );
    assert_eq!(
        app.get(&key, &campaign).await.ok(200)["progress"]["status"],
        "draft"
    );
    assert_eq!(world.number("SELECT count(*) FROM jobs").await, 0);
}

#[tokio::test]
async fn an_unknown_variable_with_a_fall_back_is_no_hindrance() {
    let (world, app, _, key) = world_with_sender().await;
    world.add_contacts(1).await;
    let campaign = make_campaign(&app, &key, "Hello {{ nickname | default('you') }}").await;
    app.post(&key, &format!("{campaign}/send"), &json!({}))
        .await
        .ok(202);
}

#[tokio::test]
async fn a_campaign_to_an_import_waits_until_the_import_has_completed() {
    let (world, app, tenant, key) = world_with_sender().await;
    let template_id = make_template(&app, &key, "Hello").await;
    let import_id = Uuid::now_v7();
    let tenant_id = tenant.id;
    world
        .db
        .execute(&format!(
            "INSERT INTO cell.imports (tenant_id, id, file_name, status)
             VALUES ('{tenant_id}', '{import_id}', 'people.csv', 'running')"
        ))
        .await;
    let audience = json!({"kind": "import", "import_id": import_id});
    let body = json!({"name": "Sale", "template_id": template_id, "audience": audience});
    let made = app.post(&key, "/api/campaigns", &body).await.ok(201);
    let path = format!("/api/campaigns/{}", made["id"].as_str().unwrap());
    let refused = app.post(&key, &format!("{path}/send"), &json!({})).await;
    let problem = refused.problem(409, "import-unfinished");
    assert!(problem["detail"].as_str().unwrap().contains("running"));
    assert_eq!(
        app.get(&key, &path).await.ok(200)["progress"]["status"],
        "draft"
    );
}

#[tokio::test]
async fn sending_twice_is_refused_and_sends_once() {
    let (world, app, _, key) = world_with_sender().await;
    world.add_contacts(1).await;
    let campaign = make_campaign(&app, &key, "Hello").await;
    let send = format!("{campaign}/send");
    app.post(&key, &send, &json!({})).await.ok(202);
    let before = app.get(&key, &campaign).await.ok(200);
    app.post(&key, &send, &json!({}))
        .await
        .problem(409, "campaign-already-sent");
    assert_eq!(app.get(&key, &campaign).await.ok(200), before);
    assert_eq!(world.number("SELECT count(*) FROM jobs").await, 1);
}

#[tokio::test]
async fn a_draft_cannot_be_paused_and_a_paused_campaign_not_again() {
    let (world, app, _, key) = world_with_sender().await;
    world.add_contacts(1).await;
    let campaign = make_campaign(&app, &key, "Hello").await;
    let pause = format!("{campaign}/pause");
    app.post(&key, &pause, &json!({}))
        .await
        .problem(409, "campaign-not-sending");
    app.post(&key, &format!("{campaign}/send"), &json!({}))
        .await
        .ok(202);
    let paused = app.post(&key, &pause, &json!({})).await.ok(200);
    assert_eq!(paused, json!({"status": "paused", "in_flight": 0}));
    let problem = app.post(&key, &pause, &json!({})).await;
    let problem = problem.problem(409, "campaign-not-sending");
    assert!(problem["detail"].as_str().unwrap().contains("paused"));
}

#[tokio::test]
async fn what_a_new_campaign_names_must_be_the_tenants() {
    let (_world, app, _, key) = world_with_sender().await;
    let other = app.tenant("harbor").await;
    let other_key = app.key(&other, Role::Sender).await;
    let theirs = make_template(&app, &other_key, "Hello").await;
    let mine = make_template(&app, &key, "Hello").await;
    let nobody = Uuid::now_v7();
    let everybody = json!({"kind": "everybody"});
    let cases = [
        (
            json!({"template_id": theirs, "audience": everybody}),
            "template_id",
        ),
        (
            json!({"template_id": mine, "audience": {"kind": "import", "import_id": nobody}}),
            "audience.import_id",
        ),
        (
            json!({"template_id": mine, "audience": everybody, "sender_id": nobody}),
            "sender_id",
        ),
    ];
    for (mut body, field) in cases {
        body["name"] = json!("Sale");
        let refused = app.post(&key, "/api/campaigns", &body).await;
        let problem = refused.problem(422, "unprocessable");
        assert_eq!(problem["errors"][0]["field"], field);
    }
    for audience in [
        json!({"kind": "import"}),
        json!({"kind": "everybody", "import_id": nobody}),
    ] {
        let body = json!({"name": "Sale", "template_id": mine, "audience": audience});
        app.post(&key, "/api/campaigns", &body)
            .await
            .problem(422, "invalid-body");
    }
    assert_eq!(
        app.get(&key, "/api/campaigns").await.ok(200)["items"],
        json!([])
    );
}

#[tokio::test]
async fn a_campaign_keeps_the_version_it_was_made_with() {
    let (_world, app, _, key) = world_with_sender().await;
    let template = make_template(&app, &key, "Hello").await;
    let path = format!("/api/templates/{}", template.as_str().unwrap());
    let first = app.get(&key, &path).await.ok(200)["version"]["id"].clone();
    let body = json!({"name": "Sale", "template_id": template, "audience": {"kind": "everybody"}});
    let made = app.post(&key, "/api/campaigns", &body).await.ok(201);
    app.post(&key, &format!("{path}/versions"), &json!({"body": "Hi"}))
        .await
        .ok(201);
    let id = made["id"].as_str().unwrap();
    let kept = app.get(&key, &format!("/api/campaigns/{id}")).await.ok(200);
    assert_eq!(kept["template_version_id"], first);
    let list = app.get(&key, "/api/campaigns").await.ok(200);
    assert_eq!(list["items"], json!([kept]));
}

#[tokio::test]
async fn somebody_elses_campaign_and_message_are_not_found() {
    let (world, app, _, key) = world_with_sender().await;
    let other = app.tenant("harbor").await;
    let other_key = app.key(&other, Role::Sender).await;
    world.add_contacts(1).await;
    let campaign = make_campaign(&app, &key, "Hello").await;
    let id = campaign.rsplit('/').next().unwrap().to_owned();
    app.get(&other_key, &campaign)
        .await
        .problem(404, "not-found");
    for step in ["send", "pause"] {
        app.post(&other_key, &format!("{campaign}/{step}"), &json!({}))
            .await
            .problem(404, "not-found");
    }
    app.get(&other_key, &format!("/api/messages?campaign_id={id}"))
        .await
        .problem(404, "not-found");
    app.get(&other_key, &format!("/api/messages/{id}"))
        .await
        .problem(404, "not-found");
    assert_eq!(
        app.get(&key, &campaign).await.ok(200)["progress"]["status"],
        "draft"
    );
}

#[tokio::test]
async fn a_list_of_messages_names_one_campaign_or_one_contact() {
    let (_world, app, _, key) = world_with_sender().await;
    let id = Uuid::now_v7();
    for query in ["", &format!("?campaign_id={id}&contact_id={id}")] {
        app.get(&key, &format!("/api/messages{query}"))
            .await
            .problem(400, "invalid-parameter");
    }
}
