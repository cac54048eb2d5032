//! Lets the cell follow what the directory says of tenants, for whoever died in between, and orders what is still to be
//! deleted.
//!
//! Running twice is harmless: the cell's row follows versions, and an order for a tenant is stored once.

use super::{Job, JobContext, Outcome, Run};
use crate::delivery::tenants::follow_directory;
use crate::domain::ids::TenantId;
use crate::domain::orders::{ClearTenant, SyncTenants};
use crate::jobs::queue::enqueue;
use crate::store::control::directory;
use crate::store::{Db, StoreError, StoreResult};

/// Tenants that are looked at in one go.
const TENANTS_MAX: i64 = 100;

impl Job for SyncTenants {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match sync(&context.db).await {
            Ok(()) => Outcome::Done,
            Err(error) => error.into(),
        }
    }
}

/// One that cannot be followed keeps no other back; the first reason is told when all were looked at.
async fn sync(db: &Db) -> StoreResult<()> {
    let mut after = None;
    let mut done = Ok(());
    loop {
        let mut tx = db.control_system().begin().await?;
        let ids = directory::list_unsettled(&mut tx, after, TENANTS_MAX).await?;
        drop(tx);
        for id in ids.iter().copied() {
            if let Err(error) = settle(db, id).await {
                tracing::warn!(tenant.id = %id, %error, "the cell does not follow the directory yet");
                done = done.and(Err(error));
            }
        }
        after = ids.last().copied();
        if ids.len() < TENANTS_MAX as usize {
            return done;
        }
    }
}

async fn settle(db: &Db, id: TenantId) -> StoreResult<()> {
    follow_directory(db, id).await?;
    let mut tx = db.control_system().begin().await?;
    let entry = directory::load_tenant(&mut tx, id).await?;
    drop(tx);
    if entry.clearing.is_some() {
        let mut tx = db.system().begin().await?;
        let order = ClearTenant { tenant_id: id };
        enqueue(&mut tx, order).await.map_err(StoreError::from)?;
        tx.commit().await?;
    }
    Ok(())
}
