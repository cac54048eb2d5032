//! The tenant itself: its name and the settings that are its own to decide.

use chrono_tz::Tz;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::Tag;
use super::body::{Body, named};
use super::change::{Facts, Owner};
use super::problem::{ApiError, ApiResult};
use super::state::ApiState;
use crate::delivery::tenants::follow_directory;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::ids::TenantId;
use crate::domain::phone::Country;
use crate::domain::tenant::{ConsentPolicy, SendingWindow};
use crate::store::StoreError;
use crate::store::control::directory::{self, DirectoryEntry};
use crate::store::tenants::{self, TenantRow};

/// The operations on the tenant of a request.
#[derive(Debug)]
pub struct Tenants {
    state: ApiState,
}

/// The hours in which bulk messages may leave. Kept, and not applied yet.
#[derive(Debug, Clone, Object)]
#[oai(deny_unknown_fields)]
struct WindowView {
    /// When it opens, in the recipient's time: `09:00`. Not before 08:00.
    start: String,
    /// When it closes. Not after 21:00.
    end: String,
}

/// The tenant.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct TenantSettings {
    /// Its id.
    id: TenantId,
    /// What people call it.
    name: String,
    /// Its word in addresses.
    slug: String,
    /// Whether its messages are simulated.
    is_demo: bool,
    /// Its zone, in which people are shown times.
    timezone: String,
    /// Two letters; national numbers are read as this country's.
    default_country: String,
    /// What bulk messages need besides a contact.
    consent_policy: ConsentPolicy,
    /// When bulk messages may leave; kept, and not applied yet.
    sending_window: Option<WindowView>,
    /// Whether a message that the provider took and then failed is sent once more by itself, a minute to a day later.
    late_retries: bool,
}

/// What shall change; what is absent stays.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct TenantChange {
    /// What people call it.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
    /// A zone such as `Europe/Paris`.
    #[oai(validator(min_length = 1, max_length = 64))]
    timezone: Option<String>,
    /// Two letters, such as `US`.
    #[oai(validator(min_length = 2, max_length = 2))]
    default_country: Option<String>,
    /// What bulk messages need besides a contact.
    consent_policy: Option<ConsentPolicy>,
    /// Within 08:00 to 21:00, or narrower. Kept, and not applied yet.
    sending_window: Option<WindowView>,
    /// Whether a message that the provider took and then failed, for a reason that may pass, is sent once more by itself, a
    /// minute to a day later, as the reason asks. Off by itself.
    late_retries: Option<bool>,
}

#[OpenApi(tag = "Tag::Tenant")]
impl Tenants {
    /// Show the tenant.
    ///
    /// Its name and its settings.
    #[oai(path = "/tenant", method = "get", operation_id = "get_tenant")]
    async fn get_tenant(&self, actor: Actor) -> ApiResult<Json<TenantSettings>> {
        actor.require(Permission::ReadTenant)?;
        Ok(Json(self.load(actor.tenant_id).await?))
    }

    /// Change the tenant.
    ///
    /// The hours for sending may be narrower than the law's and never wider; they are kept, and not applied yet.
    #[oai(path = "/tenant", method = "patch", operation_id = "update_tenant")]
    async fn update_tenant(
        &self,
        actor: Actor,
        facts: Facts,
        body: Body<TenantChange>,
    ) -> ApiResult<Json<TenantSettings>> {
        actor.require(Permission::ManageTenant)?;
        let wanted = body.0;
        let settings = wanted.checked()?;
        if let Some(name) = wanted.trimmed_name()? {
            self.rename(&actor, facts, name).await?;
        }
        if settings != Changed::default() {
            let mut change = facts.in_cell(&self.state, &actor).await?;
            let mut row = tenants::load_for_update(change.tx(), actor.tenant_id).await?;
            let before = record(&row);
            settings.apply(&mut row);
            tenants::save_settings(change.tx(), actor.tenant_id, &row).await?;
            let entry = AuditEntry::new("update_tenant", "tenant", &actor.tenant_id)
                .before(before)
                .after(record(&row));
            change.finish(entry).await?;
        }
        Ok(Json(self.load(actor.tenant_id).await?))
    }
}

impl Tenants {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    /// The name lies in both schemas: `control` first, and the cell follows.
    async fn rename(&self, actor: &Actor, facts: Facts, name: &str) -> ApiResult<()> {
        let id = actor.tenant_id;
        let mut change = facts
            .in_all_control(&self.state, Owner::from(actor))
            .await?;
        let entry = directory::load_for_update(change.tx(), id).await?;
        if entry.name == name {
            return Ok(());
        }
        directory::save_name(change.tx(), id, name).await?;
        let entry = AuditEntry::new("update_tenant", "tenant", &id)
            .before(json!({ "name": entry.name }))
            .after(json!({ "name": name }));
        change.finish(entry).await?;
        follow(&self.state, id).await;
        Ok(())
    }

    async fn load(&self, id: TenantId) -> ApiResult<TenantSettings> {
        let mut tx = self.state.db.control_system().begin().await?;
        let entry = directory::load_tenant(&mut tx, id).await?;
        drop(tx);
        let mut tx = self.state.db.cell(id).begin().await?;
        let row = tenants::load_tenant(&mut tx, id).await?;
        Ok(settings(entry, row)?)
    }
}

/// Lets the cell follow what was committed. It is done, whatever comes of this: the schedule makes up for it.
pub async fn follow(state: &ApiState, id: TenantId) {
    if let Err(error) = follow_directory(&state.db, id).await {
        tracing::warn!(%error, tenant.id = %id, "the cell follows later");
    }
}

/// What is to change, and can.
#[derive(Debug, Default, PartialEq)]
struct Changed {
    timezone: Option<String>,
    default_country: Option<String>,
    consent_policy: Option<ConsentPolicy>,
    sending_window: Option<SendingWindow>,
    late_retries: Option<bool>,
}

impl Changed {
    fn apply(&self, row: &mut TenantRow) {
        if let Some(timezone) = &self.timezone {
            row.timezone.clone_from(timezone);
        }
        if let Some(country) = &self.default_country {
            row.default_country.clone_from(country);
        }
        if let Some(policy) = self.consent_policy {
            policy.as_str().clone_into(&mut row.consent_policy);
        }
        if let Some(window) = self.sending_window {
            row.sending_window = Some(json!({ "start": window.start(), "end": window.end() }));
        }
        if let Some(is_on) = self.late_retries {
            row.has_late_retries = is_on;
        }
    }
}

impl TenantChange {
    fn trimmed_name(&self) -> ApiResult<Option<&str>> {
        self.name.as_deref().map(named).transpose()
    }

    fn checked(&self) -> ApiResult<Changed> {
        let timezone = self.timezone.as_deref().map(read_timezone).transpose()?;
        let country = self.default_country.as_deref().map(read_country);
        let window = self.sending_window.as_ref().map(|window| {
            SendingWindow::read(&window.start, &window.end).map_err(|refusal| {
                ApiError::invalid_field("sending_window", &format!("cannot be used: {refusal}"))
            })
        });
        Ok(Changed {
            timezone,
            default_country: country.transpose()?,
            consent_policy: self.consent_policy,
            sending_window: window.transpose()?,
            late_retries: self.late_retries,
        })
    }
}

/// A zone, as it is stored.
pub fn read_timezone(text: &str) -> ApiResult<String> {
    let zone: Result<Tz, _> = text.parse();
    zone.map(|zone| zone.name().to_owned())
        .map_err(|_| ApiError::invalid_field("timezone", "must be a zone such as Europe/Paris"))
}

/// A country, as it is stored.
pub fn read_country(text: &str) -> ApiResult<String> {
    let country: Result<Country, _> = text.parse();
    country.map(|country| country.to_string()).map_err(|_| {
        ApiError::invalid_field(
            "default_country",
            "must be a country's two letters such as US",
        )
    })
}

fn settings(entry: DirectoryEntry, row: TenantRow) -> Result<TenantSettings, StoreError> {
    let time =
        |value: &serde_json::Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let sending_window = row.sending_window.as_ref().map(|value| WindowView {
        start: time(value, "start"),
        end: time(value, "end"),
    });
    Ok(TenantSettings {
        id: entry.id,
        name: entry.name,
        slug: entry.slug,
        is_demo: entry.is_demo,
        timezone: row.timezone,
        default_country: row.default_country,
        consent_policy: row.consent_policy.parse()?,
        sending_window,
        late_retries: row.has_late_retries,
    })
}

fn record(row: &TenantRow) -> serde_json::Value {
    json!({
        "timezone": row.timezone, "default_country": row.default_country, "consent_policy": row.consent_policy,
        "sending_window": row.sending_window, "late_retries": row.has_late_retries,
    })
}
