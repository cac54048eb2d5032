//! Somebody who looks at attempts whose outcome nobody told, when a story says so.

use std::time::Duration;

use engageninja::delivery::Delivery;
use engageninja::delivery::incarnation::Myself;
use engageninja::store::incarnations::NewIncarnation;
use tokio_util::sync::CancellationToken;

use super::world::World;

/// Somebody who looks at attempts whose outcome nobody told.
#[derive(Debug)]
pub struct Resolver {
    delivery: Delivery,
    me: Myself,
}

impl Resolver {
    /// Looks at all that are due.
    pub async fn look(&self) {
        self.delivery.resolve_doubt().await.unwrap();
    }

    /// Compares the lists of the accounts that are due with a server in quarantine.
    pub async fn reconcile(&self) {
        self.delivery.reconcile_provider().await.unwrap();
    }

    /// Ends in order.
    pub async fn end(self) {
        self.me.end().await;
    }
}

/// How a process of the tests describes itself.
pub fn process(pid: i32) -> NewIncarnation {
    NewIncarnation {
        host: "test".into(),
        pid,
        boot_id: String::new(),
        version: "0".into(),
        roles: vec![],
        concurrency: 0,
    }
}

impl World {
    /// Somebody who looks when told to.
    pub async fn resolver(&self) -> Resolver {
        let me = Myself::start(self.db.db().direct_options(), process(1)).await;
        let stop = CancellationToken::new();
        Resolver {
            delivery: Delivery::start(
                self.db.db(),
                me.clone(),
                self.holds,
                self.providers.clone(),
                16,
                stop,
            ),
            me,
        }
    }

    /// Moves time on through every look that settles an attempt whose owner is gone, also by a restart of the server.
    pub async fn settle(&self) {
        let resolver = self.resolver().await;
        for secs in [26, 64, 60, 500, 60] {
            self.db.advance(Duration::from_secs(secs)).await;
            resolver.look().await;
        }
        resolver.end().await;
    }
}
