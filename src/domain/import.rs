//! An import: a file of contacts, where it is, and what each chunk of it comes to.
//!
//! A chunk's rows, the counts and the cursor are saved together. So a chunk counts once, however often it
//! is read, and the numbers at the end do not depend on who read the file or how often he was killed.

pub mod batch;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::channel::{Channel, text_enum};
use crate::domain::contact::{Mapping, MappingRefusal, Target};
use crate::domain::csv_file::{Cursor, Layout};
use crate::domain::ids::{ImportId, ListId, TenantId, UserId};

/// Bytes of each chunk but the last.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Largest file.
pub const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Refused rows that are kept to be looked at; the counts know all of them.
pub const ERROR_ROWS_MAX: u64 = 10_000;
/// Longest name of a file, and longest source of a consent.
pub const NAME_CHARS_MAX: usize = 255;
/// Longest wording of a consent.
pub const WORDING_CHARS_MAX: usize = 4_000;

text_enum! {
    /// Where an import is.
    ImportStatus {
        /// Its bytes are coming in.
        Uploading = "uploading",
        /// All bytes are here; somebody has to look at the mapping and start it.
        Uploaded = "uploaded",
        /// Waits for a worker.
        Queued = "queued",
        /// Its rows are being read.
        Running = "running",
        /// All rows are read.
        Completed = "completed",
        /// Could not go on.
        Failed = "failed",
        /// Stopped by somebody; what was read stays.
        Cancelled = "cancelled",
    }
}

text_enum! {
    /// What happens to a row whose contact is there already.
    OnMatch {
        /// Nothing.
        Skip = "skip",
        /// What the row holds replaces what the contact holds; empty fields replace nothing.
        Update = "update",
    }
}

/// What a tenant says about the consent of everybody in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// What people agreed to, in the words they saw.
    pub wording: String,
    /// Where they did.
    pub source: String,
    /// When they did.
    pub date: DateTime<Utc>,
    /// For which channels.
    pub channels: Vec<Channel>,
    /// Who says so: a user or a key.
    pub actor: Option<String>,
}

impl ImportStatus {
    /// Whether rows may still come out of it. What failed or was cancelled keeps what was read.
    pub fn is_unfinished(self) -> bool {
        matches!(
            self,
            Self::Uploading | Self::Uploaded | Self::Queued | Self::Running
        )
    }
}

/// Why an attestation is not taken. Shown to people as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestationRefusal {
    /// Nothing says what people agreed to.
    #[error(
        "the wording that people agreed to must have 1 to {WORDING_CHARS_MAX} characters, and not blanks alone"
    )]
    Wording,
    /// Nothing says where.
    #[error(
        "the source of the consent must have 1 to {NAME_CHARS_MAX} characters, and not blanks alone"
    )]
    Source,
    /// A day to come.
    #[error("the date of the consent lies in the future; write the day on which people agreed")]
    Future,
    /// For nothing.
    #[error("the consent names no channel")]
    NoChannel,
}

impl Attestation {
    /// Checks what was attested.
    ///
    /// # Errors
    /// [`AttestationRefusal`] says what is missing.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), AttestationRefusal> {
        let fits = |text: &str, max| !text.trim().is_empty() && text.chars().count() <= max;
        if !fits(&self.wording, WORDING_CHARS_MAX) {
            Err(AttestationRefusal::Wording)
        } else if !fits(&self.source, NAME_CHARS_MAX) {
            Err(AttestationRefusal::Source)
        } else if self.date > now {
            Err(AttestationRefusal::Future)
        } else if self.channels.is_empty() {
            Err(AttestationRefusal::NoChannel)
        } else {
            Ok(())
        }
    }
}

/// How the rows of a file are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The file's own.
    pub layout: Layout,
    /// Where its columns go; guessed first, then chosen.
    pub mapping: Mapping,
}

/// What was counted so far; the last four sum to the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportCounts {
    /// Rows below the header.
    pub read: u64,
    /// Contacts that are new.
    pub created: u64,
    /// Rows whose contact was there and took over what the row holds.
    pub updated: u64,
    /// Rows whose contact was there and stayed as it is.
    pub skipped: u64,
    /// Rows that are no contact.
    pub refused: u64,
    /// The same, by [`RowRefusal::code`].
    pub refused_by_code: BTreeMap<String, u64>,
}

impl ImportCounts {
    /// Adds what one chunk came to.
    pub fn add(&mut self, chunk: &Self) {
        self.read += chunk.read;
        self.created += chunk.created;
        self.updated += chunk.updated;
        self.skipped += chunk.skipped;
        self.refused += chunk.refused;
        for (code, rows) in &chunk.refused_by_code {
            *self.refused_by_code.entry(code.clone()).or_default() += rows;
        }
    }
}

/// An import as its row holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub id: ImportId,
    /// As the file was called.
    pub file_name: String,
    /// Where it is.
    pub status: ImportStatus,
    /// Of the whole file.
    pub total_bytes: u64,
    /// How its rows are read; none before all bytes are here.
    pub plan: Option<Plan>,
    /// What happens to known contacts.
    pub on_match: OnMatch,
    /// Whoever stands in the file, made at the start.
    pub list_id: Option<ListId>,
    /// What the tenant attested.
    pub consent: Option<Attestation>,
    /// The chunk to read next, from 0.
    pub next_chunk: u32,
    /// Where in the file that chunk begins.
    pub cursor: Cursor,
    /// What was counted so far.
    pub counts: ImportCounts,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// Who uploaded it.
    pub created_by: Option<UserId>,
    /// When the upload began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Why an import does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartRefusal {
    /// Its bytes are still coming in.
    #[error("the upload has not ended yet; start the import once its status is uploaded")]
    NotUploaded,
    /// It was started before.
    #[error("the import is {status} already; upload the file again to import it again")]
    AlreadyStarted {
        /// Where it is.
        status: ImportStatus,
    },
    /// Its columns do not go where they should.
    #[error(transparent)]
    Mapping(#[from] MappingRefusal),
    /// The consent is not one.
    #[error(transparent)]
    Consent(#[from] AttestationRefusal),
}

/// Why an import is not cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the import is {status} already and cannot be cancelled any more")]
pub struct CancelRefusal {
    /// Where it is.
    pub status: ImportStatus,
}

/// What somebody chose when he started an import.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Instead of the guess.
    pub targets: Option<Vec<Target>>,
    /// What happens to known contacts.
    pub on_match: OnMatch,
    /// What the tenant attests.
    pub consent: Option<Attestation>,
}

impl Import {
    /// The import as it is once it has started, with `list_id` for whoever stands in the file.
    ///
    /// # Errors
    /// [`StartRefusal`]; nothing has changed then.
    pub fn start(
        self,
        choices: Choices,
        list_id: ListId,
        now: DateTime<Utc>,
    ) -> Result<Self, StartRefusal> {
        let status = self.status;
        let Some(plan) = self.plan else {
            return Err(StartRefusal::NotUploaded);
        };
        match status {
            ImportStatus::Uploading => return Err(StartRefusal::NotUploaded),
            ImportStatus::Uploaded => {}
            status => return Err(StartRefusal::AlreadyStarted { status }),
        }
        let columns = plan.layout.columns.len();
        let targets = match choices.targets {
            Some(targets) => targets,
            None => plan.mapping.targets().to_vec(),
        };
        let mapping = Mapping::new(targets, columns)?;
        if let Some(consent) = &choices.consent {
            consent.check(now)?;
        }
        Ok(Self {
            status: ImportStatus::Queued,
            plan: Some(Plan { mapping, ..plan }),
            on_match: choices.on_match,
            consent: choices.consent,
            list_id: Some(list_id),
            ..self
        })
    }

    /// The import as it is once it is cancelled.
    ///
    /// # Errors
    /// [`CancelRefusal`] when it has ended.
    pub fn cancel(self, now: DateTime<Utc>) -> Result<Self, CancelRefusal> {
        match self.status {
            ImportStatus::Completed | ImportStatus::Failed | ImportStatus::Cancelled => {
                let status = self.status;
                Err(CancelRefusal { status })
            }
            _ => Ok(Self {
                status: ImportStatus::Cancelled,
                finished_at: Some(now),
                ..self
            }),
        }
    }

    /// Whether a worker has something to do.
    pub fn is_due(&self) -> bool {
        matches!(self.status, ImportStatus::Queued | ImportStatus::Running)
    }

    /// What the list of whoever stands in the file is called. Unique: a file may be uploaded again.
    pub fn list_name(&self) -> String {
        format!("{} (import {})", self.file_name, self.id)
    }

    /// How many bytes of the file have been read.
    pub fn bytes_read(&self) -> u64 {
        (u64::from(self.next_chunk) * CHUNK_BYTES as u64).min(self.total_bytes)
    }

    /// How many chunks the file has.
    pub fn chunks(&self) -> u32 {
        self.total_bytes.div_ceil(CHUNK_BYTES as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::csv_file::Sniffer;

    pub(super) fn import(text: &str, on_match: OnMatch) -> Import {
        let mut sniffer = Sniffer::new();
        sniffer.feed(text.as_bytes()).unwrap();
        let layout = sniffer.finish().unwrap();
        let mapping = Mapping::guess(&layout.columns);
        Import {
            tenant_id: TenantId(uuid::Uuid::nil()),
            id: ImportId(uuid::Uuid::nil()),
            file_name: "people.csv".into(),
            status: ImportStatus::Uploaded,
            total_bytes: text.len() as u64,
            plan: Some(Plan { layout, mapping }),
            on_match,
            list_id: None,
            consent: None,
            next_chunk: 0,
            cursor: Cursor::default(),
            counts: ImportCounts::default(),
            failure_reason: None,
            created_by: None,
            created_at: DateTime::UNIX_EPOCH,
            finished_at: None,
        }
    }

    fn choices() -> Choices {
        Choices {
            targets: None,
            on_match: OnMatch::Skip,
            consent: None,
        }
    }

    fn attestation() -> Attestation {
        Attestation {
            wording: "I agree to texts".into(),
            source: "shop".into(),
            date: DateTime::UNIX_EPOCH,
            channels: vec![Channel::Sms],
            actor: None,
        }
    }

    #[test]
    fn an_import_starts_once_and_only_with_an_address() {
        let list_id = ListId(uuid::Uuid::nil());
        let now = DateTime::UNIX_EPOCH;
        let uploaded = import("phone,tier\n", OnMatch::Skip);
        let started = uploaded.clone().start(choices(), list_id, now).unwrap();
        assert_eq!(
            (started.status, started.list_id),
            (ImportStatus::Queued, Some(list_id))
        );
        let status = ImportStatus::Queued;
        let refusal = started.start(choices(), list_id, now).unwrap_err();
        assert_eq!(refusal, StartRefusal::AlreadyStarted { status });

        let nobody = import("name,tier\n", OnMatch::Skip);
        let refusal = nobody.start(choices(), list_id, now).unwrap_err();
        assert_eq!(refusal, StartRefusal::Mapping(MappingRefusal::NoAddress));

        let uploading = Import {
            plan: None,
            status: ImportStatus::Uploading,
            ..uploaded
        };
        assert_eq!(
            uploading.start(choices(), list_id, now),
            Err(StartRefusal::NotUploaded)
        );
    }

    #[test]
    fn an_attestation_says_what_where_when_and_for_which_channel() {
        use AttestationRefusal as R;
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(attestation().check(now), Ok(()));
        let cases = [
            (
                Attestation {
                    wording: " ".into(),
                    ..attestation()
                },
                R::Wording,
            ),
            (
                Attestation {
                    source: String::new(),
                    ..attestation()
                },
                R::Source,
            ),
            (
                Attestation {
                    channels: vec![],
                    ..attestation()
                },
                R::NoChannel,
            ),
            (
                Attestation {
                    date: now + chrono::TimeDelta::seconds(1),
                    ..attestation()
                },
                R::Future,
            ),
        ];
        for (attestation, refusal) in cases {
            assert_eq!(attestation.check(now), Err(refusal));
        }
    }

    #[test]
    fn what_has_ended_is_not_cancelled() {
        let now = DateTime::UNIX_EPOCH;
        let uploaded = import("phone\n", OnMatch::Skip);
        let cancelled = uploaded.cancel(now).unwrap();
        assert_eq!(cancelled.status, ImportStatus::Cancelled);
        assert!(cancelled.cancel(now).is_err());
    }
}
