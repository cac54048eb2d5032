//! Many jobs, and somebody who looks at an old picture of them. At a size that a test can bear; the bench has
//! the full one.

use sqlx::{Connection, Executor, PgConnection};

use super::crew::{Crew, Setup, notes, number, put};
use crate::harness::db::TestDb;
use crate::harness::eventually;

const JOBS: i64 = 20_000;

/// A claim without the low water walks over what was finished before: with a claim per 100 jobs that would be
/// some 2,000,000 entries here.
#[tokio::test]
async fn a_backlog_drains_by_its_index_while_a_reader_holds_a_snapshot() {
    let test = TestDb::new().await;
    let db = test.db();
    // As an idle installation has it after a while: a tall index, and a table that is long and empty as far as the planner knows.
    test.execute("ALTER INDEX cell.jobs_ready SET (fillfactor = 10)")
        .await;
    put(&db, notes(0..1_000)).await;
    test.execute("DELETE FROM cell.jobs").await;
    test.execute("VACUUM (ANALYZE, TRUNCATE off) cell.jobs")
        .await;
    for chunk in 0..JOBS / 5_000 {
        put(&db, notes(chunk * 5_000..(chunk + 1) * 5_000)).await;
    }
    let mut reader = PgConnection::connect_with(&test.options().cell)
        .await
        .unwrap();
    reader
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cell.jobs")
        .await
        .unwrap();
    let setup = Setup {
        concurrency: 100,
        ..Setup::default()
    };
    let before = Statistics::read(&db).await;

    let crew = Crew::eager(&db, &setup);
    eventually("all is done", || async {
        crew.engine.totals().done == JOBS as u64
    })
    .await;
    crew.stop().await;

    // The sessions' figures arrive when they end.
    test.db().close().await;
    let db = engageninja::store::Db::new(&test.options(), test.clock());
    eventually("the figures have arrived", || async {
        Statistics::read(&db).await.ready_entries - before.ready_entries >= JOBS
    })
    .await;
    let after = Statistics::read(&db).await;
    let entries = after.ready_entries - before.ready_entries;
    assert!(entries < 3 * JOBS, "{entries} entries of the ready index");
    // The claim and the completion look each job up, beside what is left of it as it was before.
    let entries = after.key_entries - before.key_entries;
    assert!(entries < 5 * JOBS, "{entries} entries of the key");
    let by_scan = after.scanned_rows - before.scanned_rows;
    assert!(by_scan < JOBS / 10, "{by_scan} rows by sequential scans");
    reader.close().await.unwrap();
}

struct Statistics {
    ready_entries: i64,
    key_entries: i64,
    scanned_rows: i64,
}

impl Statistics {
    async fn read(db: &engageninja::store::Db) -> Self {
        let ready =
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'jobs_ready'";
        let key = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'jobs_pkey'";
        let scanned = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'jobs'";
        Self {
            ready_entries: number(db, ready).await,
            key_entries: number(db, key).await,
            scanned_rows: number(db, scanned).await,
        }
    }
}
