//! Imports as requests and answers show them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};

use super::super::problem::{ApiError, ApiResult, ProblemType};
use crate::domain::actor::{Actor, Who};
use crate::domain::channel::Channel;
use crate::domain::contact::{ContactField, Mapping, Target};
use crate::domain::csv_file::{Delimiter, Encoding};
use crate::domain::ids::{ImportId, ListId};
use crate::domain::import::batch::RefusedRow;
use crate::domain::import::{Attestation, Choices, Import, ImportCounts, ImportStatus, OnMatch};

/// Where a column's values go.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "snake_case")]
enum ColumnTarget {
    /// Given name.
    FirstName,
    /// Family name.
    LastName,
    /// Number for text messages and WhatsApp.
    Phone,
    /// Address for mail.
    Email,
    /// Two letters of ISO 3166-1; national numbers of the row are read in it.
    Country,
    /// Postal code.
    Zip,
    /// A zone of the IANA database.
    Timezone,
    /// An attribute, which templates can name.
    Attribute,
    /// Nowhere.
    Ignore,
}

/// A column of the file, and where its values go.
#[derive(Debug, Clone, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub(super) struct Column {
    /// As the header calls it.
    #[oai(validator(max_length = 100))]
    name: String,
    /// Where its values go.
    target: ColumnTarget,
    /// What the attribute is called: small letters, digits and `_`. The column's name when absent.
    #[oai(validator(max_length = 100))]
    attribute: Option<String>,
}

/// How to import an uploaded file.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub(super) struct StartImport {
    /// Columns that go elsewhere than the upload's answer said.
    #[oai(validator(max_items = 200))]
    columns: Option<Vec<Column>>,
    /// What happens to rows whose contact is there already; `skip` when absent.
    on_match: Option<OnMatch>,
    /// What everybody in the file agreed to, if you can vouch for it.
    consent: Option<ConsentView>,
}

/// What a tenant says about the consent of everybody in a file.
#[derive(Debug, Clone, Object)]
#[oai(
    rename = "ImportConsent",
    deny_unknown_fields,
    skip_serializing_if_is_none
)]
struct ConsentView {
    /// What people agreed to, in the words they saw.
    #[oai(validator(min_length = 1, max_length = 4000))]
    wording: String,
    /// Where they did: a form, a shop.
    #[oai(validator(min_length = 1, max_length = 255))]
    source: String,
    /// When they did.
    date: DateTime<Utc>,
    /// For which channels; all when absent.
    #[oai(validator(max_items = 3))]
    channels: Option<Vec<Channel>>,
}

/// What was counted; the last four sum to the first.
#[derive(Debug, Clone, Object)]
struct ImportCountsView {
    /// Rows below the header.
    read: u64,
    /// Contacts that are new.
    created: u64,
    /// Rows whose contact was there and took over what the row holds.
    updated: u64,
    /// Rows whose contact was there, or stands in an earlier row, and stayed as it is.
    skipped: u64,
    /// Rows that are no contact.
    refused: u64,
    /// The same by reason: `invalid_phone`, `invalid_email`, `missing_address`, `invalid_timezone`, `too_long`,
    /// `malformed_row`.
    refused_by_code: BTreeMap<String, u64>,
}

/// An import.
#[derive(Debug, Clone, Object)]
#[oai(rename = "Import", skip_serializing_if_is_none)]
pub(in crate::api) struct ImportView {
    /// Its id.
    id: ImportId,
    /// As the file was called.
    file_name: String,
    /// Where it is.
    status: ImportStatus,
    /// Of the whole file.
    total_bytes: u64,
    /// Of these, read.
    read_bytes: u64,
    /// How the file's characters are written.
    encoding: Option<Encoding>,
    /// What parts its fields.
    delimiter: Option<Delimiter>,
    /// Its columns in order, and where they go.
    columns: Vec<Column>,
    /// What happens to rows whose contact is there already.
    on_match: OnMatch,
    /// Whoever stands in the file, once it is started.
    list_id: Option<ListId>,
    /// What was attested.
    consent: Option<ConsentView>,
    /// What was counted so far.
    counts: ImportCountsView,
    /// Why it failed.
    failure_reason: Option<String>,
    /// When the upload began.
    created_at: DateTime<Utc>,
    /// When the import ended.
    finished_at: Option<DateTime<Utc>>,
}

/// A row that is no contact.
#[derive(Debug, Object)]
#[oai(rename = "ImportError", skip_serializing_if_is_none)]
pub(super) struct RefusedRowView {
    /// Where it begins in the file, from 1.
    line: u64,
    /// The column that is to blame.
    column: Option<String>,
    /// The reason, for programs.
    code: String,
    /// The reason, for people.
    detail: String,
}

impl StartImport {
    /// What was chosen, for this import.
    pub(super) fn choices(self, import: &Import, actor: &Actor) -> ApiResult<Choices> {
        let consent = self.consent.map(|consent| consent.attested_by(actor));
        let targets = match self.columns {
            None => None,
            Some(columns) => Some(targets(&columns, import)?),
        };
        Ok(Choices {
            targets,
            on_match: self.on_match.unwrap_or(OnMatch::Skip),
            consent,
        })
    }
}

/// The guessed targets with the chosen ones in their places. Without a plan the import refuses to start anyhow.
fn targets(columns: &[Column], import: &Import) -> ApiResult<Vec<Target>> {
    let Some(plan) = &import.plan else {
        return Ok(Vec::new());
    };
    let names = &plan.layout.columns;
    let mut targets = plan.mapping.targets().to_vec();
    for (place, column) in columns.iter().enumerate() {
        let Some(at) = names.iter().position(|name| *name == column.name) else {
            return Err(ApiError::new(
                ProblemType::Unprocessable,
                format!(
                    "The file has no column {:?}. It has: {}.",
                    column.name,
                    names.join(", ")
                ),
            )
            .with_field(format!("columns[{place}].name"), "is no column of the file"));
        };
        targets[at] = column.target_at(at);
    }
    Ok(targets)
}

impl Column {
    fn target_at(&self, place: usize) -> Target {
        match self.target {
            ColumnTarget::FirstName => Target::Field(ContactField::FirstName),
            ColumnTarget::LastName => Target::Field(ContactField::LastName),
            ColumnTarget::Phone => Target::Field(ContactField::Phone),
            ColumnTarget::Email => Target::Field(ContactField::Email),
            ColumnTarget::Country => Target::Field(ContactField::Country),
            ColumnTarget::Zip => Target::Field(ContactField::Zip),
            ColumnTarget::Timezone => Target::Field(ContactField::Timezone),
            ColumnTarget::Ignore => Target::Ignored,
            ColumnTarget::Attribute => {
                Mapping::attribute(self.attribute.as_deref(), &self.name, place)
            }
        }
    }

    fn of(name: &str, target: &Target) -> Self {
        let (target, attribute) = match target {
            Target::Field(ContactField::FirstName) => (ColumnTarget::FirstName, None),
            Target::Field(ContactField::LastName) => (ColumnTarget::LastName, None),
            Target::Field(ContactField::Phone) => (ColumnTarget::Phone, None),
            Target::Field(ContactField::Email) => (ColumnTarget::Email, None),
            Target::Field(ContactField::Country) => (ColumnTarget::Country, None),
            Target::Field(ContactField::Zip) => (ColumnTarget::Zip, None),
            Target::Field(ContactField::Timezone) => (ColumnTarget::Timezone, None),
            Target::Attribute(attribute) => (ColumnTarget::Attribute, Some(attribute.clone())),
            Target::Ignored => (ColumnTarget::Ignore, None),
        };
        let name = name.to_owned();
        Self {
            name,
            target,
            attribute,
        }
    }
}

impl ConsentView {
    fn attested_by(self, actor: &Actor) -> Attestation {
        let actor = match actor.who {
            Who::User(id) => format!("user:{id}"),
            Who::ApiKey(id) => format!("api_key:{id}"),
        };
        Attestation {
            wording: self.wording,
            source: self.source,
            date: self.date,
            channels: self.channels.unwrap_or_else(|| Channel::ALL.to_vec()),
            actor: Some(actor),
        }
    }
}

impl From<Attestation> for ConsentView {
    fn from(consent: Attestation) -> Self {
        Self {
            wording: consent.wording,
            source: consent.source,
            date: consent.date,
            channels: Some(consent.channels),
        }
    }
}

impl From<ImportCounts> for ImportCountsView {
    fn from(counts: ImportCounts) -> Self {
        Self {
            read: counts.read,
            created: counts.created,
            updated: counts.updated,
            skipped: counts.skipped,
            refused: counts.refused,
            refused_by_code: counts.refused_by_code,
        }
    }
}

impl From<Import> for ImportView {
    fn from(import: Import) -> Self {
        let read_bytes = import.bytes_read();
        let layout = import.plan.as_ref().map(|plan| &plan.layout);
        let columns = import.plan.iter().flat_map(|plan| {
            let names = plan.layout.columns.iter().map(String::as_str);
            names
                .zip(plan.mapping.targets())
                .map(|(name, target)| Column::of(name, target))
        });
        Self {
            id: import.id,
            status: import.status,
            total_bytes: import.total_bytes,
            read_bytes,
            encoding: layout.map(|layout| layout.encoding),
            delimiter: layout.map(|layout| layout.delimiter),
            columns: columns.collect(),
            on_match: import.on_match,
            list_id: import.list_id,
            consent: import.consent.map(ConsentView::from),
            counts: import.counts.into(),
            failure_reason: import.failure_reason,
            created_at: import.created_at,
            finished_at: import.finished_at,
            file_name: import.file_name,
        }
    }
}

impl From<RefusedRow> for RefusedRowView {
    fn from(row: RefusedRow) -> Self {
        Self {
            line: row.line,
            column: row.column,
            code: row.code,
            detail: row.detail,
        }
    }
}

/// Refused rows as a file.
pub(super) fn errors_as_csv(rows: &[RefusedRow]) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["line", "column", "code", "detail"])?;
    for row in rows {
        let column = row.column.as_deref().unwrap_or_default();
        writer.write_record([&row.line.to_string(), column, &row.code, &row.detail])?;
    }
    let bytes = writer
        .into_inner()
        .map_err(csv::IntoInnerError::into_error)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
