//! A server that may have forgotten calls: nothing begins on it until somebody who knows releases it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engageninja::domain::counts::CountWord;
use engageninja::store::timelines::{
    is_quarantined, list_timelines, release_seen, release_timeline,
};
use engageninja::store::{Db, StoreError};
use poem::http::Method;
use serde_json::json;

use crate::harness::app::{App, answer};
use crate::harness::eventually;
use crate::harness::program::{on, run};
use crate::harness::world::World;

/// As a promoted standby looks to its programs: nobody knows its timeline.
pub const OTHER_TIMELINE: &str = "UPDATE cell.database_timelines SET timeline = '0000BEEF'";
/// As a restored copy does: the same timeline, another server.
const OTHER_SERVER: &str = "UPDATE cell.database_timelines SET system_identifier = '1'";

impl World {
    async fn is_quarantined(&self) -> bool {
        // A new connection, as after a failover.
        let db = Db::new(&self.db.options(), self.db.clock());
        is_quarantined(&mut db.batch().begin().await.unwrap())
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn nothing_begins_on_an_unknown_server_until_it_is_released() {
    let world = World::start().await;
    world.add_contacts(10).await;
    let (app, tenant) = App::beside(&world).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let released = world.let_out(campaign, 10).await;
    assert_eq!(released.len(), 10);

    world.db.execute(OTHER_TIMELINE).await;
    assert!(world.is_quarantined().await);
    let later = world.campaign("Hello again, {{ first_name }}").await;
    let worker = world.worker().await;
    let health = answer(app.request(Method::GET, "/health/ready"))
        .await
        .ok(200);
    assert_eq!(health["status"], "quarantined");
    let tried = "SELECT count(*) FROM jobs WHERE queue = 'send' AND state = 2";
    eventually("the jobs wait", || async { world.number(tried).await > 0 }).await;
    assert_eq!(world.number("SELECT count(*) FROM send_attempts").await, 0);
    eventually("the next campaign waits", || async {
        world.counts(later).await.get(CountWord::Queued) == 10
    })
    .await;
    // Many ticks of the release, and a slot that is over.
    world.db.advance(world.holds.slot).await;
    let term = "SELECT max(until) FROM release_shards";
    let before: DateTime<Utc> = world.db.value(term).await;
    eventually("the leader has ticked for a second", || async {
        world.db.value::<DateTime<Utc>>(term).await > before + TimeDelta::seconds(1)
    })
    .await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM jobs WHERE queue = 'send'")
            .await,
        10,
        "nothing more is let out, and nothing again"
    );

    let cookie = app.operator(&tenant).await;
    let listed = answer(app.with_cookie(&cookie, Method::GET, "/api/ops/timelines"))
        .await
        .ok(200);
    let current = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["is_current"] == true)
        .unwrap();
    assert!(current.get("released_at").is_none(), "{current}");
    let path = format!(
        "/api/ops/timelines/{}/release",
        current["timeline"].as_str().unwrap()
    );
    let release = |path: &str| {
        app.with_cookie(&cookie, Method::POST, path)
            .json(&json!({"reason": "the old one is fenced and its calls are known"}))
    };
    answer(release("/api/ops/timelines/0000CAFE/release"))
        .await
        .problem(404, "not-found");
    assert_eq!(answer(release(&path)).await.status, 204);
    answer(release(&path)).await.problem(409, "conflict");

    eventually("all go out", || async {
        world.through(campaign).await == 10 && world.through(later).await == 10
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    let health = answer(app.request(Method::GET, "/health/ready"))
        .await
        .ok(200);
    assert_eq!(health["status"], "ok");
    let audited = "SELECT count(*) FROM control.platform_audit WHERE action = 'release_timeline'";
    assert_eq!(world.number(audited).await, 1);
}

#[tokio::test]
async fn another_server_on_the_same_timeline_is_noticed_and_released_on_the_command_line() {
    let world = World::start().await;
    assert!(!world.is_quarantined().await);
    world.db.execute(OTHER_SERVER).await;
    assert!(world.is_quarantined().await);

    let listed = run(on(&world.db, &["timeline", "list", "--json"]))
        .await
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let timeline = listed[0]["timeline"].as_str().unwrap();
    let server = listed[0]["system_identifier"].as_str().unwrap();
    let args = [
        "timeline",
        "release",
        timeline,
        "--server",
        server,
        "--reason",
        "restored on purpose",
        "--json",
    ];
    assert_eq!(run(on(&world.db, &args)).await.json()["released"], timeline);
    assert!(!world.is_quarantined().await);
    let again = run(on(&world.db, &args)).await;
    assert!(again.refusal(1).contains("timeline list"));
}

/// What somebody made sure of is one server's: another one that was met on its timeline since stays in quarantine.
#[tokio::test]
async fn a_server_is_released_as_it_was_seen_and_no_other_in_its_place() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let cookie = app.operator(&tenant).await;
    world
        .db
        .execute("UPDATE cell.database_timelines SET system_identifier = '1', released_at = NULL")
        .await;
    let mut tx = world.db.db().system().begin().await.unwrap();
    let seen = list_timelines(&mut tx).await.unwrap();
    assert_eq!((seen.len(), seen[0].system_identifier.as_str()), (1, "1"));
    let timeline = seen[0].timeline.as_str();
    // Nor is the row of another one taken for the server that answers.
    let moved = release_timeline(&mut tx, timeline, "test").await;
    assert!(matches!(moved, Err(StoreError::Moved { .. })), "{moved:?}");
    drop(tx);

    assert!(world.is_quarantined().await, "the other one is met");
    let mut tx = world.db.db().system().begin().await.unwrap();
    let moved = release_seen(&mut tx, timeline, "1", "test").await;
    assert!(matches!(moved, Err(StoreError::Moved { .. })), "{moved:?}");
    drop(tx);
    let release = |number: &str| {
        let path = format!("/api/ops/timelines/{timeline}/release");
        let body = json!({"reason": "its calls are known", "system_identifier": number});
        answer(app.with_cookie(&cookie, Method::POST, &path).json(&body))
    };
    let refused = release("1").await.problem(409, "conflict");
    let number: String = world
        .db
        .value("SELECT system_identifier::text FROM pg_control_system()")
        .await;
    assert!(
        refused["detail"].as_str().unwrap().contains(&number),
        "{refused}"
    );
    let args = [
        "timeline",
        "release",
        timeline,
        "--server=1",
        "--reason=its calls are known",
    ];
    let refused = run(on(&world.db, &args)).await;
    assert!(refused.refusal(1).contains(&number), "{}", refused.err);
    assert!(world.is_quarantined().await);
    let audited = "SELECT count(*) FROM control.platform_audit WHERE action = 'release_timeline'";
    assert_eq!(world.number(audited).await, 0);

    assert_eq!(release(&number).await.status, 204);
    assert!(!world.is_quarantined().await);
    assert_eq!(world.number(audited).await, 1);
}
