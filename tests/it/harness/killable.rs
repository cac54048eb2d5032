//! A worker that can be killed: between two awaits, without a word, with all its connections.

use engageninja::jobs::worker::{Worker, WorkerOptions};
use engageninja::store::Db;
use tokio::runtime::{Builder, Runtime};

use super::world::World;

/// A worker in a runtime of its own.
#[derive(Debug)]
pub struct Killable {
    runtime: Option<Runtime>,
    _worker: Worker,
}

impl Killable {
    /// Starts one.
    pub async fn start(world: &World, options: WorkerOptions) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (db_options, clock) = (world.db.options(), world.db.clock());
        let worker = runtime
            .spawn(async move { Worker::start(Db::new(&db_options, clock), options).await })
            .await
            .unwrap();
        Self {
            runtime: Some(runtime),
            _worker: worker,
        }
    }

    /// Kills it, as dropping it does.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
