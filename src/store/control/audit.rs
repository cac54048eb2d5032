//! What operators did, and what changed about a tenant in `control`: its members, invitations and keys.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};
use uuid::Uuid;

use crate::domain::audit::{AuditEntry, Author};
use crate::domain::ids::TenantId;
use crate::store::audit::{Origin, Recorded};
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

struct Row {
    id: Uuid,
    at: DateTime<Utc>,
    actor_label: String,
    action: String,
    target_kind: String,
    target_id: Option<String>,
    tenant_id: Option<TenantId>,
    detail: Option<serde_json::Value>,
    ip: Option<String>,
}

impl From<Row> for Recorded {
    fn from(row: Row) -> Self {
        let (kind, id) = match row.actor_label.split_once(':') {
            Some((kind, id)) => (kind.to_owned(), Some(id.to_owned())),
            None => (row.actor_label, None),
        };
        Self {
            id: row.id,
            at: row.at,
            author_kind: kind,
            author_id: id,
            action: row.action,
            target_kind: row.target_kind,
            target_id: row.target_id,
            tenant_id: row.tenant_id,
            detail: row.detail.unwrap_or_default(),
            ip: row.ip,
        }
    }
}

/// Records, the newest first, from below `before`: of one tenant, or of all.
pub async fn list_entries(
    tx: &mut ControlTx,
    tenant_id: Option<TenantId>,
    before: Option<Uuid>,
    limit: i64,
) -> StoreResult<Vec<Recorded>> {
    let rows = query_as!(
        Row,
        r#"
        SELECT id, at, actor_label, action, target_kind, target_id, tenant_id AS "tenant_id: TenantId", detail,
               host(ip) AS ip
        FROM platform_audit
        WHERE ($1::uuid IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        tenant_id.map(|id| id.0),
        before,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(Recorded::from).collect())
}

/// A person or a key that made changes.
#[derive(Debug, Clone)]
pub struct AuthorName {
    /// Their id.
    pub id: Uuid,
    /// What they are called.
    pub name: String,
    /// A person's email.
    pub email: Option<String>,
}

/// What people and keys are called; who left the tenant keeps the name here.
pub async fn list_author_names(tx: &mut ControlTx, ids: &[Uuid]) -> StoreResult<Vec<AuthorName>> {
    let names = query_as!(
        AuthorName,
        r#"
        SELECT id AS "id!", name AS "name!", email
        FROM users
        WHERE id = ANY($1)
        UNION ALL
        SELECT k.id, k.name, NULL
        FROM api_keys k
        WHERE k.id = ANY($1)
        "#,
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(names)
}
