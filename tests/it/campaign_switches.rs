//! What starts and stops a campaign, by the API: changed, scheduled, resumed, cancelled; and what is refused.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engageninja::domain::actor::Role;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{Answer, App, answer};
use crate::harness::eventually;
use crate::harness::program::{MAC_KEY, Started, on};
use crate::harness::world::World;

/// A world, its API, a key that may send, and the path of a draft to everybody.
struct Desk {
    world: World,
    app: App,
    key: String,
    draft: String,
}

impl Desk {
    async fn open(contacts: u32) -> Self {
        Self::on(World::start().await, contacts).await
    }

    async fn on(world: World, contacts: u32) -> Self {
        if contacts > 0 {
            world.add_contacts(contacts).await;
        }
        let (app, tenant) = App::beside(&world).await;
        let key = app.key(&tenant, Role::Sender).await;
        let draft = format!(
            "/api/campaigns/{}",
            world.draft("Hello {{ first_name }}").await
        );
        Self {
            world,
            app,
            key,
            draft,
        }
    }

    async fn press(&self, step: &str, body: &Value) -> Answer {
        let path = format!("{}/{step}", self.draft);
        self.app.post(&self.key, &path, body).await
    }

    async fn change(&self, body: &Value) -> Answer {
        let request = self.app.with_key(&self.key, Method::PATCH, &self.draft);
        answer(request.json(body)).await
    }

    async fn show(&self) -> Value {
        self.app.get(&self.key, &self.draft).await.ok(200)
    }

    async fn status(&self) -> String {
        let shown = self.show().await;
        shown["progress"]["status"].as_str().unwrap().to_owned()
    }

    async fn audited(&self, action: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM audit_log WHERE action = '{action}'");
        self.world.number(&sql).await
    }
}

fn instant(at: DateTime<Utc>) -> Value {
    json!({ "send_at": at.to_rfc3339() })
}

#[tokio::test]
async fn a_paused_campaign_goes_on_and_a_cancelled_one_never_does() {
    let desk = Desk::open(3).await;
    desk.press("resume", &json!({}))
        .await
        .problem(409, "campaign-not-paused");
    desk.press("send", &json!({})).await.ok(202);
    // It was never paused.
    let refused = desk.press("resume", &json!({})).await;
    let problem = refused.problem(409, "campaign-not-paused");
    assert!(problem["detail"].as_str().unwrap().contains("sending"));

    desk.press("pause", &json!({})).await.ok(200);
    let resumed = desk.press("resume", &json!({})).await.ok(200);
    assert_eq!(resumed["progress"]["status"], "sending");
    assert_eq!(resumed["paused_at"], Value::Null);

    desk.press("pause", &json!({})).await.ok(200);
    let cancelled = desk.press("cancel", &json!({})).await.ok(200);
    assert_eq!(cancelled, json!({"status": "cancelled", "in_flight": 0}));
    for (step, slug) in [
        ("cancel", "campaign-ended"),
        ("resume", "campaign-not-paused"),
        ("pause", "campaign-not-sending"),
        ("send", "campaign-already-sent"),
    ] {
        desk.press(step, &json!({})).await.problem(409, slug);
    }
    for (action, times) in [
        ("send_campaign", 1),
        ("pause_campaign", 2),
        ("resume_campaign", 1),
        ("cancel_campaign", 1),
    ] {
        assert_eq!(desk.audited(action).await, times, "{action}");
    }
    let before =
        "SELECT detail -> 'before' ->> 'status' FROM audit_log WHERE action = 'cancel_campaign'";
    assert_eq!(desk.world.db.text(before).await, "paused");
}

#[tokio::test]
async fn a_completed_campaign_cannot_be_cancelled() {
    let desk = Desk::open(3).await;
    let worker = desk.world.worker().await;
    let _scheduler = desk.world.scheduler();
    desk.press("send", &json!({})).await.ok(202);
    eventually("it completes", || async {
        desk.status().await == "completed"
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;

    let before = desk.show().await;
    let problem = desk.press("cancel", &json!({})).await;
    let problem = problem.problem(409, "campaign-ended");
    assert!(problem["detail"].as_str().unwrap().contains("completed"));
    assert_eq!(desk.show().await, before);
    assert_eq!(desk.audited("cancel_campaign").await, 0);
    assert_eq!(
        desk.world
            .number("SELECT count(*) FROM jobs WHERE kind = 'cancel-campaign'")
            .await,
        0
    );
}

#[tokio::test]
async fn a_draft_is_changed_field_by_field_and_nothing_else_is() {
    let desk = Desk::open(1).await;
    let before = desk.show().await;
    let template = json!({"name": "By mail", "channel": "email", "subject": "Hi", "body": "Hello"});
    let template = desk.app.post(&desk.key, "/api/templates", &template).await;
    let template = template.ok(201);

    let renamed = desk.change(&json!({"name": " Summer sale "})).await.ok(200);
    assert_eq!(renamed["name"], "Summer sale");
    assert_eq!(
        renamed["template_version_id"],
        before["template_version_id"]
    );
    let by_mail = desk.change(&json!({"template_id": template["id"]})).await;
    let by_mail = by_mail.ok(200);
    assert_eq!(by_mail["channel"], "email");
    assert_eq!(by_mail["template_version_id"], template["version"]["id"]);
    assert_eq!(by_mail["name"], "Summer sale");
    assert_eq!(desk.show().await, by_mail);
    assert_eq!(desk.audited("update_campaign").await, 2);

    let nobody = Uuid::now_v7();
    for (body, field) in [
        (json!({"template_id": nobody}), "template_id"),
        (json!({"sender_id": nobody}), "sender_id"),
        (
            json!({"audience": {"kind": "import", "import_id": nobody}}),
            "audience.import_id",
        ),
    ] {
        let problem = desk.change(&body).await.problem(422, "unprocessable");
        assert_eq!(problem["errors"][0]["field"], field);
    }
    desk.change(&json!({"colour": "red"}))
        .await
        .problem(422, "invalid-body");
    let at = desk.world.db.clock().now() + TimeDelta::hours(1);
    desk.press("schedule", &instant(at)).await.ok(200);
    let problem = desk.change(&json!({"name": "x"})).await;
    let problem = problem.problem(409, "campaign-not-draft");
    assert!(problem["detail"].as_str().unwrap().contains("unschedule"));
    assert_eq!(desk.show().await["name"], "Summer sale");
    assert_eq!(desk.audited("update_campaign").await, 2);
}

#[tokio::test]
async fn a_campaign_is_scheduled_moved_and_made_a_draft_again() {
    let desk = Desk::open(1).await;
    let first = desk.world.db.clock().now() + TimeDelta::hours(1);
    desk.press("unschedule", &json!({}))
        .await
        .problem(409, "campaign-not-scheduled");
    let scheduled = desk.press("schedule", &instant(first)).await.ok(200);
    assert_eq!(scheduled["progress"]["status"], "scheduled");
    let second = first + TimeDelta::hours(1);
    let moved = desk.press("schedule", &instant(second)).await.ok(200);
    let at: DateTime<Utc> = moved["send_at"].as_str().unwrap().parse().unwrap();
    assert!((at - second).abs() < TimeDelta::milliseconds(1));

    let draft = desk.press("unschedule", &json!({})).await.ok(200);
    assert_eq!(draft["progress"]["status"], "draft");
    assert_eq!(draft["send_at"], Value::Null);
    assert_eq!(desk.audited("schedule_campaign").await, 2);
    assert_eq!(desk.audited("unschedule_campaign").await, 1);

    desk.press("send", &json!({})).await.ok(202);
    desk.press("schedule", &instant(second))
        .await
        .problem(409, "campaign-already-sent");
}

#[tokio::test]
async fn a_time_of_the_tenants_clock_is_its_zones() {
    let desk = Desk::open(1).await;
    let sql = "UPDATE cell.tenants SET timezone = 'Asia/Kathmandu'";
    desk.world.db.execute(sql).await;
    let local = (desk.world.db.clock().now() + TimeDelta::days(3)).date_naive();
    let body = json!({"send_at": format!("{local}T09:00")});
    let scheduled = desk.press("schedule", &body).await.ok(200);
    // Kathmandu is 5:45 ahead, all year.
    assert_eq!(scheduled["send_at"], format!("{local}T03:15:00+00:00"));
}

#[tokio::test]
async fn a_time_at_which_nothing_can_start_is_refused_with_what_to_do() {
    let desk = Desk::open(1).await;
    let now = desk.world.db.clock().now();
    // New York puts its clock forward on the second Sunday of March and back on the first of November.
    let sunday = |month: u32, nth: u8| {
        let years = [0, 1].map(|ahead| chrono::Datelike::year(&now) + ahead);
        let days = years.map(|year| {
            chrono::NaiveDate::from_weekday_of_month_opt(year, month, chrono::Weekday::Sun, nth)
                .unwrap()
        });
        days.into_iter()
            .find(|day| *day > now.date_naive())
            .unwrap()
    };
    let cases = [
        ("soon".to_owned(), "is no time"),
        (
            (now - TimeDelta::seconds(1)).to_rfc3339(),
            "send the campaign now",
        ),
        (
            (now + TimeDelta::days(367)).to_rfc3339(),
            "more than a year",
        ),
        (
            format!("{}T02:30", sunday(3, 2)),
            "does not exist in America/New_York",
        ),
        (format!("{}T01:30", sunday(11, 1)), "-04:00 for the first"),
    ];
    for (send_at, expected) in cases {
        let refused = desk.press("schedule", &json!({ "send_at": send_at })).await;
        let problem = refused.problem(422, "invalid-send-at");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{send_at}: {detail}");
        assert_eq!(problem["errors"][0]["field"], "send_at");
    }
    for body in [json!({}), json!({"send_at": 5}), json!({"send_at": ""})] {
        desk.press("schedule", &body)
            .await
            .problem(422, "invalid-body");
    }
    assert_eq!(desk.status().await, "draft");
    assert_eq!(desk.audited("schedule_campaign").await, 0);
}

#[tokio::test]
async fn a_start_that_is_refused_at_its_time_says_why_and_can_be_mended() {
    let desk = Desk::open(0).await;
    let at = desk.world.db.clock().now() + TimeDelta::minutes(1);
    desk.press("schedule", &instant(at)).await.ok(200);
    desk.world.db.advance(Duration::from_secs(61)).await;
    let worker = desk.world.worker().await;
    let _scheduler = desk.world.scheduler();
    eventually("it fails", || async { desk.status().await == "failed" }).await;
    let reason = desk.show().await["failure_reason"].clone();
    assert!(
        reason.as_str().unwrap().contains("import contacts first"),
        "{reason}"
    );

    desk.world.add_contacts(2).await;
    let sent = desk.press("send", &json!({})).await.ok(202);
    assert_eq!(sent["failure_reason"], Value::Null);
    eventually("it completes", || async {
        desk.status().await == "completed"
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn somebody_elses_campaign_takes_no_step() {
    let desk = Desk::open(1).await;
    let other = desk.app.tenant("harbor").await;
    let key = desk.app.key(&other, Role::Sender).await;
    let at = instant(desk.world.db.clock().now() + TimeDelta::hours(1));
    for (step, body) in [
        ("schedule", &at),
        ("unschedule", &json!({})),
        ("resume", &json!({})),
        ("cancel", &json!({})),
    ] {
        let path = format!("{}/{step}", desk.draft);
        let refused = desk.app.post(&key, &path, body).await;
        refused.problem(404, "not-found");
    }
    let request = desk.app.with_key(&key, Method::PATCH, &desk.draft);
    answer(request.json(&json!({"name": "mine"})))
        .await
        .problem(404, "not-found");
    assert_eq!(desk.status().await, "draft");
}

/// Three schedulers as processes, one of them stopped over the moment, and a worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_campaign_starts_once_with_three_schedulers_one_of_them_stopped() {
    let world = World {
        mac_key: engageninja::crypto::mac::MacKey::from_base64(&MAC_KEY.into()).unwrap(),
        ..World::start().await
    };
    let desk = Desk::on(world, 20).await;
    let db = &desk.world.db;
    let worker = Started::new(on(db, &["worker"])).await;
    let schedulers = [
        Started::new(on(db, &["scheduler"])).await,
        Started::new(on(db, &["scheduler"])).await,
        Started::new(on(db, &["scheduler"])).await,
    ];
    let ticks = "SELECT count(*) FROM schedule_runs WHERE schedule_id = 'start-due'";
    eventually("the schedulers tick", || async {
        desk.world.number(ticks).await > 0
    })
    .await;
    let at = db.clock().now() + TimeDelta::seconds(3);
    desk.press("schedule", &instant(at)).await.ok(200);
    eventually("its time is near", || async {
        db.clock().now() > at - TimeDelta::seconds(1)
    })
    .await;
    schedulers[0].signal(Signal::SIGSTOP);
    eventually("it has started", || async {
        desk.status().await != "scheduled"
    })
    .await;
    let started_at: DateTime<Utc> = desk.show().await["started_at"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let late = started_at - at;
    assert!(
        late >= TimeDelta::zero() && late < TimeDelta::seconds(10),
        "{late}"
    );

    schedulers[0].signal(Signal::SIGCONT);
    let seen = desk.world.number(ticks).await;
    eventually("all of them ticked on", || async {
        desk.world.number(ticks).await > seen + 1 && desk.status().await == "completed"
    })
    .await;
    for scheduler in schedulers {
        scheduler.stop().await;
    }
    worker.stop().await;
    assert_eq!(desk.audited("send_campaign").await, 1);
    assert_eq!(desk.world.number("SELECT count(*) FROM messages").await, 20);
    assert_eq!(desk.world.doubled().await, 0);
}
