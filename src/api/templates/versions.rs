//! The texts of a template: each is written once, and all of them can be shown.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::TemplateView;
use crate::api::Tag;
use crate::api::body::Body;
use crate::api::change::{Once, Turn};
use crate::api::page::{Page, PageRequest};
use crate::api::problem::ApiResult;
use crate::api::reply::{AsJson, Created};
use crate::api::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::Channel;
use crate::domain::content::{Content, Source};
use crate::domain::ids::{TemplateId, TemplateVersionId};
use crate::domain::templates::TemplateVersion;
use crate::store::TenantTx;
use crate::store::templates::{self, NewVersion};

/// The operations on versions of templates.
#[derive(Debug)]
pub struct TemplateVersions {
    state: ApiState,
}

/// A new text for a template.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewTemplateVersion {
    /// The subject, which emails have and nothing else.
    #[oai(validator(max_length = 1000))]
    subject: Option<String>,
    /// The text.
    #[oai(validator(min_length = 1))]
    body: String,
    /// The HTML, which emails may have and nothing else.
    html: Option<String>,
}

/// One text of a template. It never changes.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct TemplateVersionView {
    /// Its id.
    id: TemplateVersionId,
    /// Counted from 1.
    version: i32,
    /// The subject, of emails.
    subject: Option<String>,
    /// The text.
    body: String,
    /// The HTML, of emails.
    html: Option<String>,
    /// Every variable it may ask for.
    variables: Vec<String>,
    /// When it was written.
    created_at: DateTime<Utc>,
}

#[OpenApi(tag = "Tag::Templates")]
impl TemplateVersions {
    /// Write a new version of a template.
    ///
    /// It becomes the current one; campaigns that were made before keep theirs.
    #[oai(
        path = "/templates/:template_id/versions",
        method = "post",
        operation_id = "create_template_version"
    )]
    async fn create_template_version(
        &self,
        actor: Actor,
        once: Once,
        /// The template.
        template_id: Path<TemplateId>,
        body: Body<NewTemplateVersion>,
    ) -> ApiResult<Created<TemplateView>> {
        actor.require(Permission::WriteTemplates)?;
        let new = body.0;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();
        let template = templates::load_for_update(tx, actor.tenant_id, template_id.0).await?;
        template.require_usable()?;
        let version = compiled(&actor, template.channel, new.subject, new.body, new.html)?;
        let view = add_version(tx, &actor, template.id, &version).await?;
        let entry = AuditEntry::new("create_template_version", "template", &view.id)
            .before(TemplateView::from(template).as_json())
            .after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List versions of a template.
    ///
    /// The newest first: the current one and all before it.
    #[oai(
        path = "/templates/:template_id/versions",
        method = "get",
        operation_id = "list_template_versions"
    )]
    async fn list_template_versions(
        &self,
        actor: Actor,
        /// The template.
        template_id: Path<TemplateId>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<TemplateVersionView>>> {
        actor.require(Permission::ReadTemplates)?;
        let page = PageRequest::<i32>::new("template_versions", limit.0, cursor.0.as_deref())?;
        let (tenant_id, after, limit) = (actor.tenant_id, page.after, page.rows_to_load());
        let mut tx = self.state.db.cell(tenant_id).begin().await?;
        // Somebody else's template is not one without versions.
        let template = templates::load_template(&mut tx, tenant_id, template_id.0).await?;
        let rows = templates::list_versions(&mut tx, tenant_id, template.id, after, limit).await?;
        Ok(Json(page.page(rows, |version| version.version)))
    }

    /// Show a version of a template.
    ///
    /// By its number, the current one or one before it.
    #[oai(
        path = "/templates/:template_id/versions/:version",
        method = "get",
        operation_id = "get_template_version"
    )]
    async fn get_template_version(
        &self,
        actor: Actor,
        /// The template.
        template_id: Path<TemplateId>,
        /// The number, counted from 1.
        version: Path<i32>,
    ) -> ApiResult<Json<TemplateVersionView>> {
        actor.require(Permission::ReadTemplates)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let (id, version) = (template_id.0, version.0);
        let found = templates::load_version_of(&mut tx, actor.tenant_id, id, version).await?;
        Ok(Json(found.into()))
    }
}

impl TemplateVersions {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// The texts as a version, if they are a template's.
pub(super) fn compiled(
    actor: &Actor,
    channel: Channel,
    subject: Option<String>,
    body: String,
    html: Option<String>,
) -> ApiResult<NewVersion> {
    let source = Source {
        subject: subject.as_deref(),
        body: &body,
        html: html.as_deref(),
    };
    let variables = Content::compile(channel, source)?.variables();
    Ok(NewVersion {
        id: TemplateVersionId(Uuid::now_v7()),
        subject,
        body,
        html,
        variables,
        created_by: actor.user_id(),
    })
}

pub(super) async fn add_version(
    tx: &mut TenantTx,
    actor: &Actor,
    id: TemplateId,
    version: &NewVersion,
) -> ApiResult<TemplateView> {
    templates::insert_version(tx, actor.tenant_id, id, version).await?;
    let template = templates::load_template(tx, actor.tenant_id, id).await?;
    Ok(template.into())
}

impl From<TemplateVersion> for TemplateVersionView {
    fn from(version: TemplateVersion) -> Self {
        Self {
            id: version.id,
            version: version.version,
            subject: version.subject,
            body: version.body,
            html: version.html,
            variables: version.variables,
            created_at: version.created_at,
        }
    }
}
