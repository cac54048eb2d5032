//! Contacts made, changed and deleted by the API, also in a campaign that is running.

use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::domain::counts::CountWord;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{Answer, App, answer};
use crate::harness::eventually;
use crate::harness::world::World;

struct Desk {
    world: World,
    app: App,
    key: String,
}

impl Desk {
    async fn open() -> Self {
        let world = World::start().await;
        let (app, tenant) = App::beside(&world).await;
        let key = app.key(&tenant, Role::Sender).await;
        Self { world, app, key }
    }

    async fn make(&self, body: Value) -> Answer {
        self.app.post(&self.key, "/api/contacts", &body).await
    }

    async fn change(&self, id: &str, body: Value) -> Answer {
        let path = format!("/api/contacts/{id}");
        let request = self.app.with_key(&self.key, Method::PATCH, &path);
        answer(request.json(&body)).await
    }

    async fn delete(&self, id: &str) -> Answer {
        let path = format!("/api/contacts/{id}");
        self.app.delete(&self.key, &path).await
    }

    async fn found(&self, query: &str) -> usize {
        let path = format!("/api/contacts?{query}");
        let page = self.app.get(&self.key, &path).await.ok(200);
        page["items"].as_array().unwrap().len()
    }
}

fn id_of(detail: &Value) -> String {
    detail["contact"]["id"].as_str().unwrap().to_owned()
}

fn consent() -> Value {
    json!({"wording": "I want offers", "source": "form", "date": "2026-03-01T00:00:00Z"})
}

#[tokio::test]
async fn a_contact_is_made_read_in_the_tenants_country_and_agrees() {
    let desk = Desk::open().await;
    let made = desk
        .make(json!({
            "first_name": " Ann ", "last_name": "Lee", "phone": "(305) 404-8480", "email": "Ann@Example.com",
            "attributes": {"loyalty_tier": "gold", "empty": ""}, "consent": consent(),
        }))
        .await
        .ok(201);
    let contact = &made["contact"];
    assert_eq!(contact["first_name"], "Ann");
    assert_eq!(contact["phone"], "+13054048480");
    assert_eq!(contact["email"], "Ann@Example.com");
    assert_eq!(contact["attributes"], json!({"loyalty_tier": "gold"}));
    assert_eq!(
        made["consents"],
        json!({"email": "granted", "sms": "granted", "whatsapp": "granted"})
    );
    assert_eq!(desk.found("q=ann%20lee").await, 1);
    assert_eq!(desk.found("contains=lee").await, 1);
    assert_eq!(desk.found("contains=404848").await, 1);
    assert_eq!(desk.found("contains=example").await, 1);
    assert_eq!(desk.found("contains=nobody").await, 0);

    let ledger =
        "SELECT count(*) FROM consents WHERE action = 'granted' AND wording = 'I want offers'
        AND actor LIKE 'api_key:%' AND occurred_at = '2026-03-01T00:00:00Z'";
    assert_eq!(desk.world.number(ledger).await, 3);
    let record = desk
        .world
        .db
        .text("SELECT detail::text FROM audit_log WHERE action = 'create_contact'")
        .await;
    assert!(record.contains("loyalty_tier"), "{record}");
    assert!(
        !record.contains("4048480") && !record.contains("Lee"),
        "{record}"
    );
}

#[tokio::test]
async fn the_same_number_and_the_same_email_are_the_same_contact() {
    let desk = Desk::open().await;
    let body = json!({"phone": "+13054048480", "email": "ann@example.com"});
    let first = id_of(&desk.make(body.clone()).await.ok(201));
    let again = json!({"phone": "305 404 8480", "email": "ANN@example.com"});
    let problem = desk.make(again).await.problem(409, "contact-exists");
    assert_eq!(
        problem["errors"],
        json!([{"field": "contact_id", "message": first}])
    );
    // Another address makes another one, which cannot become the first.
    let second = json!({"phone": "+13054048480", "email": "lee@example.com"});
    let second = id_of(&desk.make(second).await.ok(201));
    let refused = desk.change(&second, json!({"email": "Ann@example.com"}));
    let problem = refused.await.problem(409, "contact-exists");
    assert_eq!(problem["errors"][0]["message"], first);
    desk.change(&first, json!({"email": "ANN@example.com"}))
        .await
        .ok(200);
    assert_eq!(desk.found("").await, 2);
}

#[tokio::test]
async fn what_cannot_be_a_contact_is_refused_by_field_and_leaves_nothing() {
    let desk = Desk::open().await;
    let phone = "+13054048480";
    let cases = [
        (json!({"first_name": "Ann"}), "phone"),
        (json!({"phone": "12"}), "phone"),
        (json!({"email": "nobody"}), "email"),
        (json!({"phone": phone, "timezone": "Mars/Base"}), "timezone"),
        (
            json!({"phone": phone, "attributes": {"Loyalty Tier": "x"}}),
            "attributes.Loyalty Tier",
        ),
        (
            json!({"phone": phone, "attributes": {"first_name": "x"}}),
            "attributes.first_name",
        ),
        (
            json!({"phone": phone, "consent": {"wording": "x", "source": "x", "date": "2099-01-01T00:00:00Z"}}),
            "consent.date",
        ),
        (
            json!({"phone": phone, "consent": {
                "wording": "x", "source": "x", "date": "2026-01-01T00:00:00Z", "channels": ["email"]}}),
            "consent.channels",
        ),
    ];
    for (body, field) in cases {
        let problem = desk.make(body.clone()).await.problem(422, "invalid-body");
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
    }
    for table in ["contacts", "consents", "audit_log"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(desk.world.number(&count).await, 0, "{table}");
    }
    desk.app
        .get(&desk.key, "/api/contacts?q=ann&contains=ann")
        .await
        .problem(400, "invalid-parameter");
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name_and_removes_what_is_empty() {
    let desk = Desk::open().await;
    let made = desk
        .make(json!({
            "first_name": "Ann", "last_name": "Lee", "phone": "+13054048480",
            "attributes": {"tier": "gold", "shop": "Miami"},
        }))
        .await
        .ok(201);
    let id = id_of(&made);
    let body = json!({"last_name": "", "attributes": {"tier": "", "points": "7"}});
    let changed = desk.change(&id, body).await.ok(200);
    let contact = &changed["contact"];
    assert_eq!(contact["first_name"], "Ann");
    assert!(contact["last_name"].is_null());
    assert_eq!(
        contact["attributes"],
        json!({"shop": "Miami", "points": "7"})
    );
    assert_eq!(desk.found("q=ann%20lee").await, 0);
    let refused = desk.change(&id, json!({"phone": ""})).await;
    refused.problem(422, "invalid-body");
}

#[tokio::test]
async fn another_number_is_another_one_to_agree_for() {
    let desk = Desk::open().await;
    let body = json!({"phone": "+13054048480", "email": "ann@example.com", "consent": consent()});
    let id = id_of(&desk.make(body).await.ok(201));
    let changed = desk.change(&id, json!({"phone": "+13054048481"})).await;
    assert_eq!(changed.ok(200)["consents"], json!({"email": "granted"}));
    let agreed = json!({"phone": "+13054048482", "consent": consent()});
    let changed = desk.change(&id, agreed).await.ok(200);
    assert_eq!(changed["consents"]["sms"], "granted");
}

#[tokio::test]
async fn somebody_elses_contact_is_neither_changed_nor_deleted() {
    let desk = Desk::open().await;
    let other = desk.app.tenant("harbor").await;
    let other_key = desk.app.key(&other, Role::Admin).await;
    let body = json!({"phone": "+13054048480"});
    let made = desk.app.post(&other_key, "/api/contacts", &body).await;
    let theirs = id_of(&made.ok(201));
    for id in [theirs, Uuid::now_v7().to_string()] {
        desk.change(&id, json!({"first_name": "x"}))
            .await
            .problem(404, "not-found");
        desk.delete(&id).await.problem(404, "not-found");
    }
    // The same person may be a contact of both.
    desk.make(body).await.ok(201);
}

/// Whoever is deleted gets nothing that has not begun; every count sums before and after, and nobody else loses anything.
#[tokio::test]
async fn a_contact_that_is_deleted_in_a_running_campaign_gets_nothing_more() {
    let desk = Desk::open().await;
    let world = &desk.world;
    world.add_contacts(10).await;
    let ann = world.add_contact("Ann", "+13054048480").await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    // Let out, but nothing begins: nobody does the sends.
    world.let_out(campaign, 11).await;

    assert_eq!(desk.delete(&ann.to_string()).await.status, 204);
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(counts.get(CountWord::Released), 10);
    assert_eq!(counts.get(CountWord::DroppedCancelled), 1);
    let told = "SELECT count(*) FROM message_events WHERE kind = 'dropped' AND detail ->> 'reason' = 'cancelled'";
    assert_eq!(world.number(told).await, 1);
    let record = world
        .db
        .text("SELECT detail::text FROM audit_log WHERE action = 'delete_contact'")
        .await;
    assert!(record.contains("\"dropped_messages\": 1"), "{record}");

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    world.completed(campaign).await;
    worker.drain(Duration::from_secs(5)).await;
    let sent = format!(
        "SELECT count(*) FROM demo_ledger d JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.message_id
         WHERE m.contact_id = '{ann}'"
    );
    assert_eq!(world.number(&sent).await, 0);
    assert_eq!(world.through(campaign).await, 10);
    assert!(world.counts(campaign).await.is_balanced());
}

/// Deleting while the messages are being made leaves nobody out of the counts, whoever comes first.
#[tokio::test]
async fn contacts_that_are_deleted_while_a_campaign_expands_are_counted_once() {
    let desk = Desk::open().await;
    let world = &desk.world;
    world.add_contacts(40).await;
    let mut ids = Vec::new();
    for number in 0..10 {
        let phone = format!("+1305404848{number}");
        ids.push(world.add_contact("Ann", &phone).await);
    }
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let campaign = world.campaign("Hello {{ first_name }}").await;
    for id in &ids {
        assert_eq!(desk.delete(&id.to_string()).await.status, 204);
        let counts = world.counts(campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
    }
    eventually("the campaign ends", async || {
        world.load(campaign).await.status.as_str() == "completed"
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced() && counts.is_settled(), "{counts:?}");
    let left = "SELECT count(*) FROM contacts WHERE first_name = 'Ann'";
    assert_eq!(world.number(left).await, 0);
    let waiting = "SELECT count(*) FROM messages WHERE phase < 2";
    assert_eq!(world.number(waiting).await, 0);
    assert_eq!(world.doubled().await, 0);
}
