//! The tenant's stream by topic: whole snapshots, the newest at once, one reading for all who watch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engageninja::domain::actor::Role;
use engageninja::domain::counts::{CountDelta, CountWord};
use engageninja::domain::ids::{CampaignId, ImportId, TenantId};
use engageninja::live::WatchError;
use engageninja::live::topic::{Topic, TopicKind};
use engageninja::store::campaign_counts::append_deltas;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{App, Event, Events};
use crate::harness::eventually;
use crate::harness::twins::Twin;
use crate::harness::world::World;

/// A stream, and the newest event of each name.
struct Reading {
    events: Events,
    newest: BTreeMap<String, Event>,
}

impl Reading {
    async fn begin(app: &App, key: &str, topics: &str) -> Self {
        Self {
            events: app
                .events(key, &format!("/api/events?topics={topics}"))
                .await,
            newest: BTreeMap::new(),
        }
    }

    /// Reads on until something holds of the newest event of a name.
    async fn until(&mut self, name: &str, holds: impl Fn(&Value) -> bool) -> Event {
        loop {
            if let Some(event) = self.newest.get(name).filter(|event| holds(&event.data)) {
                return event.clone();
            }
            let event = self.events.next().await.expect("the stream goes on");
            assert_eq!(event.data["version"], event.id);
            assert_eq!(event.data["kind"], event.name);
            if let Some(before) = self.newest.get(&event.name) {
                assert!(event.id >= before.id, "{before:?} then {event:?}");
            }
            self.newest.insert(event.name.clone(), event);
        }
    }
}

fn topics_of(twin: &Twin) -> String {
    let id = |name: &str| &twin.ids[name];
    format!(
        "home,campaigns,campaign:{},import:{},message:{}",
        id("campaign_id"),
        id("import_id"),
        id("message_id")
    )
}

async fn add_people(world: &World, tenant_id: TenantId, id: CampaignId, people: i64) {
    let mut delta = CountDelta::default();
    delta.add(CountWord::Audience, people);
    delta.add(CountWord::Queued, people);
    let mut tx = world.db.db().cell(tenant_id).begin().await.unwrap();
    append_deltas(tx.conn(), &[(tenant_id, id, delta)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn each_topic_begins_with_what_a_request_answers_now() {
    let app = App::start().await;
    app.db().step_past_hours_end().await;
    let twin = Twin::make(&app, "dojo").await;
    let key = app.key(&twin.tenant, Role::Viewer).await;
    let mut reading = Reading::begin(&app, &key, &topics_of(&twin)).await;
    let get = async |path: &str| app.get(&key, &twin.path(path).unwrap()).await.ok(200);

    let home = reading.until("home", |_| true).await;
    assert_eq!(home.data["stats"], get("/stats").await);
    assert_eq!(home.data["stats"]["now"]["waiting"], 1);
    let campaigns = reading.until("campaigns", |_| true).await;
    assert_eq!(campaigns.data["items"], json!([]), "a draft does not run");
    let campaign = reading.until("campaign", |_| true).await;
    assert_eq!(
        campaign.data["progress"],
        get("/campaigns/{campaign_id}/status").await
    );
    assert_eq!(campaign.data["campaign_id"], twin.ids["campaign_id"]);
    let import = reading.until("import", |_| true).await;
    assert_eq!(
        import.data["import"],
        get("/contacts/imports/{import_id}").await
    );
    let message = reading.until("message", |_| true).await;
    assert_eq!(
        message.data["message"],
        get("/messages/{message_id}").await["message"]
    );
}

#[tokio::test]
async fn each_change_of_a_topic_brings_it_whole() {
    let world = World::start().await;
    let (app, _) = App::beside(&world).await;
    let twin = Twin::make(&app, "twin").await;
    let mut reading = Reading::begin(&app, &twin.key, &topics_of(&twin)).await;
    let first = reading.until("home", |_| true).await;
    let post = async |path: &str, body: Value| {
        app.post(&twin.key, &twin.path(path).unwrap(), &body)
            .await
            .ok(202);
    };
    post("/campaigns/{campaign_id}/send", json!({})).await;
    let is_ours = |item: &Value| item["id"] == twin.ids["campaign_id"];
    let running = reading
        .until("campaigns", |data| {
            data["items"].as_array().unwrap().iter().any(is_ours)
        })
        .await;
    let running = &running.data["items"][0];
    assert_eq!(
        (&running["name"], &running["channel"]),
        (&json!("Spring sale"), &json!("sms"))
    );
    assert_eq!(running["progress"]["status"], "sending");
    reading
        .until("campaign", |data| data["progress"]["status"] == "sending")
        .await;

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    post("/contacts/imports/{import_id}/start", json!({})).await;
    let import = reading
        .until("import", |data| data["import"]["status"] == "completed")
        .await;
    assert_eq!(import.data["import"]["counts"]["created"], 2);
    let over = ["sent", "delivered", "failed"];
    reading
        .until("message", |data| {
            over.iter().any(|word| data["message"]["state"] == *word)
        })
        .await;
    let campaign = reading
        .until("campaign", |data| data["progress"]["status"] == "completed")
        .await;
    assert_eq!(campaign.data["progress"]["version"], campaign.id);
    reading
        .until("campaigns", |data| data["items"] == json!([]))
        .await;
    let home = reading
        .until("home", |data| data["stats"]["now"]["waiting"] == 0)
        .await;
    assert!(home.id > first.id);
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_is_no_topic_is_refused_and_what_is_not_there_is_not_found() {
    let app = App::start().await;
    let (ours, theirs) = (
        Twin::make(&app, "dojo").await,
        Twin::make(&app, "cafe").await,
    );
    let ask = async |topics: &str| {
        app.get(&ours.key, &format!("/api/events?topics={topics}"))
            .await
    };
    for topics in ["", "home,nothing", "campaign:7", "operations", "Home"] {
        let problem = ask(topics).await.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["field"], "topics", "{problem}");
    }
    let problem = ask("home,nothing").await.problem(400, "invalid-parameter");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("'nothing'") && detail.contains("message:<id>"),
        "{detail}"
    );
    app.get(&ours.key, "/api/events")
        .await
        .problem(400, "invalid-parameter");

    for (kind, name) in [
        ("campaign", "campaign_id"),
        ("import", "import_id"),
        ("message", "message_id"),
    ] {
        for id in [&theirs.ids[name], &Uuid::now_v7().to_string()] {
            let problem = ask(&format!("home,{kind}:{id}"))
                .await
                .problem(404, "not-found");
            assert!(
                problem["detail"].as_str().unwrap().contains(kind),
                "{problem}"
            );
        }
        // The other way round it is there.
        let path = format!("/api/events?topics={kind}:{}", theirs.ids[name]);
        app.events(&theirs.key, &path).await.next().await.unwrap();
    }
}

/// What was looked for in vain may come into being.
#[tokio::test]
async fn what_was_not_there_is_found_once_it_is() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let id = ImportId(Uuid::now_v7());
    let topic = Topic::Import(tenant.id, id);
    let refused = app.state.live.watch(&[topic]).await.unwrap_err();
    assert_eq!(refused, WatchError::Missing(topic));
    world
        .db
        .execute(&format!(
            "INSERT INTO cell.imports (tenant_id, id, file_name) VALUES ('{}', '{id}', 'x.csv')",
            tenant.id
        ))
        .await;
    app.state.live.watch(&[topic]).await.unwrap();
}

#[tokio::test]
async fn nobody_hears_of_another_tenants_numbers() {
    let world = World::start().await;
    world.db.step_past_hours_end().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let twin = Twin::make(&app, "twin").await;
    let theirs = CampaignId(twin.ids["campaign_id"].parse().unwrap());
    let ours = world.draft("Hello").await;
    let mut reading = Reading::begin(&app, &key, "home,campaigns").await;
    reading.until("home", |data| data["version"] == 0).await;
    reading.until("campaigns", |_| true).await;

    add_people(&world, twin.tenant.id, theirs, 500).await;
    let live = &app.state.live;
    let reads = live.reads(TopicKind::Home);
    eventually("it is read twice", async || {
        live.reads(TopicKind::Home) >= reads + 2
    })
    .await;
    add_people(&world, tenant.id, ours, 7).await;
    let next = reading.events.next().await.unwrap();
    assert_eq!(next.name, "home");
    assert_eq!(next.data["stats"]["now"]["waiting"], 7);
}

#[tokio::test]
async fn however_many_come_at_once_one_read_serves_them_and_nobody_waits_for_the_next() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let live = &app.state.live;
    let topic = [Topic::Home(tenant.id)];
    let all = join_all((0..200).map(|_| live.watch(&topic))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(live.watchers(), 200);
    assert!(
        live.reads(TopicKind::Home) <= 3,
        "{}",
        live.reads(TopicKind::Home)
    );

    // The next reading of all is up to a second away.
    let begun = Instant::now();
    for number in 0..6 {
        let other = app.tenant(&format!("tenant{number}")).await;
        live.watch(&[Topic::Home(other.id)]).await.unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    drop(all);
    eventually("nothing is read", async || {
        !live.is_reading(TopicKind::Home)
    })
    .await;
    assert_eq!(live.watchers(), 0);
}

#[tokio::test]
async fn a_process_takes_so_many_watchers_and_says_when_to_come_back() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let topic = [Topic::Home(tenant.id)];
    let mut watches = Vec::new();
    for _ in 0..2_000 {
        watches.push(app.state.live.watch(&topic).await.unwrap());
    }
    for path in [
        "/api/events?topics=home".to_owned(),
        format!("/api/campaigns/{}/sse", world.draft("Hello").await),
    ] {
        let refused = app.get(&key, &path).await;
        refused.problem(503, "unavailable");
        assert_eq!(refused.header("retry-after"), "5");
    }
    watches.pop();
    app.events(&key, "/api/events?topics=home")
        .await
        .next()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_home_page_turns_with_the_hour() {
    let world = World::start().await;
    world.db.step_past_hours_end().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let mut reading = Reading::begin(&app, &key, "home").await;
    let last = |data: &Value| data["stats"]["hours"][23]["hour"].clone();
    let first = reading.until("home", |_| true).await;
    world.db.advance(Duration::from_hours(1)).await;
    let next = reading
        .until("home", |data| last(data) != last(&first.data))
        .await;
    assert_eq!(next.data["stats"]["hours"][22]["hour"], last(&first.data));
}
