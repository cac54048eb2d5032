//! Lists by the API: made, filled, emptied, deleted; and as whom a campaign is written to.

use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::domain::ids::CampaignId;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{Answer, App, answer};
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

    async fn list(&self, name: &str) -> String {
        let made = self.post("/api/lists", &json!({"name": name})).await;
        made.ok(201)["id"].as_str().unwrap().to_owned()
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.app.post(&self.key, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.app.get(&self.key, path).await.ok(200)
    }

    async fn put_on<T: ToString>(&self, list: &str, contacts: &[T]) -> Answer {
        let ids: Vec<_> = contacts.iter().map(ToString::to_string).collect();
        let path = format!("/api/lists/{list}/members");
        let request = self.app.with_key(&self.key, Method::PUT, &path);
        answer(request.json(&json!({"contact_ids": ids}))).await
    }

    async fn rename(&self, list: &str, name: &str) -> Answer {
        let path = format!("/api/lists/{list}");
        let request = self.app.with_key(&self.key, Method::PATCH, &path);
        answer(request.json(&json!({"name": name}))).await
    }

    async fn delete(&self, list: &str) -> Answer {
        self.app
            .delete(&self.key, &format!("/api/lists/{list}"))
            .await
    }

    async fn campaign(&self, audience: Value) -> Answer {
        let name = format!("Template {}", Uuid::now_v7());
        let template = json!({"name": name, "channel": "sms", "body": "Hello {{ first_name }}"});
        let template = self.post("/api/templates", &template).await.ok(201);
        let body = json!({"name": "Sale", "template_id": template["id"], "audience": audience});
        self.post("/api/campaigns", &body).await
    }
}

#[tokio::test]
async fn a_list_is_made_filled_emptied_and_deleted() {
    let desk = Desk::open().await;
    let list = desk.list("  Regulars ").await;
    let (ann, bob) = (
        desk.world.add_contact("Ann", "+12055550001").await,
        desk.world.add_contact("Bob", "+12055550002").await,
    );

    let added = desk.put_on(&list, &[ann, bob]).await.ok(200);
    assert_eq!(added, json!({"changed": 2, "members": 2}));
    let again = desk.put_on(&list, &[ann]).await.ok(200);
    assert_eq!(again, json!({"changed": 0, "members": 2}));

    let members = format!("/api/lists/{list}/members");
    let page = desk.get(&format!("{members}?limit=1")).await;
    assert_eq!(page["items"][0]["first_name"], "Bob");
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = desk
        .get(&format!("{members}?limit=1&cursor={cursor}"))
        .await;
    assert_eq!(page["items"][0]["first_name"], "Ann");
    assert!(page["next_cursor"].is_null());

    let remove = json!({"contact_ids": [ann, Uuid::now_v7()]});
    let removed = desk.post(&format!("{members}/remove"), &remove).await;
    assert_eq!(removed.ok(200), json!({"changed": 1, "members": 1}));

    assert_eq!(desk.rename(&list, "Guests").await.ok(200)["name"], "Guests");
    let shown = desk.get("/api/lists").await["items"][0].clone();
    assert_eq!(
        (&shown["name"], &shown["members"]),
        (&json!("Guests"), &json!(1))
    );
    assert_eq!(desk.delete(&list).await.status, 204);
    desk.delete(&list).await.problem(404, "not-found");
    let contacts = "SELECT count(*) FROM contacts";
    assert_eq!(desk.world.number(contacts).await, 2);

    let actions = desk
        .world
        .db
        .text(
            "SELECT string_agg(action, ' ' ORDER BY id) FROM audit_log WHERE target_kind = 'list'",
        )
        .await;
    assert_eq!(
        actions,
        "create_list add_list_members add_list_members remove_list_members update_list delete_list"
    );
}

#[tokio::test]
async fn a_name_that_is_taken_or_empty_is_refused() {
    let desk = Desk::open().await;
    desk.list("Regulars").await;
    let guests = desk.list("Guests").await;
    let taken = desk.post("/api/lists", &json!({"name": "Regulars "})).await;
    taken.problem(409, "name-taken");
    desk.rename(&guests, "Regulars")
        .await
        .problem(409, "name-taken");
    for name in ["", "   "] {
        desk.rename(&guests, name)
            .await
            .problem(422, "invalid-body");
    }
    let names = "SELECT count(DISTINCT name) FROM contact_lists";
    assert_eq!(desk.world.number(names).await, 2);
    let audited = "SELECT count(*) FROM audit_log WHERE target_kind = 'list'";
    assert_eq!(desk.world.number(audited).await, 2);
}

#[tokio::test]
async fn members_that_are_not_the_tenants_are_named_and_nobody_is_added() {
    let desk = Desk::open().await;
    let list = desk.list("Regulars").await;
    let ann = desk.world.add_contact("Ann", "+12055550001").await;
    let stranger = Uuid::now_v7();
    let ids = [ann.0, stranger];
    let problem = desk.put_on(&list, &ids).await.problem(422, "unprocessable");
    assert_eq!(problem["errors"][0]["field"], "contact_ids[1]");
    desk.put_on(&list, &[] as &[Uuid])
        .await
        .problem(422, "invalid-body");
    let many = vec![ann.0; 1001];
    desk.put_on(&list, &many).await.problem(422, "invalid-body");
    let members = "SELECT count(*) FROM contact_list_members";
    assert_eq!(desk.world.number(members).await, 0);
}

#[tokio::test]
async fn somebody_elses_list_is_not_found() {
    let desk = Desk::open().await;
    let other = desk.app.tenant("harbor").await;
    let other_key = desk.app.key(&other, Role::Admin).await;
    let made = desk
        .app
        .post(&other_key, "/api/lists", &json!({"name": "Theirs"}))
        .await;
    let theirs = made.ok(201)["id"].as_str().unwrap().to_owned();
    let ann = desk.world.add_contact("Ann", "+12055550001").await;

    let path = format!("/api/lists/{theirs}");
    for path in [path.clone(), format!("{path}/members")] {
        desk.app
            .get(&desk.key, &path)
            .await
            .problem(404, "not-found");
    }
    desk.put_on(&theirs, &[ann]).await.problem(404, "not-found");
    desk.rename(&theirs, "Mine").await.problem(404, "not-found");
    desk.delete(&theirs).await.problem(404, "not-found");

    let refused = desk
        .campaign(json!({"kind": "lists", "list_ids": [theirs]}))
        .await;
    let problem = refused.problem(422, "unprocessable");
    assert_eq!(problem["errors"][0]["field"], "audience.list_ids");
    let campaigns = "SELECT count(*) FROM campaigns";
    assert_eq!(desk.world.number(campaigns).await, 0);
}

#[tokio::test]
async fn an_audience_has_what_its_kind_needs_and_nothing_else() {
    let desk = Desk::open().await;
    let id = Uuid::now_v7();
    for audience in [
        json!({"kind": "lists"}),
        json!({"kind": "lists", "list_ids": []}),
        json!({"kind": "lists", "list_ids": [id], "import_id": id}),
        json!({"kind": "everybody", "list_ids": [id]}),
        json!({"kind": "import", "import_id": id, "list_ids": [id]}),
        json!({"kind": "lists", "list_ids": vec![id; 51]}),
    ] {
        let refused = desk.campaign(audience).await;
        refused.problem(422, "invalid-body");
    }
}

/// Ann stands on both lists and is one person; her twin has her number and is left out with the reason.
#[tokio::test]
async fn a_campaign_to_two_overlapping_lists_reaches_each_address_once() {
    let desk = Desk::open().await;
    let world = &desk.world;
    let ann = world.add_contact("Ann", "+12055550001").await;
    let bob = world.add_contact("Bob", "+12055550002").await;
    let carl = world.add_contact("Carl", "+12055550003").await;
    let twin = world.add_contact("Twin", "+12055550001").await;
    world.add_contact("Elsewhere", "+12055550009").await;
    let (one, two) = (desk.list("One").await, desk.list("Two").await);
    desk.put_on(&one, &[ann, bob]).await.ok(200);
    desk.put_on(&two, &[ann, carl, twin]).await.ok(200);

    let audience = json!({"kind": "lists", "list_ids": [one, two, one]});
    let made = desk.campaign(audience).await.ok(201);
    assert_eq!(made["audience"]["kind"], "lists");
    assert_eq!(made["audience"]["list_ids"].as_array().unwrap().len(), 2);
    let id = made["id"].as_str().unwrap();
    let send = format!("/api/campaigns/{id}/send");
    desk.post(&send, &json!({})).await.ok(202);

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let id = CampaignId(id.parse().unwrap());
    world.completed(id).await;
    worker.drain(Duration::from_secs(5)).await;

    let progress = desk.get(&format!("/api/campaigns/{id}/status")).await;
    assert_eq!(progress["audience"], 4);
    assert_eq!(
        progress["skipped_by_reason"]["skipped_duplicate_address"],
        1
    );
    assert_eq!(world.number("SELECT count(*) FROM messages").await, 3);
    assert_eq!(world.doubled().await, 0);
    let skips = "SELECT count(*) FROM campaign_skips";
    assert_eq!(world.number(skips).await, 1);
}

#[tokio::test]
async fn an_empty_list_is_an_empty_audience_and_one_that_went_is_named() {
    let desk = Desk::open().await;
    desk.world.add_contacts(3).await;
    let list = desk.list("Nobody").await;
    let audience = json!({"kind": "lists", "list_ids": [list]});
    let made = desk.campaign(audience).await.ok(201);
    let send = format!("/api/campaigns/{}/send", made["id"].as_str().unwrap());
    let refused = desk.post(&send, &json!({})).await;
    refused.problem(422, "empty-audience");

    assert_eq!(desk.delete(&list).await.status, 204);
    let refused = desk.post(&send, &json!({})).await;
    let problem = refused.problem(422, "unprocessable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("list of the audience was deleted"),
        "{detail}"
    );
    let drafts = "SELECT count(*) FROM campaigns WHERE status = 'draft'";
    assert_eq!(desk.world.number(drafts).await, 1);
}

#[tokio::test]
async fn a_list_that_a_campaign_has_still_to_read_is_not_deleted() {
    let desk = Desk::open().await;
    let ann = desk.world.add_contact("Ann", "+12055550001").await;
    let list = desk.list("Regulars").await;
    desk.put_on(&list, &[ann]).await.ok(200);
    let audience = json!({"kind": "lists", "list_ids": [list]});
    let made = desk.campaign(audience).await.ok(201);
    let id = CampaignId(made["id"].as_str().unwrap().parse().unwrap());
    let send = format!("/api/campaigns/{id}/send");
    desk.post(&send, &json!({})).await.ok(202);

    let problem = desk.delete(&list).await.problem(409, "list-in-use");
    assert!(problem["detail"].as_str().unwrap().contains("'Sale'"));

    let worker = desk.world.worker().await;
    let _scheduler = desk.world.scheduler();
    desk.world.completed(id).await;
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(desk.delete(&list).await.status, 204);
}
