//! Oneself: one's password, and the tenants one belongs to.

use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::Tag;
use super::auth::Person;
use super::body::Body;
use super::change::{Facts, Owner};
use super::credentials::{hash_new, prove};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Done;
use super::state::ApiState;
use crate::domain::actor::Role;
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::ids::TenantId;
use crate::domain::tenant::TenantStatus;
use crate::store::control::memberships::{self, Joined, Membership};
use crate::store::control::{sessions, users};

/// The operations on oneself.
#[derive(Debug)]
pub struct Me {
    state: ApiState,
}

/// The password one has, and the one to have.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct PasswordChange {
    /// The password one has.
    #[oai(validator(min_length = 1, max_length = 1024))]
    current_password: String,
    /// The password to have, at least 12 characters.
    #[oai(validator(min_length = 1, max_length = 1024))]
    new_password: String,
}

/// A tenant one belongs to.
#[derive(Debug, Object)]
struct MembershipView {
    /// The tenant's id.
    tenant_id: TenantId,
    /// What people call it.
    name: String,
    /// Its word in addresses.
    slug: String,
    /// Whether it is active.
    status: TenantStatus,
    /// Whether its messages are simulated.
    is_demo: bool,
    /// What one is there.
    role: Role,
}

#[OpenApi(tag = "Tag::Me")]
impl Me {
    /// Change one's password.
    ///
    /// The one before is needed. Every other session of the account ends; this one goes on.
    #[oai(
        path = "/me/password",
        method = "put",
        operation_id = "change_password"
    )]
    async fn change_password(
        &self,
        person: Person,
        facts: Facts,
        body: Body<PasswordChange>,
    ) -> ApiResult<Done> {
        let state = &self.state;
        let user_id = person.user_id();
        let mut tx = state.db.control_system().begin().await?;
        let email = users::load_user(&mut tx, user_id).await?.email;
        drop(tx);
        let proven = prove(state, facts.ip, &email, &body.0.current_password)
            .await
            .map_err(wrong_current)?;
        let hash = hash_new(state, "new_password", &body.0.new_password).await?;

        let owner = Owner {
            tenant: None,
            author: Author::User(user_id),
        };
        let mut change = facts.in_all_control(state, owner).await?;
        users::save_password(change.tx(), user_id, &hash).await?;
        sessions::delete_others(change.tx(), user_id, Some(person.session.id)).await?;
        proven.forget_tries(change.tx()).await?;
        change
            .finish(AuditEntry::new("change_password", "user", &user_id))
            .await?;
        Ok(Done)
    }

    /// List one's tenants.
    ///
    /// The one joined first in front; PUT /sessions/current/tenant opens one.
    #[oai(
        path = "/me/tenants",
        method = "get",
        operation_id = "list_own_tenants"
    )]
    async fn list_own_tenants(
        &self,
        person: Person,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<MembershipView>>> {
        let page = PageRequest::<Joined>::new("own-tenants", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control_system().begin().await?;
        let (after, limit) = (page.after, page.rows_to_load());
        let rows = memberships::list_of_user(&mut tx, person.user_id(), after, limit).await?;
        Ok(Json(page.page(rows, Membership::joined)))
    }

    /// Leave a tenant.
    ///
    /// One's sessions of it end at once. The last owner cannot leave.
    #[oai(
        path = "/me/tenants/:tenant_id",
        method = "delete",
        operation_id = "leave_tenant"
    )]
    async fn leave_tenant(
        &self,
        person: Person,
        facts: Facts,
        /// The tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Done> {
        let (tenant_id, user_id) = (tenant_id.0, person.user_id());
        let owner = Owner {
            tenant: Some(tenant_id),
            author: Author::User(user_id),
        };
        let mut change = facts.in_all_control(&self.state, owner).await?;
        let tx = change.tx();
        let standing = memberships::load_standing_for_update(tx, tenant_id, user_id).await?;
        standing.may_leave()?;
        memberships::delete_membership(tx, tenant_id, user_id).await?;
        let entry = AuditEntry::new("leave_tenant", "member", &user_id)
            .before(json!({ "role": standing.role }));
        change.finish(entry).await?;
        Ok(Done)
    }
}

impl Me {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// One is signed in already: it is the body that is wrong, and not the session.
fn wrong_current(error: ApiError) -> ApiError {
    if error.problem() != ProblemType::WrongCredentials {
        return error;
    }
    ApiError::new(
        ProblemType::Unprocessable,
        "The current password is wrong. Check it and try again.",
    )
    .with_field("current_password", "is not the password of this account")
}

impl From<Membership> for MembershipView {
    fn from(member: Membership) -> Self {
        Self {
            tenant_id: member.tenant_id,
            name: member.name,
            slug: member.slug,
            status: member.status,
            is_demo: member.is_demo,
            role: member.role,
        }
    }
}
