//! Demo tenants: an ordinary tenant with a simulated provider account and a sender per channel.

use uuid::Uuid;

use crate::delivery::tenants::follow_directory;
use crate::domain::ids::TenantId;
use crate::store::control::directory::{self, Beginning};
use crate::store::{Db, StoreResult};

/// Makes a demo tenant, `control` first, and says its id. One that has this `slug` already is made whole and returned, so
/// that a start that was killed in the middle may run again.
pub async fn ensure_demo_tenant(db: &Db, name: &str, slug: &str) -> StoreResult<TenantId> {
    let mut tx = db.control_system().begin().await?;
    let known = directory::find_by_slug(&mut tx, slug).await?;
    let id = known.unwrap_or_else(|| TenantId(Uuid::now_v7()));
    let tenant = directory::NewTenant {
        id,
        name,
        slug,
        is_demo: true,
        beginning: Beginning {
            is_consent_attested: true,
            ..Beginning::default()
        },
    };
    directory::insert_tenant(&mut tx, &tenant).await?;
    tx.commit().await?;
    follow_directory(db, id).await?;
    Ok(id)
}
