//! The demo provider's ledger, on the database: calls that come together share a commit, and each is answered after it.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::batch::{BatchSpec, Batcher};
use crate::clock::answer::answered;
use crate::domain::ids::{AttemptId, MessageKey};
use crate::providers::demo::{KnownEntry, Ledger, LedgerEntry};
use crate::store::Db;
use crate::store::demo_ledger::{self, NewEntry};

const BATCH: BatchSpec = BatchSpec {
    items_max: 64,
    linger: Duration::from_millis(2),
    parallel: 4,
};

/// Writes accepted calls into `demo_ledger`.
#[derive(Debug)]
pub(super) struct DatabaseLedger {
    db: Db,
    batcher: Batcher<LedgerEntry, Result<(), String>>,
}

impl DatabaseLedger {
    pub(super) fn spawn(db: Db) -> Self {
        let reader = db.clone();
        let batcher = Batcher::spawn(BATCH, move |entries: Vec<LedgerEntry>| {
            let db = db.clone();
            async move {
                let rows: Vec<NewEntry> = entries.into_iter().map(row).collect();
                let written = answered(demo_ledger::insert_entries(&db.batch_pool(), &rows)).await;
                let answer = written.map_err(|error| error.to_string());
                rows.iter().map(|_| answer.clone()).collect()
            }
        });
        Self {
            db: reader,
            batcher,
        }
    }
}

fn row(entry: LedgerEntry) -> NewEntry {
    NewEntry {
        key: entry.key,
        attempt_id: entry.attempt_id,
        provider_message_id: entry.provider_message_id,
        next: entry.next,
    }
}

impl Ledger for DatabaseLedger {
    fn record(&self, entry: LedgerEntry) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let lost = || Err("the ledger gave no answer".into());
            self.batcher.ask(entry).await.unwrap_or_else(lost)
        })
    }

    fn list(
        &self,
        key: MessageKey,
        attempt_id: AttemptId,
    ) -> BoxFuture<'_, Result<Vec<KnownEntry>, String>> {
        Box::pin(async move {
            let entries = demo_ledger::list_entries(&self.db.batch_pool(), key, attempt_id).await;
            let known = |entry: demo_ledger::Entry| KnownEntry {
                provider_message_id: entry.provider_message_id,
                accepted_at: entry.accepted_at,
            };
            entries
                .map(|entries| entries.into_iter().map(known).collect())
                .map_err(|error| error.to_string())
        })
    }
}
