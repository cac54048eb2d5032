//! Servers that calls may begin on. One that was promoted or restored may have forgotten calls, and is in quarantine until
//! somebody releases it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_as, query_scalar};

use super::{StoreError, StoreResult, SystemTx, affected};

/// A server, as its timeline and its own number tell.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The timeline, 8 hexadecimal digits.
    pub timeline: String,
    /// The server's own number.
    pub system_identifier: String,
    /// When it was first met.
    pub seen_at: DateTime<Utc>,
    /// Since when calls may begin on it.
    pub released_at: Option<DateTime<Utc>>,
    /// Who released it.
    pub released_by: Option<String>,
    /// Processes that have written down on it what it had forgotten of their calls.
    pub replays: i32,
    /// Calls that it had forgotten.
    pub calls_restored: i64,
    /// The last that it knew of the server before it.
    pub recovered_to: Option<DateTime<Utc>>,
    /// Why the lists of the provider accounts alone do not release it, or not yet.
    pub held_because: Option<String>,
    /// Whether it is the one that answers.
    pub is_current: bool,
}

/// Whether calls may begin on the server behind this connection; an unknown one is put into quarantine.
pub(super) async fn check_timeline(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    query_scalar!(r#"SELECT check_timeline() AS "is_released!""#)
        .fetch_one(conn)
        .await
}

/// Whether no call may begin on the server that answers.
pub async fn is_quarantined(tx: &mut SystemTx) -> StoreResult<bool> {
    let is_quarantined = query_scalar!(
        r#"
        SELECT NOT EXISTS (
            SELECT
            FROM database_timelines
            WHERE timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AND released_at IS NOT NULL
        ) AS "is_quarantined!"
        "#,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(is_quarantined)
}

/// The timeline of the server that answers; an unknown one is put into quarantine.
pub async fn find_current(tx: &mut SystemTx) -> StoreResult<String> {
    check_timeline(tx.conn()).await?;
    let timeline = query_scalar!(
        r#"SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS "timeline!""#
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(timeline)
}

/// Notes that one more process has written down on a server what that had forgotten of its calls.
pub async fn note_replay(tx: &mut SystemTx, timeline: &str, restored: u64) -> StoreResult<()> {
    query!(
        "UPDATE database_timelines SET replays = replays + 1, calls_restored = calls_restored + $2 WHERE timeline = $1",
        timeline,
        restored as i64,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Every server that was met, the newest first.
pub async fn list_timelines(tx: &mut SystemTx) -> StoreResult<Vec<Timeline>> {
    query_as!(
        Timeline,
        r#"
        SELECT timeline, system_identifier, seen_at, released_at, released_by, replays, calls_restored,
               recovered_to, held_because,
               timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS "is_current!"
        FROM database_timelines
        ORDER BY seen_at DESC, timeline DESC
        "#,
    )
    .fetch_all(tx.conn())
    .await
    .map_err(StoreError::from)
}

/// Lets calls begin on the server that answers, which has to have this timeline.
///
/// # Errors
/// As [`release_seen`].
pub async fn release_timeline(tx: &mut SystemTx, timeline: &str, by: &str) -> StoreResult<()> {
    let system_identifier = query_scalar!(
        r#"SELECT system_identifier::text AS "system_identifier!" FROM pg_control_system()"#
    )
    .fetch_one(tx.conn())
    .await?;
    release_seen(tx, timeline, &system_identifier, by).await
}

/// Lets calls begin on a server as somebody saw it: with this timeline and this number of its own. One that is released stays as
/// it is.
///
/// # Errors
/// [`StoreError::Moved`] when there is no such server in quarantine. Another one of the same timeline may have been met since.
pub async fn release_seen(
    tx: &mut SystemTx,
    timeline: &str,
    system_identifier: &str,
    by: &str,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE database_timelines
        SET released_at = app_now(), released_by = $3, held_because = NULL
        WHERE timeline = $1 AND released_at IS NULL
          -- A timeline's name may come again, and what was made sure of is one server's.
          AND system_identifier = $2
        "#,
        timeline,
        system_identifier,
        by,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "timeline")
}
