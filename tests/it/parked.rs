//! Messages of which nobody knows: people see what is known, and decide.

use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{CampaignId, MessageKey};
use poem::http::Method;
use serde_json::{Value, json};

use crate::harness::app::{App, Tenant, answer};
use crate::harness::eventually;
use crate::harness::program::{on, run};
use crate::harness::world::World;

/// A campaign of which `count` messages are parked, and somebody who may decide.
struct Office {
    world: World,
    app: App,
    tenant: Tenant,
    key: String,
    campaign: CampaignId,
    parked: Vec<MessageKey>,
}

impl Office {
    async fn with_parked(count: u32) -> Self {
        let world = World::start().await;
        world.add_contacts(count).await;
        world
            .db
            .execute("UPDATE cell.tenants SET on_not_sent = 'park'")
            .await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let parked = world.let_out(campaign, count as usize).await;
        world.begin(&parked).await;
        world.settle().await;
        let (app, tenant) = App::beside(&world).await;
        let key = app.key(&tenant, Role::Sender).await;
        let office = Self {
            world,
            app,
            tenant,
            key,
            campaign,
            parked,
        };
        assert_eq!(office.count(CountWord::Parked).await, i64::from(count));
        office
    }

    async fn count(&self, word: CountWord) -> i64 {
        let counts = self.world.counts(self.campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        counts.get(word)
    }

    async fn decide(&self, at: usize, decision: &str) -> crate::harness::app::Answer {
        let path = format!("/api/messages/{}/decide", self.parked[at].id);
        let body = json!({"decision": decision, "reason": "asked the provider by phone"});
        self.app.post(&self.key, &path, &body).await
    }

    async fn decide_all(&self, decision: &str) -> Value {
        let path = format!("/api/campaigns/{}/decide-parked", self.campaign);
        let body = json!({"decision": decision, "reason": "the provider lost them"});
        self.app.post(&self.key, &path, &body).await.ok(200)
    }
}

#[tokio::test]
async fn each_decision_has_its_effect_and_its_reason_in_the_audit() {
    let office = Office::with_parked(3).await;

    for (at, decision) in ["it_was_sent", "send_again", "give_up"].iter().enumerate() {
        let decided = office.decide(at, decision).await.ok(200);
        assert_eq!(decided["messages"], 1);
    }

    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    assert_eq!(office.count(CountWord::Queued).await, 1);
    assert_eq!(office.count(CountWord::DroppedCancelled).await, 1);
    let decided = "SELECT count(*) FROM send_attempts WHERE resolved_by = 'person' AND resolved_at IS NOT NULL";
    assert_eq!(office.world.number(decided).await, 3);
    let accepted = "SELECT count(*) FROM send_attempts WHERE state = 1";
    assert_eq!(office.world.number(accepted).await, 1);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'decide_message'
        AND detail -> 'after' ->> 'reason' = 'asked the provider by phone'";
    assert_eq!(office.world.number(audited).await, 3);

    let worker = office.world.worker().await;
    eventually("the one goes out", || async {
        office.world.through(office.campaign).await == 2
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(office.world.doubled().await, 0);
}

#[tokio::test]
async fn all_of_a_campaign_are_decided_at_once_and_it_goes_on() {
    let office = Office::with_parked(20).await;
    let scheduler = office.world.scheduler();
    let worker = office.world.worker().await;
    office.world.completed(office.campaign).await;

    assert_eq!(office.decide_all("send_again").await["messages"], 20);
    assert_eq!(office.decide_all("give_up").await["messages"], 0);

    eventually("all go out", || async {
        office.world.through(office.campaign).await == 20
    })
    .await;
    office.world.completed(office.campaign).await;
    worker.drain(Duration::from_secs(5)).await;
    drop(scheduler);
    assert_eq!(office.world.doubled().await, 0);
    let finals = "SELECT count(*) FROM campaigns WHERE finished_at IS NOT NULL AND COALESCE((final_counts ->> 'parked')::int, 0) = 0";
    assert_eq!(office.world.number(finals).await, 1);
}

#[tokio::test]
async fn what_cannot_be_decided_any_more_says_why_and_changes_nothing() {
    let office = Office::with_parked(2).await;
    office.decide(0, "it_was_sent").await.ok(200);

    let again = office.decide(0, "send_again").await;
    let problem = again.problem(409, "message-not-parked");
    assert!(problem["detail"].as_str().unwrap().contains("handed_over"));

    office.world.db.advance(Duration::from_hours(80)).await;
    office
        .decide(1, "send_again")
        .await
        .problem(409, "message-expired");
    office
        .world
        .db
        .execute("UPDATE cell.campaigns SET status = 'cancelled'")
        .await;
    office
        .decide(1, "send_again")
        .await
        .problem(409, "campaign-ended");
    office
        .decide(1, "toss_a_coin")
        .await
        .problem(422, "invalid-body");
    assert_eq!(office.count(CountWord::Parked).await, 1);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'decide_message'";
    assert_eq!(office.world.number(audited).await, 1);

    // Giving up is always possible.
    office.decide(1, "give_up").await.ok(200);
    let viewer = office.app.key(&office.tenant, Role::Viewer).await;
    let path = format!("/api/messages/{}/decide", office.parked[0].id);
    let body = json!({"decision": "give_up", "reason": "test"});
    office
        .app
        .post(&viewer, &path, &body)
        .await
        .problem(403, "forbidden");
}

#[tokio::test]
async fn operators_see_what_is_parked_and_decide_on_the_command_line() {
    let office = Office::with_parked(3).await;
    let cookie = office.app.operator(&office.tenant).await;
    let get = |path: &str| office.app.with_cookie(&cookie, Method::GET, path);

    let first = answer(get("/api/ops/parked?limit=2")).await.ok(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["items"][0]["attempt_state"], "not_sent");
    assert!(first["items"][0]["look_ups"].as_i64().unwrap() >= 1);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = answer(get(&format!("/api/ops/parked?limit=2&cursor={cursor}"))).await;
    assert_eq!(second.ok(200)["items"].as_array().unwrap().len(), 1);

    let db = &office.world.db;
    let parked = run(on(db, &["message", "parked", "--json"])).await.json();
    assert_eq!(parked.as_array().unwrap().len(), 3);
    let one = office.parked[0].id.to_string();
    let tenant = office.world.tenant_id.to_string();
    let decide = |which: [&str; 2]| {
        let line = [
            "message", "decide", "give_up", "--tenant", &tenant, "--reason", "lost",
        ];
        let args: Vec<&str> = line.into_iter().chain(which).collect();
        on(db, &args)
    };
    let decided = run(decide([&one, "--json"])).await.json();
    assert_eq!(decided["decided"], 1);
    let refused = run(decide([&one, "--json"])).await;
    assert!(refused.refusal(1).contains("not parked"));
    let campaign = format!("--campaign={}", office.campaign);
    let rest = run(decide([&campaign, "--json"])).await.json();
    assert_eq!(rest["decided"], 2);
    let audited = "SELECT count(*) FROM audit_log WHERE actor_kind = 'operator' AND detail -> 'after' ->> 'reason' = 'lost'";
    assert_eq!(office.world.number(audited).await, 2);
}
