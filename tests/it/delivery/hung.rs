//! A provider account on which every call hangs: whoever sends by another one goes on.

use std::time::Duration;

use engageninja::dev::demo::ensure_demo_tenant;
use engageninja::dev::fake_twilio::{ACCOUNT_SID, AUTH_TOKEN, Weather};
use engageninja::domain::actor::Role;
use engageninja::domain::counts::CountWord;
use engageninja::jobs::worker::{Worker, WorkerOptions};
use serde_json::json;
use tokio::time::Instant;

use crate::harness::app::{App, Tenant};
use crate::harness::eventually;
use crate::harness::twilio::{TwilioWorld, silent};

/// Calls at once of the one worker.
const SLOTS: usize = 12;
/// What one account may hold of them, alone.
const SHARE: i64 = 9;
const OTHER: &str = "AC00000000000000000000000000000002";
const PEOPLE: u32 = 120;

/// The hung account is let out first, and its calls take ten seconds each: were all slots its own, the others' hundred and
/// more messages would wait for as many tens of seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_hangs_holds_its_share_of_the_slots_and_no_more() {
    let mut it = TwilioWorld::start().await;
    it.fake.add_account(OTHER, AUTH_TOKEN);
    it.fake.set_weather_of(
        ACCOUNT_SID,
        Weather {
            stalled: 1000,
            ..silent()
        },
    );
    it.world.add_contacts(PEOPLE).await;
    let options = WorkerOptions {
        concurrency: Some(SLOTS),
        ..it.world.worker_options()
    };
    let worker = Worker::start(it.world.db.db(), options).await;
    let hung_campaign = it.world.campaign("Hello").await;
    let open = format!(
        "SELECT count(*) FROM send_attempts WHERE state = 0 AND account_ref = '{ACCOUNT_SID}'"
    );
    eventually("its calls hang", || async {
        it.world.number(&open).await >= SHARE
    })
    .await;

    // Another tenant on another account, with a campaign and a single message, and the first one's email.
    let (app, tenant) = App::beside(&it.world).await;
    let key = app.key(&tenant, Role::Sender).await;
    let hung_tenant = it.world.tenant_id;
    it.world.tenant_id = ensure_demo_tenant(&it.world.db.db(), "Cafe", "cafe")
        .await
        .unwrap();
    it.save_account_of(it.world.tenant_id, OTHER, AUTH_TOKEN)
        .await;
    let sender = format!(
        "UPDATE cell.senders SET provider = 'twilio', account_ref = '{OTHER}', address = '+12025550188',
            segments_per_sec_override = 100000
         WHERE channel = 'sms' AND tenant_id = '{}'",
        it.world.tenant_id
    );
    it.world.db.execute(&sender).await;
    it.world.add_contacts(PEOPLE).await;
    let started = Instant::now();
    let campaign = it.world.campaign("Hello").await;
    let email = json!({"channel": "email", "to": "ann@example.com", "subject": "Hi", "body": "Hi", "class": "txn"});
    app.post(&key, "/api/messages", &email).await.ok(202);
    let cafe = Tenant {
        id: it.world.tenant_id,
        slug: "cafe".to_owned(),
    };
    let text = json!({"channel": "sms", "to": "+12055559999", "body": "Your table is ready", "class": "txn"});
    let cafe_key = app.key(&cafe, Role::Sender).await;
    app.post(&cafe_key, "/api/messages", &text).await.ok(202);

    // The simulated provider refuses some.
    let emailed = format!(
        "SELECT count(*) FROM messages WHERE tenant_id = '{hung_tenant}' AND channel = 'email' AND phase IN (4, 6)"
    );
    let texted = format!(
        "SELECT count(*) FROM messages WHERE tenant_id = '{}' AND campaign_id IS NULL AND phase = 4",
        cafe.id
    );
    let mut most = 0;
    loop {
        most = it.world.number(&open).await.max(most);
        let are_single_through =
            it.world.number(&emailed).await == 1 && it.world.number(&texted).await == 1;
        if are_single_through && it.world.through(campaign).await == i64::from(PEOPLE) {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "they wait for it"
        );
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(most <= SHARE, "{most} calls of the hung account at once");
    assert!(it.world.number(&open).await > 0, "it hangs still");
    worker.stop_calling();
    worker.drain(Duration::from_secs(12)).await;

    // What hung is in doubt, a call each, and the others wait.
    it.world.tenant_id = hung_tenant;
    let counts = it.world.counts(hung_campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    let called = it.fake.ledger().requested();
    let hung = called.iter().filter(|one| one.account_sid == ACCOUNT_SID);
    let hung = hung.count() as i64;
    assert_eq!(counts.get(CountWord::InDoubt), hung, "{counts:?}");
    let of_hung = |sql: &str| format!("{sql} WHERE account_ref = '{ACCOUNT_SID}'");
    let live = of_hung("SELECT count(*) FROM live_calls");
    assert_eq!(it.world.number(&live).await, hung);
    let called = of_hung("SELECT count(*) FROM send_attempts") + " AND state <> 4";
    assert_eq!(it.world.number(&called).await, hung);
}
