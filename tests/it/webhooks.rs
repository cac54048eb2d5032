//! What Twilio tells us: signed, stored once, and merged in any order and any number of repeats.

use std::time::Duration;

use engageninja::dev::fake_twilio::{
    ACCOUNT_SID, AUTH_TOKEN, Accepted, Act, Callback, CallbackWeather, Reply, Weather,
};
use engageninja::domain::counts::{CountWord, Counts};
use engageninja::domain::ids::CampaignId;
use reqwest::Method;
use sqlx::Row;
use uuid::Uuid;

use crate::harness::app::{App, answer};
use crate::harness::twilio::TwilioWorld;
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_hours(24);

/// A tenant that sends through the fake, and the API that the fake calls back.
struct Office {
    it: TwilioWorld,
    app: App,
}

impl Office {
    async fn open(weather: CallbackWeather) -> Self {
        let mut it = TwilioWorld::start().await;
        let app = App::called_back(&it.world).await;
        it.world.providers.public_url = Some(app.origin());
        it.fake.set_weather(Weather {
            callbacks: weather,
            ..Weather::default()
        });
        Self { it, app }
    }

    /// Sends to `count` people until Twilio has a message for each.
    async fn send(&self, count: u32) -> CampaignId {
        let world = &self.it.world;
        world.add_contacts(count).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let worker = world.worker().await;
        eventually("Twilio has them all", || async {
            self.it.fake.ledger().accepted_count() == count as usize
                && world
                    .number("SELECT count(*) FROM messages WHERE phase < 3")
                    .await
                    == 0
        })
        .await;
        within(60, "the callbacks", self.it.fake.callbacks_done()).await;
        worker.drain(DRAIN).await;
        campaign
    }

    /// Waits until nothing is left to fold.
    async fn folded(&self) {
        let worker = self.it.world.worker().await;
        let _scheduler = self.it.world.scheduler();
        let left = "SELECT count(*) FROM provider_events WHERE folded_at IS NULL AND tries = 0";
        eventually("all is folded", || async {
            self.it.world.number(left).await == 0
        })
        .await;
        worker.drain(DRAIN).await;
    }

    async fn post(&self, callback: &Callback) -> (u16, String) {
        let path = callback.url.strip_prefix(&self.app.origin()).unwrap();
        let request = self
            .app
            .request(Method::POST, path)
            .header("X-Twilio-Signature", &callback.signature)
            .form(&callback.form);
        let got = answer(request).await;
        (got.status.as_u16(), got.text)
    }

    /// What the product believes of every message, by its recipient, and what it heard of each.
    async fn believed(&self, campaign: CampaignId) -> (Vec<String>, Vec<String>, Counts) {
        let text = |rows: Vec<sqlx::postgres::PgRow>| rows.iter().map(|row| row.get(0)).collect();
        let messages = "SELECT concat_ws(' ', phone_number, phase, status, status_rank, status_conflict, error_code)
            FROM messages ORDER BY phone_number";
        let lines = "SELECT DISTINCT concat_ws(' ', m.phone_number, e.status, e.body ->> 'ErrorCode')
            FROM provider_events e JOIN messages m ON m.tenant_id = e.tenant_id AND m.id = e.message_id
            WHERE e.folded_at IS NOT NULL AND e.attempt_id IN (SELECT a.id FROM send_attempts a)
            ORDER BY 1";
        let world = &self.it.world;
        (
            text(world.rows(messages).await),
            text(world.rows(lines).await),
            world.counts(campaign).await,
        )
    }
}

fn held() -> CallbackWeather {
    CallbackWeather {
        is_held: true,
        undelivered: 300,
        ..CallbackWeather::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_twilio_says_reaches_messages_and_counts() {
    let office = Office::open(CallbackWeather {
        copies: 2,
        ..CallbackWeather::default()
    })
    .await;
    let campaign = office.send(50).await;
    office.folded().await;

    let counts = office.it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Delivered), 50);
    assert_eq!(counts.get(CountWord::HandedOver), 50);
    let number = |sql: &'static str| office.it.world.number(sql);
    assert_eq!(number("SELECT count(*) FROM provider_events").await, 100);
    let folded = "SELECT count(*) FROM provider_events WHERE folded_at IS NOT NULL";
    assert_eq!(number(folded).await, 100);
    assert_eq!(
        number("SELECT count(*) FROM messages WHERE status = 'delivered'").await,
        50
    );
}

/// Each three times, shuffled, some of them before we know that the message was taken, some a day later.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_callbacks_gives_the_rows_of_the_ordered_run() {
    const PEOPLE: u32 = 60;
    let calm = Office::open(held()).await;
    let ordered = calm.send(PEOPLE).await;
    for callback in calm.it.fake.take_held() {
        assert_eq!(calm.post(&callback).await.0, 204);
    }
    calm.folded().await;

    let storm = Office::open(held()).await;
    let lie = Act::taken(Reply::Error {
        status: 500,
        code: 20500,
    });
    storm.it.fake.script((0..PEOPLE / 5).map(|_| lie.clone()));
    let shuffled = storm.send(PEOPLE).await;
    let in_doubt = storm
        .it
        .world
        .counts(shuffled)
        .await
        .get(CountWord::InDoubt);
    assert_eq!(in_doubt, i64::from(PEOPLE / 5));
    let seed = rand::random();
    let mut thrice = storm.it.fake.take_held();
    let all = thrice.len();
    thrice.extend(thrice.clone());
    let statuses = storm.it.fake.post(thrice.clone(), seed).await;
    assert!(
        statuses.iter().all(|status| *status == Some(204)),
        "{statuses:?}"
    );
    storm.folded().await;
    storm.it.world.db.advance(DAY).await;
    thrice.truncate(all);
    storm.it.fake.post(thrice, seed).await;
    storm.folded().await;

    let wanted = calm.believed(ordered).await;
    let found = storm.believed(shuffled).await;
    assert_eq!(found.0, wanted.0, "seed {seed}");
    assert_eq!(found.1, wanted.1, "seed {seed}");
    let numbers = |counts: &Counts| -> Vec<i64> {
        CountWord::ALL
            .iter()
            .map(|word| counts.get(*word))
            .collect()
    };
    assert_eq!(numbers(&found.2), numbers(&wanted.2), "seed {seed}");
    assert!(wanted.2.get(CountWord::Failed) > 0 && wanted.2.get(CountWord::Delivered) > 0);
    assert_eq!(
        storm
            .it
            .world
            .number("SELECT count(*) FROM live_calls")
            .await,
        0
    );
    let stored = storm
        .it
        .world
        .number("SELECT count(*) FROM provider_events")
        .await;
    assert_eq!(stored, 2 * all as i64, "once a day");
    let proven = "SELECT count(*) FROM send_attempts WHERE state = 1 AND resolved_by = 'callback'";
    assert_eq!(storm.it.world.number(proven).await, i64::from(PEOPLE / 5));
}

/// The form of a callback for a message that Twilio has.
fn form(message: &Accepted, status: &str, account_sid: &str) -> Vec<(String, String)> {
    [
        ("MessageSid", message.sid.as_str()),
        ("AccountSid", account_sid),
        ("MessageStatus", status),
        ("From", &message.from),
        ("To", &message.to),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

fn with_mark(address: &str, name: &str, value: &str) -> String {
    let mut url: url::Url = address.parse().unwrap();
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut query = url.query_pairs_mut();
    query.clear();
    for (key, old) in &pairs {
        query.append_pair(key, if key == name { value } else { old });
    }
    drop(query);
    url.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_its_account_did_not_sign_changes_nothing() {
    let office = Office::open(held()).await;
    let campaign = office.send(1).await;
    let message = &office.it.fake.ledger().accepted()[0];
    let address = message.status_callback.clone().unwrap();
    let stranger = "AC00000000000000000000000000000002";
    let other_tenant = office.app.tenant("other").await.id.to_string();
    let own = form(message, "delivered", ACCOUNT_SID);
    let fitting = Callback::new(&address, own.clone(), AUTH_TOKEN);

    let mut changed = fitting.clone();
    changed.form[2].1 = "undelivered".into();
    let cases = [
        (
            "another token",
            Callback::new(&address, own.clone(), "another"),
        ),
        ("a changed field", changed),
        (
            "another account",
            Callback::new(&address, form(message, "delivered", stranger), AUTH_TOKEN),
        ),
        (
            "another tenant in the address",
            Callback::new(
                &with_mark(&address, "t", &other_tenant),
                own.clone(),
                AUTH_TOKEN,
            ),
        ),
    ];
    for (what, callback) in &cases {
        let (status, text) = office.post(callback).await;
        assert_eq!(status, 403, "{what}: {text}");
        assert!(
            text.contains("urn:engageninja:problem:signature-refused"),
            "{what}: {text}"
        );
    }
    let path = fitting.url.strip_prefix(&office.app.origin()).unwrap();
    let post = || office.app.request(Method::POST, path);
    answer(post().form(&own))
        .await
        .problem(403, "signature-refused");
    let signed = || post().header("X-Twilio-Signature", &fitting.signature);
    answer(signed().json(&own))
        .await
        .problem(415, "unsupported-media-type");
    answer(signed().form(&own[1..]))
        .await
        .problem(422, "invalid-body");

    let (messages, lines, counts) = office.believed(campaign).await;
    assert!(messages[0].ends_with(" 4 queued 20 f"), "{messages:?}");
    assert!(lines.is_empty());
    assert_eq!(counts.get(CountWord::Delivered), 0);
    assert_eq!(
        office
            .it
            .world
            .number("SELECT count(*) FROM provider_events")
            .await,
        0
    );
    let told = "SELECT count(*) FROM tenant_channel_credentials_v2
        WHERE callbacks_refused_count > 0 AND callbacks_refused_reason IN ('wrong_signature', 'foreign_account')";
    assert_eq!(office.it.world.number(told).await, 1);

    assert_eq!(
        office.post(&fitting).await.0,
        204,
        "the right one is still taken"
    );
    office.folded().await;
    assert_eq!(
        office
            .it
            .world
            .counts(campaign)
            .await
            .get(CountWord::Delivered),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_nothing_of_ours_is_kept_and_does_no_harm() {
    let office = Office::open(held()).await;
    let campaign = office.send(1).await;
    let message = &office.it.fake.ledger().accepted()[0];
    let address = message.status_callback.clone().unwrap();
    let nobody = Uuid::new_v4().to_string();
    let delivered = || form(message, "delivered", ACCOUNT_SID);
    let another_message =
        Callback::new(&with_mark(&address, "m", &nobody), delivered(), AUTH_TOKEN);
    let mut failed = form(message, "failed", ACCOUNT_SID);
    failed.push(("ErrorCode".into(), "30008".into()));
    let another_attempt = Callback::new(&with_mark(&address, "a", &nobody), failed, AUTH_TOKEN);
    let new_word = form(message, "teleported", ACCOUNT_SID);
    let strange = Callback::new(&address, new_word, AUTH_TOKEN);
    for callback in [&another_message, &another_attempt, &strange] {
        assert_eq!(office.post(callback).await.0, 204);
    }
    office.folded().await;

    let (messages, ..) = office.believed(campaign).await;
    assert!(messages[0].ends_with(" 4 queued 20 f"), "{messages:?}");
    let kept = "SELECT count(*) FROM provider_events WHERE folded_at IS NULL";
    assert_eq!(
        office.it.world.number(kept).await,
        2,
        "an attempt may come to be known"
    );
    office.it.world.db.advance(DAY).await;
    let worker = office.it.world.worker().await;
    let _scheduler = office.it.world.scheduler();
    eventually("they are given up", || async {
        office.it.world.number(kept).await == 0
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(office.believed(campaign).await.0, messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_same_is_once() {
    let office = Office::open(held()).await;
    office.send(1).await;
    let callbacks = office.it.fake.take_held();
    let ten: Vec<Callback> = callbacks
        .iter()
        .cycle()
        .take(10 * callbacks.len())
        .cloned()
        .collect();

    let statuses = office.it.fake.post(ten, 7).await;
    office.folded().await;

    assert!(statuses.iter().all(|status| *status == Some(204)));
    let number = |sql: &'static str| office.it.world.number(sql);
    assert_eq!(number("SELECT count(*) FROM provider_events").await, 2);
}
