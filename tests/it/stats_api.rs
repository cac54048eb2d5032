//! The numbers of the home page: exact, by hour, single messages too.

use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::domain::orders::FoldCampaignDeltas;
use engageninja::jobs::queue::{NewJob, enqueue};
use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::eventually;
use crate::harness::world::World;

async fn stats(app: &App, key: &str) -> Value {
    app.get(key, "/api/stats").await.ok(200)
}

fn day(stats: &Value, word: &str) -> i64 {
    stats["last_24_hours"][word].as_i64().unwrap()
}

fn sum_of_hours(stats: &Value, word: &str) -> i64 {
    let hours = stats["hours"].as_array().unwrap();
    hours.iter().map(|hour| hour[word].as_i64().unwrap()).sum()
}

/// Folds what is open, on a worker of the world.
async fn fold(world: &World) {
    let mut tx = world.db.db().system().begin().await.unwrap();
    enqueue(&mut tx, vec![NewJob::from(FoldCampaignDeltas {})])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let open =
        "SELECT (SELECT count(*) FROM message_deltas) + (SELECT count(*) FROM campaign_deltas)";
    eventually("all is folded", async || world.number(open).await == 0).await;
}

#[tokio::test]
async fn a_tenant_without_a_message_has_zeros() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let key = app.key(&tenant, Role::Viewer).await;
    let shown = stats(&app, &key).await;
    assert_eq!(shown["version"], 0);
    assert_eq!(
        shown["now"],
        json!({"waiting": 0, "sending": 0, "parked": 0})
    );
    assert_eq!(shown["hours"].as_array().unwrap().len(), 24);
}

/// Open or folded, the numbers are the same, and they are those of the rows.
#[tokio::test]
async fn campaigns_and_single_messages_are_counted_together_and_folding_changes_nothing() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    world.add_contacts(30).await;
    world.add_contact("Twin", "+12055550000").await;
    for number in 0..10 {
        let to = format!("+1305404848{number}");
        let body = json!({"channel": "sms", "to": to, "body": format!("Code {number}")});
        app.post(&key, "/api/messages", &body).await.ok(202);
    }
    let waiting = stats(&app, &key).await;
    assert_eq!(waiting["now"]["waiting"], 10);
    let version = waiting["version"].as_i64().unwrap();

    let campaign = world.campaign("Hello {{ first_name }}").await;
    let worker = world.worker().await;
    let through = "SELECT count(*) FROM messages WHERE phase IN (4, 6)";
    eventually("all are through", async || {
        world.number(through).await == 40
    })
    .await;
    fold(&world).await;
    let scheduler = world.scheduler();
    world.completed(campaign).await;
    let open = "SELECT count(*) FROM demo_ledger WHERE next_at IS NOT NULL";
    while world.number(open).await > 0 {
        world.db.advance(Duration::from_secs(15)).await;
        eventually("the provider goes on", async || {
            world
                .number("SELECT count(*) FROM demo_ledger WHERE next_at <= app_now()")
                .await
                == 0
        })
        .await;
    }
    drop(scheduler);
    let before = stats(&app, &key).await;
    fold(&world).await;
    let after = stats(&app, &key).await;
    worker.drain(Duration::from_secs(5)).await;

    assert_eq!(before["last_24_hours"], after["last_24_hours"]);
    assert_eq!(
        after["now"],
        json!({"waiting": 0, "sending": 0, "parked": 0})
    );
    assert!(after["version"].as_i64().unwrap() > version);
    let rows = |condition: &str| format!("SELECT count(*) FROM messages WHERE {condition}");
    let sent = world.number(&rows("phase = 4")).await;
    assert_eq!(day(&after, "sent"), sent);
    let delivered = "phase = 4 AND status IN ('delivered', 'read', 'partially_delivered')";
    assert_eq!(
        day(&after, "delivered"),
        world.number(&rows(delivered)).await
    );
    assert_eq!(day(&after, "skipped"), 1);
    assert_eq!(
        day(&after, "failed"),
        40 - world.number(&rows(delivered)).await
    );
    for word in ["sent", "delivered", "failed", "skipped"] {
        assert_eq!(sum_of_hours(&after, word), day(&after, word), "{word}");
    }
    let email = app.get(&key, "/api/stats?channel=email").await.ok(200);
    assert_eq!(day(&email, "sent"), 0);
    let sms = app.get(&key, "/api/stats?channel=sms").await.ok(200);
    assert_eq!(sms["last_24_hours"], after["last_24_hours"]);

    // A day later they are history, and nobody else ever saw them.
    world.db.advance(Duration::from_hours(25)).await;
    assert_eq!(day(&stats(&app, &key).await, "sent"), 0);
    let other = app.tenant("harbor").await;
    let other_key = app.key(&other, Role::Viewer).await;
    assert_eq!(stats(&app, &other_key).await["version"], 0);
}

/// What waits is split by state also while calls are under way.
#[tokio::test]
async fn a_single_message_is_counted_where_it_is() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    let body = json!({"channel": "sms", "to": "+13054048480", "body": "Code"});
    let sent = app.post(&key, "/api/messages", &body).await.ok(202);
    let worker = engageninja::jobs::worker::Worker::start(world.db.db(), world.without_sends());
    let worker = worker.await;
    let released = "SELECT count(*) FROM messages WHERE phase = 1";
    eventually("it is let out", async || world.number(released).await == 1).await;
    assert_eq!(stats(&app, &key).await["now"]["waiting"], 1);
    worker.drain(Duration::from_secs(5)).await;

    let id = sent["id"].as_str().unwrap().parse().unwrap();
    let message = engageninja::domain::ids::MessageKey {
        tenant_id: world.tenant_id,
        id: engageninja::domain::ids::MessageId(id),
    };
    world.begin(&[message]).await;
    let now = stats(&app, &key).await["now"].clone();
    assert_eq!(now, json!({"waiting": 0, "sending": 1, "parked": 0}));
}
