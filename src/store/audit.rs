//! Who did what in a tenant: the cell's part of the audit.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{query, query_as};
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

/// A change that was recorded, here or in `control`.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its id, which grows with time.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// The kind of author, by its stored word.
    pub author_kind: String,
    /// Which one.
    pub author_id: Option<String>,
    /// What was done.
    pub action: String,
    /// The kind of thing it was done to.
    pub target_kind: String,
    /// Which one.
    pub target_id: Option<String>,
    /// Whose change it is.
    pub tenant_id: Option<TenantId>,
    /// The request, before and after.
    pub detail: Value,
    /// Where the request came from.
    pub ip: Option<String>,
}

/// A tenant's records in the cell, the newest first, from below `before`.
pub async fn list_entries(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    before: Option<Uuid>,
    limit: i64,
) -> StoreResult<Vec<Recorded>> {
    let rows = query_as!(
        Recorded,
        r#"
        SELECT id, at, actor_kind AS author_kind, actor_id AS author_id, action, target_kind, target_id,
               tenant_id AS "tenant_id?: TenantId", COALESCE(detail, '{}') AS "detail!", host(ip) AS ip
        FROM audit_log
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        tenant_id.0,
        before,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}
