//! The fake Twilio: what it takes stands in its ledger, whatever it answers.

use std::time::Duration;

use engageninja::clock::Clock;
use engageninja::dev::fake_twilio::{
    ACCOUNT_SID, AUTH_TOKEN, Act, CallbackWeather, FakeTwilio, Reply, SERVICE_NUMBER, Weather,
};
use poem::listener::TcpAcceptor;
use poem::{EndpointExt, IntoResponse, Request, Route, Server, endpoint};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::program::{Started, program, run};
use crate::harness::{TempDir, within};

const FROM: &str = "+15005550006";
const TO: &str = "+12055550100";
const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

/// A client as plain as can be: what the product's own client does is not its judge.
struct Caller {
    fake: FakeTwilio,
    client: reqwest::Client,
}

impl Caller {
    async fn start() -> Self {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            fake: FakeTwilio::start(Clock::default()).await.unwrap(),
            client,
        }
    }

    fn address(&self, file: &str) -> String {
        format!(
            "{}/2010-04-01/Accounts/{ACCOUNT_SID}{file}",
            self.fake.url()
        )
    }

    async fn create(&self, form: &[(&str, &str)]) -> Result<(u16, Value), reqwest::Error> {
        let request = self
            .client
            .post(self.address("/Messages.json"))
            .basic_auth(ACCOUNT_SID, Some(AUTH_TOKEN))
            .timeout(Duration::from_secs(2))
            .form(form);
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or_default()))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = self
            .client
            .get(format!("{}{path}", self.fake.url()))
            .basic_auth(ACCOUNT_SID, Some(AUTH_TOKEN));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

fn hello(to: &str) -> [(&str, &str); 3] {
    [("To", to), ("From", FROM), ("Body", "Hello")]
}

#[tokio::test]
async fn a_message_is_made_shown_and_listed() {
    let caller = Caller::start().await;
    let (status, made) = caller.create(&hello(TO)).await.unwrap();
    assert_eq!((status, &made["status"]), (201, &json!("queued")));
    let sid = made["sid"].as_str().unwrap();
    assert_eq!(sid.len(), 34);

    let base = format!("/2010-04-01/Accounts/{ACCOUNT_SID}");
    let (status, shown) = caller.get(&format!("{base}/Messages/{sid}.json")).await;
    assert_eq!((status, &shown["body"]), (200, &json!("Hello")));
    let (status, missing) = caller.get(&format!("{base}/Messages/SM0.json")).await;
    assert_eq!((status, &missing["code"]), (404, &json!(20404)));
    let (_, account) = caller.get(&format!("{base}.json")).await;
    assert_eq!(account["status"], "active");

    for _ in 0..4 {
        caller.create(&hello(TO)).await.unwrap();
    }
    caller.create(&hello("+12055550101")).await.unwrap();
    let mut next = Some(format!("{base}/Messages.json?To=%2B12055550100&PageSize=2"));
    let mut sids = Vec::new();
    while let Some(path) = next {
        let (_, page) = caller.get(&path).await;
        let messages = page["messages"].as_array().unwrap();
        sids.extend(
            messages
                .iter()
                .map(|one| one["sid"].as_str().unwrap().to_owned()),
        );
        next = page["next_page_uri"].as_str().map(str::to_owned);
    }
    assert_eq!(sids.len(), 5);
    assert_eq!(sids[4], sid, "the newest comes first");

    caller.fake.set_weather(Weather {
        listing_lag_ms: 3_600_000,
        ..Weather::default()
    });
    let (_, page) = caller
        .get(&format!("{base}/Messages.json?To=%2B12055550100"))
        .await;
    assert_eq!(page["messages"], json!([]), "a list may lag");
}

#[tokio::test]
async fn what_it_takes_stands_in_the_ledger_whatever_it_answers() {
    let caller = Caller::start().await;
    let internal = || Reply::Error {
        status: 500,
        code: 20500,
    };
    let throttled = || Reply::Throttled {
        retry_after: Some("604800".into()),
    };
    // What is scripted, the status that comes or none, and how many are taken with it.
    let cases = [
        (Act::FAIR, Some(201), 1),
        (Act::untaken(throttled()), Some(429), 0),
        (Act::taken(internal()), Some(500), 1),
        (Act::untaken(internal()), Some(500), 0),
        (Act::taken(Reply::Reset), None, 1),
        (Act::untaken(Reply::Reset), None, 0),
        (Act::taken(Reply::Stall), None, 1),
        (Act::taken(Reply::NoSid), Some(201), 1),
        (Act::taken(Reply::Html { status: 200 }), Some(200), 1),
        (Act::taken(Reply::Redirect), Some(307), 1),
    ];
    for (act, status, taken) in cases {
        let before = caller.fake.ledger().accepted_count();
        caller.fake.script([act.clone()]);
        let answer = caller.create(&hello(TO)).await;
        assert_eq!(answer.ok().map(|(status, _)| status), status, "{act:?}");
        let after = caller.fake.ledger().accepted_count();
        assert_eq!(after - before, taken, "{act:?}");
    }
    assert_eq!(caller.fake.ledger().requested().len(), 10);
}

#[tokio::test]
async fn strangers_and_suspended_accounts_are_refused() {
    let caller = Caller::start().await;
    let stranger = caller
        .client
        .post(caller.address("/Messages.json"))
        .basic_auth(ACCOUNT_SID, Some("wrong"))
        .form(&hello(TO));
    let answer = stranger.send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], 20003);

    caller.fake.suspend(ACCOUNT_SID);
    let (status, refused) = caller.create(&hello(TO)).await.unwrap();
    assert_eq!((status, &refused["code"]), (403, &json!(20005)));
    let base = format!("/2010-04-01/Accounts/{ACCOUNT_SID}.json");
    assert_eq!(caller.get(&base).await.1["status"], "suspended");
    assert_eq!(caller.fake.ledger().accepted_count(), 0);
}

/// Takes callbacks and tells the test what they said; answers the first with 500.
async fn listen() -> (String, mpsc::UnboundedReceiver<(String, String)>) {
    let (told, heard) = mpsc::unbounded_channel();
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let take = endpoint::make(move |mut request: Request| {
        let (told, first) = (told.clone(), first.clone());
        async move {
            if first.swap(false, std::sync::atomic::Ordering::AcqRel) {
                return Ok(poem::http::StatusCode::INTERNAL_SERVER_ERROR.into_response());
            }
            assert!(request.header("x-twilio-signature").is_some());
            let url = request.uri().to_string();
            let body = request.take_body().into_string().await.unwrap();
            told.send((url, body)).unwrap();
            Ok::<_, poem::Error>(poem::http::StatusCode::NO_CONTENT.into_response())
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap());
    tokio::spawn(server.run(Route::new().at("/*rest", take).map_to_response()));
    (format!("http://{address}/here?m=7#rc=5&rp=all"), heard)
}

#[tokio::test]
async fn callbacks_come_as_often_as_the_weather_says() {
    let caller = Caller::start().await;
    let (address, mut heard) = listen().await;
    caller.fake.set_weather(Weather {
        callbacks: CallbackWeather {
            copies: 2,
            undelivered: 1000,
            ..CallbackWeather::default()
        },
        ..Weather::default()
    });
    let mut form = hello(TO).to_vec();
    form.push(("StatusCallback", &address));
    caller.create(&form).await.unwrap();
    within(20, "the callbacks", caller.fake.callbacks_done()).await;

    let mut words = Vec::new();
    while let Ok((url, body)) = heard.try_recv() {
        assert_eq!(url, "/here?m=7");
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(body.as_bytes())
            .into_owned()
            .collect();
        let find = |name: &str| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, v)| v.clone())
        };
        words.push((find("MessageStatus").unwrap(), find("ErrorCode")));
    }
    words.sort();
    let undelivered = ("undelivered".to_owned(), Some("30003".to_owned()));
    let sent = ("sent".to_owned(), None);
    assert_eq!(
        words,
        [sent.clone(), sent, undelivered.clone(), undelivered]
    );

    caller.fake.set_weather(Weather {
        callbacks: CallbackWeather {
            is_held: true,
            ..CallbackWeather::default()
        },
        ..Weather::default()
    });
    caller.create(&form).await.unwrap();
    within(20, "the callbacks", caller.fake.callbacks_done()).await;
    let held = caller.fake.take_held();
    assert_eq!(held.len(), 2);
    let statuses = caller.fake.post(held, 1).await;
    assert_eq!(statuses, [Some(204), Some(204)]);
    let inbound = caller.fake.write_in(&address, TO, FROM, "STOP").await;
    assert_eq!(inbound, Some(204));
}

/// As Twilio's pages "Message resource" and "Outbound Message Status in Status Callbacks" have it.
#[tokio::test]
async fn a_message_of_a_service_is_accepted_and_comes_from_a_number_once_it_is_queued() {
    let caller = Caller::start().await;
    caller.fake.set_weather(Weather {
        callbacks: CallbackWeather {
            is_held: true,
            ..CallbackWeather::default()
        },
        ..Weather::default()
    });
    let form = [
        ("To", TO),
        ("MessagingServiceSid", SERVICE),
        ("Body", "Hello"),
        ("StatusCallback", "http://127.0.0.1:9/here"),
    ];
    let shown = |message: &Value| {
        ["status", "from", "messaging_service_sid", "num_segments"]
            .map(|name| message[name].clone())
    };

    let (status, made) = caller.create(&form).await.unwrap();
    assert_eq!(status, 201);
    assert_eq!(
        shown(&made),
        [json!("accepted"), Value::Null, json!(SERVICE), json!("0")]
    );
    within(20, "the callbacks", caller.fake.callbacks_done()).await;
    let words: Vec<[Option<String>; 3]> = caller
        .fake
        .take_held()
        .iter()
        .map(|callback| {
            ["MessageStatus", "From", "MessagingServiceSid"].map(|name| {
                let found = callback.form.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.clone())
            })
        })
        .collect();
    let told = ["queued", "sent", "delivered"]
        .map(|word| [word, SERVICE_NUMBER, SERVICE].map(|value| Some(value.to_owned())));
    assert_eq!(words, told);
    let sid = made["sid"].as_str().unwrap();
    let path = format!("/2010-04-01/Accounts/{ACCOUNT_SID}/Messages/{sid}.json");
    let by_now = [
        json!("delivered"),
        json!(SERVICE_NUMBER),
        json!(SERVICE),
        json!("1"),
    ];
    assert_eq!(shown(&caller.get(&path).await.1), by_now);

    let (_, alone) = caller.create(&hello(TO)).await.unwrap();
    let without = [json!("queued"), json!(FROM), Value::Null, json!("1")];
    assert_eq!(shown(&alone), without);
    let misnamed = [("To", TO), ("From", SERVICE), ("Body", "Hello")];
    let (status, refused) = caller.create(&misnamed).await.unwrap();
    assert_eq!((status, &refused["code"]), (400, &json!(21212)));
    assert_eq!(caller.fake.ledger().accepted_count(), 2);
}

#[tokio::test]
async fn it_runs_alone_and_keeps_its_ledger_in_a_file() {
    let dir = TempDir::new();
    let file = dir.path().join("ledger");
    let fake = Started::new(program(&[
        "fake",
        "twilio",
        "--seed",
        "7",
        "--ledger",
        file.to_str().unwrap(),
    ]))
    .await;
    let base = fake.url("url").to_owned();
    let client = reqwest::Client::builder().build().unwrap();
    let account = fake.said["account_sid"].as_str().unwrap().to_owned();
    let token = fake.said["auth_token"].as_str().unwrap();
    let weather = |weather: &Value| client.put(format!("{base}/fake/weather")).json(weather);
    let lying = weather(&json!({"lying": 1000})).send().await.unwrap();
    assert_eq!(lying.status(), 204);
    let wrong = weather(&json!({"rain": 1})).send().await.unwrap();
    assert_eq!(wrong.status(), 400);

    let create = client
        .post(format!(
            "{base}/2010-04-01/Accounts/{account}/Messages.json"
        ))
        .basic_auth(&account, Some(token))
        .form(&hello(TO));
    assert_eq!(create.send().await.unwrap().status(), 500);

    let kept = client
        .get(format!("{base}/fake/ledger"))
        .send()
        .await
        .unwrap();
    let kept: Value = kept.json().await.unwrap();
    assert_eq!(kept.as_array().unwrap().len(), 1);
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(line["to"], TO);

    let in_use = base.strip_prefix("http://").unwrap();
    let second = run(program(&["fake", "twilio", "--listen", in_use])).await;
    assert!(second.refusal(1).contains("--listen"), "{}", second.err);
    fake.stop().await;
}
