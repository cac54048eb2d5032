//! The members of a tenant: listed, given another role, removed.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::Tag;
use super::body::Body;
use super::change::Facts;
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Done;
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission, Role};
use crate::domain::audit::AuditEntry;
use crate::domain::ids::UserId;
use crate::domain::members::MemberRefusal;
use crate::store::control::memberships::{self, Member};

/// The operations on members.
#[derive(Debug)]
pub struct Members {
    state: ApiState,
}

/// A member.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct MemberView {
    /// Their id.
    id: UserId,
    /// Their email.
    email: String,
    /// Their name.
    name: String,
    /// What they may do.
    role: Role,
    /// Since when they belong to the tenant.
    joined_at: DateTime<Utc>,
    /// When they last signed in.
    last_login_at: Option<DateTime<Utc>>,
}

/// Another role for a member.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct RoleChange {
    /// What they may do from now on; not above your own role.
    role: Role,
}

#[OpenApi(tag = "Tag::Members")]
impl Members {
    /// List members.
    ///
    /// Everybody who can open the tenant, in the order in which their accounts were made.
    #[oai(path = "/members", method = "get", operation_id = "list_members")]
    async fn list_members(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<MemberView>>> {
        actor.require(Permission::ReadMembers)?;
        let page = PageRequest::<UserId>::new("members", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control(actor.tenant_id).begin().await?;
        let limit = page.rows_to_load();
        let rows =
            memberships::list_members(&mut tx, actor.tenant_id, None, page.after, limit).await?;
        Ok(Json(page.page(rows, |member| member.user_id)))
    }

    /// Change a member's role.
    ///
    /// It holds from their next request on. Nobody gives a role above their own or changes somebody above; the last owner
    /// stays owner.
    #[oai(
        path = "/members/:member_id",
        method = "patch",
        operation_id = "update_member"
    )]
    async fn update_member(
        &self,
        actor: Actor,
        facts: Facts,
        /// The member.
        member_id: Path<UserId>,
        body: Body<RoleChange>,
    ) -> ApiResult<Json<MemberView>> {
        actor.require(Permission::ManageMembers)?;
        let (tenant_id, id, role) = (actor.tenant_id, member_id.0, body.0.role);
        let mut change = facts.in_control(&self.state, &actor).await?;
        let tx = change.tx();
        let standing = memberships::load_standing_for_update(tx, tenant_id, id).await?;
        standing.may_become(actor.role, role)?;
        memberships::save_membership(tx, tenant_id, id, role).await?;
        let member = memberships::load_member(tx, tenant_id, id).await?;
        let entry = AuditEntry::new("update_member", "member", &id)
            .before(json!({ "role": standing.role }))
            .after(json!({ "role": role }));
        change.finish(entry).await?;
        Ok(Json(member.into()))
    }

    /// Remove a member.
    ///
    /// Their sessions of this tenant end at once; their account stays. The last owner cannot be removed.
    #[oai(
        path = "/members/:member_id",
        method = "delete",
        operation_id = "remove_member"
    )]
    async fn remove_member(
        &self,
        actor: Actor,
        facts: Facts,
        /// The member.
        member_id: Path<UserId>,
    ) -> ApiResult<Done> {
        actor.require(Permission::ManageMembers)?;
        let (tenant_id, id) = (actor.tenant_id, member_id.0);
        let mut change = facts.in_control(&self.state, &actor).await?;
        let tx = change.tx();
        let standing = memberships::load_standing_for_update(tx, tenant_id, id).await?;
        standing.may_be_removed(actor.role)?;
        memberships::delete_membership(tx, tenant_id, id).await?;
        let entry = AuditEntry::new("remove_member", "member", &id)
            .before(json!({ "role": standing.role }));
        change.finish(entry).await?;
        Ok(Done)
    }
}

impl Members {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<MemberRefusal> for ApiError {
    fn from(refusal: MemberRefusal) -> Self {
        match refusal {
            MemberRefusal::GrantsAbove(role) => Self::new(
                ProblemType::RoleAboveOwn,
                format!(
                    "You cannot make anybody {role}: that is above your own role. Ask somebody who is {role}."
                ),
            ),
            MemberRefusal::TouchesAbove(role) => Self::new(
                ProblemType::RoleAboveOwn,
                format!(
                    "This member is {role}, which is above your own role. Ask somebody who is {role}."
                ),
            ),
            MemberRefusal::LastOwner => Self::new(
                ProblemType::LastOwner,
                "This is the only owner of the tenant. Make somebody else owner first.",
            ),
        }
    }
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        Self {
            id: member.user_id,
            email: member.email,
            name: member.name,
            role: member.role,
            joined_at: member.created_at,
            last_login_at: member.last_login_at,
        }
    }
}
