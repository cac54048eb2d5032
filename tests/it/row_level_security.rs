//! Row-level security alone keeps tenants apart: on these databases the application's own conditions on the tenant
//! always hold, and two tenants have the same in them.

use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{App, answer};
use crate::harness::db::TestDb;
use crate::harness::eventually;
use crate::harness::twins::Twin;
use crate::harness::world::World;

/// Every list of the document that needs no parameter.
fn lists() -> Vec<String> {
    let document: Value = serde_json::from_str(engageninja::api::openapi_document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .filter(|(_, operations)| {
            let get = &operations["get"];
            let takes_nothing = |p: &Value| p["in"] == "query" && p["required"] != true;
            let is_list = get["operationId"]
                .as_str()
                .is_some_and(|name| name.starts_with("list_"));
            // What a key opens is a tenant's.
            let is_tenants = get["security"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|scheme| scheme.get("api_key").is_some());
            is_list
                && is_tenants
                && get["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .all(takes_nothing)
        })
        .map(|(path, _)| format!("/api{path}"))
        .collect()
}

#[tokio::test]
async fn two_tenants_with_the_same_rows_see_their_own() {
    let app = App::on(TestDb::without_tenant_conditions().await).await;
    let twins = [
        Twin::make(&app, "dojo").await,
        Twin::make(&app, "twin").await,
    ];
    assert!(lists().len() >= 4, "{:?}", lists());
    for (twin, other) in [(&twins[0], &twins[1]), (&twins[1], &twins[0])] {
        for path in lists() {
            let seen = app.get(&twin.key, &path).await;
            if seen.status != 200 {
                // A list that wants to be narrowed first.
                seen.problem(400, "invalid-parameter");
                continue;
            }
            for id in other.ids.values() {
                assert!(
                    !seen.text.contains(id),
                    "{path} shows the other's {id}: {}",
                    seen.text
                );
            }
        }
        for (name, id) in &twin.ids {
            assert_ne!(other.ids[name], *id);
        }
    }
}

#[tokio::test]
async fn a_campaign_to_everybody_reaches_the_own_people_of_each() {
    let world = World::on(TestDb::without_tenant_conditions().await).await;
    let (app, _) = App::beside(&world).await;
    let twins = [
        Twin::make(&app, "dojo").await,
        Twin::make(&app, "twin").await,
    ];
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let consent = json!({
        "wording": "I want news.", "source": "counter", "date": "2026-01-01T00:00:00Z", "channels": ["sms"],
    });
    for twin in &twins {
        let import = twin.path("/contacts/imports/{import_id}").unwrap();
        let start = json!({"consent": consent});
        app.post(&twin.key, &format!("{import}/start"), &start)
            .await
            .ok(202);
        eventually("the import completes", || async {
            app.get(&twin.key, &import).await.json()["status"] == "completed"
        })
        .await;
    }
    for twin in &twins {
        let campaign = twin.path("/campaigns/{campaign_id}").unwrap();
        app.post(&twin.key, &format!("{campaign}/send"), &json!({}))
            .await
            .ok(202);
        eventually("the campaign completes", || async {
            app.get(&twin.key, &campaign).await.json()["progress"]["status"] == "completed"
        })
        .await;
        let shown = app.get(&twin.key, &campaign).await.ok(200);
        // Two of the file, and one who never agreed.
        assert_eq!(shown["progress"]["audience"], 3, "{shown}");
        // The demo refuses some for good; handed over or not, each of the two was this tenant's own.
        let ended = format!(
            "SELECT count(*) FROM messages WHERE phase IN (4, 6) AND campaign_id = '{}'",
            twin.ids["campaign_id"]
        );
        assert_eq!(world.number(&ended).await, 2);
    }
    worker.drain(std::time::Duration::from_secs(5)).await;
}

/// The switch itself: without the policies these databases would show everything to everybody.
#[tokio::test]
async fn without_policies_the_same_statements_show_the_other_tenants_rows() {
    let app = App::on(TestDb::without_tenant_conditions().await).await;
    let twins = [
        Twin::make(&app, "dojo").await,
        Twin::make(&app, "twin").await,
    ];
    app.db()
        .execute("ALTER TABLE cell.templates DISABLE ROW LEVEL SECURITY")
        .await;
    app.db()
        .execute("ALTER TABLE cell.template_versions DISABLE ROW LEVEL SECURITY")
        .await;

    let seen = app.get(&twins[0].key, "/api/templates").await;
    assert!(
        seen.text.contains(&twins[1].ids["template_id"]),
        "{}",
        seen.text
    );
}

#[tokio::test]
async fn nothing_of_the_other_tenant_can_be_changed_or_sent() {
    let app = App::on(TestDb::without_tenant_conditions().await).await;
    let ours = Twin::make(&app, "dojo").await;
    let theirs = Twin::make(&app, "twin").await;
    let owner = app.person(&ours.tenant, Role::Owner).await;
    let cookie = app.sign_in(&owner).await;
    let theirs_before = fingerprint(&app, &theirs).await;

    let document: Value = serde_json::from_str(engageninja::api::openapi_document()).unwrap();
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Some(url) = theirs.path(path).filter(|_| path.contains('{')) else {
            continue;
        };
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = app
                .with_cookie(&cookie, method.clone(), &url)
                .json(&json!({}));
            let got = answer(request).await;
            assert!(
                (400..500).contains(&got.status.as_u16()),
                "{method} {path}: {} {}",
                got.status,
                got.text
            );
            asked += 1;
        }
    }
    assert!(asked > 10, "{asked}");
    assert_eq!(fingerprint(&app, &theirs).await, theirs_before);
}

/// Everything the tenant has in the cell, as one number.
async fn fingerprint(app: &App, twin: &Twin) -> String {
    let sql = format!(
        "SELECT string_agg(c.relname || xpath('//n/text()', query_to_xml(format(
             'SELECT count(*) || md5(string_agg(t::text, '';'' ORDER BY t::text)) AS n FROM cell.%I t WHERE tenant_id = %L',
             c.relname, '{}'), false, true, ''))::text, ' ' ORDER BY c.relname)
         FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE s.nspname = 'cell' AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
        twin.tenant.id
    );
    app.db().text(&sql).await
}
