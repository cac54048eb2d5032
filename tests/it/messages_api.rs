//! Single messages by the API: sent, followed, refused; and addresses that nothing is sent to.

use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::domain::counts::CountWord;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{Answer, App};
use crate::harness::eventually;
use crate::harness::world::World;

struct Desk {
    world: World,
    app: App,
    key: String,
    admin: String,
}

impl Desk {
    async fn open() -> Self {
        let world = World::start().await;
        let (app, tenant) = App::beside(&world).await;
        let key = app.key(&tenant, Role::Sender).await;
        let admin = app.key(&tenant, Role::Admin).await;
        Self {
            world,
            app,
            key,
            admin,
        }
    }

    async fn send(&self, body: Value) -> Answer {
        self.app.post(&self.key, "/api/messages", &body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.app.get(&self.key, path).await.ok(200)
    }

    async fn suppress(&self, channel: &str, address: &str) -> Answer {
        let body = json!({"channel": channel, "address": address, "source": "call"});
        self.app.post(&self.key, "/api/suppressions", &body).await
    }

    async fn nothing_was_made(&self) {
        for table in ["messages", "message_bodies", "lane_wakes", "audit_log"] {
            let count = format!("SELECT count(*) FROM {table}");
            assert_eq!(self.world.number(&count).await, 0, "{table}");
        }
    }
}

fn sms(to: &str, body: &str) -> Value {
    json!({"channel": "sms", "to": to, "body": body})
}

#[tokio::test]
async fn a_message_goes_out_and_its_timeline_tells_how() {
    let desk = Desk::open().await;
    let accepted = desk
        .send(sms("305 404 8480", "Your code is 7"))
        .await
        .ok(202);
    assert_eq!(accepted["to"], "+13054048480");
    assert_eq!(accepted["state"], "waiting");
    assert_eq!(accepted["segments"], 1);
    let path = format!("/api/messages/{}", accepted["id"].as_str().unwrap());

    let worker = desk.world.worker().await;
    let _scheduler = desk.world.scheduler();
    eventually("it is with the provider", async || {
        desk.get(&path).await["message"]["attempts"] == 1
            && desk.get(&path).await["attempts"][0]["state"] != "open"
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;

    let one = desk.get(&path).await;
    assert_eq!(one["content"]["body"], "Your code is 7");
    let timeline = desk.get(&format!("{path}/timeline")).await;
    let entries = timeline["entries"].as_array().unwrap();
    assert_eq!(entries[0]["kind"], "attempt");
    assert_eq!(entries[0]["provider"], "demo");
    let kinds: Vec<_> = entries.iter().map(|entry| &entry["kind"]).collect();
    assert!(kinds.contains(&&json!("outcome")), "{timeline}");
    let times: Vec<_> = entries.iter().map(|entry| entry["at"].as_str()).collect();
    assert!(times.is_sorted(), "{timeline}");
}

#[tokio::test]
async fn a_contact_gets_a_template_with_its_own_values_and_those_that_are_sent() {
    let desk = Desk::open().await;
    let ann = desk.world.add_contact("Ann", "+13054048480").await;
    let template =
        json!({"name": "Code", "channel": "sms", "body": "{{ first_name }}: {{ code }}"});
    let template = desk.app.post(&desk.key, "/api/templates", &template).await;
    let template = template.ok(201)["id"].clone();
    let body = json!({"channel": "sms", "contact_id": ann, "template_id": template, "values": {"code": "7"}});
    let accepted = desk.send(body).await.ok(202);
    let path = format!("/api/messages/{}", accepted["id"].as_str().unwrap());
    assert_eq!(desk.get(&path).await["content"]["body"], "Ann: 7");
    let theirs = desk.get(&format!("/api/messages?contact_id={ann}")).await;
    assert_eq!(theirs["items"][0]["id"], accepted["id"]);

    let lacking = json!({"channel": "sms", "contact_id": ann, "template_id": template});
    let problem = desk.send(lacking).await.problem(422, "missing-variable");
    assert!(problem["detail"].as_str().unwrap().contains("code"));
    // Deleting the contact drops what waits for it.
    let contact = format!("/api/contacts/{ann}");
    assert_eq!(desk.app.delete(&desk.key, &contact).await.status, 204);
    let shown = desk.get(&path).await;
    assert_eq!(shown["message"]["drop_reason"], "cancelled");
    let timeline = desk.get(&format!("{path}/timeline")).await;
    assert_eq!(timeline["entries"][0]["what"], "dropped");
    assert_eq!(timeline["entries"][0]["reason"], "cancelled");
}

#[tokio::test]
async fn bulk_needs_consent_and_a_message_that_somebody_waits_for_does_not() {
    let desk = Desk::open().await;
    let bulk = json!({"channel": "sms", "class": "bulk", "to": "+13054048480", "body": "Offers"});
    desk.send(bulk.clone()).await.problem(422, "no-consent");
    desk.nothing_was_made().await;
    desk.send(sms("+13054048480", "Your code")).await.ok(202);
    desk.world.add_contact("Ann", "+13054048480").await;
    desk.send(bulk).await.ok(202);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_and_leaves_nothing() {
    let desk = Desk::open().await;
    let other = desk.app.tenant("harbor").await;
    let other_key = desk.app.key(&other, Role::Admin).await;
    let template = json!({"name": "Theirs", "channel": "sms", "body": "x"});
    let made = desk.app.post(&other_key, "/api/templates", &template).await;
    let theirs = made.ok(201)["id"].clone();
    let to = "+13054048480";
    let nobody = Uuid::now_v7();
    let cases = [
        (json!({"channel": "sms", "body": "x"}), "invalid-body"),
        (
            json!({"channel": "sms", "to": to, "contact_id": nobody, "body": "x"}),
            "invalid-body",
        ),
        (json!({"channel": "sms", "to": to}), "invalid-body"),
        (
            json!({"channel": "sms", "to": to, "template_id": theirs, "body": "x"}),
            "invalid-body",
        ),
        (
            json!({"channel": "fax", "to": to, "body": "x"}),
            "invalid-body",
        ),
        (
            json!({"channel": "sms", "to": to, "body": "x", "expires_after_secs": 5}),
            "invalid-body",
        ),
        (sms("12", "x"), "invalid-address"),
        (
            json!({"channel": "email", "to": to, "subject": "x", "body": "x"}),
            "invalid-address",
        ),
        (
            json!({"channel": "email", "to": "a@example.com", "body": "x"}),
            "invalid-template",
        ),
        (sms(to, "{{ "), "invalid-template"),
        (sms(to, "Hello {{ first_name }}"), "missing-variable"),
        (sms(to, &"x".repeat(40_000)), "unprocessable"),
        (
            json!({"channel": "sms", "contact_id": nobody, "body": "x"}),
            "unprocessable",
        ),
        (
            json!({"channel": "sms", "to": to, "template_id": theirs}),
            "unprocessable",
        ),
        (
            json!({"channel": "sms", "to": to, "body": "x", "sender_id": nobody}),
            "no-sender",
        ),
    ];
    let tenant = desk.world.tenant_id;
    for (body, slug) in cases {
        let problem = desk.send(body.clone()).await.problem(422, slug);
        assert!(
            problem["detail"].as_str().unwrap().ends_with('.'),
            "{problem}"
        );
    }
    let made = format!(
        "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM audit_log WHERE tenant_id = '{tenant}')"
    );
    assert_eq!(desk.world.number(&made).await, 0);
}

#[tokio::test]
async fn somebody_elses_message_has_no_timeline() {
    let desk = Desk::open().await;
    let other = desk.app.tenant("harbor").await;
    let other_key = desk.app.key(&other, Role::Admin).await;
    let sent = desk.send(sms("+13054048480", "x")).await.ok(202);
    let path = format!("/api/messages/{}/timeline", sent["id"].as_str().unwrap());
    let refused = desk.app.get(&other_key, &path).await;
    refused.problem(404, "not-found");
}

#[tokio::test]
async fn nothing_is_sent_to_a_suppressed_address_until_an_admin_lifts_it() {
    let desk = Desk::open().await;
    let made = desk.suppress("sms", "305 404 8480").await.ok(201);
    assert_eq!(made["reason"], "manual");
    assert_eq!(made["source"], "call");
    let refused = desk.send(sms("+13054048480", "x")).await;
    refused.problem(422, "suppressed");
    let whatsapp = json!({"channel": "whatsapp", "to": "+13054048480", "body": "x"});
    desk.send(whatsapp).await.ok(202);
    // Once more changes nothing.
    assert_eq!(desk.suppress("sms", "+13054048480").await.ok(201), made);

    let path = format!("/api/suppressions/{}", made["id"].as_str().unwrap());
    let refused = desk.app.delete(&desk.key, &path).await;
    refused.problem(403, "forbidden");
    assert_eq!(desk.app.delete(&desk.admin, &path).await.status, 204);
    for id in [
        path.as_str(),
        "/api/suppressions/sms-00",
        "/api/suppressions/x",
    ] {
        let refused = desk.app.delete(&desk.admin, id).await;
        refused.problem(404, "not-found");
    }
    desk.send(sms("+13054048480", "x")).await.ok(202);
    let record = desk
        .world
        .db
        .text(
            "SELECT string_agg(detail::text, ' ') FROM audit_log WHERE target_kind = 'suppression'",
        )
        .await;
    assert!(!record.contains("4048480"), "{record}");
}

#[tokio::test]
async fn suppressions_are_listed_by_channel_and_found_by_address() {
    let desk = Desk::open().await;
    for number in 0..3 {
        let phone = format!("+1305404848{number}");
        desk.suppress("sms", &phone).await.ok(201);
    }
    desk.suppress("email", "Ann@Example.com").await.ok(201);
    let ann = desk.world.add_contact("Ann", "+13054048481").await;

    let (mut seen, mut query) = (Vec::new(), "channel=sms&limit=2".to_owned());
    loop {
        let page = desk.get(&format!("/api/suppressions?{query}")).await;
        seen.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("channel=sms&limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1]["contact_id"], ann.to_string());
    assert_eq!(
        desk.get("/api/suppressions").await["items"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    let found = "/api/suppressions?channel=email&address=ann%40example.com";
    assert_eq!(desk.get(found).await["items"].as_array().unwrap().len(), 1);
    let none = "/api/suppressions?channel=whatsapp&address=%2B13054048481";
    assert_eq!(desk.get(none).await["items"], json!([]));
    let unclear = "/api/suppressions?address=%2B13054048481";
    let refused = desk.app.get(&desk.key, unclear).await;
    refused.problem(400, "invalid-parameter");
    desk.suppress("sms", "12")
        .await
        .problem(422, "invalid-address");

    let other = desk.app.tenant("harbor").await;
    let other_key = desk.app.key(&other, Role::Admin).await;
    let theirs = desk.app.get(&other_key, "/api/suppressions").await.ok(200);
    assert_eq!(theirs["items"], json!([]));
}

/// Ann's message in a running campaign is dropped at once; one to her bare number is dropped when its turn comes.
#[tokio::test]
async fn a_suppression_stops_what_waits() {
    let desk = Desk::open().await;
    let world = &desk.world;
    world.add_contacts(5).await;
    world.add_contact("Ann", "+13054048480").await;
    let single = desk.send(sms("+13054048480", "x")).await.ok(202);
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, 6).await;

    desk.suppress("sms", "+13054048480").await.ok(201);
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(counts.get(CountWord::DroppedOptedOut), 1);

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    world.completed(campaign).await;
    let path = format!("/api/messages/{}", single["id"].as_str().unwrap());
    eventually("the single one is dropped", async || {
        desk.get(&path).await["message"]["drop_reason"] == "opted_out"
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    let calls = "SELECT count(*) FROM demo_ledger d JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.message_id
        WHERE m.phone_number = '+13054048480'";
    assert_eq!(world.number(calls).await, 0);
}
