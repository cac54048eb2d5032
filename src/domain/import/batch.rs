//! What one chunk of an import's file comes to.

use std::collections::HashMap;

use super::{ERROR_ROWS_MAX, Import, ImportCounts, OnMatch, Plan};
use crate::domain::contact::{ContactDraft, Identity, RowRefusal};
use crate::domain::csv_file::{Cursor, FileRefusal};
use crate::domain::phone::Country;

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
    use crate::domain::import::tests::import;

    fn read(text: &str, on_match: OnMatch) -> Batch {
        let import = import(text, on_match);
        let plan = import.plan.clone().unwrap();
        Batch::read(&import, &plan, text.as_bytes(), "US".parse().unwrap()).unwrap()
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
}
