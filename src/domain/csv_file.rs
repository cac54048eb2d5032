//! Files of comma-separated values as people have them: any delimiter, any line end, four encodings.
//!
//! A file is looked at twice. [`Sniffer`] sees all of it while it is uploaded and either names its
//! [`Layout`] or refuses it before a row is read. [`Layout::read`] then takes it chunk by chunk; all it
//! keeps between two chunks is a [`Cursor`] of at most a few hundred kilobytes, so that any process can
//! go on where another stopped, and both see the same rows with the same line numbers.

mod encoding;
mod header;
mod records;

use serde::{Deserialize, Serialize};

pub use encoding::Sniffer;
pub use records::{Cursor, Fields, Row, RowDamage};

use crate::domain::channel::text_enum;

/// Longest record, in bytes of UTF-8; a quote left open ends here.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Columns a file may have.
pub const COLUMNS_MAX: usize = 200;
/// Longest name of a column.
pub const COLUMN_NAME_CHARS_MAX: usize = 100;

text_enum! {
    /// How a file's bytes stand for characters.
    Encoding {
        /// UTF-8, with or without a byte-order mark.
        Utf8 = "utf8",
        /// UTF-16 whose byte-order mark says little-endian.
        Utf16Le = "utf16_le",
        /// UTF-16 whose byte-order mark says big-endian.
        Utf16Be = "utf16_be",
        /// What is not UTF-8: the code page of western Windows.
        Windows1252 = "windows1252",
    }
}

text_enum! {
    /// What stands between two fields.
    Delimiter {
        /// `,`
        Comma = "comma",
        /// `;`, where the comma is the decimal mark.
        Semicolon = "semicolon",
        /// A tabulator.
        Tab = "tab",
    }
}

impl Delimiter {
    /// The character itself; all of them are ASCII.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
        }
    }
}

/// What has to be known to read a file's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// How characters are written.
    pub encoding: Encoding,
    /// What parts the fields.
    pub delimiter: Delimiter,
    /// The header, in the file's order; an empty name has become `column_` and its place.
    pub columns: Vec<String>,
}

/// Why a file is not read at all. Shown to people as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileRefusal {
    /// No bytes, or only blank lines.
    #[error("the file is empty")]
    Empty,
    /// Another kind of file, or bytes that no text has.
    #[error("the file is not text: {seen}")]
    NotText {
        /// What was found, and where.
        seen: String,
    },
    /// Text in an encoding that is none of the four, or damaged.
    #[error("the encoding is unknown: {seen}; save the file as UTF-8")]
    UnknownEncoding {
        /// What was found, and where.
        seen: String,
    },
    /// The first line holds data.
    #[error("the first line must name the columns, but holds {seen:?}")]
    NoHeader {
        /// The field that gave it away.
        seen: String,
    },
    /// Two columns of one name: which of them is meant?
    #[error("the column {name:?} stands twice in the header, at {first} and at {second}")]
    DuplicateColumn {
        /// As the second one is written.
        name: String,
        /// Place of the first, from 1.
        first: usize,
        /// Place of the second, from 1.
        second: usize,
    },
    /// More than 200 columns.
    #[error("the header names {columns} columns, more than {COLUMNS_MAX}")]
    TooManyColumns {
        /// How many.
        columns: usize,
    },
    /// A name of more than 100 characters, a header of more than 64 KiB, or a quote in it left open.
    #[error("the header is too long, or a quote in it is left open, near {near:?}")]
    EndlessHeader {
        /// The beginning of what is too long.
        near: String,
    },
}

impl FileRefusal {
    /// The word programs know it by; part of the API.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty_file",
            Self::NotText { .. } => "not_text",
            Self::UnknownEncoding { .. } => "unknown_encoding",
            Self::NoHeader { .. } => "no_header",
            Self::DuplicateColumn { .. } => "duplicate_column",
            Self::TooManyColumns { .. } => "too_many_columns",
            Self::EndlessHeader { .. } => "endless_header",
        }
    }
}

impl Layout {
    /// Reads the rows that end in `chunk`, in order, and returns where to go on with the next one.
    ///
    /// # Errors
    /// [`FileRefusal::UnknownEncoding`] when the bytes are not those the layout was made for.
    pub fn read(
        &self,
        cursor: Cursor,
        chunk: &[u8],
        is_last: bool,
        each: impl FnMut(Row<'_>),
    ) -> Result<Cursor, FileRefusal> {
        records::read(self, cursor, chunk, is_last, each)
    }
}

/// A column's name as a template can write it: `Loyalty Tier` is `loyalty_tier`.
pub fn key_of(name: &str, place: usize) -> String {
    let mut key = String::with_capacity(name.len());
    for char in name.trim().chars() {
        if char.is_ascii_alphanumeric() {
            key.push(char.to_ascii_lowercase());
        } else if !key.ends_with('_') && !key.is_empty() {
            key.push('_');
        }
    }
    let key = key.trim_end_matches('_');
    match key.chars().next() {
        None => format!("column_{place}"),
        Some(first) if first.is_ascii_digit() => format!("_{key}"),
        Some(_) => key.to_owned(),
    }
}

#[cfg(test)]
mod tests;
