//! Lists: named sets of contacts, which campaigns are written to.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;
use uuid::Uuid;

use super::Tag;
use super::body::{Body, named};
use super::change::{Facts, Once, Turn};
use super::contacts::ContactView;
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, FieldError, ProblemType};
use super::reply::{AsJson, Created, Done};
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::ids::{ContactId, ListId, TenantId};
use crate::store::lists::{self, List, ListUse};
use crate::store::{TenantTx, contacts};

/// The operations on lists.
#[derive(Debug)]
pub struct Lists {
    state: ApiState,
}

/// A list's name, new or changed.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct ListName {
    /// What people call it; unique in the tenant.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
}

/// A list.
#[derive(Debug, Object)]
struct ListView {
    /// Its id.
    id: ListId,
    /// What people call it.
    name: String,
    /// Contacts on it.
    members: i64,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was renamed last.
    updated_at: DateTime<Utc>,
}

/// Contacts to put on a list, or to take off it.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Members {
    /// The contacts, at most 1,000.
    #[oai(validator(min_items = 1, max_items = 1000))]
    contact_ids: Vec<ContactId>,
}

/// What became of a list.
#[derive(Debug, Object)]
struct MembersChanged {
    /// Contacts that came, or went; those for whom nothing changed are not counted.
    changed: i64,
    /// Contacts on the list now.
    members: i64,
}

#[OpenApi(tag = "Tag::Lists")]
impl Lists {
    /// Make a list.
    ///
    /// It is empty; `add_list_members` puts contacts on it. An import makes a list of its people by itself.
    #[oai(path = "/lists", method = "post", operation_id = "create_list")]
    async fn create_list(
        &self,
        actor: Actor,
        once: Once,
        body: Body<ListName>,
    ) -> ApiResult<Created<ListView>> {
        actor.require(Permission::WriteContacts)?;
        let name = named(&body.0.name)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let id = ListId(Uuid::now_v7());
        lists::insert_list(change.tx(), actor.tenant_id, id, name).await?;
        let list = lists::load_list(change.tx(), actor.tenant_id, id).await?;
        let view = ListView::from(list);
        let entry = AuditEntry::new("create_list", "list", &id).after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List lists.
    ///
    /// The newest first, each with the number of its contacts.
    #[oai(path = "/lists", method = "get", operation_id = "list_lists")]
    async fn list_lists(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ListView>>> {
        actor.require(Permission::ReadContacts)?;
        let page = PageRequest::<ListId>::new("lists", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows =
            lists::list_lists(&mut tx, actor.tenant_id, page.after, page.rows_to_load()).await?;
        Ok(Json(page.page(rows, |list| list.id)))
    }

    /// Show a list.
    ///
    /// With the number of its contacts.
    #[oai(path = "/lists/:list_id", method = "get", operation_id = "get_list")]
    async fn get_list(
        &self,
        actor: Actor,
        /// The list.
        list_id: Path<ListId>,
    ) -> ApiResult<Json<ListView>> {
        actor.require(Permission::ReadContacts)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let list = lists::load_list(&mut tx, actor.tenant_id, list_id.0).await?;
        Ok(Json(list.into()))
    }

    /// Rename a list.
    ///
    /// Whoever is on it stays on it.
    #[oai(
        path = "/lists/:list_id",
        method = "patch",
        operation_id = "update_list"
    )]
    async fn update_list(
        &self,
        actor: Actor,
        facts: Facts,
        /// The list.
        list_id: Path<ListId>,
        body: Body<ListName>,
    ) -> ApiResult<Json<ListView>> {
        actor.require(Permission::WriteContacts)?;
        let name = named(&body.0.name)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let before = lists::load_for_update(change.tx(), actor.tenant_id, list_id.0).await?;
        lists::save_name(change.tx(), actor.tenant_id, list_id.0, name).await?;
        let after = lists::load_list(change.tx(), actor.tenant_id, list_id.0).await?;
        let entry = AuditEntry::new("update_list", "list", &list_id.0)
            .before(json!({"name": before.name}))
            .after(json!({"name": after.name}));
        change.finish(entry).await?;
        Ok(Json(after.into()))
    }

    /// Delete a list.
    ///
    /// Its contacts stay contacts. A list that a campaign still has to read, or an import still fills, is not deleted.
    #[oai(
        path = "/lists/:list_id",
        method = "delete",
        operation_id = "delete_list"
    )]
    async fn delete_list(
        &self,
        actor: Actor,
        facts: Facts,
        /// The list.
        list_id: Path<ListId>,
    ) -> ApiResult<Done> {
        actor.require(Permission::WriteContacts)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let tx = change.tx();
        let list = lists::load_for_update(tx, actor.tenant_id, list_id.0).await?;
        if let Some(need) = lists::find_use(tx, actor.tenant_id, list.id).await? {
            return Err(in_use(&need));
        }
        lists::delete_list(tx, actor.tenant_id, list.id).await?;
        let view = ListView::from(list);
        let entry = AuditEntry::new("delete_list", "list", &view.id).before(view.as_json());
        change.finish(entry).await?;
        Ok(Done)
    }

    /// List who is on a list.
    ///
    /// The newest contact first.
    #[oai(
        path = "/lists/:list_id/members",
        method = "get",
        operation_id = "list_list_members"
    )]
    async fn list_list_members(
        &self,
        actor: Actor,
        /// The list.
        list_id: Path<ListId>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ContactView>>> {
        actor.require(Permission::ReadContacts)?;
        let page = PageRequest::<ContactId>::new("list-members", limit.0, cursor.0.as_deref())?;
        let (tenant_id, rows) = (actor.tenant_id, page.rows_to_load());
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        // Somebody else's list is not an empty one.
        let list = lists::load_list(&mut tx, tenant_id, list_id.0).await?;
        let rows = lists::list_members(&mut tx, tenant_id, list.id, page.after, rows).await?;
        Ok(Json(page.page(rows, |contact| contact.id)))
    }

    /// Put contacts on a list.
    ///
    /// Those who are on it stay. Sending it again changes nothing.
    #[oai(
        path = "/lists/:list_id/members",
        method = "put",
        operation_id = "add_list_members"
    )]
    async fn add_list_members(
        &self,
        actor: Actor,
        facts: Facts,
        /// The list.
        list_id: Path<ListId>,
        body: Body<Members>,
    ) -> ApiResult<Json<MembersChanged>> {
        actor.require(Permission::WriteContacts)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let (tx, tenant_id) = (change.tx(), actor.tenant_id);
        let list = lists::load_for_update(tx, tenant_id, list_id.0).await?;
        require_contacts(tx, tenant_id, &body.0.contact_ids).await?;
        let ids = &body.0.contact_ids;
        let changed = lists::insert_members(tx, tenant_id, list.id, ids).await?;
        let view = MembersChanged::read(tx, tenant_id, list.id, changed).await?;
        let entry = AuditEntry::new("add_list_members", "list", &list.id).after(view.as_json());
        change.finish(entry).await?;
        Ok(Json(view))
    }

    /// Take contacts off a list.
    ///
    /// Those who are not on it are no fault: sending it again changes nothing.
    #[oai(
        path = "/lists/:list_id/members/remove",
        method = "post",
        operation_id = "remove_list_members"
    )]
    async fn remove_list_members(
        &self,
        actor: Actor,
        facts: Facts,
        /// The list.
        list_id: Path<ListId>,
        body: Body<Members>,
    ) -> ApiResult<Json<MembersChanged>> {
        actor.require(Permission::WriteContacts)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let (tx, tenant_id) = (change.tx(), actor.tenant_id);
        let list = lists::load_for_update(tx, tenant_id, list_id.0).await?;
        let ids = &body.0.contact_ids;
        let changed = lists::delete_members(tx, tenant_id, list.id, ids).await?;
        let view = MembersChanged::read(tx, tenant_id, list.id, changed).await?;
        let entry = AuditEntry::new("remove_list_members", "list", &list.id).after(view.as_json());
        change.finish(entry).await?;
        Ok(Json(view))
    }
}

impl Lists {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// Each contact that a body names must be there and be the tenant's.
async fn require_contacts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    ids: &[ContactId],
) -> ApiResult<()> {
    let found = contacts::hold_contacts(tx, tenant_id, ids).await?;
    let errors: Vec<_> = ids
        .iter()
        .enumerate()
        .filter(|(_, id)| found.binary_search(id).is_err())
        .map(|(place, _)| FieldError {
            field: format!("contact_ids[{place}]"),
            message: "names no contact of your tenant".to_owned(),
        })
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(
        ProblemType::Unprocessable,
        format!(
            "{} of the ids name no contact; errors says which. Nothing was changed.",
            errors.len()
        ),
    )
    .with_errors(errors))
}

fn in_use(need: &ListUse) -> ApiError {
    let detail = match need {
        ListUse::Campaign(name) => format!(
            "The campaign '{name}' has still to read this list. Cancel it, or delete the list once it is sending. Nothing \
             was changed."
        ),
        ListUse::Import(file) => format!(
            "The import of '{file}' puts people on this list. Delete it once the import has ended. Nothing was changed."
        ),
    };
    ApiError::new(ProblemType::ListInUse, detail)
}

impl MembersChanged {
    async fn read(
        tx: &mut TenantTx,
        tenant_id: TenantId,
        id: ListId,
        changed: u64,
    ) -> ApiResult<Self> {
        let list = lists::load_list(tx, tenant_id, id).await?;
        Ok(Self {
            changed: changed.cast_signed(),
            members: list.members,
        })
    }
}

impl From<List> for ListView {
    fn from(list: List) -> Self {
        Self {
            id: list.id,
            name: list.name,
            members: list.members,
            created_at: list.created_at,
            updated_at: list.updated_at,
        }
    }
}
