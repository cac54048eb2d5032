//! Messages of which nobody knows: people see what is known, and decide.

use std::process::Command;
use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{CampaignId, MessageId, MessageKey};
use engageninja::jobs::worker::Worker;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use crate::harness::app::{Answer, App, Tenant, answer};
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
        Box::pin(world.settle()).await;
        let (app, tenant) = Box::pin(App::beside(&world)).await;
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

    async fn decide(&self, at: usize, decision: &str) -> Answer {
        let path = format!("/api/messages/{}/decide", self.parked[at].id);
        let body = json!({"decision": decision, "reason": "asked the provider by phone"});
        self.app.post(&self.key, &path, &body).await
    }

    async fn ask_all(&self, decision: &str) -> Answer {
        let path = format!("/api/campaigns/{}/decide-parked", self.campaign);
        let body = json!({"decision": decision, "reason": "the provider lost them"});
        self.app.post(&self.key, &path, &body).await
    }

    async fn decide_all(&self, decision: &str) -> Value {
        self.ask_all(decision).await.ok(200)
    }

    /// Somebody decides over the campaign on the command line.
    fn decide_by_command(&self, decision: &str, further: &[&str]) -> Command {
        let campaign = format!("--campaign={}", self.campaign);
        let line = ["message", "decide", decision, "--tenant", "dojo", &campaign];
        let args: Vec<&str> = line.into_iter().chain(further.iter().copied()).collect();
        on(&self.world.db, &args)
    }

    /// Makes so many more of the first parked message, each with its attempt. The campaign's counts know nothing of them.
    async fn multiply(&self, count: u32) {
        let (first, campaign) = (self.parked[0].id, self.campaign);
        for (table, key) in [("messages", "id"), ("send_attempts", "message_id")] {
            let sql = format!(
                "DO $do$
                 DECLARE others text;
                 BEGIN
                     SELECT string_agg(quote_ident(attname), ', ') INTO others
                     FROM pg_attribute
                     WHERE attrelid = 'cell.{table}'::regclass AND attnum > 0 AND NOT attisdropped
                       AND attgenerated = '' AND attname <> '{key}';
                     EXECUTE 'INSERT INTO cell.{table} ({key}, ' || others || ')
                         SELECT campaign_message_id((SELECT started_at FROM cell.campaigns), ''{campaign}'', 0, 1000 + n), '
                         || others || ' FROM cell.{table}, generate_series(1, {count}) n WHERE {key} = ''{first}''';
                 END $do$"
            );
            self.world.db.execute(&sql).await;
        }
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

/// Past its time it would be dropped, although the answer said that it is sent again.
#[tokio::test]
async fn what_is_past_its_time_stays_parked_when_a_campaign_is_sent_again() {
    let office = Office::with_parked(3).await;
    let expire = format!(
        "UPDATE cell.messages SET expires_at = app_now() WHERE id = '{}'",
        office.parked[1].id
    );
    office.world.db.execute(&expire).await;

    let decided = office.decide_all("send_again").await;
    assert_eq!(
        (&decided["messages"], &decided["expired"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(office.count(CountWord::Queued).await, 2);
    assert_eq!(office.count(CountWord::Parked).await, 1);
    let none = office.decide_all("send_again").await;
    assert_eq!(
        (&none["messages"], &none["expired"]),
        (&json!(0), &json!(1))
    );
    let told = run(office.decide_by_command("send_again", &["--reason=lost"])).await;
    assert!(
        told.out.starts_with("0 decided; 1 past their time"),
        "{}{}",
        told.out,
        told.err
    );

    let rest = office.decide_by_command("it_was_sent", &["--reason=lost", "--json"]);
    assert_eq!(
        run(rest).await.json(),
        json!({"decided": 1, "expired": 0, "left": 0})
    );
    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'decide_parked_messages'
        AND detail -> 'after' ->> 'expired' = '1'";
    assert_eq!(office.world.number(audited).await, 3);
}

/// Somebody settles the last one while the decision over it is on its way.
#[tokio::test]
async fn a_campaign_of_which_nothing_is_left_to_send_again_stays_completed() {
    let office = Office::with_parked(1).await;
    office
        .world
        .db
        .execute("UPDATE cell.campaigns SET status = 'completed', final_counts = '{}', finished_at = app_now()")
        .await;
    let mut session = office.world.session().await;
    let mut faster = session.begin().await.unwrap();
    faster
        .execute("UPDATE messages SET phase = 4 WHERE phase = 5")
        .await
        .unwrap();

    let deciding = async {
        loop {
            let answer = office.ask_all("send_again").await;
            // Its patience is over before a busy machine lets us go on.
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer.ok(200);
            }
        }
    };
    let settling = async {
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event = 'transactionid'";
        eventually("the decision waits for the message", || async {
            office.world.number(waits).await == 1
        })
        .await;
        faster.commit().await.unwrap();
    };
    let (decided, ()) = tokio::join!(deciding, settling);

    assert_eq!(decided["messages"], 0);
    let campaign = office.world.load(office.campaign).await;
    assert_eq!(campaign.status, CampaignStatus::Completed);
}

#[tokio::test]
async fn a_single_message_of_a_retired_sender_is_not_sent_again() {
    let world = World::start().await;
    world
        .db
        .execute("UPDATE cell.tenants SET on_not_sent = 'park'")
        .await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Admin).await;
    let message =
        json!({"channel": "sms", "to": "+13054048480", "body": "Your code is 7", "class": "txn"});
    let sent = app.post(&key, "/api/messages", &message).await.ok(202);
    let id: MessageId = sent["id"].as_str().unwrap().parse().unwrap();
    let worker = Worker::start(world.db.db(), world.without_sends()).await;
    let let_out = "SELECT count(*) FROM messages WHERE phase = 1";
    eventually("it is let out", || async {
        world.number(let_out).await == 1
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    let tenant_id = world.tenant_id;
    world.begin(&[MessageKey { tenant_id, id }]).await;
    world.settle().await;
    let senders = app.get(&key, "/api/senders?channel=sms").await.ok(200);
    let sender = senders["items"][0]["id"].as_str().unwrap().to_owned();
    let retire = format!("/api/senders/{sender}/retire");
    app.post(&key, &retire, &json!({})).await.ok(200);

    let path = format!("/api/messages/{id}/decide");
    let decide = async |decision: &str| {
        let body = json!({"decision": decision, "reason": "the provider lost it"});
        app.post(&key, &path, &body).await
    };
    let refused = decide("send_again").await.problem(409, "sender-retired");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("give it up"), "{detail}");
    let parked = "SELECT count(*) FROM messages WHERE phase = 5";
    assert_eq!(world.number(parked).await, 1);

    decide("give_up").await.ok(200);
    assert_eq!(world.number(parked).await, 0);
}

/// By the API as on the command line.
#[tokio::test]
async fn a_reason_of_blanks_is_none_and_blanks_around_one_are_not_kept() {
    let office = Office::with_parked(1).await;
    let path = format!("/api/messages/{}/decide", office.parked[0].id);
    let decide = async |reason: &str| {
        let body = json!({"decision": "give_up", "reason": reason});
        office.app.post(&office.key, &path, &body).await
    };
    for reason in ["   ", " no \n"] {
        let problem = decide(reason).await.problem(422, "invalid-body");
        assert_eq!(problem["errors"][0]["field"], "reason", "{problem}");
    }
    let blank = run(office.decide_by_command("give_up", &["--reason=   "])).await;
    assert_eq!(blank.code, 2, "{}", blank.err);
    assert!(
        blank.err.contains("must have 3 to 500 characters"),
        "{}",
        blank.err
    );
    assert_eq!(office.count(CountWord::Parked).await, 1);

    decide("  lost \n").await.ok(200);
    let kept =
        "SELECT detail -> 'after' ->> 'reason' FROM audit_log WHERE action = 'decide_message'";
    assert_eq!(office.world.db.text(kept).await, "lost");
}

#[tokio::test]
async fn what_one_answer_on_the_command_line_cannot_hold_says_how_to_go_on() {
    let office = Office::with_parked(1).await;
    office.multiply(5_001).await;
    let db = &office.world.db;
    let list = async |further: &[&str]| {
        let line = ["message", "parked", "--json"];
        let args: Vec<&str> = line.into_iter().chain(further.iter().copied()).collect();
        let listed = run(on(db, &args)).await;
        let ids: Vec<String> = listed
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["message_id"].as_str().unwrap().to_owned())
            .collect();
        (ids, listed.err)
    };

    let (first, told) = list(&[]).await;
    assert_eq!(first.len(), 100);
    let place = format!("{}/{}", office.world.tenant_id, first[99]);
    assert!(told.contains(&format!("--after {place}")), "{told}");
    let (second, _) = list(&["--after", &place]).await;
    assert_eq!(second.len(), 100);
    assert!(second[0] > first[99], "{second:?}");

    let decided = run(office.decide_by_command("give_up", &["--reason=lost"])).await;
    assert!(
        decided
            .out
            .starts_with("5000 decided; 2 more are parked: give the same command again"),
        "{}{}",
        decided.out,
        decided.err
    );
    let rest = office.decide_by_command("give_up", &["--reason=lost", "--json"]);
    assert_eq!(
        run(rest).await.json(),
        json!({"decided": 2, "expired": 0, "left": 0})
    );
    let (none, told) = list(&[]).await;
    assert!(none.is_empty() && !told.contains("--after"), "{told}");
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
