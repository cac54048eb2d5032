//! Templates: a name, and texts that never change once they are a version.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::body::Body;
use super::change::{Once, Turn};
use super::page::{Page, PageRequest};
use super::preview::{Preview, PreviewRequest, preview};
use super::problem::{ApiError, ApiResult, FieldError, ProblemType};
use super::reply::{AsJson, Created};
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::Channel;
use crate::domain::content::{Content, ContentRefusal, Source};
use crate::domain::ids::{TemplateId, TemplateVersionId};
use crate::store::TenantTx;
use crate::store::templates::{self, NewVersion, Template, TemplateVersion};

/// The operations on templates.
#[derive(Debug)]
pub struct Templates {
    state: ApiState,
}

/// A template to make, with its first text.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewTemplate {
    /// What people call it; unique in the tenant.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// The channel it is written for.
    channel: Channel,
    /// The subject, which emails have and nothing else.
    #[oai(validator(max_length = 1000))]
    subject: Option<String>,
    /// The text, with variables as `{{ first_name }}`; `{{ first_name | default('you') }}` has a fall-back.
    #[oai(validator(min_length = 1))]
    body: String,
    /// The HTML, which emails may have and nothing else.
    html: Option<String>,
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

/// A template with its current text.
#[derive(Debug, Object)]
struct TemplateView {
    /// Its id.
    id: TemplateId,
    /// What people call it.
    name: String,
    /// The channel it is written for.
    channel: Channel,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// What it says now. A campaign keeps the version it was made with.
    version: TemplateVersionView,
}

/// One text of a template. It never changes.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct TemplateVersionView {
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
impl Templates {
    /// Make a template.
    ///
    /// A text that cannot be rendered is refused with its line.
    #[oai(path = "/templates", method = "post", operation_id = "create_template")]
    async fn create_template(
        &self,
        actor: Actor,
        once: Once,
        body: Body<NewTemplate>,
    ) -> ApiResult<Created<TemplateView>> {
        actor.require(Permission::WriteTemplates)?;
        let new = body.0;
        let version = version(&actor, new.channel, new.subject, new.body, new.html)?;
        let id = TemplateId(Uuid::now_v7());

        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();
        templates::insert_template(tx, actor.tenant_id, id, new.name.trim(), new.channel).await?;
        let view = add_version(tx, &actor, id, &version).await?;
        let entry = AuditEntry::new("create_template", "template", &id).after(view.as_json());
        change.commit(entry, Created(view)).await
    }

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
        let template = templates::load_template(tx, actor.tenant_id, template_id.0).await?;
        let version = version(&actor, template.channel, new.subject, new.body, new.html)?;
        let view = add_version(tx, &actor, template.id, &version).await?;
        let entry = AuditEntry::new("create_template_version", "template", &view.id)
            .before(TemplateView::from(template).as_json())
            .after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List templates.
    ///
    /// The newest first, each with its current text.
    #[oai(path = "/templates", method = "get", operation_id = "list_templates")]
    async fn list_templates(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<TemplateView>>> {
        actor.require(Permission::ReadTemplates)?;
        let page = PageRequest::<TemplateId>::new("templates", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows =
            templates::list_templates(&mut tx, actor.tenant_id, page.after, page.rows_to_load())
                .await?;
        Ok(Json(page.page(rows, |template| template.id)))
    }

    /// Show a template.
    ///
    /// With its current text.
    #[oai(
        path = "/templates/:template_id",
        method = "get",
        operation_id = "get_template"
    )]
    async fn get_template(
        &self,
        actor: Actor,
        /// The template.
        template_id: Path<TemplateId>,
    ) -> ApiResult<Json<TemplateView>> {
        actor.require(Permission::ReadTemplates)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let template = templates::load_template(&mut tx, actor.tenant_id, template_id.0).await?;
        Ok(Json(template.into()))
    }

    /// Preview a template.
    ///
    /// Shows the text for one person, what it would be billed as, and how many people lack each variable: those who
    /// lack one without a fall-back would be skipped. Changes nothing.
    #[oai(
        path = "/templates/:template_id/preview",
        method = "post",
        operation_id = "preview_template"
    )]
    async fn preview_template(
        &self,
        actor: Actor,
        /// The template.
        template_id: Path<TemplateId>,
        body: Body<PreviewRequest>,
    ) -> ApiResult<Json<Preview>> {
        actor.require(Permission::ReadTemplates)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let template = templates::load_template(&mut tx, actor.tenant_id, template_id.0).await?;
        Ok(Json(preview(&mut tx, &actor, &template, &body.0).await?))
    }
}

impl Templates {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// The texts as a version, if they are a template's.
fn version(
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

async fn add_version(
    tx: &mut TenantTx,
    actor: &Actor,
    id: TemplateId,
    version: &NewVersion,
) -> ApiResult<TemplateView> {
    templates::insert_version(tx, actor.tenant_id, id, version).await?;
    let template = templates::load_template(tx, actor.tenant_id, id).await?;
    Ok(template.into())
}

impl From<ContentRefusal> for ApiError {
    fn from(refusal: ContentRefusal) -> Self {
        Self::new(
            ProblemType::InvalidTemplate,
            format!("The template was not saved: {refusal}."),
        )
        .with_errors(vec![FieldError {
            field: refusal.field().to_owned(),
            message: refusal.to_string(),
        }])
    }
}

impl From<Template> for TemplateView {
    fn from(template: Template) -> Self {
        Self {
            id: template.id,
            name: template.name,
            channel: template.channel,
            created_at: template.created_at,
            version: template.version.into(),
        }
    }
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
