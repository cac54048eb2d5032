//! Tenants: their settings, their suspension, demo tenants, and the record of all changes.

use std::time::Duration;

use engageninja::api::front::Front;
use engageninja::delivery::tenants::follow_directory;
use engageninja::domain::actor::Role;
use engageninja::domain::counts::CountWord;
use engageninja::domain::orders::SyncTenants;
use engageninja::jobs::queue::enqueue;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::harness::app::{Answer, App, Tenant, answer};
use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);

async fn patch(app: &App, key: &str, body: &Value) -> Answer {
    answer(app.with_key(key, Method::PATCH, "/api/tenant").json(body)).await
}

/// An operator's request.
async fn admin(app: &App, cookie: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
    let request = app.with_cookie(cookie, method, &format!("/api/admin{path}"));
    answer(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

#[tokio::test]
async fn settings_are_changed_and_a_wrong_one_changes_nothing() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Admin).await;
    let wrong = [
        json!({"timezone": "Mars/Olympus", "name": "New"}),
        json!({"default_country": "XX", "name": "New"}),
        json!({"sending_window": {"start": "07:00", "end": "21:00"}, "name": "New"}),
        json!({"sending_window": {"start": "20:00", "end": "09:00"}}),
        json!({"name": "  "}),
        json!({"slug": "other"}),
    ];
    let before = app.get(&key, "/api/tenant").await.ok(200);
    for body in wrong {
        patch(&app, &key, &body).await.problem(422, "invalid-body");
    }
    assert_eq!(app.get(&key, "/api/tenant").await.ok(200), before);

    let body = json!({
        "name": "Dojo Tea", "timezone": "Europe/Paris", "default_country": "fr", "consent_policy": "required",
        "sending_window": {"start": "09:00", "end": "18:30"},
    });
    let changed = patch(&app, &key, &body).await.ok(200);
    assert_eq!(changed["default_country"], "FR");
    assert_eq!(changed["sending_window"]["end"], "18:30");
    assert_eq!(changed["name"], "Dojo Tea");
    let name = "SELECT name FROM cell.tenants";
    assert_eq!(
        app.db().text(name).await,
        "Dojo Tea",
        "the cell follows at once"
    );
    let viewer = app.key(&tenant, Role::Viewer).await;
    patch(&app, &viewer, &json!({"name": "Mine"}))
        .await
        .problem(403, "forbidden");
}

/// Killed between the two commits, the cell follows by the schedule; an older word that comes late changes nothing.
#[tokio::test]
async fn the_cell_follows_the_directory_whoever_dies_in_between() {
    let world = World::start().await;
    let db = world.db.db();
    world
        .db
        .execute("UPDATE control.tenant_directory SET name = 'Renamed', version = version + 1")
        .await;
    let name = "SELECT name FROM cell.tenants";
    assert_ne!(world.db.text(name).await, "Renamed");

    let worker = world.worker().await;
    let mut tx = db.system().begin().await.unwrap();
    enqueue(&mut tx, SyncTenants {}).await.unwrap();
    tx.commit().await.unwrap();
    eventually("the cell follows", || async {
        world.db.text(name).await == "Renamed"
    })
    .await;
    let unsynced = "SELECT count(*) FROM control.tenant_directory WHERE synced_version < version";
    eventually("the directory knows", || async {
        world.db.number(unsynced).await == 0
    })
    .await;
    worker.drain(DRAIN).await;

    world
        .db
        .execute("UPDATE control.tenant_directory SET name = 'Older', version = version - 1")
        .await;
    follow_directory(&db, world.tenant_id).await.unwrap();
    assert_eq!(world.db.text(name).await, "Renamed");
}

/// Its row is held, so that it cannot be followed before that is over; it is followed by a later run then.
#[tokio::test]
async fn a_tenant_that_cannot_be_followed_yet_keeps_no_other_back() {
    let world = World::start().await;
    let other = world.another("Tea House", "tea").await;
    assert!(world.tenant_id < other.tenant_id, "who is looked at first");
    world
        .db
        .execute("UPDATE control.tenant_directory SET name = 'Renamed', version = version + 1")
        .await;
    let [first, second] = [world.tenant_id, other.tenant_id]
        .map(|id| format!("SELECT name FROM cell.tenants WHERE id = '{id}'"));
    let mut session = world.session().await;
    let mut lock = session.begin().await.unwrap();
    let held = AssertSqlSafe(format!("{first} FOR UPDATE"));
    lock.execute(held).await.unwrap();

    let worker = world.worker().await;
    let mut tx = world.db.db().system().begin().await.unwrap();
    enqueue(&mut tx, SyncTenants {}).await.unwrap();
    tx.commit().await.unwrap();
    eventually("the second follows", || async {
        world.db.text(&second).await == "Renamed"
    })
    .await;
    assert_ne!(world.db.text(&first).await, "Renamed");

    lock.rollback().await.unwrap();
    eventually("the first follows", || async {
        world.db.text(&first).await == "Renamed"
    })
    .await;
    worker.drain(DRAIN).await;
}

#[tokio::test]
async fn a_demo_tenant_is_made_although_its_own_address_is_somebody_elses() {
    let world = World::start().await;
    world
        .db
        .execute("UPDATE cell.senders SET address = 'hello@tea.example' WHERE channel = 'email'")
        .await;

    let tea = world.another("Tea House", "tea").await.tenant_id;

    let name = format!("SELECT name FROM cell.tenants WHERE id = '{tea}'");
    assert_eq!(world.db.text(&name).await, "Tea House");
    let channels = format!(
        "SELECT string_agg(channel, ' ' ORDER BY channel) FROM cell.senders WHERE tenant_id = '{tea}'"
    );
    assert_eq!(world.db.text(&channels).await, "sms whatsapp");
    let behind = "SELECT count(*) FROM control.tenant_directory WHERE synced_version < version";
    assert_eq!(world.number(behind).await, 0);
}

#[tokio::test]
async fn a_suspended_tenant_begins_nothing_and_goes_on_where_it_stopped() {
    let world = World::start().await;
    world.add_contacts(60).await;
    let (app, tenant) = App::beside(&world).await;
    let office = app.tenant("office").await;
    let operator = app.operator(&office).await;
    let key = app.key(&tenant, Role::Admin).await;
    let person = app.person(&tenant, Role::Admin).await;
    let cookie = app.sign_in(&person).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 60).await;

    let path = format!("/tenants/{}", tenant.id);
    let suspended = admin(
        &app,
        &operator,
        Method::POST,
        &format!("{path}/suspend"),
        None,
    )
    .await;
    let suspended = suspended.ok(200);
    assert_eq!(suspended["status"], "suspended");
    assert_eq!(suspended["is_applied"], true);
    app.get(&key, "/api/contacts")
        .await
        .problem(403, "tenant-inactive");
    answer(app.with_cookie(&cookie, Method::GET, "/api/contacts"))
        .await
        .problem(403, "tenant-inactive");
    let view = answer(app.with_cookie(&cookie, Method::GET, "/api/sessions/current")).await;
    assert_eq!(view.ok(200)["tenant"]["status"], "suspended");

    // All were let out before; none begins, and the release comes to rest.
    let judged = world.begin(&released[..10]).await;
    assert!(
        judged.iter().all(|one| format!("{one:?}").contains("Held")),
        "{judged:?}"
    );
    let worker = world.worker().await;
    let at_rest = "SELECT (SELECT count(*) FROM cell.lanes WHERE active) + (SELECT count(*) FROM cell.lane_wakes)
        + (SELECT count(*) FROM cell.tenant_turns WHERE active) + (SELECT count(*) FROM cell.messages WHERE phase = 1)";
    eventually("the release rests", || async {
        world.db.number(at_rest).await == 0
    })
    .await;
    let counts = world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Queued), 60, "{counts:?}");
    let attempts = "SELECT count(*) FROM cell.send_attempts";
    assert_eq!(world.db.number(attempts).await, 0);
    let again = admin(
        &app,
        &operator,
        Method::POST,
        &format!("{path}/suspend"),
        None,
    )
    .await;
    again.problem(409, "tenant-not-active");

    let resumed = admin(
        &app,
        &operator,
        Method::POST,
        &format!("{path}/resume"),
        None,
    )
    .await;
    assert_eq!(resumed.ok(200)["status"], "active");
    eventually("all are sent", || async {
        world.through(campaign).await == 60
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(world.db.number(attempts).await, 60);
    app.get(&key, "/api/contacts").await.ok(200);
    admin(
        &app,
        &operator,
        Method::POST,
        &format!("{path}/resume"),
        None,
    )
    .await
    .problem(409, "tenant-not-suspended");
}

#[tokio::test]
async fn an_operator_makes_tenants_and_a_slug_is_given_once() {
    let app = App::start().await;
    let office = app.tenant("office").await;
    let operator = app.operator(&office).await;
    let body = json!({"name": "Tea House", "slug": "tea", "default_country": "GB", "timezone": "Europe/London"});
    let made = admin(
        &app,
        &operator,
        Method::POST,
        "/tenants",
        Some(body.clone()),
    )
    .await;
    let id = made.ok(201)["id"].as_str().unwrap().to_owned();
    let row =
        "SELECT default_country || ' ' || timezone FROM cell.tenants WHERE name = 'Tea House'";
    assert_eq!(app.db().text(row).await, "GB Europe/London");
    admin(&app, &operator, Method::POST, "/tenants", Some(body))
        .await
        .problem(409, "name-taken");
    let wrong = json!({"name": "x", "slug": "Tea"});
    admin(&app, &operator, Method::POST, "/tenants", Some(wrong))
        .await
        .problem(422, "invalid-body");
    let shown = admin(
        &app,
        &operator,
        Method::GET,
        &format!("/tenants/{id}"),
        None,
    )
    .await;
    assert_eq!(shown.ok(200)["is_applied"], true);
    let nobody = format!("/tenants/{}", uuid::Uuid::nil());
    admin(&app, &operator, Method::GET, &nobody, None)
        .await
        .problem(404, "not-found");
    let listed = admin(&app, &operator, Method::GET, "/tenants?limit=1", None).await;
    assert_eq!(listed.ok(200)["items"][0]["slug"], "tea");
    // What is really sent is never deleted by this.
    let path = format!("/demo-tenants/{id}");
    admin(&app, &operator, Method::DELETE, &path, None)
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn the_owner_of_a_new_tenant_comes_in_by_the_link_in_the_answer() {
    let front = Front {
        public_url: Some("https://engage.example".parse().unwrap()),
        ..Front::default()
    };
    let app = App::behind(front).await;
    let office = app.tenant("office").await;
    let operator = app.operator(&office).await;
    let ask = async |path: &str, slug: &str, email: &str| {
        let body = json!({"name": "Tea House", "slug": slug, "owner_email": email});
        let request = app
            .request(Method::POST, &format!("/api/admin/{path}"))
            .header("cookie", &operator)
            .header("origin", "https://engage.example")
            .header("idempotency-key", slug);
        answer(request.json(&body)).await
    };
    let refused = ask("tenants", "tea", "nobody").await;
    let problem = refused.problem(422, "invalid-body");
    assert_eq!(problem["errors"][0]["field"], "owner_email");
    let tenants = "SELECT count(*) FROM control.tenant_directory";
    assert_eq!(app.db().number(tenants).await, 1);

    for path in ["tenants", "demo-tenants"] {
        let made = ask(path, path, "Owner@Tea.example").await;
        let again = ask(path, path, "Owner@Tea.example").await;
        assert_eq!(again.text, made.text, "the repeat gets the token, too");
        let made = made.ok(201);
        assert_eq!(made["slug"], path);
        let invitation = &made["owner_invitation"];
        let token = invitation["token"].as_str().unwrap();
        let link = format!("https://engage.example/invitation/{token}");
        assert_eq!(invitation["link"], link);
        assert_eq!(invitation["invitation"]["email"], "owner@tea.example");

        let acceptance = json!({"token": token, "password": "correct horse battery staple"});
        let accept = app.request(Method::POST, "/api/invitations/accept");
        let accepted = answer(accept.json(&acceptance)).await.ok(200);
        assert_eq!(accepted["role"], "owner");
        assert_eq!(accepted["tenant_id"], made["id"]);
        let shown = format!("/api/admin/tenants/{}", made["id"].as_str().unwrap());
        let shown = answer(app.with_cookie(&operator, Method::GET, &shown)).await;
        assert!(shown.ok(200).get("owner_invitation").is_none());
        let record = app
            .db()
            .text("SELECT string_agg(detail::text, ' ') FROM control.platform_audit")
            .await;
        assert!(!record.contains(token) && !record.contains("tea.example"));
    }
    let recorded = "SELECT string_agg(action, ' ' ORDER BY id) FROM control.platform_audit WHERE action LIKE 'create%'";
    assert_eq!(
        app.db().text(recorded).await,
        "create_invitation create_tenant create_invitation create_demo_tenant"
    );
}

/// Everything a tenant has in the cell, but itself.
async fn rows_of(db: &TestDb, tenant: &Tenant) -> i64 {
    let tables = "SELECT string_agg(format('SELECT count(*) FROM cell.%I WHERE tenant_id = ''{}''', relname), ' UNION ALL ')
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE relnamespace = 'cell'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition";
    let tables = tables.replace("{}", &tenant.id.to_string());
    let union = db.text(&tables).await;
    db.number(&format!(
        "SELECT sum(count)::bigint FROM ({union}) AS u (count)"
    ))
    .await
}

#[tokio::test]
async fn a_demo_tenant_is_emptied_and_removed_and_nobody_elses_rows_go() {
    let world = World::start().await;
    world.add_contacts(30).await;
    let (app, tenant) = App::beside(&world).await;
    let office = app.tenant("office").await;
    let operator = app.operator(&office).await;
    let key = app.key(&tenant, Role::Admin).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let worker = world.worker().await;
    let scheduler = world.scheduler();
    world.completed(campaign).await;
    let other = rows_of(&world.db, &office).await;

    let path = format!("/demo-tenants/{}", tenant.id);
    let reset = admin(
        &app,
        &operator,
        Method::POST,
        &format!("{path}/reset"),
        None,
    )
    .await;
    assert_eq!(reset.ok(200)["clearing"], "reset");
    let status = format!("SELECT status FROM cell.tenants WHERE id = '{}'", tenant.id);
    eventually("it begins anew", || async {
        let clearing = "SELECT count(*) FROM control.tenant_directory WHERE clearing IS NOT NULL";
        world.db.number(clearing).await == 0 && world.db.text(&status).await == "active"
    })
    .await;
    // The senders and the audit are left; the key opens what a new one has, which can be shown at once.
    let left = "SELECT (SELECT count(*) FROM cell.messages) + (SELECT count(*) FROM cell.contacts WHERE last_name IS NULL)";
    assert_eq!(world.db.number(left).await, 0);
    let campaigns = app.get(&key, "/api/campaigns").await.ok(200);
    let anew = campaigns["items"][0]["id"].as_str().unwrap();
    let path_to_send = format!("/api/campaigns/{anew}/send");
    app.post(&key, &path_to_send, &json!({})).await.ok(202);
    world.completed(anew.parse().unwrap()).await;
    let sent = world.counts(anew.parse().unwrap()).await;
    assert_eq!(sent.get(CountWord::Audience), 500, "{sent:?}");
    let templates = app.get(&key, "/api/templates").await.ok(200);
    assert_eq!(templates["items"].as_array().unwrap().len(), 3);

    let removed = admin(&app, &operator, Method::DELETE, &path, None).await;
    assert_eq!(removed.ok(202)["status"], "closed");
    let known = format!(
        "SELECT count(*) FROM control.tenant_directory WHERE tenant_id = '{}'",
        tenant.id
    );
    eventually("it is gone", || async {
        world.db.number(&known).await == 0
    })
    .await;
    drop(scheduler);
    worker.drain(DRAIN).await;
    app.get(&key, "/api/contacts")
        .await
        .problem(401, "unauthenticated");
    assert_eq!(rows_of(&world.db, &tenant).await, 0);
    assert_eq!(rows_of(&world.db, &office).await, other);
    let told = admin(&app, &operator, Method::GET, "/audit", None)
        .await
        .ok(200);
    assert_eq!(told["items"][0]["action"], "remove_demo_tenant", "{told}");
}

#[tokio::test]
async fn the_audit_has_both_schemas_in_one_order_with_names_and_no_secret() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let other = app.tenant("cafe").await;
    let person = app.person(&tenant, Role::Admin).await;
    let cookie = app.sign_in(&person).await;
    let ask = async |method: Method, path: &str, body: Value| {
        answer(app.with_cookie(&cookie, method, path).json(&body)).await
    };
    let template = json!({"name": "One", "channel": "sms", "body": "Hello"});
    ask(Method::POST, "/api/templates", template).await.ok(201);
    let made = ask(
        Method::POST,
        "/api/keys",
        json!({"name": "shop", "role": "admin"}),
    )
    .await;
    let secret = made.ok(201)["secret"].as_str().unwrap().to_owned();
    ask(
        Method::PATCH,
        "/api/tenant",
        json!({"timezone": "Europe/Paris"}),
    )
    .await
    .ok(200);
    let renamed = ask(Method::PATCH, "/api/tenant", json!({"name": "Tea"})).await;
    let theirs = app.key(&other, Role::Admin).await;
    patch(&app, &theirs, &json!({"name": "Theirs"}))
        .await
        .ok(200);

    let mut seen = Vec::new();
    let mut path = "/api/audit?limit=1".to_owned();
    loop {
        let page = app.get(&secret, &path).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/audit?limit=1&cursor={cursor}"),
            None => break,
        }
    }
    let actions: Vec<_> = seen
        .iter()
        .map(|one| one["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "update_tenant",
            "update_tenant",
            "create_key",
            "create_template"
        ]
    );
    assert_eq!(seen[0]["request_id"], renamed.header("x-request-id"));
    assert_eq!(seen[0]["before"], json!({"name": "dojo"}));
    assert_eq!(seen[0]["after"], json!({"name": "Tea"}));
    assert_eq!(seen[0]["author"]["email"], person.email);
    assert_eq!(seen[0]["ip"], "127.0.0.1");
    assert!(!json!(seen).to_string().contains(&secret));
    let viewer = app.key(&tenant, Role::Sender).await;
    app.get(&viewer, "/api/audit")
        .await
        .problem(403, "forbidden");
}
