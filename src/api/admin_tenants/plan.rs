//! What a tenant pays for, which may be changed while it sends.

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::{Value, json};

use super::no_such_tenant;
use crate::api::Tag;
use crate::api::body::Body;
use crate::api::change::{Facts, Owner};
use crate::api::ops::finish;
use crate::api::problem::{ApiError, ApiResult};
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::domain::audit::AuditEntry;
use crate::domain::ids::TenantId;
use crate::domain::rate::plan::Plan;
use crate::store::{LANES, lanes, tenants};

/// The operations on a tenant's plan.
#[derive(Debug)]
pub struct TenantPlans {
    state: ApiState,
}

/// A plan to set.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct PlanToSet {
    /// Segments a second (emails: messages), over everything the tenant sends; absent sets no limit.
    segments_per_sec: Option<f64>,
    /// Messages that it is let out for each one of a tenant of weight 1, while both have a backlog; 1 when absent.
    #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
    weight: Option<i16>,
}

/// A tenant's plan.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct PlanView {
    /// Segments a second (emails: messages), over everything the tenant sends; absent where the plan sets no limit.
    segments_per_sec: Option<f64>,
    /// Messages that it is let out for each one of a tenant of weight 1, while both have a backlog.
    weight: i16,
}

#[OpenApi(prefix_path = "/admin/tenants", tag = "Tag::Admin")]
impl TenantPlans {
    /// Show a tenant's plan.
    ///
    /// How fast the tenant may go as a whole, and its share where tenants take turns.
    #[oai(
        path = "/:tenant_id/plan",
        method = "get",
        operation_id = "get_tenant_plan"
    )]
    async fn get_tenant_plan(
        &self,
        _operator: Operator,
        /// The tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Json<PlanView>> {
        // System: an operator's view of any tenant.
        let mut tx = self.state.db.system().begin().await?;
        let plan = tenants::load_plan(&mut tx, tenant_id.0).await;
        Ok(Json(plan.map_err(no_such_tenant)?.into()))
    }

    /// Change a tenant's plan.
    ///
    /// As a whole, also while its messages go out; it holds within a second.
    #[oai(
        path = "/:tenant_id/plan",
        method = "put",
        operation_id = "set_tenant_plan"
    )]
    async fn set_tenant_plan(
        &self,
        operator: Operator,
        facts: Facts,
        /// The tenant.
        tenant_id: Path<TenantId>,
        body: Body<PlanToSet>,
    ) -> ApiResult<Json<PlanView>> {
        let id = tenant_id.0;
        let plan = Plan::new(body.0.segments_per_sec, body.0.weight)
            .map_err(|refusal| ApiError::invalid_field(refusal.field(), &refusal.to_string()))?;
        let owner = Owner::operator(&operator, Some(id));
        let record = facts.in_all_control(&self.state, owner).await?;
        // System: the plan is the platform's to set.
        let mut tx = self.state.db.system().begin().await?;
        let before = tenants::save_plan(&mut tx, id, &plan)
            .await
            .map_err(no_such_tenant)?;
        lanes::look_at_lanes(tx.conn(), id, None, None).await?;
        tx.announce(LANES, 0);
        let entry = AuditEntry::new("set_tenant_plan", "tenant", &id)
            .before(as_json(&before))
            .after(as_json(&plan));
        finish(record, entry, tx).await?;
        Ok(Json(plan.into()))
    }
}

impl TenantPlans {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

fn as_json(plan: &Plan) -> Value {
    json!({ "segments_per_sec": plan.segments_per_sec, "weight": plan.weight })
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        Self {
            segments_per_sec: plan.segments_per_sec,
            weight: plan.weight,
        }
    }
}
