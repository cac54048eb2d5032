//! Starts of processes: who is alive, and who is provably gone.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_as, query_scalar};

use super::StoreResult;
use crate::domain::ids::Incarnation;

/// Processes listed at most.
const OPEN_MAX: i64 = 500;

/// What a process says of itself when it starts.
#[derive(Debug, Clone)]
pub struct NewIncarnation {
    /// The machine's name.
    pub host: String,
    /// The process on it.
    pub pid: i32,
    /// Which boot of the machine.
    pub boot_id: String,
    /// The product's version.
    pub version: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// How many sends it may have under way.
    pub concurrency: i32,
}

/// Adds a start, and takes the lock that proves it alive for as long as `conn` lives.
pub async fn open_incarnation(
    conn: &mut PgConnection,
    new: &NewIncarnation,
) -> StoreResult<Incarnation> {
    let id = query_scalar!(
        r#"
        INSERT INTO incarnations (host, pid, boot_id, version, roles, concurrency)
        VALUES ($1, $2, $3, $4, $5, $6)
        RETURNING id
        "#,
        new.host,
        new.pid,
        new.boot_id,
        new.version,
        &new.roles,
        new.concurrency,
    )
    .fetch_one(&mut *conn)
    .await?;
    query!("SELECT pg_advisory_lock(incarnation_lock_key($1))", id)
        .fetch_one(conn)
        .await?;
    Ok(Incarnation(id))
}

/// Says that it lives, on the connection that holds its lock.
pub async fn mark_seen(conn: &mut PgConnection, incarnation: Incarnation) -> StoreResult<()> {
    query!(
        "UPDATE incarnations SET seen_at = app_now() WHERE id = $1",
        incarnation.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An orderly end: proof at once that it makes no further call.
pub async fn mark_ended(conn: &mut PgConnection, incarnation: Incarnation) -> StoreResult<()> {
    query!(
        "UPDATE incarnations SET ended_at = app_now(), ended_by = 'self' WHERE id = $1 AND ended_at IS NULL",
        incarnation.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How many sends the living processes may have under way together.
pub async fn sum_concurrency(conn: &mut PgConnection) -> StoreResult<i64> {
    let sum = query_scalar!(
        r#"
        SELECT COALESCE(sum(concurrency), 0) AS "sum!"
        FROM incarnations
        WHERE ended_at IS NULL AND seen_at > app_now() - interval '30 seconds'
        "#,
    )
    .fetch_one(conn)
    .await?;
    Ok(sum)
}

/// The part of all sends that this process may have under way: one when it is not counted yet.
pub async fn share_of_concurrency(
    conn: &mut PgConnection,
    incarnation: Incarnation,
) -> StoreResult<f64> {
    let own = query_scalar!(
        "SELECT concurrency FROM incarnations WHERE id = $1",
        incarnation.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    let all = sum_concurrency(conn).await?;
    Ok(match own {
        Some(Some(own)) if all > 0 => (f64::from(own) / all as f64).min(1.0),
        _ => 1.0,
    })
}

/// A start that has not ended in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenIncarnation {
    /// Which start.
    pub id: i64,
    /// The machine's name.
    pub host: String,
    /// The process on it.
    pub pid: i32,
    /// The product's version.
    pub version: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// How many sends it may have under way.
    pub concurrency: i32,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it last said that it lives.
    pub seen_at: DateTime<Utc>,
    /// Whether that was in the last 30 seconds.
    pub is_alive: bool,
}

/// Processes that live, and those that fell silent within the last hour; the newest first, 500 at most.
pub async fn list_open(conn: &mut PgConnection) -> StoreResult<Vec<OpenIncarnation>> {
    let rows = query_as!(
        OpenIncarnation,
        r#"
        SELECT id, host, pid, version, roles, COALESCE(concurrency, 0) AS "concurrency!", started_at, seen_at,
               seen_at > app_now() - interval '30 seconds' AS "is_alive!"
        FROM incarnations
        WHERE ended_at IS NULL AND seen_at > app_now() - interval '1 hour'
        ORDER BY id DESC
        LIMIT $1
        "#,
        OPEN_MAX,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
