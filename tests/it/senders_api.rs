//! Senders by the API: added, changed, halted, retired; and what each of these does to what sends from them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::delivery::senders::retire_sender;
use engageninja::domain::actor::Role;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::SenderId;
use engageninja::store::senders::load_for_update;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, answer};
use crate::harness::eventually;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
/// A second, and what a machine that many tests share adds to it.
const SOON_MS: i64 = 4_000;

struct Office {
    world: World,
    app: App,
    admin: String,
}

impl Office {
    async fn open() -> Self {
        let world = World::start().await;
        let (app, tenant) = App::beside(&world).await;
        let admin = app.key(&tenant, Role::Admin).await;
        Self { world, app, admin }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.app.post(&self.admin, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.app.get(&self.admin, path).await.ok(200)
    }

    async fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = self.app.with_key(&self.admin, Method::PATCH, path);
        answer(request.json(body)).await
    }

    /// The sender that text messages come from by themselves.
    async fn default_sender(&self) -> String {
        let senders = self.get("/api/senders?channel=sms").await;
        let items = senders["items"].as_array().unwrap().clone();
        let default = items.iter().find(|it| it["is_default"] == true).unwrap();
        format!("/api/senders/{}", default["id"].as_str().unwrap())
    }

    async fn actions(&self) -> String {
        let sql = "SELECT string_agg(action, ' ' ORDER BY id) FROM audit_log WHERE target_kind = 'sender'";
        self.world.db.text(sql).await
    }

    /// Halts every sender as a provider's refusal does.
    async fn halt(&self, until: &str) {
        let sql = format!(
            "INSERT INTO cell.halts (tenant_id, sender_id, until, reason, code)
             SELECT tenant_id, id, {until}, 'the provider refuses the account', '20003' FROM cell.senders"
        );
        self.world.db.execute(&sql).await;
    }

    async fn accepted(&self) -> Vec<DateTime<Utc>> {
        let sql =
            "SELECT COALESCE(array_agg(accepted_at ORDER BY accepted_at), '{}') FROM demo_ledger";
        self.world.db.value(sql).await
    }
}

#[tokio::test]
async fn a_sender_is_added_changed_and_shown() {
    let office = Office::open().await;
    let first = office.default_sender().await;
    let new = json!({"channel": "sms", "address": "+12025550123", "segments_per_sec": 12.5});
    let request = || {
        let request = office
            .app
            .with_key(&office.admin, Method::POST, "/api/senders");
        request.header("idempotency-key", "once").json(&new)
    };
    let made = answer(request()).await.ok(201);
    assert_eq!(answer(request()).await.ok(201), made);

    assert_eq!(made["kind"], "long_code");
    assert_eq!(made["state"], "active");
    assert_eq!(
        (&made["segments_per_sec"], &made["segments_per_sec_max"]),
        (&json!(12.5), &json!(225.0))
    );
    // The channel had a default already.
    assert_eq!(
        (&made["is_default"], &made["provider"]),
        (&json!(false), &json!("demo"))
    );
    let path = format!("/api/senders/{}", made["id"].as_str().unwrap());
    assert_eq!(office.get(&path).await, made);
    let listed = office.get("/api/senders?channel=sms&limit=1").await;
    assert_eq!(listed["items"], json!([made]));

    let changed = json!({"segments_per_sec": 30, "is_default": true});
    let shown = office.patch(&path, &changed).await.ok(200);
    assert_eq!(
        (&shown["segments_per_sec"], &shown["is_default"]),
        (&json!(30.0), &json!(true))
    );
    assert_eq!(office.get(&first).await["is_default"], false);
    assert_eq!(office.actions().await, "create_sender update_sender");
    let viewer = office
        .app
        .key(
            &crate::harness::app::Tenant {
                id: office.world.tenant_id,
                slug: "dojo".to_owned(),
            },
            Role::Viewer,
        )
        .await;
    assert_eq!(
        office.app.get(&viewer, &path).await.ok(200)["address"],
        "+12025550123"
    );
    office
        .app
        .post(&viewer, "/api/senders", &new)
        .await
        .problem(403, "forbidden");
}

#[tokio::test]
async fn what_is_no_sender_is_refused_with_what_would_be_right() {
    let office = Office::open().await;
    let sms = |address: &str, rate: Value| json!({"channel": "sms", "address": address, "segments_per_sec": rate});
    let number = "+12025550123";
    let cases = [
        (
            sms("2025550123", json!(1)),
            "invalid-address",
            "address",
            "+12025550123",
        ),
        (
            sms("(202) 555-0123", json!(1)),
            "invalid-address",
            "address",
            "country code",
        ),
        (
            sms("+0202555012", json!(1)),
            "invalid-address",
            "address",
            "short code",
        ),
        (
            json!({"channel": "whatsapp", "address": "26246"}),
            "invalid-address",
            "address",
            "WhatsApp",
        ),
        (
            json!({"channel": "email", "address": "cafe"}),
            "invalid-address",
            "address",
            "@",
        ),
        (
            sms(number, json!(0)),
            "invalid-rate",
            "segments_per_sec",
            "0.01",
        ),
        (
            sms(number, json!(-3)),
            "invalid-rate",
            "segments_per_sec",
            "pause",
        ),
        (
            sms(number, json!(226)),
            "invalid-rate",
            "segments_per_sec",
            "225",
        ),
        (
            sms("+18335550123", json!(26)),
            "invalid-rate",
            "segments_per_sec",
            "25",
        ),
        (
            json!({"channel": "sms", "address": number, "messaging_service_sid": "MG1"}),
            "invalid-body",
            "messaging_service_sid",
            "32 hexadecimal digits",
        ),
    ];
    for (body, problem, field, says) in cases {
        let refused = office
            .post("/api/senders", &body)
            .await
            .problem(422, problem);
        assert_eq!(refused["errors"][0]["field"], field, "{body}");
        assert!(
            refused["detail"].as_str().unwrap().contains(says),
            "{refused}"
        );
    }
    let first = office.default_sender().await;
    for (body, problem) in [
        (json!({"segments_per_sec": 0}), "invalid-rate"),
        (json!({"segments_per_sec": 1e9}), "invalid-rate"),
        (json!({"is_default": false}), "invalid-body"),
        (json!({"address": number}), "invalid-body"),
    ] {
        office.patch(&first, &body).await.problem(422, problem);
    }
    assert_eq!(office.world.number("SELECT count(*) FROM senders").await, 3);
    assert_eq!(
        office.world.number("SELECT count(*) FROM audit_log").await,
        0
    );

    office
        .world
        .db
        .execute("UPDATE cell.tenants SET is_demo = false")
        .await;
    let refused = office.post("/api/senders", &sms(number, json!(1))).await;
    refused.problem(409, "channel-not-connected");
}

#[tokio::test]
async fn an_address_is_one_senders_alone_over_all_tenants() {
    let office = Office::open().await;
    let cafe = office.app.tenant("cafe").await;
    let theirs = office.app.key(&cafe, Role::Admin).await;
    let body = json!({"channel": "sms", "address": "+12025550123"});
    let made = office.post("/api/senders", &body).await.ok(201);

    let taken = office.app.post(&theirs, "/api/senders", &body).await;
    let problem = taken.problem(409, "sender-taken");
    assert!(!problem.to_string().contains("dojo"), "{problem}");
    office
        .post("/api/senders", &body)
        .await
        .problem(409, "sender-taken");
    // Nobody sees or changes somebody else's.
    let path = format!("/api/senders/{}", made["id"].as_str().unwrap());
    office
        .app
        .get(&theirs, &path)
        .await
        .problem(404, "not-found");
    let retire = format!("{path}/retire");
    office
        .app
        .post(&theirs, &retire, &json!({}))
        .await
        .problem(404, "not-found");

    office.post(&retire, &json!({})).await.ok(200);
    office
        .app
        .post(&theirs, "/api/senders", &body)
        .await
        .ok(201);
}

/// A call that finds the sender refused just then stops it, without waiting for the retirement, which waits for it.
#[tokio::test]
async fn whoever_stops_a_sender_does_not_wait_for_its_retirement() {
    let office = Office::open().await;
    let sender = office.default_sender().await;
    let id = sender.rsplit('/').next().unwrap();
    let (db, tenant_id) = (office.world.db.db(), office.world.tenant_id);
    let mut retiring = db.cell(tenant_id).begin().await.unwrap();
    let id = SenderId(id.parse().unwrap());
    load_for_update(&mut retiring, tenant_id, id).await.unwrap();

    let stop = format!(
        "SET lock_timeout = '1s'; INSERT INTO cell.halts (tenant_id, sender_id, until, reason, code)
         VALUES ('{tenant_id}', '{id}', 'infinity', 'refused', '20003')"
    );
    office.world.db.execute(&stop).await;

    retire_sender(&mut retiring, tenant_id, id, &office.world.db.clock())
        .await
        .unwrap();
    retiring.commit().await.unwrap();
    assert_eq!(office.get(&sender).await["state"], "retired");
}

/// At one segment in fifty seconds the next one is far off; at 200 a second it is not.
#[tokio::test]
async fn a_changed_rate_holds_within_a_second() {
    let office = Office::open().await;
    office.world.add_contacts(60).await;
    let sender = office.default_sender().await;
    office
        .patch(&sender, &json!({"segments_per_sec": 0.02}))
        .await
        .ok(200);
    let worker = office.world.worker().await;
    let campaign = office.world.campaign("Hello").await;
    eventually("the first one is out", async || {
        !office.accepted().await.is_empty()
    })
    .await;

    let faster = office
        .patch(&sender, &json!({"segments_per_sec": 200}))
        .await;
    let changed = office.world.db.clock().now();
    assert_eq!(faster.ok(200)["segments_per_sec"], 200.0);
    eventually("all are out", async || {
        office.world.through(campaign).await == 60
    })
    .await;
    let times = office.accepted().await;
    let first = times.iter().find(|at| **at > changed).unwrap();
    assert!(
        (*first - changed).num_milliseconds() < SOON_MS,
        "{first} after {changed}"
    );

    // Slowed again, it forgives nothing: what went at the quick rate is not made up for by a burst.
    office
        .patch(&sender, &json!({"segments_per_sec": 0.5}))
        .await
        .ok(200);
    let slowed = office.world.db.clock().now();
    office.world.campaign("Hello again").await;
    eventually("it goes on", async || {
        office.accepted().await.last() > times.last()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let slow = office
        .accepted()
        .await
        .iter()
        .filter(|at| **at > slowed)
        .count();
    assert!(
        (1..=4).contains(&slow),
        "{slow} in three seconds at 0.5 a second"
    );
    worker.drain(DRAIN).await;
}

#[tokio::test]
async fn a_halt_is_shown_and_lifted_and_what_waits_goes_on() {
    let office = Office::open().await;
    office.world.add_contacts(20).await;
    let sender = office.default_sender().await;
    office.halt("app_now() + interval '1 hour'").await;
    let campaign = office.world.campaign("Hello").await;
    let worker = office.world.worker().await;
    eventually("all wait", async || {
        office.world.counts(campaign).await.get(CountWord::Queued) == 20
    })
    .await;

    let shown = office.get(&sender).await;
    assert_eq!(
        (&shown["state"], &shown["halt"]["code"]),
        (&json!("halted"), &json!("20003"))
    );
    assert!(
        shown["halt"]["until"].is_string() && shown["halt"]["since"].is_string(),
        "{shown}"
    );
    let status = format!("/api/campaigns/{campaign}/status");
    let progress = office.get(&status).await;
    assert_eq!(progress["halt"], shown["halt"]);
    assert_eq!(progress["status"], "sending");
    assert_eq!(office.accepted().await.len(), 0);

    let halt = format!("{sender}/halt");
    assert_eq!(office.app.delete(&office.admin, &halt).await.status, 204);
    let lifted = office.world.db.clock().now();
    eventually("all are out", async || {
        office.world.through(campaign).await == 20
    })
    .await;
    let times = office.accepted().await;
    assert!(
        (times[0] - lifted).num_milliseconds() < SOON_MS,
        "{} after {lifted}",
        times[0]
    );
    office
        .app
        .delete(&office.admin, &halt)
        .await
        .problem(409, "sender-not-halted");
    assert!(office.get(&sender).await.get("halt").is_none());
    assert!(office.get(&status).await.get("halt").is_none());
    assert_eq!(office.actions().await, "lift_sender_halt");
    worker.drain(DRAIN).await;
}

#[expect(
    clippy::too_many_lines,
    reason = "one story from the sender's retirement to its last message"
)]
#[tokio::test]
async fn a_retired_sender_begins_nothing_and_its_campaigns_are_told() {
    let office = Office::open().await;
    office.world.add_contacts(200).await;
    let sender = office.default_sender().await;
    let id = sender.rsplit('/').next().unwrap().to_owned();
    office
        .patch(&sender, &json!({"segments_per_sec": 20}))
        .await
        .ok(200);
    let draft = office.world.draft("Later").await;
    let edit = office
        .patch(
            &format!("/api/campaigns/{draft}"),
            &json!({"sender_id": id}),
        )
        .await;
    edit.ok(200);
    let due = office
        .world
        .scheduled("Soon", Duration::from_mins(10))
        .await;
    let worker = office.world.worker().await;
    let _scheduler = office.world.scheduler();
    let campaign = office.world.campaign("Hello").await;
    eventually("it has begun", async || !office.accepted().await.is_empty()).await;
    let waiting =
        json!({"channel": "sms", "to": "+13054048480", "body": "Your code is 7", "class": "txn"});
    office.halt("app_now() + interval '1 hour'").await;
    let single = office.post("/api/messages", &waiting).await.ok(202);

    let retired = office
        .post(&format!("{sender}/retire"), &json!({}))
        .await
        .ok(200);
    let begun = "SELECT count(*) FROM send_attempts";
    let attempts = office.world.number(begun).await;
    assert_eq!(retired["paused_campaigns"], json!([campaign.to_string()]));
    assert_eq!(retired["sender"]["state"], "retired");
    assert_eq!(retired["sender"]["is_default"], false);

    let status = format!("/api/campaigns/{campaign}/status");
    let progress = office.get(&status).await;
    assert_eq!(
        (&progress["status"], &progress["halt"]["code"]),
        (&json!("paused"), &json!("sender_retired"))
    );
    assert!(
        progress["halt"]["reason"]
            .as_str()
            .unwrap()
            .contains("cancel"),
        "{progress}"
    );
    assert!(progress["halt"].get("until").is_none());
    let resumed = office
        .post(&format!("/api/campaigns/{campaign}/resume"), &json!({}))
        .await;
    resumed.problem(409, "sender-retired");
    // Whoever asks the row itself to send begins nothing either.
    office
        .world
        .db
        .execute("UPDATE cell.campaigns SET status = 'sending' WHERE status = 'paused'")
        .await;
    let path = format!("/api/messages/{}", single["id"].as_str().unwrap());
    eventually("the single one is dropped", async || {
        office.get(&path).await["message"]["state"] == "skipped"
    })
    .await;
    office
        .world
        .db
        .execute("UPDATE cell.campaigns SET status = 'paused' WHERE started_at IS NOT NULL")
        .await;
    assert_eq!(office.world.number(begun).await, attempts);

    office
        .post(&format!("/api/campaigns/{draft}/send"), &json!({}))
        .await
        .problem(409, "sender-retired");
    let named = office
        .patch(
            &format!("/api/campaigns/{draft}"),
            &json!({"sender_id": id}),
        )
        .await;
    assert_eq!(
        named.problem(409, "sender-retired")["errors"][0]["field"],
        "sender_id"
    );
    office
        .post("/api/messages", &waiting)
        .await
        .problem(422, "no-sender");
    office
        .patch(&sender, &json!({"segments_per_sec": 5}))
        .await
        .problem(409, "sender-retired");
    office
        .app
        .delete(&office.admin, &format!("{sender}/halt"))
        .await
        .problem(409, "sender-retired");
    office
        .post(&format!("{sender}/retire"), &json!({}))
        .await
        .problem(409, "sender-retired");
    // One that was to start with the channel's default has none now.
    office.world.db.advance(Duration::from_secs(601)).await;
    eventually("the scheduled one has failed", async || {
        office.world.load(due).await.status == CampaignStatus::Failed
    })
    .await;

    office
        .post(&format!("/api/campaigns/{campaign}/cancel"), &json!({}))
        .await
        .ok(200);
    eventually("nobody waits", async || {
        office.world.counts(campaign).await.is_settled()
    })
    .await;
    let counts = office.world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(office.world.number(begun).await, attempts);
    assert_eq!(office.actions().await, "update_sender retire_sender");
    let told = format!(
        "SELECT count(*) FROM audit_log WHERE action = 'pause_campaign' AND target_id = '{campaign}'"
    );
    assert_eq!(office.world.number(&told).await, 1);
    worker.drain(DRAIN).await;
}

/// A start and a retirement at the same time: the campaign is refused, or it starts and is paused.
#[tokio::test]
async fn no_start_slips_past_a_retirement() {
    let office = Office::open().await;
    office.world.add_contacts(1).await;
    for round in 0..8 {
        let address = format!("+1202555{round:04}");
        let body = json!({"channel": "sms", "address": address, "is_default": true});
        let sender = office.post("/api/senders", &body).await.ok(201);
        let campaign = office.world.draft("Hello").await;
        let retire = format!("/api/senders/{}/retire", sender["id"].as_str().unwrap());
        let start = format!("/api/campaigns/{campaign}/send");
        let nothing = json!({});
        let (started, retired) = tokio::join!(
            office.post(&start, &nothing),
            office.post(&retire, &nothing)
        );
        let retired = retired.ok(200);
        let paused = &retired["paused_campaigns"];
        match started.status.as_u16() {
            202 => assert_eq!(paused, &json!([campaign.to_string()]), "round {round}"),
            _ => assert_eq!(paused, &json!([]), "round {round}"),
        }
        let status = office.world.load(campaign).await.status;
        assert_ne!(status, CampaignStatus::Sending, "round {round}");
    }
}
