//! Tenants, as those see them who run the platform: made, stopped, let go on.

pub mod plan;

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;
use uuid::Uuid;

use super::Tag;
use super::body::{Body, named};
use super::change::{Change, Facts, Once, Owner, Turn};
use super::invitations::{CreatedInvitation, read_email};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Created;
use super::state::ApiState;
use super::tenant::{follow, read_country, read_timezone};
use crate::delivery::invitations::{Guest, invite, invited_entry};
use crate::domain::actor::{Operator, Role};
use crate::domain::audit::AuditEntry;
use crate::domain::email::EmailAddress;
use crate::domain::ids::TenantId;
use crate::domain::tenant::{Clearing, TenantStatus, is_slug};
use crate::store::control::directory::{self, Beginning, DirectoryEntry, NewTenant};
use crate::store::tx::Control;
use crate::store::{ControlTx, StoreError};

/// The operations on tenants.
#[derive(Debug)]
pub struct AdminTenants {
    state: ApiState,
}

/// A tenant to make.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct TenantToMake {
    /// What people call it.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// Its word in addresses: small letters, digits and hyphens; never changed.
    #[oai(validator(min_length = 1, max_length = 63))]
    slug: String,
    /// Two letters; national numbers are read as this country's. `US` when absent.
    #[oai(validator(min_length = 2, max_length = 2))]
    default_country: Option<String>,
    /// A zone such as `Europe/Paris`; `America/New_York` when absent.
    #[oai(validator(min_length = 1, max_length = 64))]
    timezone: Option<String>,
    /// Whom to invite as its owner; without one, `engageninja user add --role owner` lets somebody in.
    #[oai(validator(min_length = 1, max_length = 320))]
    owner_email: Option<String>,
}

/// A tenant.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct AdminTenantView {
    /// Its id.
    id: TenantId,
    /// What people call it.
    name: String,
    /// Its word in addresses.
    slug: String,
    /// Whether it may do anything.
    status: TenantStatus,
    /// Whether its messages are simulated.
    is_demo: bool,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// Whether its cell has followed; it does so within seconds.
    is_applied: bool,
    /// Why its rows are being deleted, while they are.
    clearing: Option<Clearing>,
}

/// A tenant that was made, and the way in for its owner.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct CreatedTenant {
    /// The tenant.
    #[oai(flatten)]
    tenant: AdminTenantView,
    /// What lets its owner in, where one was named. Its token and link are never shown again.
    owner_invitation: Option<CreatedInvitation>,
}

impl CreatedTenant {
    /// Which one.
    pub fn id(&self) -> TenantId {
        self.tenant.id
    }
}

#[OpenApi(prefix_path = "/admin/tenants", tag = "Tag::Admin")]
impl AdminTenants {
    /// Make a tenant.
    ///
    /// It sends real messages once its channels are set up. With `owner_email` the answer holds an invitation for its owner,
    /// once: nothing is sent by itself, and it works once, for 7 days.
    #[oai(path = "/", method = "post", operation_id = "create_tenant")]
    async fn create_tenant(
        &self,
        operator: Operator,
        once: Once,
        body: Body<TenantToMake>,
    ) -> ApiResult<Created<CreatedTenant>> {
        let wanted = &body.0;
        let beginning = wanted.beginning()?;
        let new = NewTenant {
            id: TenantId(Uuid::now_v7()),
            name: named(&wanted.name)?,
            slug: &wanted.slug,
            is_demo: false,
            beginning,
        };
        let making = Making {
            action: "create_tenant",
            new,
            owner_email: wanted.owner_email.as_deref(),
        };
        making.make(&self.state, &operator, once).await
    }

    /// List tenants.
    ///
    /// The newest first, demo tenants among them.
    #[oai(path = "/", method = "get", operation_id = "list_tenants")]
    async fn list_tenants(
        &self,
        _operator: Operator,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<AdminTenantView>>> {
        let page = PageRequest::<TenantId>::new("tenants", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control_system().begin().await?;
        let rows = directory::list_tenants(&mut tx, None, page.after, page.rows_to_load()).await?;
        Ok(Json(page.page(rows, |tenant| tenant.id)))
    }

    /// Show a tenant.
    ///
    /// As the directory has it.
    #[oai(
        path = "/:tenant_id",
        method = "get",
        operation_id = "get_tenant_as_operator"
    )]
    async fn get_tenant_as_operator(
        &self,
        _operator: Operator,
        /// The tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Json<AdminTenantView>> {
        let mut tx = self.state.db.control_system().begin().await?;
        let entry = directory::load_tenant(&mut tx, tenant_id.0).await;
        Ok(Json(entry.map_err(no_such_tenant)?.into()))
    }

    /// Suspend a tenant.
    ///
    /// No call begins any more once `is_applied` is true, of a campaign or of a single message; those under way end. Its
    /// sessions and keys are refused from the answer on. Nothing is lost: what waits goes on when it is resumed.
    #[oai(
        path = "/:tenant_id/suspend",
        method = "post",
        operation_id = "suspend_tenant"
    )]
    async fn suspend_tenant(
        &self,
        operator: Operator,
        facts: Facts,
        /// The tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Json<AdminTenantView>> {
        let switch = Switch {
            action: "suspend_tenant",
            from: TenantStatus::Active,
            to: TenantStatus::Suspended,
            refusal: ProblemType::TenantNotActive,
        };
        switch
            .turn(&self.state, &operator, facts, tenant_id.0)
            .await
    }

    /// Resume a tenant.
    ///
    /// It goes on where it stopped.
    #[oai(
        path = "/:tenant_id/resume",
        method = "post",
        operation_id = "resume_tenant"
    )]
    async fn resume_tenant(
        &self,
        operator: Operator,
        facts: Facts,
        /// The tenant.
        tenant_id: Path<TenantId>,
    ) -> ApiResult<Json<AdminTenantView>> {
        let switch = Switch {
            action: "resume_tenant",
            from: TenantStatus::Suspended,
            to: TenantStatus::Active,
            refusal: ProblemType::TenantNotSuspended,
        };
        switch
            .turn(&self.state, &operator, facts, tenant_id.0)
            .await
    }
}

impl AdminTenants {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// A tenant to be made, and whom to invite as its owner.
#[derive(Debug)]
pub struct Making<'a> {
    /// The operation.
    pub action: &'static str,
    /// The tenant.
    pub new: NewTenant<'a>,
    /// The owner's address, as somebody wrote it.
    pub owner_email: Option<&'a str>,
}

impl Making<'_> {
    /// Makes it and the invitation: `control` first, and the cell follows.
    pub async fn make(
        &self,
        state: &ApiState,
        operator: &Operator,
        once: Once,
    ) -> ApiResult<Created<CreatedTenant>> {
        let new = &self.new;
        check_slug(new.slug)?;
        let email = self.owner_email.map(|text| read_email("owner_email", text));
        let email = email.transpose()?;
        let owner = Owner::operator(operator, None);
        let mut change = match once.in_all_control(state, owner).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        directory::insert_tenant(change.tx(), new)
            .await
            .map_err(slug_taken)?;
        let owner_invitation = match &email {
            Some(email) => Some(invite_owner(state, &mut change, operator, new.id, email).await?),
            None => None,
        };
        let tenant = view(change.tx(), new.id).await?;
        let entry = AuditEntry::new(self.action, "tenant", &new.id)
            .after(json!({ "name": new.name, "slug": new.slug, "is_demo": new.is_demo }));
        let made = CreatedTenant {
            tenant,
            owner_invitation,
        };
        let answer = change.commit(entry, Created(made)).await?;
        follow(state, new.id).await;
        Ok(answer)
    }
}

async fn invite_owner(
    state: &ApiState,
    change: &mut Change<Control>,
    operator: &Operator,
    tenant_id: TenantId,
    email: &EmailAddress,
) -> ApiResult<CreatedInvitation> {
    let asked = Guest {
        tenant_id,
        email,
        role: Role::Owner,
        invited_by: Some(operator.user_id),
    };
    let invited = invite(change.tx(), &asked, state.clock()).await?;
    change.record(&invited_entry(&invited.invitation)).await?;
    Ok(CreatedInvitation::new(invited, &state.front))
}

fn slug_taken(error: StoreError) -> ApiError {
    match error.constraint() {
        Some("tenant_directory_slug_key") => ApiError::new(
            ProblemType::NameTaken,
            "Another tenant has this slug. Choose another one.",
        ),
        _ => error.into(),
    }
}

fn check_slug(slug: &str) -> ApiResult<()> {
    if is_slug(slug) {
        return Ok(());
    }
    Err(ApiError::invalid_field(
        "slug",
        "must have small letters, digits and hyphens, and begin with no hyphen",
    ))
}

/// A change of a tenant's status.
struct Switch {
    action: &'static str,
    from: TenantStatus,
    to: TenantStatus,
    refusal: ProblemType,
}

impl Switch {
    async fn turn(
        self,
        state: &ApiState,
        operator: &Operator,
        facts: Facts,
        id: TenantId,
    ) -> ApiResult<Json<AdminTenantView>> {
        let owner = Owner::operator(operator, Some(id));
        let mut change = facts.in_all_control(state, owner).await?;
        let entry = directory::load_for_update(change.tx(), id).await;
        let entry = entry.map_err(no_such_tenant)?;
        if entry.status != self.from || entry.clearing.is_some() {
            return Err(ApiError::new(
                self.refusal,
                format!(
                    "The tenant is {}; it would have to be {}.",
                    entry.status, self.from
                ),
            ));
        }
        directory::save_status(change.tx(), id, self.to, None).await?;
        let record = AuditEntry::new(self.action, "tenant", &id)
            .before(json!({ "status": self.from }))
            .after(json!({ "status": self.to }));
        change.finish(record).await?;
        follow(state, id).await;
        let mut tx = state.db.control_system().begin().await?;
        Ok(Json(view(&mut tx, id).await?))
    }
}

/// A tenant as the directory has it now.
pub async fn view(tx: &mut ControlTx, id: TenantId) -> ApiResult<AdminTenantView> {
    Ok(directory::load_tenant(tx, id).await?.into())
}

/// What operators are told of an id that is no tenant's.
pub fn no_such_tenant(error: StoreError) -> ApiError {
    match error {
        StoreError::NotFound { .. } => ApiError::new(
            ProblemType::NotFound,
            "There is no tenant with this id. GET /api/admin/tenants lists them.",
        ),
        error => error.into(),
    }
}

impl TenantToMake {
    fn beginning(&self) -> ApiResult<Beginning> {
        let mut beginning = Beginning::default();
        if let Some(country) = &self.default_country {
            beginning.default_country = read_country(country)?;
        }
        if let Some(timezone) = &self.timezone {
            beginning.timezone = read_timezone(timezone)?;
        }
        Ok(beginning)
    }
}

impl From<DirectoryEntry> for AdminTenantView {
    fn from(entry: DirectoryEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            slug: entry.slug,
            status: entry.status,
            is_demo: entry.is_demo,
            created_at: entry.created_at,
            is_applied: entry.is_synced,
            clearing: entry.clearing,
        }
    }
}
