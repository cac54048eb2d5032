//! One field that finds anything of the tenant, and nothing of anybody else.

use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, Tenant, answer};
use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::twins::Twin;
use crate::harness::world::World;

/// A tenant with some of everything.
struct Shop {
    app: App,
    tenant: Tenant,
    /// A sender's key.
    key: String,
}

impl Shop {
    async fn open() -> Self {
        Self::of(App::start().await).await
    }

    async fn of(app: App) -> Self {
        let tenant = app.tenant("dojo").await;
        let key = app.key(&tenant, Role::Sender).await;
        Self { app, tenant, key }
    }

    async fn make(&self, path: &str, body: Value) -> String {
        let made = self.app.post(&self.key, path, &body).await.ok(201);
        let id = made["id"].as_str().or(made["contact"]["id"].as_str());
        id.unwrap_or_else(|| panic!("no id: {made}")).to_owned()
    }

    async fn contact(&self, first_name: &str, last_name: &str, phone: &str, email: &str) -> String {
        let body = json!({"first_name": first_name, "last_name": last_name, "phone": phone, "email": email});
        self.make("/api/contacts", body).await
    }

    async fn asked(&self, q: &str) -> Answer {
        let request = self.app.with_key(&self.key, Method::GET, "/api/search");
        answer(request.query(&[("q", q)])).await
    }

    async fn find(&self, q: &str) -> Value {
        self.asked(q).await.ok(200)
    }

    /// Asks for each of these twenty times: 19 of 20 answers take less than 50 ms.
    async fn is_quick(&self, what: &str, paths: &[String]) {
        let mut took = Vec::new();
        for round in 0..21 {
            for path in paths {
                let begun = std::time::Instant::now();
                self.app.get(&self.key, path).await.ok(200);
                // The first round opens connections.
                if round > 0 {
                    took.push(begun.elapsed());
                }
            }
        }
        took.sort();
        let at = |part: f64| took[(took.len() as f64 * part) as usize];
        let (p50, p95) = (at(0.5), at(0.95));
        println!("{what}: p50 {p50:?}, p95 {p95:?}, worst {:?}", took.last());
        assert!(
            p95 < std::time::Duration::from_millis(50),
            "{what}: {took:?}"
        );
    }

    /// The ids of one kind that a text finds.
    async fn ids(&self, kind: &str, q: &str) -> Vec<String> {
        let found = self.find(q).await;
        let rows = found[kind].as_array().unwrap().iter();
        rows.map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn names_are_found_by_their_beginning_however_they_are_written() {
    let shop = Shop::open().await;
    let ann = shop
        .contact("Ärmel", "Lee", "+13054048480", "a@x.example")
        .await;
    let template = shop
        .make(
            "/api/templates",
            json!({"name": "Ärmel  hoch", "channel": "sms", "body": "Hello"}),
        )
        .await;
    let list = shop.make("/api/lists", json!({"name": "ÄRMEL"})).await;
    let campaign =
        json!({"name": "ärmel sale", "template_id": template, "audience": {"kind": "everybody"}});
    let campaign = shop.make("/api/campaigns", campaign).await;
    shop.make("/api/lists", json!({"name": "Bermel"})).await;

    for q in ["ärm", "ÄRMEL", " Ärm "] {
        let found = shop.find(q).await;
        assert_eq!(found["contacts"][0]["id"], ann, "{q}: {found}");
        assert_eq!(found["templates"][0]["id"], template, "{q}: {found}");
        assert_eq!(found["lists"][0]["id"], list, "{q}: {found}");
        assert_eq!(found["campaigns"][0]["id"], campaign, "{q}: {found}");
        assert_eq!(found["campaigns"][0]["status"], "draft");
        assert_eq!(found["messages"], json!([]));
        assert_eq!(found["lists"].as_array().unwrap().len(), 1, "{found}");
    }
    assert_eq!(shop.ids("templates", "ärmel hoch").await, [template]);
    assert_eq!(shop.ids("contacts", "ärmel l").await, [ann]);
    // From the beginning, not from within.
    assert_eq!(shop.ids("contacts", "lee").await, Vec::<String>::new());
}

/// The name a thing is found by is the one it has now.
#[tokio::test]
async fn a_thing_that_is_renamed_is_found_by_its_new_name() {
    let shop = Shop::open().await;
    let template = json!({"name": "Any", "channel": "sms", "body": "Hello"});
    let template = shop.make("/api/templates", template).await;
    let list = shop.make("/api/lists", json!({"name": "Old list"})).await;
    let campaign =
        json!({"name": "Old sale", "template_id": template, "audience": {"kind": "everybody"}});
    let campaign = shop.make("/api/campaigns", campaign).await;
    for path in [
        format!("/api/lists/{list}"),
        format!("/api/campaigns/{campaign}"),
    ] {
        let request = shop.app.with_key(&shop.key, Method::PATCH, &path);
        answer(request.json(&json!({"name": "New"}))).await.ok(200);
    }
    assert_eq!(shop.ids("lists", "new").await, [list]);
    assert_eq!(shop.ids("campaigns", "new").await, [campaign]);
    let old = shop.find("old").await;
    assert_eq!((&old["lists"], &old["campaigns"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn numbers_are_found_whole_or_begun_in_each_way_they_are_written() {
    let shop = Shop::open().await;
    let ann = shop
        .contact("Ann", "Lee", "+13054048480", "a@x.example")
        .await;
    let eva = shop
        .contact("Eva", "Roth", "+4915123456789", "e@x.example")
        .await;
    for q in [
        "+13054048480",
        "(305) 404-8480",
        "305.404",
        "1305404",
        "+1 305",
        "305 404 84",
    ] {
        assert_eq!(
            shop.ids("contacts", q).await,
            std::slice::from_ref(&ann),
            "{q}"
        );
    }
    for q in ["+49 151", "011 49 151", "4915123"] {
        assert_eq!(
            shop.ids("contacts", q).await,
            std::slice::from_ref(&eva),
            "{q}"
        );
    }
    for q in ["05404", "+1305405", "404", "305-404-8481"] {
        assert_eq!(shop.ids("contacts", q).await, Vec::<String>::new(), "{q}");
    }
    // As the tenant's country writes it.
    let owner = shop.app.key(&shop.tenant, Role::Admin).await;
    let request = shop.app.with_key(&owner, Method::PATCH, "/api/tenant");
    answer(request.json(&json!({"default_country": "DE"})))
        .await
        .ok(200);
    for q in ["0151 2345", "0151", "0049151", "01512 3456789"] {
        assert_eq!(
            shop.ids("contacts", q).await,
            std::slice::from_ref(&eva),
            "{q}"
        );
    }
    assert_eq!(shop.ids("contacts", "0305 404").await, Vec::<String>::new());
}

#[tokio::test]
async fn email_addresses_are_found_whole_or_begun() {
    let shop = Shop::open().await;
    let ann = shop
        .contact("Ann", "Lee", "+13054048480", "Ann.Lee@Harbor.example")
        .await;
    shop.contact("Bob", "Lee", "+13054048481", "bob@harbor.example")
        .await;
    for q in ["ann.lee@harbor.example", "ANN.LEE@", "ann.l"] {
        assert_eq!(
            shop.ids("contacts", q).await,
            std::slice::from_ref(&ann),
            "{q}"
        );
    }
    assert_eq!(shop.ids("contacts", "harbor").await, Vec::<String>::new());
}

/// With a number or an address come the newest messages to whom it belongs; with a name they do not.
#[tokio::test]
async fn a_number_finds_the_newest_messages_to_whom_it_belongs() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    let shop = Shop { app, tenant, key };
    let ann = shop
        .contact("Ann", "Lee", "+13054048480", "ann@x.example")
        .await;
    world
        .db
        .execute(
            &format!(
        "INSERT INTO cell.contact_consents (tenant_id, contact_id, channel, state, consent_id, at)
         VALUES ('{}', '{ann}', 'sms', 'attested', '{ann}', public.app_now())", world.tenant_id),
        )
        .await;
    let campaign = world.campaign("Hello").await;
    let worker = world.worker().await;
    let all = "SELECT count(*) FROM messages";
    eventually("the message is made", async || world.number(all).await == 1).await;
    let code = json!({"channel": "sms", "contact_id": ann, "body": "Code"});
    let code = shop
        .app
        .post(&shop.key, "/api/messages", &code)
        .await
        .ok(202);
    worker.drain(std::time::Duration::from_secs(5)).await;

    for q in ["305 404", "ann@"] {
        let found = shop.find(q).await;
        let messages = found["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 2, "{found}");
        assert_eq!(messages[0]["id"], code["id"], "the newest first: {found}");
        assert!(messages[0]["campaign_id"].is_null(), "{found}");
        assert_eq!(messages[1]["campaign_id"], campaign.to_string());
        assert_eq!(messages[1]["campaign_name"], "Spring sale");
        for message in messages {
            assert_eq!(message["contact_id"], ann);
            assert_eq!(message["to"], "+13054048480");
            assert!(message["state"].is_string() && message["phase_at"].is_string());
        }
    }
    let named = shop.find("ann lee").await;
    assert_eq!(named["contacts"][0]["id"], ann);
    assert_eq!(named["messages"], json!([]));
}

#[tokio::test]
async fn an_id_finds_what_has_it_and_a_providers_id_its_message() {
    let world = World::start().await;
    let (app, _) = App::beside(&world).await;
    let twin = Twin::make(&app, "twin").await;
    let shop = Shop {
        key: twin.key.clone(),
        tenant: twin.tenant.clone(),
        app,
    };
    for (kind, name) in [
        ("contacts", "contact_id"),
        ("lists", "list_id"),
        ("templates", "template_id"),
        ("campaigns", "campaign_id"),
        ("messages", "message_id"),
    ] {
        let id = &twin.ids[name];
        let found = shop.find(id).await;
        for (other, rows) in found.as_object().unwrap() {
            let wanted = usize::from(other == kind);
            assert_eq!(rows.as_array().unwrap().len(), wanted, "{name}: {found}");
        }
        assert_eq!(found[kind][0]["id"], *id);
        assert_eq!(
            shop.ids(kind, &id.to_uppercase()).await,
            std::slice::from_ref(id)
        );
    }
    let worker = world.worker().await;
    let mapped = "SELECT count(*) FROM message_provider_mappings";
    eventually("the provider has the message", async || {
        world.number(mapped).await == 1
    })
    .await;
    worker.drain(std::time::Duration::from_secs(5)).await;
    let sid = world
        .db
        .text("SELECT provider_message_id FROM message_provider_mappings")
        .await;
    assert_eq!(
        shop.ids("messages", &sid).await,
        [twin.ids["message_id"].clone()]
    );
    // The whole of it.
    assert_eq!(
        shop.ids("messages", &sid[..sid.len() - 1]).await,
        Vec::<String>::new()
    );
    let other = app_key(&shop, "harbor").await;
    let seen = shop
        .app
        .get(&other, &format!("/api/search?q={sid}"))
        .await
        .ok(200);
    assert_eq!(seen["messages"], json!([]));
}

async fn app_key(shop: &Shop, slug: &str) -> String {
    let tenant = shop.app.tenant(slug).await;
    shop.app.key(&tenant, Role::Admin).await
}

#[tokio::test]
async fn of_each_kind_there_are_ten_at_most_and_each_is_there_once() {
    let shop = Shop::open().await;
    for number in 0..12 {
        let email = format!("dan{number}@x.example");
        shop.contact("Dan", "Lee", &format!("+1305404{number:04}"), &email)
            .await;
        shop.make("/api/lists", json!({"name": format!("Dan's {number}")}))
            .await;
    }
    let found = shop.find("dan").await;
    assert_eq!(found["contacts"].as_array().unwrap().len(), 10);
    assert_eq!(found["lists"].as_array().unwrap().len(), 10);
    // Name and address begin the same: one contact.
    let mut ids = shop.ids("contacts", "dan1").await;
    ids.extend(shop.ids("contacts", "dan11@").await);
    assert_eq!(shop.ids("contacts", "dan11").await.len(), 1);
    ids.dedup();
    assert_eq!(ids.len(), 4, "dan1, dan10, dan11; and dan11 again");
}

#[tokio::test]
async fn nothing_and_too_much_are_refused_with_what_to_write() {
    let shop = Shop::open().await;
    for path in ["/api/search", "/api/search?q="] {
        let refused = shop.app.get(&shop.key, path).await;
        let problem = refused.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["field"], "q");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("1 to 200 characters"), "{detail}");
    }
    for blank in [" ", "\t\n", "\u{a0}\u{2003}"] {
        let problem = shop.asked(blank).await.problem(400, "invalid-parameter");
        assert!(
            problem["detail"].as_str().unwrap().contains("name"),
            "{problem}"
        );
    }
    shop.asked(&"ä".repeat(200)).await.ok(200);
    let problem = shop
        .asked(&"ä".repeat(201))
        .await
        .problem(400, "invalid-parameter");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("1 to 200 characters")
    );
}

#[tokio::test]
async fn no_character_is_a_wildcard() {
    let shop = Shop::open().await;
    let percent = shop.make("/api/lists", json!({"name": "100% wool"})).await;
    shop.make("/api/lists", json!({"name": "100 socks"})).await;
    let under = shop.make("/api/lists", json!({"name": "a_b"})).await;
    shop.make("/api/lists", json!({"name": "acb"})).await;
    let slash = shop
        .make("/api/lists", json!({"name": "back\\slash"}))
        .await;
    shop.contact("Ann", "Lee", "+13054048480", "ann@x.example")
        .await;

    assert_eq!(shop.ids("lists", "100%").await, [percent]);
    assert_eq!(shop.ids("lists", "a_").await, [under]);
    assert_eq!(shop.ids("lists", "back\\").await, [slash]);
    for q in [
        "%", "_", "%%", "\\", "%nn", "_nn", "*", "ann%", ".*", "ann|bob",
    ] {
        let found = shop.find(q).await;
        for (kind, rows) in found.as_object().unwrap() {
            assert_eq!(rows, &json!([]), "{q} finds {kind}");
        }
    }
}

#[tokio::test]
async fn strange_characters_find_what_has_them_and_break_nothing() {
    let shop = Shop::open().await;
    let quote = shop
        .make("/api/lists", json!({"name": "O'Neil \"x\"; DROP TABLE"}))
        .await;
    let smile = shop.make("/api/lists", json!({"name": "😀 people"})).await;
    let arabic = shop.make("/api/lists", json!({"name": "مرحبا"})).await;
    assert_eq!(shop.ids("lists", "o'neil \"x\"; drop").await, [quote]);
    assert_eq!(shop.ids("lists", "😀").await, [smile]);
    assert_eq!(shop.ids("lists", "مر").await, [arabic]);
    for q in [
        "\u{1}ann",
        "\u{10ffff}",
        "\u{202e}",
        "\u{feff}",
        "'; --",
        "$1",
        "ann\u{7f}",
        "\u{fffd}",
    ] {
        shop.asked(q).await.ok(200);
    }
    // A NUL is in no text, and bytes that are no characters are none.
    shop.asked("an\u{0}n")
        .await
        .problem(400, "invalid-parameter");
    let refused = shop.app.get(&shop.key, "/api/search?q=%ff%fe").await;
    assert!(
        matches!(refused.status.as_u16(), 200 | 400),
        "{}",
        refused.text
    );
}

/// On a database where the application's own conditions on the tenant always hold.
#[tokio::test]
async fn another_tenants_things_are_never_found() {
    for db in [
        TestDb::new().await,
        TestDb::without_tenant_conditions().await,
    ] {
        let app = App::on(db).await;
        let twins = [
            Twin::make(&app, "dojo").await,
            Twin::make(&app, "twin").await,
        ];
        for (twin, other) in [(&twins[0], &twins[1]), (&twins[1], &twins[0])] {
            let ids = [
                "contact_id",
                "list_id",
                "template_id",
                "campaign_id",
                "message_id",
            ];
            let mut texts: Vec<&str> = ids.iter().map(|name| other.ids[name].as_str()).collect();
            texts.extend([
                "sale",
                "spring",
                "205748",
                "+1205",
                "ann",
                "ann@example.com",
            ]);
            for q in texts {
                let seen = app.get(&twin.key, &format!("/api/search?q={q}")).await;
                seen.ok(200);
                for (name, id) in &other.ids {
                    assert!(
                        !seen.text.contains(id),
                        "{q} finds the other's {name}: {}",
                        seen.text
                    );
                }
            }
            // What it would find is there.
            let own = app.get(&twin.key, "/api/search?q=sale").await.ok(200);
            assert_eq!(own["lists"][0]["id"], twin.ids["list_id"]);
        }
    }
}

/// What half a million messages of one tenant look like: to 100,000 people, by 2,000 campaigns.
const MUCH: &str = "
    CREATE TEMPORARY TABLE people AS
    SELECT n, gen_random_uuid() AS id FROM generate_series(0, 99999) n;
    INSERT INTO cell.contacts (tenant_id, id, first_name, last_name, name_normalized, phone_e164, phone_mac, email,
                               email_normalized, email_mac)
    SELECT t.id, p.id, 'Person', 'No' || n, 'person no' || n, '+1305' || lpad(n::text, 7, '0'), sha256(n::text::bytea),
           'person' || n || '@x.example', 'person' || n || '@x.example', sha256(n::text::bytea)
    FROM cell.tenants t, people p;
    INSERT INTO cell.campaigns (tenant_id, id, name, name_normalized, channel)
    SELECT t.id, gen_random_uuid(), 'Sale ' || n, 'sale ' || n, 'sms' FROM cell.tenants t, generate_series(1, 2000) n;
    INSERT INTO cell.contact_lists (tenant_id, id, name, name_normalized)
    SELECT t.id, gen_random_uuid(), 'List ' || n, 'list ' || n FROM cell.tenants t, generate_series(1, 2000) n;
    CREATE TEMPORARY TABLE sent AS
    SELECT p.id AS contact_id, p.n, (left(uuid_floor(app_now() - k * interval '1 day')::text, 14) || '7' ||
           right(gen_random_uuid()::text, 21))::uuid AS id
    FROM people p, generate_series(0, 4) k;
    INSERT INTO cell.messages (tenant_id, id, lane_id, contact_id, channel, provider, phone_number, provider_account_sid,
                               dest_mac, content_mac, phase, expires_at)
    SELECT t.id, s.id, 1, s.contact_id, 'sms', 'demo', '+1305' || lpad(s.n::text, 7, '0'), r.account_ref, '', '', 4, app_now()
    FROM cell.tenants t JOIN cell.senders r ON r.tenant_id = t.id AND r.channel = 'sms', sent s;
    INSERT INTO cell.message_provider_mappings (tenant_id, message_id, attempt_no, channel, provider, provider_account,
                                                provider_message_id)
    SELECT t.id, s.id, 1, 'sms', 'demo', r.account_ref, 'DM' || md5(s.id::text)
    FROM cell.tenants t JOIN cell.senders r ON r.tenant_id = t.id AND r.channel = 'sms', sent s;
    INSERT INTO cell.message_hours (tenant_id, hour, channel, counts)
    SELECT t.id, date_trunc('hour', app_now()) - n * interval '1 hour', c, '{\"handed_over\": 100, \"delivered\": 90}'
    FROM cell.tenants t, generate_series(0, 8759) n, unnest(ARRAY['sms', 'whatsapp', 'email']) c
    ON CONFLICT DO NOTHING;";

/// The promise of the field: an answer while one types.
#[tokio::test]
#[ignore = "loads half a million messages first: cargo test --test it -- --ignored --nocapture search_api"]
async fn among_100_000_people_and_500_000_messages_19_of_20_answers_take_less_than_50_ms() {
    let shop = Shop::open().await;
    let db = shop.app.db();
    db.execute(&format!("SET search_path = cell, public; {MUCH}"))
        .await;
    db.execute("VACUUM ANALYZE").await;
    let sid = db
        .text("SELECT provider_message_id FROM message_provider_mappings OFFSET 4000 LIMIT 1")
        .await;
    let id = db
        .text("SELECT id::text FROM messages OFFSET 4000 LIMIT 1")
        .await;
    let texts = [
        "person",
        "Person No77",
        "305",
        "305 00",
        "+13050012345",
        "(305) 004-4444",
        "person5",
        "person500@x.example",
        "sale",
        "sale 19",
        "list 3",
        "nobody",
        "1",
        &sid,
        &id,
    ];
    let searches: Vec<String> = texts
        .iter()
        .map(|q| {
            let q: String = url::form_urlencoded::byte_serialize(q.as_bytes()).collect();
            format!("/api/search?q={q}")
        })
        .collect();
    shop.is_quick("searches", &searches).await;
    for path in [
        "/api/stats",
        "/api/contacts",
        "/api/contacts?limit=200",
        "/api/contacts?q=person%20no77",
    ] {
        shop.is_quick(path, &[path.to_owned()]).await;
    }
    assert_eq!(shop.ids("messages", &sid).await.len(), 1);
    assert_eq!(shop.ids("messages", "305 001").await.len(), 10);
}
