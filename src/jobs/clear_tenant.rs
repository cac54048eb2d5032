//! Deletes what a demo tenant has: to begin anew with what a new one has, or for good.
//!
//! Running twice is harmless: rows are deleted in small transactions, each of which finds out first whether another run has
//! filled the tenant anew, and what is over is decided by the directory, which says last that it is.

use std::time::Duration;

use super::{Job, JobContext, Outcome, Run};
use crate::clock::Clock;
use crate::delivery::demo_seed::fill_tenant;
use crate::delivery::tenants::{demo_account, follow_directory};
use crate::domain::ids::TenantId;
use crate::domain::orders::ClearTenant;
use crate::domain::tenant::{Clearing, TenantStatus};
use crate::store::control::directory;
use crate::store::{Db, StoreError, StoreResult, tenants};

/// Rows of one transaction.
const ROWS_MAX: i64 = 2_000;
/// A run ends itself after this and goes on later, so that others get their turn.
const RUN_MAX: Duration = Duration::from_secs(20);
/// Before another look at calls that are under way, and between two runs.
const AGAIN: Duration = Duration::from_secs(2);
/// What a tenant that begins anew still has.
const KEPT: &[&str] = &["senders", "halts", "audit_log"];

impl Job for ClearTenant {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match clear(context, self.tenant_id).await {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::Snooze(AGAIN),
            Err(error) => error.into(),
        }
    }
}

/// False when there is more to do.
async fn clear(context: &JobContext, id: TenantId) -> StoreResult<bool> {
    let db = &context.db;
    let mut tx = db.control_system().begin().await?;
    let entry = match directory::load_tenant(&mut tx, id).await {
        Ok(entry) => entry,
        // A run before this one went to the end.
        Err(StoreError::NotFound { .. }) => return Ok(true),
        Err(error) => return Err(error),
    };
    drop(tx);
    // Nothing changes it while the tenant is cleared: it names this clearing.
    let version = entry.version;
    let Some(clearing) = entry.clearing else {
        return Ok(true);
    };
    // The cell has to know first that nothing of the tenant begins any more.
    follow_directory(db, id).await?;
    let kept = match clearing {
        Clearing::Reset => KEPT,
        Clearing::Remove => &[],
    };
    if !delete_all(db, id, version, kept).await? {
        return Ok(false);
    }
    match clearing {
        Clearing::Reset => {
            fill_tenant(db, id, version, &context.mac_key).await?;
            begin_anew(db, id).await?;
        }
        Clearing::Remove => forget(db, id).await?,
    }
    tracing::info!(tenant.id = %id, "demo tenant cleared");
    Ok(true)
}

async fn delete_all(db: &Db, id: TenantId, version: i64, kept: &[&str]) -> StoreResult<bool> {
    let begun = Clock::boottime();
    let mut tx = db.system().begin().await?;
    if !tenants::is_known(&mut tx, id).await? {
        return Ok(true);
    }
    if tenants::has_live_calls(&mut tx, id).await? {
        return Ok(false);
    }
    drop(tx);
    while Clock::boottime().saturating_sub(begun) < RUN_MAX {
        let mut tx = db.system().begin().await?;
        if tenants::hold_filled(tx.conn(), id, version).await? {
            return Ok(true);
        }
        let deleted = tenants::delete_rows(&mut tx, id, kept, ROWS_MAX).await?;
        tx.commit().await?;
        if deleted == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn begin_anew(db: &Db, id: TenantId) -> StoreResult<()> {
    let mut tx = db.control_system().begin().await?;
    let entry = directory::load_for_update(&mut tx, id).await?;
    // Two runs at once: the other one ended it, and it may be at work again.
    if entry.clearing == Some(Clearing::Reset) {
        directory::save_status(&mut tx, id, TenantStatus::Active, None).await?;
        tx.commit().await?;
    }
    follow_directory(db, id).await
}

async fn forget(db: &Db, id: TenantId) -> StoreResult<()> {
    let mut tx = db.system().begin().await?;
    tenants::delete_tenant(&mut tx, id, &demo_account(id)).await?;
    tx.commit().await?;
    let mut tx = db.control_system().begin().await?;
    directory::delete_tenant(&mut tx, id).await?;
    tx.commit().await
}
