//! Engines that serve the bench's queue, each as a process of an installation would.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{BenchError, KIND, PATIENCE, QUEUE};
use crate::jobs::queue::{
    Backoff, Engine, EngineConfig, Handlers, KindSpec, Outcome, QueueSpec, Tuning, Weight, Workers,
};
use crate::jobs::worker::announcements;
use crate::store::Db;

/// Jobs an engine may hold.
const CONCURRENCY: usize = 256;

/// Running engines, and the workers that take their jobs.
#[derive(Debug)]
pub struct Crew {
    engines: Vec<Engine>,
    running: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts so many engines, whose every job runs `handler`.
    pub fn start<F, Fut>(db: &Db, engines: usize, claims_in_turns: bool, handler: F) -> Self
    where
        F: Fn() -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let engines: Vec<_> = (0..engines).map(|_| start_engine(db)).collect();
        let running = engines
            .iter()
            .map(|engine| serve(engine, claims_in_turns, handler.clone()))
            .collect();
        Self { engines, running }
    }

    /// Jobs whose completion is committed.
    pub fn done(&self) -> u64 {
        self.engines.iter().map(|engine| engine.totals().done).sum()
    }

    /// Waits for the last completion of so many.
    ///
    /// # Errors
    /// When it takes longer than any drain.
    pub async fn until_done(&self, jobs: u64) -> Result<(), BenchError> {
        let done = async {
            while self.done() < jobs {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done)
            .await
            .map_err(|_| BenchError::Hangs("a drain"))
    }

    /// Stops in order.
    ///
    /// # Errors
    /// When a worker panicked.
    pub async fn stop(self) -> Result<(), BenchError> {
        for engine in self.engines {
            engine.drain(Duration::from_secs(5)).await;
        }
        for worker in self.running {
            worker.await.map_err(|_| BenchError::Hangs("a worker"))?;
        }
        Ok(())
    }
}

fn start_engine(db: &Db) -> Engine {
    Engine::start(EngineConfig {
        claim_pool: db.claim_pool(),
        system_pool: db.batch_pool(),
        direct: db.direct_options(),
        announcements: announcements(db),
        incarnation: "bench".into(),
        clock: db.clock().clone(),
        tuning: Tuning::default(),
    })
}

fn serve<F, Fut>(engine: &Engine, claims_in_turns: bool, handler: F) -> JoinHandle<()>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let kind = KindSpec {
        kind: KIND,
        timeout: Duration::from_secs(30),
        backoff: Backoff::default(),
    };
    let handlers = Handlers::default().with(kind, move |_| {
        let run = handler();
        async move {
            run.await;
            Outcome::Done
        }
    });
    let spec = QueueSpec {
        queue: QUEUE.to_owned(),
        concurrency: CONCURRENCY,
        weight: Weight::ONE,
        claims_in_turns,
    };
    let workers = Workers::new(engine.clone()).serve(spec, handlers);
    tokio::spawn(async move {
        // The figures say it if something went wrong.
        let _ = workers.run().await;
    })
}
