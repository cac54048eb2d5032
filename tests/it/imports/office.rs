//! An API with one tenant that imports.

use std::collections::BTreeMap;

use engageninja::crypto::mac::MacKey;
use engageninja::domain::actor::Role;
use engageninja::domain::holds::Holds;
use engageninja::domain::ids::ImportId;
use engageninja::domain::orders::ImportContacts;
use engageninja::jobs::import_contacts::{Progress, import_chunk};
use engageninja::jobs::worker::{Worker, WorkerOptions};
use engageninja::store::Db;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::harness::app::{Answer, App, Tenant, answer};
use crate::harness::eventually;

/// The file of the issue, and the numbers it must give.
pub const SAMPLE: &str = include_str!("../../data/contacts-10k.csv");
const EXPECTED: &str = include_str!("../../data/contacts-10k.expected.json");

/// An API with one tenant, its key, and the key of addresses.
#[derive(Debug)]
pub struct Office {
    /// Where to ask.
    pub app: App,
    /// Who imports.
    pub tenant: Tenant,
    /// A sender's key.
    pub key: String,
    /// The key of addresses.
    pub mac_key: MacKey,
    /// How long things take for its workers.
    pub holds: Holds,
}

impl Office {
    /// A fresh database, an API on it, and a key that may import.
    pub async fn open() -> Self {
        let app = App::start().await;
        let tenant = app.tenant("dojo").await;
        let key = app.key(&tenant, Role::Sender).await;
        Self {
            mac_key: MacKey::from_base64(&MacKey::generate()).unwrap(),
            holds: Holds::REAL,
            app,
            tenant,
            key,
        }
    }

    /// The ways into the database.
    pub fn db(&self) -> Db {
        self.app.db().db()
    }

    /// Sends a file and returns the answer.
    pub async fn send(&self, bytes: impl Into<Vec<u8>>) -> Answer {
        answer(self.file(bytes)).await
    }

    /// Sends a file under a key of idempotency.
    pub async fn send_once(&self, once: &str, bytes: impl Into<Vec<u8>>) -> Answer {
        answer(self.file(bytes).header("idempotency-key", once)).await
    }

    fn file(&self, bytes: impl Into<Vec<u8>>) -> RequestBuilder {
        let path = "/api/contacts/imports?file_name=people.csv";
        let request = self.app.with_key(&self.key, Method::POST, path);
        request
            .header("content-type", "text/csv")
            .body(bytes.into())
    }

    /// Uploads a file that is taken.
    pub async fn upload(&self, bytes: impl Into<Vec<u8>>) -> ImportId {
        id_of(&self.send(bytes).await.ok(201))
    }

    /// Asks to start an import.
    pub async fn start(&self, id: ImportId, body: &Value) -> Answer {
        let path = format!("/api/contacts/imports/{id}/start");
        self.app.post(&self.key, &path, body).await
    }

    /// Uploads a file and starts its import.
    pub async fn started(&self, bytes: impl Into<Vec<u8>>, body: &Value) -> ImportId {
        let id = self.upload(bytes).await;
        self.start(id, body).await.ok(202);
        id
    }

    /// What the queue holds for an import.
    pub fn order(&self, import_id: ImportId) -> ImportContacts {
        ImportContacts {
            tenant_id: self.tenant.id,
            import_id,
        }
    }

    /// Reads chunks until the import has ended, without a queue.
    pub async fn read_all(&self, id: ImportId) {
        let (order, db) = (self.order(id), self.db());
        loop {
            match import_chunk(&order, &db, &self.mac_key).await {
                Ok(Progress::MoreToDo) => {}
                // On a busy machine its patience may be over before another reader lets go; a queue tries again.
                Err(error) if error.is_transient() => {}
                done => {
                    done.unwrap();
                    return;
                }
            }
        }
    }

    /// Uploads, starts and reads a file.
    pub async fn import(&self, bytes: impl Into<Vec<u8>>, body: &Value) -> Value {
        let id = self.started(bytes, body).await;
        self.read_all(id).await;
        self.look(id).await
    }

    /// The import as the API shows it.
    pub async fn look(&self, id: ImportId) -> Value {
        let path = format!("/api/contacts/imports/{id}");
        self.app.get(&self.key, &path).await.ok(200)
    }

    /// A worker for imports alone.
    pub async fn worker(&self) -> Worker {
        self.worker_for("imports").await
    }

    /// A worker for one queue.
    pub async fn worker_for(&self, queue: &str) -> Worker {
        let options = WorkerOptions {
            mac_key: self.mac_key.clone(),
            holds: self.holds,
            providers: crate::harness::world::offline(),
            concurrency: None,
            queues: vec![queue.into()],
            roles: Vec::new(),
        };
        Worker::start(self.db(), options).await
    }

    /// Waits for a worker to read an import to its end.
    pub async fn completed(&self, id: ImportId) -> Value {
        eventually("the import completes", || async {
            self.look(id).await["status"] == "completed"
        })
        .await;
        self.look(id).await
    }

    /// One number, asked by a superuser.
    pub async fn number(&self, sql: &str) -> i64 {
        self.app.db().number(sql).await
    }

    /// Checks that no refused upload left anything.
    pub async fn is_empty(&self) -> bool {
        let sql = "SELECT (SELECT count(*) FROM imports) + (SELECT count(*) FROM import_chunks)";
        self.number(sql).await == 0
    }
}

/// The id of an import that the API showed.
pub fn id_of(import: &Value) -> ImportId {
    import["id"].as_str().unwrap().parse().unwrap()
}

/// The counts of an import, by the words of the expected numbers.
pub fn counts(import: &Value) -> BTreeMap<String, u64> {
    let counts = &import["counts"];
    let mut named = BTreeMap::from([
        ("rows".to_owned(), counts["read"].as_u64().unwrap()),
        ("imported".to_owned(), counts["created"].as_u64().unwrap()),
        ("duplicate".to_owned(), counts["skipped"].as_u64().unwrap()),
    ]);
    for (code, rows) in counts["refused_by_code"].as_object().unwrap() {
        named.insert(code.clone(), rows.as_u64().unwrap());
    }
    named
}

/// Four times the sample in three chunks; only the first quarter holds anybody new.
pub fn long_sample() -> String {
    let (_, rows) = SAMPLE.split_once('\n').unwrap();
    let rows = rows.trim_end();
    format!("{}\n{}\n", SAMPLE.trim_end(), [rows; 3].join("\n"))
}

/// The numbers of the sample.
pub fn expected() -> BTreeMap<String, u64> {
    serde_json::from_str(EXPECTED).unwrap()
}

/// The numbers of the long sample.
pub fn expected_of_long_sample() -> BTreeMap<String, u64> {
    let mut expected = expected();
    for (word, rows) in &mut expected {
        *rows *= if word == "imported" { 1 } else { 4 };
    }
    let imported = expected["imported"];
    *expected.get_mut("duplicate").unwrap() += 3 * imported;
    expected
}
