//! Imports: a file comes in, is looked at, and becomes contacts.

mod upload;
pub(super) mod views;

use poem::Request;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use serde_json::json;

use self::upload::{drain, receive};
use self::views::{ImportView, RefusedRowView, StartImport};
use super::Tag;
use super::body::Body as JsonBody;
use super::change::{Facts, Once, Turn};
use super::csv::{CsvBody, CsvFile};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{Accepted, AsJson, Created};
use super::state::ApiState;
use crate::delivery::imports::{CancelError, StartError, UploadError, cancel_import, start_import};
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::ids::ImportId;
use crate::domain::import::{ERROR_ROWS_MAX, FILE_BYTES_MAX, StartRefusal};
use crate::store::imports;

/// The operations on imports.
#[derive(Debug)]
pub struct Imports {
    state: ApiState,
}

#[OpenApi(tag = "Tag::Imports")]
impl Imports {
    /// Upload a file of contacts.
    ///
    /// The body is the file itself, up to 512 MiB: UTF-8, UTF-16 or Windows-1252; commas, semicolons or tabs; the
    /// first line names the columns. The answer shows how the columns would be read. Nothing is imported before
    /// the import is started.
    #[oai(
        path = "/contacts/imports",
        method = "post",
        operation_id = "create_import"
    )]
    async fn create_import(
        &self,
        request: &Request,
        actor: Actor,
        once: Once,
        /// What people call the file.
        #[oai(validator(max_length = 255))]
        file_name: Query<Option<String>>,
        body: CsvBody,
    ) -> ApiResult<Created<ImportView>> {
        actor.require(Permission::ImportContacts)?;
        let announced = request
            .header("content-length")
            .and_then(|it| it.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > FILE_BYTES_MAX) {
            drain(body.0.into_bytes_stream()).await;
            return Err(UploadError::TooLarge.into());
        }
        let name = file_name.0.filter(|name| !name.trim().is_empty());
        let name = name.unwrap_or_else(|| "contacts.csv".into());
        let state = self.state.clone();
        // A task of its own: a client that goes away ends the request, and somebody has to tidy up.
        tokio::spawn(receive(state, actor, once, name, body.0))
            .await
            .map_err(ApiError::internal)?
    }

    /// List imports.
    ///
    /// The newest first.
    #[oai(
        path = "/contacts/imports",
        method = "get",
        operation_id = "list_imports"
    )]
    async fn list_imports(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ImportView>>> {
        actor.require(Permission::ReadContacts)?;
        let page = PageRequest::<ImportId>::new("imports", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows = imports::list_imports(&mut tx, actor.tenant_id, page.after, page.rows_to_load())
            .await?;
        Ok(Json(page.page(rows, |import| import.id)))
    }

    /// Show an import.
    ///
    /// With its progress: bytes and rows read so far.
    #[oai(
        path = "/contacts/imports/:import_id",
        method = "get",
        operation_id = "get_import"
    )]
    async fn get_import(
        &self,
        actor: Actor,
        /// The import.
        import_id: Path<ImportId>,
    ) -> ApiResult<Json<ImportView>> {
        actor.require(Permission::ReadContacts)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let import = imports::load_import(&mut tx, actor.tenant_id, import_id.0).await?;
        Ok(Json(import.into()))
    }

    /// Start an import.
    ///
    /// Columns that are not named go where the upload's answer said. The import goes on by itself; its progress is at
    /// `/contacts/imports/{import_id}`.
    #[oai(
        path = "/contacts/imports/:import_id/start",
        method = "post",
        operation_id = "start_import"
    )]
    async fn start_import(
        &self,
        actor: Actor,
        once: Once,
        /// The import.
        import_id: Path<ImportId>,
        body: JsonBody<StartImport>,
    ) -> ApiResult<Accepted<ImportView>> {
        actor.require(Permission::ImportContacts)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();
        let import = imports::load_import(tx, actor.tenant_id, import_id.0).await?;
        let before = import.status;
        let choices = body.0.choices(&import, &actor)?;
        let clock = self.state.clock();
        let started = start_import(tx, actor.tenant_id, import.id, choices, clock).await?;
        let view = ImportView::from(started);
        let entry = AuditEntry::new("start_import", "import", &import.id)
            .before(json!({ "status": before }))
            .after(view.as_json());
        change.commit(entry, Accepted(view)).await
    }

    /// Cancel an import.
    ///
    /// What was read stays; the rest of the file is removed.
    #[oai(
        path = "/contacts/imports/:import_id/cancel",
        method = "post",
        operation_id = "cancel_import"
    )]
    async fn cancel_import(
        &self,
        actor: Actor,
        facts: Facts,
        /// The import.
        import_id: Path<ImportId>,
    ) -> ApiResult<Json<ImportView>> {
        actor.require(Permission::ImportContacts)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let (id, clock) = (import_id.0, self.state.clock());
        let (before, cancelled) = cancel_import(change.tx(), actor.tenant_id, id, clock).await?;
        let entry = AuditEntry::new("cancel_import", "import", &id)
            .before(json!({ "status": before }))
            .after(json!({ "status": cancelled.status, "rows_read": cancelled.counts.read }));
        change.finish(entry).await?;
        Ok(Json(cancelled.into()))
    }

    /// List refused rows.
    ///
    /// In the file's order. The first 10,000 are kept; `counts` of the import knows all.
    #[oai(
        path = "/contacts/imports/:import_id/errors",
        method = "get",
        operation_id = "list_import_errors"
    )]
    async fn list_import_errors(
        &self,
        actor: Actor,
        /// The import.
        import_id: Path<ImportId>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<RefusedRowView>>> {
        actor.require(Permission::ReadContacts)?;
        let page = PageRequest::<u64>::new("import_errors", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let import = imports::load_import(&mut tx, actor.tenant_id, import_id.0).await?;
        let after = page.after.unwrap_or(0);
        let rows = page.rows_to_load();
        let rows = imports::list_errors(&mut tx, actor.tenant_id, import.id, after, rows).await?;
        Ok(Json(page.page(rows, |row| row.line)))
    }

    /// Download refused rows.
    ///
    /// The same as a CSV file.
    #[oai(
        path = "/contacts/imports/:import_id/errors.csv",
        method = "get",
        operation_id = "download_import_errors"
    )]
    async fn download_import_errors(
        &self,
        actor: Actor,
        /// The import.
        import_id: Path<ImportId>,
    ) -> ApiResult<CsvFile> {
        actor.require(Permission::ReadContacts)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let import = imports::load_import(&mut tx, actor.tenant_id, import_id.0).await?;
        let rows_max = ERROR_ROWS_MAX as i64;
        let rows = imports::list_errors(&mut tx, actor.tenant_id, import.id, 0, rows_max).await?;
        Ok(CsvFile {
            name: format!("errors-of-{}.csv", import.id),
            text: views::errors_as_csv(&rows).map_err(ApiError::internal)?,
        })
    }
}

impl Imports {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge => Self::new(
                ProblemType::BodyTooLarge,
                format!(
                    "A file may have at most {FILE_BYTES_MAX} bytes (512 MiB). Split it and import the parts one by one."
                ),
            ),
            UploadError::TookTooLong => Self::new(
                ProblemType::MalformedRequest,
                "The upload took more than a day and was given up. Send the file again, or split it and import the parts \
                 one by one.",
            ),
            UploadError::Refused(refusal) => Self::new(
                ProblemType::UnreadableFile,
                format!("Nothing was imported: {refusal}."),
            )
            .with_field(refusal.code(), refusal.to_string()),
            UploadError::Store(error) => error.into(),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        let refusal = match error {
            StartError::Store(error) => return error.into(),
            StartError::Refused(refusal) => refusal,
        };
        let (problem, field) = match &refusal {
            StartRefusal::NotUploaded => (ProblemType::ImportNotUploaded, None),
            StartRefusal::AlreadyStarted { .. } => (ProblemType::ImportAlreadyStarted, None),
            StartRefusal::Mapping(_) => (ProblemType::Unprocessable, Some("columns")),
            StartRefusal::Consent(_) => (ProblemType::Unprocessable, Some("consent")),
        };
        match field {
            Some(field) => Self::unchanged_by_field(problem, field, &refusal),
            None => Self::unchanged(problem, &refusal),
        }
    }
}

impl From<CancelError> for ApiError {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::Store(error) => error.into(),
            CancelError::Refused(refusal) => Self::unchanged(ProblemType::ImportEnded, &refusal),
        }
    }
}
