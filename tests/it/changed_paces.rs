//! Another pace of a campaign, a sender or a tenant, set by the API while messages go out: what the provider sees of it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, Tenant, answer};
use crate::harness::eventually;
use crate::harness::ticks::{list_let_out, watch_ticks};
use crate::harness::twilio::TwilioWorld;

const DRAIN: Duration = Duration::from_secs(5);
/// How soon another pace shows where messages are let out, by the release's own instants …
const SECOND: TimeDelta = TimeDelta::seconds(1);
/// … and at the provider, with what a machine that many tests share adds to it.
const SOON: TimeDelta = TimeDelta::seconds(3);
/// How long a slow pace is watched.
const WATCHED: TimeDelta = TimeDelta::seconds(4);
const PEOPLE: u32 = 1_500;

/// A tenant that sends through the fake, and who may say how fast.
struct Office {
    it: TwilioWorld,
    app: App,
    tenant: Tenant,
    admin: String,
    operator: String,
}

impl Office {
    async fn open() -> Self {
        let it = TwilioWorld::start().await;
        watch_ticks(&it.world).await;
        let (app, tenant) = App::beside(&it.world).await;
        let admin = app.key(&tenant, Role::Admin).await;
        let operator = app.operator(&app.tenant("office").await).await;
        it.world.add_contacts(PEOPLE).await;
        Self {
            it,
            app,
            tenant,
            admin,
            operator,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        answer(self.app.with_key(&self.admin, method, path).json(body)).await
    }

    async fn operate(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = self.app.with_cookie(&self.operator, method, path);
        answer(request.json(body)).await
    }

    fn plan(&self) -> String {
        format!("/api/admin/tenants/{}/plan", self.tenant.id)
    }

    /// When the provider took what it has, in order.
    fn taken(&self) -> Vec<DateTime<Utc>> {
        let accepted = self.it.fake.ledger().accepted();
        accepted.iter().map(|one| one.accepted_at).collect()
    }

    fn taken_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> usize {
        let within = |at: &&DateTime<Utc>| (from..to).contains(*at);
        self.taken().iter().filter(within).count()
    }

    async fn until(&self, at: DateTime<Utc>) {
        let left = at - self.it.world.db.clock().now();
        tokio::time::sleep(left.to_std().unwrap_or_default()).await;
    }

    /// Slow, quick, and slow again, as `set` does it: a campaign's messages follow each time.
    async fn follows(&self, campaign: &str, set: impl AsyncFn(&str, f64)) {
        let clock = self.it.world.db.clock();
        set(campaign, 0.05).await;
        let worker = self.it.world.worker().await;
        eventually("it has begun", async || !self.taken().is_empty()).await;
        let before = self.taken().len();
        assert!(before < 5, "{before} at one in twenty seconds");

        set(campaign, 100.0).await;
        let quick = clock.now();
        eventually("it is quick", async || self.taken().len() > before + 50).await;
        let let_out = list_let_out(&self.it.world).await;
        let first = let_out.iter().find(|one| one.at > quick).unwrap();
        assert!(
            first.at - quick < SECOND,
            "{} until it is let out",
            first.at - quick
        );
        let first_fifty = self.taken()[before + 50] - quick;
        assert!(first_fifty < SOON, "50 took {first_fifty}");

        set(campaign, 1.0).await;
        let slow = clock.now();
        self.until(slow + SOON + WATCHED).await;
        let within = |at: DateTime<Utc>| (slow + SECOND..slow + SECOND + WATCHED).contains(&at);
        let let_out = list_let_out(&self.it.world).await;
        let let_out = let_out.iter().filter(|one| within(one.at)).count();
        // What went ahead at the quick pace is paid off at the slow one, so that it may be none.
        assert!(
            let_out <= 5,
            "{let_out} let out in four seconds at one a second"
        );
        let taken = self.taken_between(slow + SOON, slow + SOON + WATCHED);
        assert!(
            (1..=6).contains(&taken),
            "{taken} in four seconds at one a second"
        );
        assert!(self.taken().len() < PEOPLE as usize, "some are left");
        worker.drain(DRAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaigns_pace_shows_at_the_provider_within_a_second() {
    let office = Office::open().await;
    let campaign = office.it.world.campaign("Hello").await.to_string();
    let set = async |campaign: &str, per_sec: f64| {
        let path = format!("/api/campaigns/{campaign}/pace");
        let body = json!({ "per_sec": per_sec });
        office.ask(Method::PUT, &path, &body).await.ok(200);
    };
    office.follows(&campaign, set).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_senders_pace_shows_at_the_provider_within_a_second() {
    let office = Office::open().await;
    let campaign = office.it.world.campaign("Hello").await.to_string();
    let senders = office
        .ask(Method::GET, "/api/senders?channel=sms", &json!({}))
        .await;
    let id = senders.ok(200)["items"][0]["id"].clone();
    let path = format!("/api/senders/{}", id.as_str().unwrap());
    let set = async |_: &str, per_sec: f64| {
        let body = json!({ "segments_per_sec": per_sec });
        office.ask(Method::PATCH, &path, &body).await.ok(200);
    };
    office.follows(&campaign, set).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_pace_shows_at_the_provider_within_a_second() {
    let office = Office::open().await;
    let campaign = office.it.world.campaign("Hello").await.to_string();
    let set = async |_: &str, per_sec: f64| {
        let body = json!({ "segments_per_sec": per_sec });
        office
            .operate(Method::PUT, &office.plan(), &body)
            .await
            .ok(200);
    };
    office.follows(&campaign, set).await;
}

#[tokio::test]
async fn a_plan_is_shown_set_as_a_whole_recorded_and_refused_when_it_is_none() {
    let office = Office::open().await;
    let usual = json!({ "weight": 1 });
    let show = async || {
        office
            .operate(Method::GET, &office.plan(), &json!({}))
            .await
            .ok(200)
    };
    assert_eq!(show().await, usual);
    let paid = json!({ "segments_per_sec": 12.5, "weight": 3 });
    let set = async |body: &Value| office.operate(Method::PUT, &office.plan(), body).await;
    assert_eq!(set(&paid).await.ok(200), paid);
    assert_eq!(show().await, paid);

    for (field, wrong) in [
        ("segments_per_sec", json!({ "segments_per_sec": 0 })),
        ("segments_per_sec", json!({ "segments_per_sec": -2 })),
        ("segments_per_sec", json!({ "segments_per_sec": 1e9 })),
        ("weight", json!({ "weight": 0 })),
        ("weight", json!({ "weight": 101 })),
        ("weight", json!({ "weight": 100_000 })),
    ] {
        let problem = set(&wrong).await.problem(422, "invalid-body");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let row = "SELECT concat_ws(' ', plan_segments_per_sec, weight) FROM cell.tenants t
        JOIN control.tenant_directory d ON d.tenant_id = t.id WHERE d.slug = 'dojo'";
    assert_eq!(office.it.world.db.text(row).await, "12.5 3", "as it was");
    let recorded = "SELECT string_agg(detail::text, ' ') FROM control.platform_audit WHERE action = 'set_tenant_plan'";
    let detail: String = office.it.world.db.text(recorded).await;
    assert!(
        detail.contains("12.5") && detail.matches("before").count() == 1,
        "{detail}"
    );

    let nobody = format!("/api/admin/tenants/{}/plan", uuid::Uuid::new_v4());
    let missing = office.operate(Method::PUT, &nobody, &paid).await;
    missing.problem(404, "not-found");
    assert_eq!(set(&json!({})).await.ok(200), usual, "no limit any more");
}
