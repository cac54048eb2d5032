//! Who did what in a tenant: the cell's part of the audit.

use std::net::IpAddr;

use sqlx::query;
use uuid::Uuid;

use super::{StoreResult, TenantTx};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::ids::TenantId;

/// By whom, and by which request.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Who made the change.
    pub author: Author,
    /// The request, where there was one.
    pub request_id: Option<Uuid>,
    /// Where it came from.
    pub ip: Option<IpAddr>,
}

impl Origin {
    /// Whoever runs this installation, on its command line.
    pub const COMMAND_LINE: Self = Self {
        author: Author::Operator,
        request_id: None,
        ip: None,
    };
}

/// Records a change in its own transaction.
pub async fn insert_entry(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    origin: &Origin,
    entry: &AuditEntry,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO audit_log (tenant_id, id, actor_kind, actor_id, action, target_kind, target_id, detail, ip)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::inet)
        "#,
        tenant_id.0,
        Uuid::now_v7(),
        origin.author.kind(),
        origin.author.id(),
        entry.action,
        entry.target_kind,
        entry.target_id,
        entry.detail(origin.request_id),
        origin.ip.map(|ip| ip.to_string()),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
