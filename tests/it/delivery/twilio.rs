//! Messages through Twilio: one request per attempt on the wire, whatever comes back.

use std::time::Duration;

use engageninja::delivery::inbox::fold::fold_events;
use engageninja::dev::fake_twilio::{
    ACCOUNT_SID, AUTH_TOKEN, Accepted, Act, CallbackWeather, Reply, SERVICE_NUMBER, Weather,
};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{AttemptId, CampaignId, MessageId, MessageKey};
use engageninja::providers::twilio::{Account, Twilio, place_of_token};
use engageninja::providers::{AccountError, LookUp, Provider, SendError, SendRequest};
use uuid::Uuid;

use crate::harness::app::App;
use crate::harness::twilio::{NUMBER, TwilioWorld, silent};
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);
const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

fn internal() -> Reply {
    Reply::Error {
        status: 500,
        code: 20500,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_reach_twilio_once_each() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(1000).await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;

    let worker = it.world.worker().await;
    let _scheduler = it.world.scheduler();
    within(60, "the campaign completes", it.world.completed(campaign)).await;
    worker.drain(DRAIN).await;

    let ledger = it.fake.ledger();
    assert_eq!(ledger.accepted_count(), 1000);
    assert_eq!(ledger.requested().len(), 1000);
    assert_eq!(ledger.doubled("m"), Vec::<String>::new());
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::HandedOver), 1000);
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(it.world.number("SELECT count(*) FROM live_calls").await, 0);
    let mapped = "SELECT count(DISTINCT provider_message_id) FROM message_provider_mappings
        WHERE provider = 'twilio' AND provider_message_id LIKE 'SM%'";
    assert_eq!(it.world.number(mapped).await, 1000);

    let one = &ledger.accepted()[0];
    assert_eq!(
        (one.from.as_deref(), one.field("Attempt")),
        (Some(NUMBER), Some("1"))
    );
    assert_eq!(one.mark("t"), Some(it.world.tenant_id.to_string()));
    assert!(
        one.status_callback
            .as_deref()
            .unwrap()
            .ends_with("#rc=5&rp=all")
    );
    // The expiry of a campaign's messages lies further off than the provider may try.
    assert_eq!(one.field("ValidityPeriod"), Some("14400"));
    let marks = format!(
        "SELECT count(*) FROM send_attempts WHERE id = '{}' AND message_id = '{}' AND state = 1",
        one.mark("a").unwrap(),
        one.mark("m").unwrap()
    );
    assert_eq!(it.world.number(&marks).await, 1);
}

impl TwilioWorld {
    async fn one_message(&self) -> CampaignId {
        self.world.add_contacts(1).await;
        self.world.campaign("Hello {{ first_name }}").await
    }

    async fn state_of_attempt(&self) -> i64 {
        let sql = "SELECT COALESCE(max(state), -1)::bigint FROM send_attempts WHERE attempt_no = 1";
        self.world.number(sql).await
    }
}

/// Of the one message: its phase and why it was dropped, its mappings, its live calls, and what it counts as.
const ROWS: &str = "SELECT concat_ws(' ', m.phase, COALESCE(m.drop_reason, '-'),
    (SELECT count(*) FROM message_provider_mappings), (SELECT count(*) FROM live_calls),
    (SELECT string_agg(word, ' ') FROM (
        SELECT word FROM campaign_deltas d, jsonb_each_text(d.counts) c (word, n) GROUP BY word HAVING sum(n::bigint) > 0
     ) counted WHERE word NOT IN ('audience', 'unexpanded', 'accepted')))
    FROM messages m";

/// The server has the request, and whatever it does then, it sees no second one.
#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_is_one_request_whatever_comes_back() {
    const DOUBT: i64 = 2;
    const ACCEPTED: i64 = 1;
    const REFUSED: i64 = 3;
    let cases = [
        (Act::FAIR, ACCEPTED),
        (Act::taken(Reply::Reset), DOUBT),
        (Act::untaken(Reply::Reset), DOUBT),
        (Act::taken(Reply::Stall), DOUBT),
        (Act::taken(internal()), DOUBT),
        (Act::untaken(internal()), DOUBT),
        (Act::taken(Reply::NoSid), DOUBT),
        (Act::taken(Reply::Html { status: 201 }), DOUBT),
        (Act::taken(Reply::Html { status: 200 }), DOUBT),
        (Act::taken(Reply::Html { status: 503 }), DOUBT),
        (Act::taken(Reply::Redirect), DOUBT),
        (Act::taken(Reply::Endless), DOUBT),
        (
            Act::untaken(Reply::Error {
                status: 400,
                code: 21211,
            }),
            REFUSED,
        ),
    ];
    for (act, state) in cases {
        let mut it = TwilioWorld::start().await;
        // A tenth of the real waits; the stall ends by the call's own.
        it.world.holds.call /= 10;
        it.fake.script([act.clone()]);
        it.one_message().await;
        let worker = it.world.worker().await;
        eventually("the attempt has an outcome", || async {
            it.state_of_attempt().await > 0
        })
        .await;
        worker.drain(DRAIN).await;

        assert_eq!(it.state_of_attempt().await, state, "{act:?}");
        let rows = match state {
            ACCEPTED => "4 - 1 0 handed_over",
            REFUSED => "6 refused 0 0 dropped_refused",
            _ => "3 - 0 1 in_doubt",
        };
        assert_eq!(it.world.db.text(ROWS).await, rows, "{act:?}");
        assert_eq!(it.fake.ledger().requested().len(), 1, "{act:?}");
        assert_eq!(
            it.fake.ledger().accepted_count(),
            usize::from(act.takes),
            "{act:?}"
        );
    }
}

/// Somebody else has the job by now, and the handler is stopped for it. What came of the call is true all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_call_stands_though_its_job_was_taken_away_meanwhile() {
    let mut it = TwilioWorld::start().await;
    it.world.holds.lease = Duration::from_millis(900);
    it.fake.set_weather(Weather {
        before_ms: (4_000, 4_000),
        ..silent()
    });
    it.one_message().await;
    let worker = it.world.worker().await;
    eventually("the call is under way", || async {
        it.fake.ledger().requested().len() == 1
    })
    .await;
    it.world
        .db
        .execute("UPDATE cell.jobs SET lease = lease + 1, lease_until = app_now() + interval '20 seconds' WHERE queue = 'send'")
        .await;
    eventually("the outcome is stored", || async {
        it.world.db.text(ROWS).await == "4 - 1 0 handed_over"
    })
    .await;
    let jobs = "SELECT count(*) FROM jobs WHERE queue = 'send'";
    assert_eq!(it.world.number(jobs).await, 1, "it is not ours to complete");
    assert_eq!(it.state_of_attempt().await, 1);

    it.world.db.advance(Duration::from_secs(30)).await;
    eventually("whoever has the job finds nothing to do", || async {
        it.world.number(jobs).await == 0
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(it.fake.ledger().requested().len(), 1);
}

/// The provider's clock is a minute ahead of ours, or the request lay in a socket for so long.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_finds_what_the_provider_dates_a_minute_after_the_deadline() {
    let it = TwilioWorld::start().await;
    it.fake.script([Act::taken(internal())]);
    it.one_message().await;
    let worker = it.world.worker().await;
    eventually("the attempt is in doubt", || async {
        it.state_of_attempt().await == 2
    })
    .await;
    worker.drain(DRAIN).await;
    it.fake.ledger().redate(chrono::TimeDelta::seconds(80));
    it.world.settle().await;
    assert_eq!(
        it.world.db.text(ROWS).await,
        "4 - 1 0 delivered handed_over"
    );
    let found = "SELECT count(*) FROM send_attempts WHERE state = 1 AND resolved_by = 'look_up'";
    assert_eq!(it.world.number(found).await, 1);
}

/// Found after it has arrived, or failed: that is counted, though no callback will ever say so.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_message_that_a_look_up_finds_is_counted() {
    for (undelivered, end, word) in [
        (0, "delivered", CountWord::Delivered),
        (1_000, "undelivered", CountWord::Failed),
    ] {
        let it = TwilioWorld::start().await;
        let mut weather = silent();
        weather.callbacks.undelivered = undelivered;
        it.fake.set_weather(weather);
        it.fake.script([Act::taken(internal())]);
        let campaign = it.one_message().await;
        let worker = it.world.worker().await;
        eventually("it is in doubt, and has ended", || async {
            let ended = |one: &Accepted| one.status == end;
            it.state_of_attempt().await == 2 && it.fake.ledger().accepted().iter().any(ended)
        })
        .await;
        worker.drain(DRAIN).await;
        it.world.settle().await;
        let counted = it.world.counted(campaign).await;
        counted.assert_equal();
        assert_eq!(counted.counts.get(word), 1, "{:?}", counted.counts);
        assert_eq!(counted.counts.get(CountWord::HandedOver), 1);
    }
}

/// The service chooses the number, so that ours is not named; it says one word more than a number does.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_with_a_service_leaves_the_number_to_it_and_hears_every_word() {
    let mut it = TwilioWorld::start().await;
    let app = App::called_back(&it.world).await;
    it.world.providers.public_url = Some(app.origin());
    it.fake.set_weather(Weather {
        callbacks: CallbackWeather {
            is_held: true,
            ..CallbackWeather::default()
        },
        ..Weather::default()
    });
    it.send_by_service(SERVICE).await;
    let campaign = it.one_message().await;
    let worker = it.world.worker().await;
    eventually("it is handed over", || async {
        it.world.through(campaign).await == 1
    })
    .await;
    within(20, "the callbacks", it.fake.callbacks_done()).await;
    worker.drain(DRAIN).await;

    let one = &it.fake.ledger().accepted()[0];
    assert_eq!(
        (one.field("MessagingServiceSid"), one.field("From")),
        (Some(SERVICE), None)
    );
    let believed = "SELECT concat_ws(' ', status, status_rank) FROM messages";
    let mut words = vec![it.world.db.text(believed).await];
    for callback in it.fake.take_held() {
        assert_eq!(it.fake.post(vec![callback], 0).await, [Some(204)]);
        while fold_events(&it.world.db.db()).await.unwrap() > 0 {}
        words.push(it.world.db.text(believed).await);
    }
    assert_eq!(
        words,
        ["accepted 10", "queued 20", "sent 40", "delivered 70"]
    );
    let counted = it.world.counted(campaign).await;
    counted.assert_equal();
    assert_eq!(counted.counts.get(CountWord::HandedOver), 1);
    assert_eq!(counted.counts.get(CountWord::Delivered), 1);
}

/// Whom it comes from says nothing: a service has chosen another number than the sender's, or none yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_finds_what_a_service_sends_from_whatever_number() {
    const HOUR_MS: u64 = 3_600_000;
    for (step_ms, status, from, rows) in [
        (
            (0, 5),
            "delivered",
            Some(SERVICE_NUMBER),
            "4 - 1 0 delivered handed_over",
        ),
        ((HOUR_MS, HOUR_MS), "accepted", None, "4 - 1 0 handed_over"),
    ] {
        let it = TwilioWorld::start().await;
        let mut weather = silent();
        weather.callbacks.step_ms = step_ms;
        it.fake.set_weather(weather);
        it.send_by_service(SERVICE).await;
        it.fake.script([Act::taken(internal())]);
        it.one_message().await;
        let worker = it.world.worker().await;
        eventually("it is in doubt, and as far as it comes", || async {
            let is_there = |one: &Accepted| one.status == status;
            it.state_of_attempt().await == 2 && it.fake.ledger().accepted().iter().any(is_there)
        })
        .await;
        worker.drain(DRAIN).await;
        assert_eq!(it.fake.ledger().accepted()[0].from.as_deref(), from);

        it.world.settle().await;
        assert_eq!(it.world.db.text(ROWS).await, rows);
        let found =
            "SELECT count(*) FROM send_attempts WHERE state = 1 AND resolved_by = 'look_up'";
        assert_eq!(it.world.number(found).await, 1);
        assert_eq!(it.fake.ledger().requested().len(), 1);
    }
}

/// The carrier's opt-out counts here too: nobody asks for that address again.
#[tokio::test(flavor = "multi_thread")]
async fn who_opted_out_at_twilio_is_suppressed_here() {
    let it = TwilioWorld::start().await;
    it.world.add_contact("Ann", "+15005550004").await;
    it.world.add_contact("Bob", "+12055550100").await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;
    let worker = it.world.worker().await;
    eventually("both are through", || async {
        it.world.through(campaign).await == 2
    })
    .await;
    let suppressed =
        "SELECT count(*) FROM suppressions WHERE reason = 'provider' AND source = '21610'";
    assert_eq!(it.world.number(suppressed).await, 1);
    let refused = "SELECT count(*) FROM messages WHERE phase = 6 AND drop_reason = 'refused' AND error_code = '21610'";
    assert_eq!(it.world.number(refused).await, 1);

    let next = it.world.campaign("Hello again, {{ first_name }}").await;
    eventually("the other one is through", || async {
        it.world.through(next).await == 1
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(
        it.fake.ledger().requested().len(),
        3,
        "Ann was asked for once"
    );
}

/// Suspended in mid-campaign: the sender rests, nobody is dropped, and all goes on when the account may send again.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_suspended_in_mid_campaign_halts_its_sender_and_loses_nothing() {
    const PEOPLE: i64 = 400;
    let it = TwilioWorld::start().await;
    it.fake.set_weather(Weather {
        before_ms: (10, 30),
        ..silent()
    });
    it.world.add_contacts(PEOPLE as u32).await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;
    let worker = it.world.worker().await;
    eventually("it is on its way", || async {
        it.fake.ledger().accepted_count() >= 20
    })
    .await;
    it.fake.suspend(ACCOUNT_SID);
    let halted = "SELECT count(*) FROM halts WHERE code = '20005'";
    eventually("the sender is halted", || async {
        it.world.number(halted).await == 1
    })
    .await;
    eventually("the rest waits", || async {
        let taken = it.fake.ledger().accepted_count() as i64;
        assert!(taken < PEOPLE, "all went before the suspension");
        let counts = it.world.counts(campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        counts.get(CountWord::Queued) == PEOPLE - taken
            && counts.get(CountWord::HandedOver) == taken
    })
    .await;
    let dropped = "SELECT count(*) FROM messages WHERE phase = 6";
    assert_eq!(it.world.number(dropped).await, 0);

    it.fake.add_account(ACCOUNT_SID, AUTH_TOKEN);
    it.world.db.advance(it.world.holds.halt).await;
    eventually("all are handed over", || async {
        it.world.counts(campaign).await.get(CountWord::HandedOver) == PEOPLE
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(it.fake.ledger().doubled("m"), Vec::<String>::new());
    assert_eq!(it.fake.ledger().accepted_count() as i64, PEOPLE);
}

/// Its token was changed at the provider and not here.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_refused_halts_its_sender_and_loses_nothing() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(50).await;
    it.save_with_wrong_token().await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;
    let worker = it.world.worker().await;
    eventually("the sender is halted", || async {
        it.world
            .number("SELECT count(*) FROM halts WHERE code = '20003'")
            .await
            == 1
    })
    .await;
    eventually("all wait", || async {
        it.world.counts(campaign).await.get(CountWord::Queued) == 50
    })
    .await;
    let seen = it.fake.ledger().requested().len();
    assert!(seen <= 50, "{seen}");
    assert_eq!(it.fake.ledger().accepted_count(), 0);

    it.save_account(it.world.tenant_id, AUTH_TOKEN).await;
    it.world.db.advance(it.world.holds.halt).await;
    eventually("all are handed over", || async {
        it.world.counts(campaign).await.get(CountWord::HandedOver) == 50
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(it.fake.ledger().doubled("m"), Vec::<String>::new());
}

impl TwilioWorld {
    async fn save_with_wrong_token(&self) {
        self.save_account(self.world.tenant_id, "wrong").await;
    }

    /// The provider by itself, with the account's token or another.
    pub fn provider(&self, auth_token: &str) -> Box<dyn Provider> {
        let settings = self.world.providers.clone();
        let (tenant_id, credentials_id) = (self.world.tenant_id, Uuid::now_v7());
        let place = place_of_token(tenant_id, credentials_id);
        let token = auth_token.to_owned().into();
        let account = Account {
            tenant_id,
            credentials_id,
            account_sid: ACCOUNT_SID.into(),
            auth_token: engageninja::crypto::sealed::seal(&settings.keys, place, &token).unwrap(),
        };
        Box::new(Twilio::new(settings, &self.world.holds).sms(account))
    }

    /// What is asked of it.
    pub fn request(&self, to: &str, body: &str) -> SendRequest {
        SendRequest {
            key: MessageKey {
                tenant_id: self.world.tenant_id,
                id: MessageId(Uuid::now_v7()),
            },
            attempt_id: AttemptId(Uuid::new_v4()),
            attempt_no: 1,
            channel: engageninja::domain::channel::Channel::Sms,
            from: NUMBER.into(),
            messaging_service_sid: None,
            validity: Duration::from_secs(5),
            to: to.into(),
            subject: None,
            body: body.into(),
            html: None,
        }
    }

    fn question(&self, request: &SendRequest) -> LookUp {
        let now = self.world.db.clock().now();
        LookUp {
            key: request.key,
            attempt_id: request.attempt_id,
            channel: request.channel,
            from: request.from.clone(),
            to: request.to.clone(),
            body: request.body.clone(),
            since: now - chrono::TimeDelta::minutes(5),
            until: now + chrono::TimeDelta::minutes(5),
        }
    }
}

#[tokio::test]
async fn the_list_of_an_account_reaches_back_to_an_instant_over_pages() {
    let it = TwilioWorld::start().await;
    let provider = it.provider(AUTH_TOKEN);
    let old = it.request("+12055550100", "Old");
    provider.send(&old).await.unwrap();
    it.world.db.advance(Duration::from_hours(1)).await;
    // Twilio tells whole seconds.
    let since = it.world.db.clock().now() - chrono::TimeDelta::seconds(1);
    for n in 0..1001 {
        let one = it.request(&format!("+1205556{n:04}"), "Hello & welcome");
        provider.send(&one).await.unwrap();
    }

    let listing = provider.list_sent(since).await.unwrap();
    assert!(listing.is_complete);
    assert_eq!(listing.messages.len(), 1001);
    let first = listing.messages.last().unwrap();
    assert_eq!(
        (first.from.as_str(), first.to.as_str(), first.body.as_str()),
        (NUMBER, "+12055560000", "Hello & welcome")
    );
    let all = provider.list_sent(since - chrono::TimeDelta::hours(2));
    assert_eq!(all.await.unwrap().messages.len(), 1002);
    let stranger = it.provider("wrong");
    assert!(matches!(
        stranger.list_sent(since).await,
        Err(AccountError::Refused(_))
    ));
}

#[tokio::test]
async fn what_nobody_answered_for_is_found_in_the_list() {
    let it = TwilioWorld::start().await;
    let provider = it.provider(AUTH_TOKEN);
    let to = "+12055550100";
    it.fake.script([Act::taken(internal())]);
    let lost = it.request(to, "Hello & welcome");
    assert!(matches!(
        provider.send(&lost).await,
        Err(SendError::Uncertain { .. })
    ));
    let other = it.request(to, "Good-bye");
    let known = provider.send(&other).await.unwrap();
    provider
        .send(&it.request("+12055550101", "Hello & welcome"))
        .await
        .unwrap();

    let found = provider.look_up(&it.question(&lost)).await.unwrap();

    assert!(found.is_complete);
    let same: Vec<bool> = found
        .candidates
        .iter()
        .map(|one| one.has_same_text)
        .collect();
    assert_eq!(same, [true, false]);
    assert_eq!(
        found.candidates[1].provider_message_id,
        known.provider_message_id
    );
    assert_eq!(
        it.fake.ledger().accepted()[0].field("ValidityPeriod"),
        Some("60")
    );

    it.fake.set_weather(Weather {
        listing_lag_ms: 60_000,
        ..silent()
    });
    let lagging = provider.look_up(&it.question(&lost)).await.unwrap();
    assert!(lagging.candidates.is_empty() && lagging.is_complete);

    it.fake.refuse_lists([503]);
    let away = provider.look_up(&it.question(&lost)).await;
    assert!(
        matches!(away, Err(AccountError::Unreachable(_))),
        "{away:?}"
    );
    let stranger = it.provider("wrong").look_up(&it.question(&lost)).await;
    assert_eq!(stranger, Err(AccountError::Refused("20003".into())));
}

#[tokio::test]
async fn an_account_is_verified_or_says_why_not() {
    let it = TwilioWorld::start().await;
    let provider = it.provider(AUTH_TOKEN);
    provider.verify(ACCOUNT_SID).await.unwrap();
    let wrong = it.provider("wrong").verify(ACCOUNT_SID).await;
    assert_eq!(wrong, Err(AccountError::Refused("20003".into())));

    it.fake.suspend(ACCOUNT_SID);
    assert!(matches!(
        provider.verify(ACCOUNT_SID).await,
        Err(AccountError::Refused(_))
    ));
    let refused = provider.send(&it.request("+12055550100", "Hello")).await;
    assert_eq!(
        refused,
        Err(SendError::Account {
            code: "20005".into()
        })
    );
}

#[tokio::test]
async fn nothing_is_listening_and_no_byte_has_left_us() {
    let mut it = TwilioWorld::start().await;
    it.world.providers.twilio_api_url = "http://127.0.0.1:9".parse().unwrap();
    let sent = it
        .provider(AUTH_TOKEN)
        .send(&it.request("+12055550100", "Hello"))
        .await;
    assert!(
        matches!(sent, Err(SendError::Unavailable { .. })),
        "{sent:?}"
    );

    it.world.providers.public_url = None;
    let sent = it
        .provider(AUTH_TOKEN)
        .send(&it.request("+12055550100", "Hello"))
        .await;
    let code = "no_public_url".into();
    assert_eq!(sent, Err(SendError::Account { code }));
}
