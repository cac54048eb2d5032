//! Demo tenants, as those see them who run the platform: made, emptied, removed.

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;
use uuid::Uuid;

use super::Tag;
use super::admin_tenants::{AdminTenantView, CreatedTenant, Making, no_such_tenant, view};
use super::body::{Body, named};
use super::change::{Facts, Once, Owner};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{Accepted, Created};
use super::state::ApiState;
use super::tenant::follow;
use crate::delivery::demo_seed::fill_tenant;
use crate::domain::actor::Operator;
use crate::domain::audit::AuditEntry;
use crate::domain::ids::TenantId;
use crate::domain::orders::ClearTenant;
use crate::domain::tenant::{Clearing, TenantStatus};
use crate::jobs::queue::enqueue;
use crate::store::StoreError;
use crate::store::control::directory::{self, Beginning, FIRST_VERSION, NewTenant};

/// The operations on demo tenants.
#[derive(Debug)]
pub struct AdminDemoTenants {
    state: ApiState,
}

/// A demo tenant to make.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct DemoTenantToMake {
    /// What people call it.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// Its word in addresses: small letters, digits and hyphens; never changed.
    #[oai(validator(min_length = 1, max_length = 63))]
    slug: String,
    /// Whom to invite as its owner.
    #[oai(validator(min_length = 1, max_length = 320))]
    owner_email: Option<String>,
}

#[OpenApi(prefix_path = "/admin/demo-tenants", tag = "Tag::Admin")]
impl AdminDemoTenants {
    /// Make a demo tenant.
    ///
    /// Its messages are simulated; it has a sender per channel, people, templates and a campaign to send at once. With
    /// `owner_email` the answer holds an invitation for its owner, once.
    #[oai(path = "/", method = "post", operation_id = "create_demo_tenant")]
    async fn create_demo_tenant(
        &self,
        operator: Operator,
        once: Once,
        body: Body<DemoTenantToMake>,
    ) -> ApiResult<Created<CreatedTenant>> {
        let new = NewTenant {
            id: TenantId(Uuid::now_v7()),
            name: named(&body.0.name)?,
            slug: &body.0.slug,
            is_demo: true,
            beginning: Beginning {
                is_consent_attested: true,
                ..Beginning::default()
            },
        };
        let making = Making {
            action: "create_demo_tenant",
            new,
            owner_email: body.0.owner_email.as_deref(),
        };
        let made = making.make(&self.state, &operator, once).await?;
        fill(&self.state, made.0.id()).await;
        Ok(made)
    }

    /// Reset a demo tenant.
    ///
    /// It is suspended while its contacts, templates, campaigns and messages are deleted, and active again afterwards, with
    /// its members, keys and senders, and with the people, templates and campaign that a new one has.
    #[oai(
        path = "/:tenant_id/reset",
        method = "post",
        operation_id = "reset_demo_tenant"
    )]
    async fn reset_demo_tenant(
        &self,
        operator: Operator,
        facts: Facts,
        /// The demo tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Json<AdminTenantView>> {
        let view = self
            .clear(&operator, facts, tenant_id.0, Clearing::Reset)
            .await?;
        Ok(Json(view))
    }

    /// Remove a demo tenant.
    ///
    /// Nobody gets in from the answer on; a job deletes all it has, its members' accounts excepted.
    #[oai(
        path = "/:tenant_id",
        method = "delete",
        operation_id = "remove_demo_tenant"
    )]
    async fn remove_demo_tenant(
        &self,
        operator: Operator,
        facts: Facts,
        /// The demo tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Accepted<AdminTenantView>> {
        let view = self
            .clear(&operator, facts, tenant_id.0, Clearing::Remove)
            .await?;
        Ok(Accepted(view))
    }
}

/// What it begins with. A repeat finds it there; if it could not be written, a reset brings it.
async fn fill(state: &ApiState, id: TenantId) {
    if let Err(error) = fill_tenant(&state.db, id, FIRST_VERSION, &state.mac_key).await {
        tracing::warn!(%error, tenant.id = %id, "a new demo tenant is empty; reset it");
    }
}

impl AdminDemoTenants {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn clear(
        &self,
        operator: &Operator,
        facts: Facts,
        id: TenantId,
        clearing: Clearing,
    ) -> ApiResult<AdminTenantView> {
        let owner = Owner::operator(operator, Some(id));
        let mut change = facts.in_all_control(&self.state, owner).await?;
        let entry = directory::load_for_update(change.tx(), id).await;
        let entry = entry.map_err(no_such_tenant)?;
        if !entry.is_demo {
            return Err(ApiError::new(
                ProblemType::NotFound,
                "There is no demo tenant with this id. What a tenant really sent is never deleted by this.",
            ));
        }
        let (action, status) = match clearing {
            Clearing::Reset => ("reset_demo_tenant", TenantStatus::Suspended),
            Clearing::Remove => ("remove_demo_tenant", TenantStatus::Closed),
        };
        if entry.clearing.is_some() && clearing == Clearing::Reset {
            return Err(ApiError::new(
                ProblemType::TenantNotActive,
                "The tenant's rows are being deleted already. Wait until that is over.",
            ));
        }
        directory::save_status(change.tx(), id, status, Some(clearing)).await?;
        let record = AuditEntry::new(action, "tenant", &id)
            .before(json!({ "status": entry.status }))
            .after(json!({ "status": status }));
        change.finish(record).await?;
        follow(&self.state, id).await;
        if let Err(error) = self.order(id).await {
            tracing::warn!(%error, tenant.id = %id, "the schedule orders it");
        }
        let mut tx = self.state.db.control_system().begin().await?;
        view(&mut tx, id).await
    }

    async fn order(&self, tenant_id: TenantId) -> Result<(), StoreError> {
        let mut tx = self.state.db.system().begin().await?;
        enqueue(&mut tx, ClearTenant { tenant_id }).await?;
        tx.commit().await
    }
}
