//! Templates: a name, its current version and those before it. Versions are immutable; a message's content points at one.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::{StoreError, StoreResult, TenantTx, affected};
use crate::domain::channel::Channel;
use crate::domain::contact::normalize_name;
use crate::domain::ids::{TemplateId, TemplateVersionId, TenantId, UserId};
use crate::domain::templates::{Template, TemplateVersion};

const TEMPLATE: &str = "template";
const VERSION: &str = "template version";

/// A text about to become a version.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Drawn by the caller.
    pub id: TemplateVersionId,
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text.
    pub body: String,
    /// The HTML, of emails.
    pub html: Option<String>,
    /// Every variable it may ask for.
    pub variables: Vec<String>,
    /// Who wrote it.
    pub created_by: Option<UserId>,
}

struct VersionRow {
    id: Uuid,
    template_id: Uuid,
    version: i32,
    channel: String,
    subject: Option<String>,
    body: Option<String>,
    html: Option<String>,
    variables: Json<Vec<String>>,
    created_at: DateTime<Utc>,
}

impl TryFrom<VersionRow> for TemplateVersion {
    type Error = StoreError;

    fn try_from(row: VersionRow) -> StoreResult<Self> {
        Ok(Self {
            id: TemplateVersionId(row.id),
            template_id: TemplateId(row.template_id),
            version: row.version,
            channel: row.channel.parse()?,
            subject: row.subject,
            body: row.body.unwrap_or_default(),
            html: row.html,
            variables: row.variables.0,
            created_at: row.created_at,
        })
    }
}

/// Adds a template without a text; [`insert_version`] in the same transaction gives it one.
pub async fn insert_template(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: TemplateId,
    name: &str,
    channel: Channel,
) -> StoreResult<()> {
    query!(
        "INSERT INTO templates (tenant_id, id, name, name_normalized, channel) VALUES ($1, $2, $3, $4, $5)",
        tenant_id.0,
        id.0,
        name,
        normalize_name(Some(name), None),
        channel.as_str(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Adds a version and makes it the current one. Returns its number, counted from 1.
pub async fn insert_version(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    template_id: TemplateId,
    new: &NewVersion,
) -> StoreResult<i32> {
    // The row's lock makes two versions written at once come one after the other.
    let done = query!(
        "UPDATE templates SET current_version_id = $3, updated_at = app_now() WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        template_id.0,
        new.id.0,
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: TEMPLATE });
    }
    let version = query_scalar!(
        r#"
        INSERT INTO template_versions (tenant_id, id, template_id, version, subject, body, html, variables, created_by)
        SELECT $1, $2, $3, COALESCE(max(v.version), 0) + 1, $4, $5, $6, $7, $8
        FROM template_versions v
        WHERE v.tenant_id = $1 AND v.template_id = $3
        RETURNING version
        "#,
        tenant_id.0,
        new.id.0,
        template_id.0,
        new.subject,
        new.body,
        new.html,
        Json(&new.variables) as _,
        new.created_by.map(|id| id.0),
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(version)
}

/// One version, current or not.
pub async fn load_version(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    id: TemplateVersionId,
) -> StoreResult<TemplateVersion> {
    query_as!(
        VersionRow,
        r#"
        SELECT v.id, v.template_id, v.version, t.channel, v.subject, v.body, v.html,
               v.variables AS "variables: Json<Vec<String>>", v.created_at
        FROM template_versions v
        JOIN templates t ON t.tenant_id = v.tenant_id AND t.id = v.template_id
        WHERE v.tenant_id = $1 AND v.id = $2
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound { what: VERSION })?
    .try_into()
}

/// One version of a template by its number.
pub async fn load_version_of(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    template_id: TemplateId,
    version: i32,
) -> StoreResult<TemplateVersion> {
    let mut found = versions(tx, tenant_id, template_id, Some(version), None, 1).await?;
    found.pop().ok_or(StoreError::NotFound { what: VERSION })
}

/// Versions of a template, the newest first, below the number `before`.
pub async fn list_versions(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    template_id: TemplateId,
    before: Option<i32>,
    limit: i64,
) -> StoreResult<Vec<TemplateVersion>> {
    versions(tx, tenant_id, template_id, None, before, limit).await
}

async fn versions(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    template_id: TemplateId,
    only: Option<i32>,
    before: Option<i32>,
    limit: i64,
) -> StoreResult<Vec<TemplateVersion>> {
    let rows = query_as!(
        VersionRow,
        r#"
        SELECT v.id, v.template_id, v.version, t.channel, v.subject, v.body, v.html,
               v.variables AS "variables: Json<Vec<String>>", v.created_at
        FROM template_versions v
        JOIN templates t ON t.tenant_id = v.tenant_id AND t.id = v.template_id
        WHERE v.tenant_id = $1 AND v.template_id = $2
          AND ($3::int IS NULL OR v.version = $3) AND ($4::int IS NULL OR v.version < $4)
        ORDER BY v.version DESC
        LIMIT $5
        "#,
        tenant_id.0,
        template_id.0,
        only,
        before,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(TemplateVersion::try_from).collect()
}

/// A template with its current version, archived or not.
pub async fn load_template(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: TemplateId,
) -> StoreResult<Template> {
    let mut found = list(tx, tenant_id, Some(id), true, None, 1).await?;
    found.pop().ok_or(StoreError::NotFound { what: TEMPLATE })
}

/// The same, held until the transaction ends.
pub async fn load_for_update(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: TemplateId,
) -> StoreResult<Template> {
    query_scalar!(
        "SELECT id FROM templates WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: TEMPLATE })?;
    load_template(tx, tenant_id, id).await
}

/// Replaces what may change of a template: its name, which must be new to the tenant, and whether it is archived.
pub async fn save_template(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    template: &Template,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE templates
        SET name = $3, is_archived = $4, updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2
        "#,
        tenant_id.0,
        template.id.0,
        template.name,
        template.is_archived,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, TEMPLATE)
}

/// Templates of a tenant, newest first, before `before`; those that are archived only where asked for.
pub async fn list_templates(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    with_archived: bool,
    before: Option<TemplateId>,
    limit: i64,
) -> StoreResult<Vec<Template>> {
    list(tx, tenant_id, None, with_archived, before, limit).await
}

async fn list(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    only: Option<TemplateId>,
    with_archived: bool,
    before: Option<TemplateId>,
    limit: i64,
) -> StoreResult<Vec<Template>> {
    let rows = query!(
        r#"
        SELECT t.id, t.name, t.channel, t.is_archived, t.created_at, v.id AS version_id, v.version, v.subject, v.body,
               v.html, v.variables AS "variables: Json<Vec<String>>", v.created_at AS version_created_at
        FROM templates t
        JOIN template_versions v ON v.tenant_id = t.tenant_id AND v.id = t.current_version_id
        WHERE t.tenant_id = $1 AND ($2 OR NOT t.is_archived)
          AND ($3::uuid IS NULL OR t.id = $3) AND ($4::uuid IS NULL OR t.id < $4)
        ORDER BY t.id DESC
        LIMIT $5
        "#,
        tenant_id.0,
        with_archived,
        only.map(|id| id.0),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let channel: Channel = row.channel.parse()?;
            Ok(Template {
                id: TemplateId(row.id),
                name: row.name,
                channel,
                is_archived: row.is_archived,
                version: TemplateVersion {
                    id: TemplateVersionId(row.version_id),
                    template_id: TemplateId(row.id),
                    version: row.version,
                    channel,
                    subject: row.subject,
                    body: row.body.unwrap_or_default(),
                    html: row.html,
                    variables: row.variables.0,
                    created_at: row.version_created_at,
                },
                created_at: row.created_at,
            })
        })
        .collect::<Result<_, StoreError>>()
}
