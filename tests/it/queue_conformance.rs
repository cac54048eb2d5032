//! What a durable queue is: one suite, run against the engine.

use std::time::Duration;

use engageninja::clock::Clock;
use engageninja::jobs::queue::{
    Announced, Backoff, Engine, EngineConfig, EnqueueIn, Handlers, KindSpec, NewJob, Outcome,
    QueueSpec, Tuning, Workers, enqueue,
};
use engageninja::store::{Db, SystemTx};
use futures_util::StreamExt;
use sqlx::PgConnection;
use tokio_stream::wrappers::BroadcastStream;

use crate::harness::db::TestDb;
use crate::harness::within;

struct Open<'a>(&'a mut SystemTx);

impl EnqueueIn for Open<'_> {
    fn conn(&mut self) -> &mut PgConnection {
        self.0.conn()
    }

    fn announce(&mut self, queue: &str, lowest_id: i64) {
        self.0.announce(queue, lowest_id);
    }
}

fn engine(db: &Db, tuning: Tuning) -> Engine {
    let announcements = BroadcastStream::new(db.announcements())
        .map(|heard| match heard {
            Ok(work) => Announced::Work {
                topic: work.topic,
                lowest_id: work.lowest_id,
            },
            Err(_) => Announced::Missed,
        })
        .boxed();
    Engine::start(EngineConfig {
        claim_pool: db.claim_pool(),
        system_pool: db.system_pool(),
        direct: db.direct_options(),
        announcements,
        incarnation: "test".into(),
        clock: Clock::default(),
        tuning,
    })
}

#[tokio::test]
async fn a_job_runs() {
    let test = TestDb::new().await;
    let db = test.db();
    let engine = engine(&db, Tuning::default());
    let (sent, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let handlers = Handlers::default().with(
        KindSpec {
            kind: "note",
            timeout: Duration::from_secs(5),
            backoff: Backoff::default(),
        },
        move |delivered| {
            let sent = sent.clone();
            async move {
                sent.send(delivered.payload).unwrap();
                Outcome::Done
            }
        },
    );
    let workers = Workers::new(engine.clone()).serve(
        QueueSpec {
            queue: "q".into(),
            concurrency: 4,
            claims_in_turns: false,
        },
        handlers,
    );
    let running = tokio::spawn(workers.run());
    let mut tx = db.system().begin().await.unwrap();
    let job = NewJob {
        queue: "q".into(),
        kind: "note".into(),
        lane: None,
        priority: 0,
        delay: None,
        max_attempts: 3,
        unique_key: None,
        payload: serde_json::json!({"n": 1}),
    };
    enqueue(&mut Open(&mut tx), job).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        within(5, "the job runs", heard.recv()).await.unwrap(),
        serde_json::json!({"n": 1})
    );
    let drained = within(10, "drain", engine.drain(Duration::from_secs(1))).await;
    assert_eq!((drained.cancelled, drained.unwritten), (0, 0));
    within(10, "workers end", running).await.unwrap().unwrap();
}
