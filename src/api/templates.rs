//! Templates: a name, and texts that never change once they are a version.

mod versions;

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;
use uuid::Uuid;

pub use self::versions::TemplateVersions;
use self::versions::{TemplateVersionView, add_version, compiled};
use super::Tag;
use super::body::{Body, named};
use super::change::{Facts, Once, Turn};
use super::page::{Page, PageRequest};
use super::preview::{Preview, PreviewRequest, preview};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{AsJson, Created};
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::Channel;
use crate::domain::content::ContentRefusal;
use crate::domain::ids::TemplateId;
use crate::domain::templates::{Template, TemplateArchived};
use crate::store::templates;

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

/// What to change of a template.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct TemplateChange {
    /// What people call it; unique in the tenant, archived ones included.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
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
    /// Whether it is for nothing new.
    is_archived: bool,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// What it says now. A campaign keeps the version it was made with.
    version: TemplateVersionView,
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
        let version = compiled(&actor, new.channel, new.subject, new.body, new.html)?;
        let (id, name) = (TemplateId(Uuid::now_v7()), named(&new.name)?);

        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();
        templates::insert_template(tx, actor.tenant_id, id, name, new.channel).await?;
        let view = add_version(tx, &actor, id, &version).await?;
        let entry = AuditEntry::new("create_template", "template", &id).after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List templates.
    ///
    /// The newest first, each with its current text. Archived ones are left out unless they are asked for.
    #[oai(path = "/templates", method = "get", operation_id = "list_templates")]
    async fn list_templates(
        &self,
        actor: Actor,
        /// Archived ones, too.
        include_archived: Query<Option<bool>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<TemplateView>>> {
        actor.require(Permission::ReadTemplates)?;
        let page = PageRequest::<TemplateId>::new("templates", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let with_archived = include_archived.0.unwrap_or(false);
        let (after, limit) = (page.after, page.rows_to_load());
        let rows = templates::list_templates(&mut tx, actor.tenant_id, with_archived, after, limit)
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

    /// Rename a template.
    ///
    /// Its texts and whoever uses them stay.
    #[oai(
        path = "/templates/:template_id",
        method = "patch",
        operation_id = "update_template"
    )]
    async fn update_template(
        &self,
        actor: Actor,
        facts: Facts,
        /// The template.
        template_id: Path<TemplateId>,
        body: Body<TemplateChange>,
    ) -> ApiResult<Json<TemplateView>> {
        actor.require(Permission::WriteTemplates)?;
        let name = named(&body.0.name)?.to_owned();
        let change = |template| Template { name, ..template };
        self.change(&actor, facts, "update_template", template_id.0, change)
            .await
    }

    /// Archive a template.
    ///
    /// Nothing new is made of it, and lists leave it out. Campaigns that were made with it keep their version and go on.
    /// Archiving it again changes nothing.
    #[oai(
        path = "/templates/:template_id/archive",
        method = "post",
        operation_id = "archive_template"
    )]
    async fn archive_template(
        &self,
        actor: Actor,
        facts: Facts,
        /// The template.
        template_id: Path<TemplateId>,
    ) -> ApiResult<Json<TemplateView>> {
        actor.require(Permission::WriteTemplates)?;
        let change = |template| Template {
            is_archived: true,
            ..template
        };
        self.change(&actor, facts, "archive_template", template_id.0, change)
            .await
    }

    /// Unarchive a template.
    ///
    /// It may be used again.
    #[oai(
        path = "/templates/:template_id/unarchive",
        method = "post",
        operation_id = "unarchive_template"
    )]
    async fn unarchive_template(
        &self,
        actor: Actor,
        facts: Facts,
        /// The template.
        template_id: Path<TemplateId>,
    ) -> ApiResult<Json<TemplateView>> {
        actor.require(Permission::WriteTemplates)?;
        let change = |template| Template {
            is_archived: false,
            ..template
        };
        self.change(&actor, facts, "unarchive_template", template_id.0, change)
            .await
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

    /// Changes the name, or whether it is archived; what is so already is not changed again.
    async fn change(
        &self,
        actor: &Actor,
        facts: Facts,
        action: &'static str,
        id: TemplateId,
        step: impl FnOnce(Template) -> Template,
    ) -> ApiResult<Json<TemplateView>> {
        let mut change = facts.in_cell(&self.state, actor).await?;
        let before = templates::load_for_update(change.tx(), actor.tenant_id, id).await?;
        let after = step(before.clone());
        if after == before {
            return Ok(Json(before.into()));
        }
        templates::save_template(change.tx(), actor.tenant_id, &after).await?;
        let head = |t: &Template| json!({ "name": t.name, "is_archived": t.is_archived });
        let entry = AuditEntry::new(action, "template", &id)
            .before(head(&before))
            .after(head(&after));
        change.finish(entry).await?;
        Ok(Json(after.into()))
    }
}

impl From<ContentRefusal> for ApiError {
    fn from(refusal: ContentRefusal) -> Self {
        Self::new(
            ProblemType::InvalidTemplate,
            format!("The template was not saved: {refusal}."),
        )
        .with_field(refusal.field(), refusal.to_string())
    }
}

impl From<TemplateArchived> for ApiError {
    fn from(refusal: TemplateArchived) -> Self {
        Self::unchanged(ProblemType::TemplateArchived, &refusal)
    }
}

impl From<Template> for TemplateView {
    fn from(template: Template) -> Self {
        Self {
            id: template.id,
            name: template.name,
            channel: template.channel,
            is_archived: template.is_archived,
            created_at: template.created_at,
            version: template.version.into(),
        }
    }
}
