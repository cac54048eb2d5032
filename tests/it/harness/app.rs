//! The API on a database of its own, asked over real HTTP.

use std::time::Duration;

use engageninja::api;
use engageninja::api::front::Front;
use engageninja::api::state::ApiState;
use engageninja::crypto::mac::MacKey;
use engageninja::crypto::password::{hash_password, random_token, token_hash};
use engageninja::dev::demo::ensure_demo_tenant;
use engageninja::domain::actor::Role;
use engageninja::domain::ids::{ApiKeyId, TenantId, UserId};
use engageninja::store::control::{api_keys, memberships, users};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::SecretString;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::db::TestDb;
use super::world::World;

/// A running API.
#[derive(Debug)]
pub struct App {
    db: Option<TestDb>,
    /// What its operations share.
    pub state: ApiState,
    address: String,
    client: reqwest::Client,
    stop: CancellationToken,
}

/// A tenant of the API, with a key per role on demand.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its word in addresses.
    pub slug: String,
}

/// Somebody who can sign in.
#[derive(Debug, Clone)]
pub struct Person {
    /// Their email.
    pub email: String,
    /// Their password.
    pub password: String,
}

impl App {
    /// Starts it on a fresh database and a free port.
    pub async fn start() -> Self {
        Self::on(TestDb::new().await).await
    }

    /// Starts it on a database.
    pub async fn on(db: TestDb) -> Self {
        let reached = db.db();
        let mac_key = MacKey::from_base64(&MacKey::generate()).unwrap();
        Self::serve(ApiState::new(reached, mac_key), Some(db)).await
    }

    /// Starts it behind a front, on a fresh database.
    pub async fn behind(front: Front) -> Self {
        let db = TestDb::new().await;
        let mac_key = MacKey::from_base64(&MacKey::generate()).unwrap();
        let state = ApiState::new(db.db(), mac_key).behind(front);
        Self::serve(state, Some(db)).await
    }

    /// Starts another process on the database of one.
    pub async fn serve_again(app: &Self) -> Self {
        let db = app.db().db();
        Self::serve(ApiState::new(db, app.state.mac_key.clone()), None).await
    }

    /// Starts it on the database of a world, and names the world's tenant.
    pub async fn beside(world: &World) -> (Self, Tenant) {
        let app = Self::serve(ApiState::new(world.db.db(), world.mac_key.clone()), None).await;
        let tenant = Tenant {
            id: world.tenant_id,
            slug: "dojo".to_owned(),
        };
        (app, tenant)
    }

    /// Starts it beside a world, with little patience for readers of streams and little room between it and them.
    pub fn impatient(world: &World, patience: Duration) -> (Self, Tenant) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut state = ApiState::new(world.db.db(), world.mac_key.clone());
        state.slow_reader = patience;
        let app = Self::serve_on(socket.listen(1024).unwrap(), state, None);
        let tenant = Tenant {
            id: world.tenant_id,
            slug: "dojo".to_owned(),
        };
        (app, tenant)
    }

    /// Starts it beside a world, where its providers call it back.
    pub async fn called_back(world: &World) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public_url = format!("http://{}", listener.local_addr().unwrap());
        let front = Front {
            public_url: Some(public_url.parse().unwrap()),
            ..Front::default()
        };
        let state = ApiState::new(world.db.db(), world.mac_key.clone())
            .behind(front)
            .with_keys(world.providers.keys.clone());
        Self::serve_on(listener, state, None)
    }

    async fn serve(state: ApiState, db: Option<TestDb>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve_on(listener, state, db)
    }

    fn serve_on(
        listener: tokio::net::TcpListener,
        mut state: ApiState,
        db: Option<TestDb>,
    ) -> Self {
        // A reader that has gone is noticed by what is written for it.
        state.keep_alive = Duration::from_secs(1);
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        tokio::spawn(api::serve(state.clone(), listener, stop.clone()));
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // Nothing here is encrypted, and to read the system's certificates takes a while.
            .tls_certs_only([])
            .build()
            .unwrap();
        Self {
            db,
            state,
            address,
            client,
            stop,
        }
    }

    /// Its database, where it has one of its own.
    pub fn db(&self) -> &TestDb {
        self.db.as_ref().expect("the database is the world's")
    }

    /// The address of its pages, as a browser's `Origin`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request to a path that begins with a slash.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("http://{}{path}", self.address))
    }

    /// A request with a key.
    pub fn with_key(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(key)
    }

    /// GET with a key.
    pub async fn get(&self, key: &str, path: &str) -> Answer {
        answer(self.with_key(key, Method::GET, path)).await
    }

    /// POST with a key and a JSON body.
    pub async fn post(&self, key: &str, path: &str, body: &Value) -> Answer {
        answer(self.with_key(key, Method::POST, path).json(body)).await
    }

    /// DELETE with a key.
    pub async fn delete(&self, key: &str, path: &str) -> Answer {
        answer(self.with_key(key, Method::DELETE, path)).await
    }

    /// Makes a demo tenant, with a sender per channel.
    pub async fn tenant(&self, slug: &str) -> Tenant {
        let id = ensure_demo_tenant(&self.state.db, slug, slug)
            .await
            .unwrap();
        Tenant {
            id,
            slug: slug.to_owned(),
        }
    }

    /// Makes a key of a tenant.
    pub async fn key(&self, tenant: &Tenant, role: Role) -> String {
        let secret = format!("en_{}", random_token());
        let mut tx = self.state.db.control(tenant.id).begin().await.unwrap();
        let key = api_keys::NewApiKey {
            tenant_id: tenant.id,
            id: ApiKeyId(Uuid::now_v7()),
            name: role.as_str(),
            prefix: &secret[..11],
            key_hash: &token_hash(&secret),
            role,
            created_by: None,
            expires_at: None,
        };
        api_keys::insert_key(&mut tx, &key).await.unwrap();
        tx.commit().await.unwrap();
        secret
    }

    /// Makes somebody who can sign in to a tenant.
    pub async fn person(&self, tenant: &Tenant, role: Role) -> Person {
        let id = UserId(Uuid::now_v7());
        let person = Person {
            email: format!("{}@{}.example.test", role.as_str(), tenant.slug),
            password: "correct horse battery staple".to_owned(),
        };
        let hash = hash_password(&SecretString::from(person.password.as_str())).unwrap();
        let mut tx = self.state.db.control_system().begin().await.unwrap();
        let user = users::NewUser {
            id,
            email: &person.email,
            name: "Somebody",
            password_hash: &hash,
        };
        users::insert_user(&mut tx, &user).await.unwrap();
        memberships::save_membership(&mut tx, tenant.id, id, role)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        person
    }

    /// Makes a viewer who never signs in.
    pub async fn member(&self, tenant: &Tenant, number: u32) -> UserId {
        let id = UserId(Uuid::now_v7());
        let mut tx = self.state.db.control_system().begin().await.unwrap();
        let user = users::NewUser {
            id,
            email: &format!("viewer{number}@{}.example.test", tenant.slug),
            name: "Somebody",
            password_hash: "none",
        };
        users::insert_user(&mut tx, &user).await.unwrap();
        memberships::save_membership(&mut tx, tenant.id, id, Role::Viewer)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Makes somebody a member of a further tenant.
    pub async fn join(&self, person: &Person, tenant: &Tenant, role: Role) {
        let mut tx = self.state.db.control_system().begin().await.unwrap();
        let known = users::find_credentials(&mut tx, &person.email).await;
        let id = known.unwrap().unwrap().id;
        memberships::save_membership(&mut tx, tenant.id, id, role)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// Makes somebody of a tenant who runs the platform too, and signs them in.
    pub async fn operator(&self, tenant: &Tenant) -> String {
        let person = self.person(tenant, Role::Owner).await;
        let mut tx = self.state.db.control_system().begin().await.unwrap();
        let user = users::find_credentials(&mut tx, &person.email)
            .await
            .unwrap();
        users::mark_platform_admin(&mut tx, user.unwrap().id, true)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        self.sign_in(&person).await
    }

    /// A request of somebody who is signed in, from a page of ours.
    pub fn with_cookie(&self, cookie: &str, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path)
            .header(reqwest::header::COOKIE, cookie)
            .header(reqwest::header::ORIGIN, self.origin())
    }

    /// Signs in and returns the cookie, as `name=value`.
    pub async fn sign_in(&self, person: &Person) -> String {
        let body = serde_json::json!({"email": person.email, "password": person.password});
        let answer = answer(self.request(Method::POST, "/api/sessions").json(&body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.cookie().split(';').next().unwrap().to_owned()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
}

/// Sends a request and reads the whole answer.
pub async fn answer(request: RequestBuilder) -> Answer {
    let response = super::within(30, "the API answers", request.send())
        .await
        .unwrap();
    Answer {
        status: response.status(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The body of a success with exactly this status.
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .unwrap_or_else(|| panic!("no header {name}"))
            .to_str()
            .unwrap()
    }

    /// The header `Set-Cookie`.
    pub fn cookie(&self) -> &str {
        self.header("set-cookie")
    }

    /// Checks that this is a whole problem of this type and returns it.
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(
            problem["type"],
            format!("urn:engageninja:problem:{slug}"),
            "{problem}"
        );
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        for word in ["title", "detail"] {
            let text = problem[word].as_str().unwrap();
            assert!(text.len() > 5, "{problem}");
            assert!(
                !text.contains("poem") && !text.contains("failed to parse"),
                "{problem}"
            );
        }
        problem
    }
}

/// A stream of events that is being read.
#[derive(Debug)]
pub struct Events {
    response: reqwest::Response,
    buffer: String,
}

/// One event of a stream.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it says.
    pub data: Value,
}

impl App {
    /// Begins to read a stream.
    pub async fn events(&self, key: &str, path: &str) -> Events {
        Events::of(self.with_key(key, Method::GET, path)).await
    }
}

impl Events {
    /// The stream that a request opens.
    pub async fn of(request: RequestBuilder) -> Self {
        let response = super::within(30, "the stream begins", request.send())
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            buffer: String::new(),
        }
    }

    /// The next event; none when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                match Event::parse(&block) {
                    Some(event) => return Some(event),
                    // A sign of life.
                    None => continue,
                }
            }
            let piece = super::within(30, "an event comes", self.response.chunk());
            let piece = piece.await.unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

impl Event {
    fn parse(block: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        Some(Self {
            id: field("id")?.parse().unwrap(),
            // By the standard, an event without a name is a message.
            name: field("event").unwrap_or("message").to_owned(),
            data: serde_json::from_str(field("data")?).unwrap(),
        })
    }
}
