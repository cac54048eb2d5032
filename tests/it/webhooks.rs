//! What Twilio tells us: signed, stored once, and merged in any order and any number of repeats.

mod spoiled;

use std::time::Duration;

use engageninja::dev::fake_twilio::{
    ACCOUNT_SID, AUTH_TOKEN, Accepted, Act, Callback, CallbackWeather, Reply, Weather,
};
use engageninja::domain::counts::{CountWord, Counts};
use engageninja::domain::ids::CampaignId;
use metrics_exporter_prometheus::PrometheusBuilder;
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

    /// Twilio says of a message what became of it.
    async fn tell(&self, message: &Accepted, status: &str, code: &str) {
        let address = message.status_callback.clone().unwrap();
        let fields = with_field(form(message, status, ACCOUNT_SID), "ErrorCode", code);
        let callback = Callback::new(&address, fields, AUTH_TOKEN);
        let (status, text) = self.post(&callback).await;
        assert_eq!(status, 204, "{text}");
    }

    async fn number(&self, sql: &str) -> i64 {
        self.it.world.number(sql).await
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
    let once = "SELECT count(*) FROM provider_events
        WHERE body ->> 'To' = (SELECT m.phone_number FROM messages m WHERE m.id = message_id)
          AND NOT body ?| ARRAY['MessageSid', 'SmsSid', 'AccountSid', 'MessageStatus', 'SmsStatus']";
    assert_eq!(
        number(once).await,
        100,
        "what columns hold is not said again"
    );
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
        ("From", message.from.as_deref().unwrap_or_default()),
        ("To", &message.to),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

fn with_field(mut form: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    form.retain(|(key, _)| key != name);
    form.push((name.to_owned(), value.to_owned()));
    form
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
    let counts = office.it.world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    for word in [CountWord::Delivered, CountWord::Failed] {
        assert_eq!(counts.get(word), 0, "{word:?}");
    }
    let harm = "SELECT (SELECT count(*) FROM halts) + (SELECT count(*) FROM suppressions)";
    assert_eq!(office.it.world.number(harm).await, 0);
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

/// Two tenants on one account: the signature fits, and the message is not the tenant's. It comes before the right one, once
/// where that is merged at once and once where it is stored only.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_of_the_account_in_the_address_moves_nobody_and_hides_nothing() {
    let office = Office::open(held()).await;
    let other = office.it.another("second", "+12025550107").await;
    let campaign = office.send(100).await;
    let right = office.it.fake.take_held();
    let misled: Vec<Callback> = office
        .it
        .fake
        .ledger()
        .accepted()
        .iter()
        .flat_map(|one| {
            let address = one.status_callback.clone().unwrap();
            let wrong = with_mark(&address, "t", &other.tenant_id.to_string());
            ["sent", "delivered"]
                .map(|word| Callback::new(&wrong, form(one, word, ACCOUNT_SID), AUTH_TOKEN))
        })
        .collect();
    let (before, ..) = office.believed(campaign).await;
    for callback in misled.iter().take(3) {
        assert_eq!(office.post(callback).await.0, 204);
    }
    let statuses = office.it.fake.post(misled, 3).await;
    assert!(statuses.iter().all(|status| *status == Some(204)));
    office.folded().await;
    assert_eq!(office.believed(campaign).await.0, before);
    let of_other = "SELECT count(*) FROM messages m JOIN control.tenant_directory d ON d.tenant_id = m.tenant_id WHERE d.slug = 'second'";
    assert_eq!(office.it.world.number(of_other).await, 0);
    let waiting = "SELECT count(*) FROM provider_events WHERE folded_at IS NULL AND tries > 0";
    assert_eq!(
        office.it.world.number(waiting).await,
        200,
        "kept, should its attempt come to be known"
    );

    let statuses = office.it.fake.post(right, 5).await;
    assert!(statuses.iter().all(|status| *status == Some(204)));
    office.folded().await;
    let counts = office.it.world.counts(campaign).await;
    let told = counts.get(CountWord::Delivered) + counts.get(CountWord::Failed);
    assert_eq!(told, 100, "{counts:?}");
    let all = "SELECT count(*) FROM provider_events";
    assert_eq!(
        office.it.world.number(all).await,
        400,
        "each is in the inbox, for the timeline"
    );
}

/// A person is about to decide, and the provider's word arrives before, or meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_evidence_has_overtaken_is_refused_and_sends_nothing() {
    const PEOPLE: u32 = 12;
    let office = Office::open(held()).await;
    let world = &office.it.world;
    world
        .db
        .execute("UPDATE cell.tenants SET on_unresolved = 'park', on_not_sent = 'park'")
        .await;
    // Taken, whatever was answered; the list does not have them yet.
    let lie = Act::taken(Reply::Error {
        status: 500,
        code: 20500,
    });
    office.it.fake.script((0..PEOPLE).map(|_| lie.clone()));
    let campaign = office.send(PEOPLE).await;
    office.it.fake.set_weather(Weather {
        callbacks: held(),
        listing_lag_ms: 10 * 86_400_000,
        ..Weather::default()
    });
    world.settle().await;
    let counts = world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Parked), i64::from(PEOPLE));

    let tenant = crate::harness::app::Tenant {
        id: world.tenant_id,
        slug: "dojo".to_owned(),
    };
    let key = office
        .app
        .key(&tenant, engageninja::domain::actor::Role::Sender)
        .await;
    let decide = async |callback: &Callback| {
        let id = mark_of(callback, "m");
        let body = serde_json::json!({"decision": "send_again", "reason": "nobody answers"});
        let path = format!("/api/messages/{id}/decide");
        office.app.post(&key, &path, &body).await
    };
    let sent: Vec<Callback> = office
        .it
        .fake
        .take_held()
        .into_iter()
        .filter(|callback| callback.form.iter().any(|(_, value)| value == "sent"))
        .collect();
    assert_eq!(sent.len(), PEOPLE as usize);

    assert_eq!(office.post(&sent[0]).await.0, 204);
    let late = decide(&sent[0]).await.problem(409, "message-not-parked");
    assert!(
        late["detail"].as_str().unwrap().contains("handed_over"),
        "{late}"
    );
    let (mut again, mut refused) = (0, vec![mark_of(&sent[0], "m")]);
    for callback in &sent[1..] {
        let (status, decided) = tokio::join!(office.post(callback), decide(callback));
        assert_eq!(status.0, 204);
        if decided.status == 200 {
            again += 1;
        } else {
            decided.problem(409, "message-not-parked");
            refused.push(mark_of(callback, "m"));
        }
    }
    office.folded().await;
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(counts.get(CountWord::Parked), 0);
    assert_eq!(counts.get(CountWord::HandedOver), i64::from(PEOPLE));
    let called = office.it.fake.ledger().requested();
    for id in refused {
        let calls = called
            .iter()
            .filter(|one| one.mark("m").as_ref() == Some(&id));
        assert_eq!(calls.count(), 1, "{id} was sent again");
    }
    let decisions = "SELECT count(*) FROM audit_log WHERE action = 'decide_message'";
    assert_eq!(
        world.number(decisions).await,
        again,
        "only what had its effect"
    );
    // Whom nobody decided on has one attempt, and it was accepted.
    let settled = "SELECT count(*) FROM send_attempts WHERE state = 1 AND attempt_no = 1";
    assert_eq!(world.number(settled).await, i64::from(PEOPLE));
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
}

fn mark_of(callback: &Callback, name: &str) -> String {
    let url: url::Url = callback.url.parse().unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.unwrap().1.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_same_is_once() {
    let office = Office::open(CallbackWeather {
        undelivered: 0,
        ..held()
    })
    .await;
    let campaign = office.send(1).await;
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
    let (messages, ..) = office.believed(campaign).await;
    assert_eq!(messages, ["+12055550000 4 delivered 70 f"]);
    let counted = office.it.world.counted(campaign).await;
    counted.assert_equal();
    for (word, people) in [
        (CountWord::HandedOver, 1),
        (CountWord::Delivered, 1),
        (CountWord::Failed, 0),
    ] {
        assert_eq!(counted.counts.get(word), people, "{word:?}");
    }
}

/// The address names one message, and a list gave the provider's to another with the same words: that one it is about. A
/// message of another tenant it is never about.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_message_found_in_a_list_counts_for_whom_it_was_given() {
    let office = Office::open(held()).await;
    let other = office.it.another("second", "+12025550107").await;
    office.send(2).await;
    other.add_contacts(1).await;
    other.campaign("Hello").await;
    let worker = office.it.world.worker().await;
    let sent = "SELECT count(*) FROM messages WHERE phase = 4";
    eventually("the other tenant's is sent", || async {
        office.number(sent).await == 3
    })
    .await;
    worker.drain(DRAIN).await;
    let forgotten = "UPDATE cell.send_attempts SET resolved_by = 'reconciliation'";
    office.it.world.db.execute(forgotten).await;

    let accepted = office.it.fake.ledger().accepted();
    let told = |address_of: &Accepted| {
        let address = address_of.status_callback.clone().unwrap();
        let address = with_mark(&address, "a", &Uuid::new_v4().to_string());
        let fields = form(&accepted[1], "delivered", ACCOUNT_SID);
        Callback::new(&address, fields, AUTH_TOKEN)
    };
    let delivered =
        "SELECT COALESCE(string_agg(id::text, ' '), '') FROM messages WHERE status = 'delivered'";

    assert_eq!(office.post(&told(&accepted[2])).await.0, 204);
    office.folded().await;
    assert_eq!(office.it.world.db.text(delivered).await, "");

    assert_eq!(office.post(&told(&accepted[0])).await.0, 204);
    office.folded().await;
    let found = office.it.world.db.text(delivered).await;
    assert_eq!(found, accepted[1].mark("m").unwrap());
    let unfolded = "SELECT count(*) FROM provider_events WHERE folded_at IS NULL AND tries > 0";
    assert_eq!(office.number(unfolded).await, 1);
}

/// Told by callback, an opt-out counts as much as one that is answered: on the channel it was told of, and for all to come.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_said_to_have_opted_out_is_suppressed() {
    let office = Office::open(held()).await;
    office.send(4).await;
    let world = &office.it.world;
    let accepted = office.it.fake.ledger().accepted();
    let [opted_out, unreachable, reached, blocked] = &accepted[..] else {
        panic!("{accepted:?}");
    };
    let by_whatsapp = format!(
        "UPDATE cell.messages SET channel = 'whatsapp' WHERE phone_number = '{}'",
        blocked.to
    );
    world.db.execute(&by_whatsapp).await;

    office.tell(opted_out, "undelivered", "21610").await;
    office.tell(unreachable, "undelivered", "30003").await;
    office.tell(reached, "delivered", "").await;
    office.tell(reached, "undelivered", "21610").await;
    office.tell(blocked, "failed", "63014").await;
    office.folded().await;

    let suppressed = "SELECT string_agg(concat_ws(' ', s.channel, s.reason, s.source, m.phone_number), ', ' ORDER BY s.channel)
        FROM suppressions s JOIN messages m ON m.tenant_id = s.tenant_id AND m.dest_mac = s.dest_mac";
    assert_eq!(
        world.db.text(suppressed).await,
        format!(
            "sms provider 21610 {}, whatsapp provider 63014 {}",
            opted_out.to, blocked.to
        )
    );
    let next = world.campaign("Hello again").await;
    let worker = world.worker().await;
    eventually("the others are through", || async {
        world.through(next).await == 3
    })
    .await;
    worker.drain(DRAIN).await;
    let asked = office.it.fake.ledger().requested();
    assert_eq!(asked.len(), 7);
    let again = office.it.fake.ledger().accepted();
    let to_whom_opted_out = again.iter().filter(|one| one.to == opted_out.to);
    assert_eq!(to_whom_opted_out.count(), 1);
}

/// On one thread, whose metrics are this test's own.
#[tokio::test]
async fn refused_callbacks_are_counted_by_channel_and_reason() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let office = Office::open(held()).await;
    let nobody = Uuid::new_v4();
    let address = format!(
        "{}/api/webhooks/twilio/sms?t={}&m={nobody}&a={nobody}",
        office.app.origin(),
        office.it.world.tenant_id
    );
    let stranger = "AC00000000000000000000000000000002";
    for (account_sid, token) in [(ACCOUNT_SID, "another"), (stranger, AUTH_TOKEN)] {
        let fields = [
            ("MessageSid", "SM0123456789abcdef0123456789abcdef"),
            ("AccountSid", account_sid),
            ("MessageStatus", "sent"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let callback = Callback::new(&address, fields.to_vec(), token);
        assert_eq!(office.post(&callback).await.0, 403);
    }
    let shown = recorder.handle().render();
    for reason in ["wrong_signature", "foreign_account"] {
        let line =
            format!("engageninja_callbacks_refused_total{{channel=\"sms\",reason=\"{reason}\"}} 1");
        assert!(shown.contains(&line), "{shown}");
    }
}
