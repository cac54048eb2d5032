//! Who changed what: a tenant's records of both schemas in one order of time, and the platform's.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use uuid::Uuid;

use super::Tag;
use super::page::{Page, PageRequest};
use super::problem::ApiResult;
use super::state::ApiState;
use crate::domain::actor::{Actor, Operator, Permission};
use crate::domain::ids::TenantId;
use crate::store::audit::{self, Recorded};
use crate::store::control;
use crate::store::control::audit::AuthorName;

/// The record of a tenant.
#[derive(Debug)]
pub struct Audit {
    state: ApiState,
}

/// The record of the platform.
#[derive(Debug)]
pub struct AdminAudit {
    state: ApiState,
}

/// Who made a change.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct AuthorView {
    /// `user`, `api_key`, `operator` (on the command line) or `system`.
    kind: String,
    /// Which one, where there are several.
    id: Option<String>,
    /// What they are called.
    name: Option<String>,
    /// A person's email.
    email: Option<String>,
}

/// What a change was made to.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct TargetView {
    /// The kind of thing.
    kind: String,
    /// Which one.
    id: Option<String>,
}

/// A change.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct AuditView {
    /// Its id.
    id: Uuid,
    /// When it was made.
    at: DateTime<Utc>,
    /// By whom.
    author: AuthorView,
    /// What was done: the name of the operation.
    action: String,
    /// To what.
    target: TargetView,
    /// Whose change it is; absent when it is the platform's.
    tenant_id: Option<TenantId>,
    /// What was there before.
    before: Option<Value>,
    /// What is there now.
    after: Option<Value>,
    /// The request that asked for it.
    request_id: Option<String>,
    /// Where that came from.
    ip: Option<String>,
}

#[OpenApi(tag = "Tag::Tenant")]
impl Audit {
    /// List changes.
    ///
    /// Everything that was changed in the tenant or about it, the newest first: who, what, before and after.
    #[oai(path = "/audit", method = "get", operation_id = "list_audit")]
    async fn list_audit(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<AuditView>>> {
        actor.require(Permission::ReadAudit)?;
        let page = PageRequest::<Uuid>::new("audit", limit.0, cursor.0.as_deref())?;
        let (tenant_id, before, limit) = (actor.tenant_id, page.after, page.rows_to_load());
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        let mut rows = audit::list_entries(&mut tx, tenant_id, before, limit).await?;
        drop(tx);
        let mut tx = self.state.db.control(tenant_id).begin().await?;
        let about = control::audit::list_entries(&mut tx, Some(tenant_id), before, limit).await?;
        drop(tx);
        rows.extend(about);
        // Ids grow with time in both, so that one cursor stands for a place in both.
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.id));
        rows.truncate(limit as usize);
        named(&self.state, &page, rows).await
    }
}

#[OpenApi(prefix_path = "/admin/audit", tag = "Tag::Admin")]
impl AdminAudit {
    /// List changes of the platform.
    ///
    /// What operators did, and what was changed about each tenant's people and keys, the newest first.
    #[oai(path = "/", method = "get", operation_id = "list_platform_audit")]
    async fn list_platform_audit(
        &self,
        _operator: Operator,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Only what is about this tenant.
        tenant_id: Query<Option<TenantId>>,
    ) -> ApiResult<Json<Page<AuditView>>> {
        let page = PageRequest::<Uuid>::new("platform-audit", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control_system().begin().await?;
        let limit = page.rows_to_load();
        let rows = control::audit::list_entries(&mut tx, tenant_id.0, page.after, limit).await?;
        drop(tx);
        named(&self.state, &page, rows).await
    }
}

impl Audit {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl AdminAudit {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// A record, and what its author is called.
struct Named {
    row: Recorded,
    author: Option<AuthorName>,
}

async fn named(
    state: &ApiState,
    page: &PageRequest<Uuid>,
    rows: Vec<Recorded>,
) -> ApiResult<Json<Page<AuditView>>> {
    let ids: Vec<Uuid> = rows.iter().filter_map(author_id).collect();
    // All of `control`: whoever left the tenant, or runs the platform, has a name too.
    let mut tx = state.db.control_system().begin().await?;
    let names = control::audit::list_author_names(&mut tx, &ids).await?;
    let names: HashMap<Uuid, AuthorName> = names.into_iter().map(|name| (name.id, name)).collect();
    let rows = rows.into_iter().map(|row| {
        let author = author_id(&row).and_then(|id| names.get(&id).cloned());
        Named { row, author }
    });
    Ok(Json(page.page(rows.collect(), |named| named.row.id)))
}

fn author_id(row: &Recorded) -> Option<Uuid> {
    row.author_id.as_deref()?.parse().ok()
}

impl From<Named> for AuditView {
    fn from(Named { row, author }: Named) -> Self {
        let part = |name: &str| row.detail.get(name).cloned();
        Self {
            id: row.id,
            at: row.at,
            before: part("before"),
            after: part("after"),
            request_id: part("request_id").and_then(|id| id.as_str().map(str::to_owned)),
            author: AuthorView {
                kind: row.author_kind,
                id: row.author_id,
                name: author.as_ref().map(|author| author.name.clone()),
                email: author.and_then(|author| author.email),
            },
            action: row.action,
            target: TargetView {
                kind: row.target_kind,
                id: row.target_id,
            },
            tenant_id: row.tenant_id,
            ip: row.ip,
        }
    }
}
