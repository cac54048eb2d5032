//! What operators did, and what changed about a tenant in `control`: its members, invitations and keys.

use sqlx::query;
use uuid::Uuid;

use crate::domain::audit::{AuditEntry, Author};
use crate::domain::ids::TenantId;
use crate::store::audit::Origin;
use crate::store::{ControlTx, StoreResult};

/// Records a change in its own transaction. `tenant_id` is whose change it is, where it is a tenant's.
pub async fn insert_entry(
    tx: &mut ControlTx,
    tenant_id: Option<TenantId>,
    origin: &Origin,
    entry: &AuditEntry,
) -> StoreResult<()> {
    let user_id = match origin.author {
        Author::User(id) => Some(id.0),
        Author::ApiKey(_) | Author::Operator | Author::System => None,
    };
    let label = match origin.author.id() {
        Some(id) => format!("{}:{id}", origin.author.kind()),
        None => origin.author.kind().to_owned(),
    };
    query!(
        r#"
        INSERT INTO platform_audit (id, actor_user_id, actor_label, action, target_kind, target_id, tenant_id, detail, ip)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::inet)
        "#,
        Uuid::now_v7(),
        user_id,
        label,
        entry.action,
        entry.target_kind,
        entry.target_id,
        tenant_id.map(|id| id.0),
        entry.detail(origin.request_id),
        origin.ip.map(|ip| ip.to_string()),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
