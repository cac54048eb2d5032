//! `serve` is killed with -9 between the commit and the answer: the repeat with the same key has one effect.

use engageninja::domain::actor::Role;
use nix::sys::signal::Signal;
use reqwest::Response;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tokio::io::{copy, sink};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::harness::app::App;
use crate::harness::program::{Started, on};
use crate::harness::world::World;
use crate::harness::{eventually, within};

/// Carries requests to a server and never an answer back; ends the connection when the server does.
async fn swallow_answers(server: &str) -> String {
    let server = server.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let (mut requests, _answers) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { copy(&mut requests, &mut to_server).await });
                let _ = copy(&mut from_server, &mut sink()).await;
            });
        }
    });
    address
}

/// A request that makes something, and the rows that say how often it was made.
struct Making {
    path: String,
    /// JSON, or a file.
    body: Value,
    made: &'static str,
}

struct Desk {
    world: World,
    key: String,
    client: reqwest::Client,
}

impl Desk {
    async fn open() -> Self {
        let world = World::start().await;
        world.add_contacts(1).await;
        let (app, tenant) = App::beside(&world).await;
        let key = app.key(&tenant, Role::Admin).await;
        Self {
            world,
            key,
            // Each try is the story's own.
            client: reqwest::Client::builder()
                .retry(reqwest::retry::never())
                .build()
                .unwrap(),
        }
    }

    async fn serve(&self) -> Started {
        Started::new(on(&self.world.db, &["serve"])).await
    }

    async fn send(&self, url: &str, making: &Making, once: &str) -> reqwest::Result<Response> {
        let request = self.client.post(format!("{url}{}", making.path));
        let request = request.bearer_auth(&self.key);
        let request = match &making.body {
            Value::String(file) => request
                .header("content-type", "text/csv")
                .body(file.clone()),
            body => request.json(body),
        };
        request.header("Idempotency-Key", once).send().await
    }

    async fn makings(&self) -> [Making; 4] {
        let campaign = self.world.draft("Hello {{ first_name }}").await;
        [
            Making {
                path: "/api/templates".to_owned(),
                body: json!({"name": "Spring", "channel": "sms", "body": "Hello"}),
                made: "SELECT count(*) FROM templates t JOIN audit_log a ON a.target_id = t.id::text",
            },
            Making {
                path: "/api/contacts/imports".to_owned(),
                body: json!("phone\n+12055550001\n"),
                made: "SELECT count(*) FROM imports i JOIN audit_log a ON a.target_id = i.id::text",
            },
            Making {
                path: "/api/keys".to_owned(),
                body: json!({"name": "shop", "role": "sender"}),
                made: "SELECT count(*) FROM control.api_keys k JOIN control.platform_audit a ON a.target_id = k.id::text",
            },
            Making {
                path: format!("/api/campaigns/{campaign}/send"),
                body: json!({}),
                made: "SELECT count(*) FROM jobs j JOIN audit_log a ON a.action = 'send_campaign'
                       WHERE j.kind = 'expand-campaign'",
            },
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_before_the_kill_is_answered_to_the_repeat_and_done_once() {
    let desk = Desk::open().await;
    for making in desk.makings().await {
        let once = Uuid::now_v7().to_string();
        let mut first = desk.serve().await;
        let through = swallow_answers(first.url("url")).await;
        let (lost, ()) = within(30, "the first request is lost", async {
            tokio::join!(desk.send(&through, &making, &once), async {
                eventually("it is committed", || async {
                    desk.world.number(making.made).await == 1
                })
                .await;
                first.signal(Signal::SIGKILL);
            })
        })
        .await;
        assert!(lost.is_err(), "{}: an answer came through", making.path);
        first.ended().await;

        let second = desk.serve().await;
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let answer = desk.send(second.url("url"), &making, &once).await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.status());
            bodies.push(answer.text().await.unwrap());
        }
        assert_eq!(bodies[0], bodies[1]);
        assert_eq!(desk.world.number(making.made).await, 1, "{}", making.path);
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_committed_before_the_kill_is_done_by_the_repeat() {
    let desk = Desk::open().await;
    let [template, ..] = desk.makings().await;
    let mut first = desk.serve().await;
    let mut session = desk.world.session().await;
    let mut held = session.begin().await.unwrap();
    held.execute("LOCK TABLE cell.audit_log IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'";
    let (lost, ()) = within(30, "the first request is lost", async {
        tokio::join!(desk.send(first.url("url"), &template, "one"), async {
            eventually("it waits for its record", || async {
                desk.world.number(waits).await == 1
            })
            .await;
            first.signal(Signal::SIGKILL);
        })
    })
    .await;
    assert!(lost.is_err());
    first.ended().await;
    held.rollback().await.unwrap();
    eventually("its session has ended", || async {
        desk.world.number(waits).await == 0
    })
    .await;
    let templates = "SELECT count(*) FROM templates WHERE name = 'Spring'";
    assert_eq!(desk.world.number(templates).await, 0);

    let second = desk.serve().await;
    let answer = desk
        .send(second.url("url"), &template, "one")
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(desk.world.number(template.made).await, 1);
    second.stop().await;
}
