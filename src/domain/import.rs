//! An import: a file of contacts, where it is, and what each chunk of it comes to.
//!
//! A chunk's rows, the counts and the cursor are saved together. So a chunk counts once, however often it
//! is read, and the numbers at the end do not depend on who read the file or how often he was killed.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::channel::{Channel, text_enum};
use crate::domain::contact::{ContactDraft, Identity, Mapping, MappingRefusal, RowRefusal, Target};
use crate::domain::csv_file::{Cursor, FileRefusal, Layout};
use crate::domain::ids::{ImportId, ListId, TenantId, UserId};
use crate::domain::phone::Country;

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
    #[error("the wording that people agreed to is missing or too long")]
    Wording,
    /// Nothing says where.
    #[error("the source of the consent is missing or too long")]
    Source,
    /// A day to come.
    #[error("the date of the consent lies in the future")]
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
    #[error("the upload has not ended yet")]
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
#[error("the import is {status} already")]
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

/// A row that is no contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Where it begins in the file, from 1.
    pub line: u64,
    /// The column that is to blame, as the header calls it.
    pub column: Option<String>,
    /// The word programs know the reason by.
    pub code: String,
    /// The reason, for people.
    pub detail: String,
}

/// What one chunk holds.
#[derive(Debug, Default)]
pub struct Batch {
    /// Its contacts, each once, in the file's order.
    pub drafts: Vec<ContactDraft>,
    /// Rows whose contact stands in an earlier row of this chunk.
    pub repeats: u64,
    /// The first refused rows, in the file's order.
    pub refused: Vec<RefusedRow>,
    /// What is known before anybody asked the database: rows read and refused.
    pub counts: ImportCounts,
    /// Where the next chunk begins.
    pub cursor: Cursor,
}

impl Batch {
    /// Reads the chunk at the import's cursor; at most `refused_max` refused rows are kept.
    ///
    /// # Errors
    /// [`FileRefusal`] when the bytes are not what the upload promised.
    pub fn read(
        import: &Import,
        plan: &Plan,
        chunk: &[u8],
        country: Country,
    ) -> Result<Self, FileRefusal> {
        let room = ERROR_ROWS_MAX.saturating_sub(import.counts.refused) as usize;
        let is_last = import.next_chunk + 1 >= import.chunks();
        let mut batch = Self::default();
        let mut drafts = Vec::new();
        let cursor = import.cursor.clone();
        batch.cursor = plan.layout.read(cursor, chunk, is_last, |row| {
            batch.counts.read += 1;
            let draft = row
                .fields
                .map_err(RowRefusal::Damaged)
                .and_then(|fields| ContactDraft::read(fields, &plan.mapping, country));
            match draft {
                Ok(draft) => drafts.push(draft),
                Err(refusal) => batch.refuse(row.line, &refusal, plan, room),
            }
        })?;
        batch.repeats = drafts.len() as u64;
        batch.drafts = unite(drafts, import.on_match);
        batch.repeats -= batch.drafts.len() as u64;
        Ok(batch)
    }

    /// The counts, once it is known how many rows made a contact and how many met one.
    pub fn counts_with(&self, on_match: OnMatch, created: u64, matched: u64) -> ImportCounts {
        let (updated, skipped) = match on_match {
            OnMatch::Skip => (0, matched),
            OnMatch::Update => (matched, 0),
        };
        ImportCounts {
            created,
            updated,
            skipped,
            ..self.counts.clone()
        }
    }

    fn refuse(&mut self, line: u64, refusal: &RowRefusal, plan: &Plan, room: usize) {
        self.counts.refused += 1;
        let code = refusal.code();
        *self.counts.refused_by_code.entry(code.into()).or_default() += 1;
        if self.refused.len() < room {
            self.refused.push(RefusedRow {
                line,
                column: refusal.field().and_then(|name| plan.column_of(name)),
                code: code.into(),
                detail: refusal.to_string(),
            });
        }
    }
}

impl Plan {
    /// What the header calls the column that is mapped to a field or attribute.
    fn column_of(&self, target: &str) -> Option<String> {
        let targets = self.mapping.targets();
        let place = targets.iter().position(|it| it.name() == target)?;
        self.layout.columns.get(place).cloned()
    }
}

/// Makes one draft of those that are one contact; with `update` the later row wins, as it would if it came in a
/// later chunk.
fn unite(drafts: Vec<ContactDraft>, on_match: OnMatch) -> Vec<ContactDraft> {
    let mut places = HashMap::<Identity<'_>, usize>::with_capacity(drafts.len());
    let mut first_of = Vec::with_capacity(drafts.len());
    for draft in &drafts {
        let next = places.len();
        first_of.push(*places.entry(draft.identity()).or_insert(next));
    }
    let mut united: Vec<ContactDraft> = Vec::with_capacity(places.len());
    for (draft, place) in drafts.into_iter().zip(first_of) {
        match united.get_mut(place) {
            None => united.push(draft),
            Some(first) if on_match == OnMatch::Update => first.take_over(draft),
            Some(_) => {}
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::csv_file::Sniffer;

    fn import(text: &str, on_match: OnMatch) -> Import {
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

    fn read(text: &str, on_match: OnMatch) -> Batch {
        let import = import(text, on_match);
        let plan = import.plan.clone().unwrap();
        Batch::read(&import, &plan, text.as_bytes(), "US".parse().unwrap()).unwrap()
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

    const REPEATED: &str = "phone,first_name,tier\n2057481542,Ann,gold\n2057481542,,\n\
        (205) 748-1542,Anna,\n12345,Bob,\n2057481543,Cy,\n";

    #[test]
    fn a_repeated_contact_is_one_draft_however_written() {
        let batch = read(REPEATED, OnMatch::Skip);
        assert_eq!((batch.drafts.len(), batch.repeats), (2, 2));
        assert_eq!(batch.drafts[0].first_name.as_deref(), Some("Ann"));
        let counts = batch.counts_with(OnMatch::Skip, 2, 2);
        assert_eq!(
            (counts.read, counts.created, counts.skipped, counts.refused),
            (5, 2, 2, 1)
        );
        assert_eq!(counts.refused_by_code["invalid_phone"], 1);
        assert_eq!(batch.refused[0].line, 5);
        assert_eq!(batch.refused[0].column.as_deref(), Some("phone"));
    }

    #[test]
    fn with_update_the_later_row_wins_and_its_empty_fields_do_not() {
        let batch = read(REPEATED, OnMatch::Update);
        assert_eq!(batch.drafts[0].first_name.as_deref(), Some("Anna"));
        assert_eq!(batch.drafts[0].attributes["tier"], "gold");
        let counts = batch.counts_with(OnMatch::Update, 1, 3);
        assert_eq!((counts.created, counts.updated, counts.skipped), (1, 3, 0));
    }

    #[test]
    fn only_the_first_refused_rows_are_kept_and_all_are_counted() {
        let rows = ERROR_ROWS_MAX as usize + 5;
        let text = "phone\n".to_owned() + &"12345\n".repeat(rows);
        let batch = read(&text, OnMatch::Skip);
        assert_eq!(batch.refused.len() as u64, ERROR_ROWS_MAX);
        assert_eq!(batch.counts.refused, rows as u64);
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
