//! Looks nightly for rows whose other half is missing, since the hot tables have no foreign keys.
//!
//! It changes nothing, so running twice is harmless. What it finds is an error in the log and a number above zero.

use std::collections::BTreeMap;

use super::{Job, JobContext, Outcome, Run};
use crate::domain::orders::CheckOrphans;
use crate::store::orphans::{self, KINDS, Orphan};
use crate::store::{Db, StoreResult};
use crate::telemetry;

/// Tenants read at once.
const TENANTS_MAX: i64 = 100;

impl Job for CheckOrphans {
    async fn run(self, context: &JobContext, _run: Run) -> Outcome {
        match find_orphans(&context.db).await {
            Ok(found) => {
                report(&found);
                Outcome::Done
            }
            Err(error) => error.into(),
        }
    }
}

/// Some orphans of each kind and tenant.
pub async fn find_orphans(db: &Db) -> StoreResult<Vec<Orphan>> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        // System: every tenant is looked at.
        let mut tx = db.system().begin().await?;
        let tenants = orphans::list_tenants(&mut tx, after, TENANTS_MAX).await?;
        drop(tx);
        for tenant_id in &tenants {
            let mut tx = db.system().begin().await?;
            orphans::expect_many(&mut tx).await?;
            found.extend(orphans::list_orphans(&mut tx, *tenant_id).await?);
        }
        match tenants.last() {
            Some(last) if tenants.len() as i64 == TENANTS_MAX => after = Some(*last),
            _ => return Ok(found),
        }
    }
}

fn report(found: &[Orphan]) {
    let mut counts: BTreeMap<&'static str, u32> = KINDS.iter().map(|kind| (*kind, 0)).collect();
    for orphan in found {
        *counts.entry(orphan.kind).or_default() += 1;
        tracing::error!(
            tenant.id = %orphan.tenant_id, orphan.kind = orphan.kind, orphan.id = orphan.id,
            "a row without its other half"
        );
    }
    for (kind, count) in counts {
        metrics::gauge!(telemetry::ORPHANS, "kind" => kind).set(count);
    }
}
