//! How far the lists of provider accounts were compared with a server in quarantine.

pub mod waiting;

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};

use super::{StoreError, StoreResult, SystemTx};
use crate::domain::channel::Provider;
use crate::domain::reconcile_provider::{Progress, Server};

/// The quarantine of the server that answers.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// The server's timeline.
    pub timeline: String,
    /// What is known of it.
    pub server: Server,
    /// The instant it is.
    pub now: DateTime<Utc>,
}

/// A provider account, and how far its list was compared.
#[derive(Debug, Clone)]
pub struct AccountListing {
    /// The account.
    pub account_ref: String,
    /// Whose it is.
    pub provider: Provider,
    /// How far it was compared.
    pub progress: Progress,
    /// Calls that the server had forgotten and the lists showed.
    pub claimed: i32,
    /// Messages in the last list that are none of ours.
    pub unknown: i32,
}

/// The quarantine of the server that answers; none when calls may begin on it.
pub async fn find_quarantine(tx: &mut SystemTx) -> StoreResult<Option<Quarantine>> {
    let row = query!(
        r#"
        SELECT d.timeline, d.seen_at, d.recovered_to, app_now() AS "now!",
               EXISTS (SELECT FROM database_timelines o
                       WHERE o.system_identifier = d.system_identifier AND o.released_at IS NOT NULL
                      ) AS "is_of_known_cluster!"
        FROM database_timelines d
        WHERE d.timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AND d.released_at IS NULL
        "#,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| Quarantine {
        timeline: row.timeline,
        server: Server {
            seen_at: row.seen_at,
            recovered_to: row.recovered_to,
            is_of_known_cluster: row.is_of_known_cluster,
        },
        now: row.now,
    }))
}

/// Adds the accounts that calls may have been made with: those with credentials in use, of every provider but the simulated
/// one. One that was added stays, whatever becomes of its credentials.
pub async fn add_accounts(tx: &mut SystemTx, quarantine: &Quarantine) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO timeline_listings (timeline, seen_at, account_ref, provider)
        SELECT DISTINCT ON (c.account_ref) $1::text, $2::timestamptz, c.account_ref, c.provider
        FROM tenant_channel_credentials_v2 c
        WHERE c.is_enabled AND c.account_ref IS NOT NULL AND c.provider <> 'demo'
        ORDER BY c.account_ref
        ON CONFLICT DO NOTHING
        "#,
        quarantine.timeline,
        quarantine.server.seen_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The accounts of a quarantine, those first that were not tried for the longest time.
pub async fn list_accounts(
    tx: &mut SystemTx,
    timeline: &str,
    seen_at: DateTime<Utc>,
) -> StoreResult<Vec<AccountListing>> {
    let rows = query!(
        r#"
        SELECT account_ref, provider, first_at, listed_at, tried_at, claimed, unknown, unsure, error
        FROM timeline_listings
        WHERE timeline = $1 AND seen_at = $2
        ORDER BY tried_at NULLS FIRST, account_ref
        "#,
        timeline,
        seen_at,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AccountListing {
                account_ref: row.account_ref,
                provider: row.provider.parse()?,
                progress: Progress::from(ProgressRow {
                    first_at: row.first_at,
                    listed_at: row.listed_at,
                    tried_at: row.tried_at,
                    unsure: row.unsure,
                    error: row.error,
                }),
                claimed: row.claimed,
                unknown: row.unknown,
            })
        })
        .collect::<Result<_, StoreError>>()
}

/// Locks an account of a quarantine, so that one process at a time says what its messages are. Answers how far it was compared.
pub async fn lock_account(
    tx: &mut SystemTx,
    quarantine: &Quarantine,
    account_ref: &str,
) -> StoreResult<Option<Progress>> {
    let row = query_as!(
        ProgressRow,
        r#"
        SELECT first_at, listed_at, tried_at, unsure, error
        FROM timeline_listings
        WHERE timeline = $1 AND seen_at = $2 AND account_ref = $3
        FOR UPDATE
        "#,
        quarantine.timeline,
        quarantine.server.seen_at,
        account_ref,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(Progress::from))
}

struct ProgressRow {
    first_at: Option<DateTime<Utc>>,
    listed_at: Option<DateTime<Utc>>,
    tried_at: Option<DateTime<Utc>>,
    unsure: i32,
    error: Option<String>,
}

impl From<ProgressRow> for Progress {
    fn from(row: ProgressRow) -> Self {
        Self {
            first_at: row.first_at,
            listed_at: row.listed_at,
            tried_at: row.tried_at,
            unsure: row.unsure.unsigned_abs() as usize,
            error: row.error,
        }
    }
}

/// Counts calls that were found in the list of an account, in the transaction that writes them down: the wait for a list that
/// shows nothing more begins anew.
pub async fn add_claimed(
    tx: &mut SystemTx,
    quarantine: &Quarantine,
    account_ref: &str,
    claimed: usize,
) -> StoreResult<()> {
    query!(
        r#"
        UPDATE timeline_listings
        SET claimed = claimed + $4, first_at = NULL
        WHERE timeline = $1 AND seen_at = $2 AND account_ref = $3
        "#,
        quarantine.timeline,
        quarantine.server.seen_at,
        account_ref,
        claimed as i32,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores how far an account was compared. `unknown` are the messages of its list that are none of ours; where there was no
/// list, the number of the last one stays.
pub async fn save_progress(
    tx: &mut SystemTx,
    quarantine: &Quarantine,
    account_ref: &str,
    progress: &Progress,
    unknown: Option<usize>,
) -> StoreResult<()> {
    query!(
        r#"
        UPDATE timeline_listings
        SET first_at = $4, listed_at = $5, tried_at = $6, unsure = $7, error = $8, unknown = COALESCE($9, unknown)
        WHERE timeline = $1 AND seen_at = $2 AND account_ref = $3
        "#,
        quarantine.timeline,
        quarantine.server.seen_at,
        account_ref,
        progress.first_at,
        progress.listed_at,
        progress.tried_at,
        progress.unsure as i32,
        progress.error,
        unknown.map(|messages| messages as i32),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Says why a server stays in quarantine. Answers whether that is new.
pub async fn save_hold(tx: &mut SystemTx, timeline: &str, reason: &str) -> StoreResult<bool> {
    let done = query!(
        r#"
        UPDATE database_timelines
        SET held_because = $2
        WHERE timeline = $1 AND released_at IS NULL AND held_because IS DISTINCT FROM $2
        "#,
        timeline,
        reason,
    )
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() > 0)
}
