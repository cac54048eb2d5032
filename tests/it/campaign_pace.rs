//! A campaign's own brake, by the API.

use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, answer};
use crate::harness::twins::Twin;

async fn set(app: &App, key: &str, path: &str, body: &Value) -> Answer {
    answer(app.with_key(key, Method::PUT, path).json(body)).await
}

#[tokio::test]
async fn a_brake_is_set_shown_and_taken_off() {
    let app = App::start().await;
    let twin = Twin::make(&app, "dojo").await;
    let campaign = twin.path("/campaigns/{campaign_id}").unwrap();
    let pace = format!("{campaign}/pace");
    assert_eq!(app.get(&twin.key, &pace).await.ok(200), json!({}));

    let slowed = json!({"per_sec": 2.5, "allowed_per_sec": 2.5, "limited_by": "campaign"});
    assert_eq!(
        set(&app, &twin.key, &pace, &json!({"per_sec": 2.5}))
            .await
            .ok(200),
        slowed
    );
    app.post(&twin.key, &format!("{campaign}/pause"), &json!({}))
        .await
        .problem(409, "campaign-not-sending");

    app.db()
        .execute("UPDATE cell.senders SET segments_per_sec_override = 1.5")
        .await;
    let shown = app.get(&twin.key, &pace).await.ok(200);
    assert_eq!(
        (&shown["allowed_per_sec"], &shown["limited_by"]),
        (&1.5.into(), &"sender".into())
    );
    assert_eq!(shown["per_sec"], 2.5);
    let free = set(&app, &twin.key, &pace, &json!({})).await.ok(200);
    assert!(free.get("per_sec").is_none(), "{free}");
}

#[tokio::test]
async fn a_pace_that_is_none_or_has_no_effect_is_refused_with_what_would_be_right() {
    let app = App::start().await;
    let twin = Twin::make(&app, "dojo").await;
    let pace = twin.path("/campaigns/{campaign_id}/pace").unwrap();
    app.db()
        .execute("UPDATE cell.senders SET segments_per_sec_override = 30")
        .await;
    for per_sec in [0.0, -3.0, 1e9] {
        let refused = set(&app, &twin.key, &pace, &json!({"per_sec": per_sec})).await;
        let problem = refused.problem(422, "invalid-pace");
        assert_eq!(problem["errors"][0]["field"], "per_sec");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("pause the campaign"),
            "{problem}"
        );
    }
    let refused = set(&app, &twin.key, &pace, &json!({"per_sec": 31})).await;
    let detail = refused.problem(422, "invalid-pace")["detail"].to_string();
    assert!(
        detail.contains("its sender gives 30 segments a second"),
        "{detail}"
    );
    assert_eq!(
        app.get(&twin.key, &pace).await.ok(200)["allowed_per_sec"],
        30.0
    );
    let changed = "SELECT (SELECT count(*) FROM campaigns WHERE pace_per_sec IS NOT NULL)
        + (SELECT count(*) FROM audit_log WHERE action = 'set_campaign_pace')";
    assert_eq!(app.db().value::<i64>(changed).await, 0);
}

#[tokio::test]
async fn a_draft_whose_channel_has_no_sender_says_what_it_lacks() {
    let app = App::start().await;
    let twin = Twin::make(&app, "dojo").await;
    let pace = twin.path("/campaigns/{campaign_id}/pace").unwrap();
    app.db()
        .execute("UPDATE cell.senders SET status = 'released', is_default = false")
        .await;
    let shown = app.get(&twin.key, &pace).await;
    let changed = set(&app, &twin.key, &pace, &json!({"per_sec": 2})).await;
    for answer in [shown, changed] {
        let problem = answer.problem(422, "no-sender");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("POST /api/senders"), "{detail}");
    }
    let nobody = format!("/api/campaigns/{}/pace", uuid::Uuid::now_v7());
    app.get(&twin.key, &nobody).await.problem(404, "not-found");
    let changed = "SELECT count(*) FROM campaigns WHERE pace_per_sec IS NOT NULL";
    assert_eq!(app.db().value::<i64>(changed).await, 0);
}

#[tokio::test]
async fn the_status_of_a_campaign_names_what_limits_it() {
    let app = App::start().await;
    let twin = Twin::make(&app, "dojo").await;
    let key = app.key(&twin.tenant, Role::Sender).await;
    app.db()
        .execute("UPDATE cell.tenants SET plan_segments_per_sec = 7; UPDATE cell.campaigns SET sender_id = (SELECT id FROM cell.senders s WHERE s.channel = 'sms' AND s.tenant_id = campaigns.tenant_id)")
        .await;
    let status = twin.path("/campaigns/{campaign_id}/status").unwrap();
    let shown = app.get(&key, &status).await.ok(200);
    assert_eq!(
        (&shown["allowed_per_sec"], &shown["limited_by"]),
        (&7.0.into(), &"plan".into())
    );
}
