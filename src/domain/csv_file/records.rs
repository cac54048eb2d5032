//! Records out of chunks of text.
//!
//! Written here and not taken from the crate `csv`, because an import must be able to stop between two
//! chunks: this reader says where an unfinished record begins, knows an open quote from a long field, and
//! counts the lines of every kind of line end. What it accepts is what that crate accepts.

use super::encoding::{decode, encoded_len, without_mark};
use super::{FileRefusal, Layout, RECORD_BYTES_MAX};

/// Where reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The line that the next bytes begin, from 1.
    line: u64,
    is_header_read: bool,
    /// In a line that is too long to be read; everything up to its end goes.
    is_skipping: bool,
    /// The bytes of the record that the last chunk did not finish.
    carry: Vec<u8>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            line: 1,
            is_header_read: false,
            is_skipping: false,
            carry: Vec::new(),
        }
    }
}

impl Cursor {
    /// Bytes to store: one of flags, eight of line number, then the unfinished record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + self.carry.len());
        bytes.push(u8::from(self.is_header_read) | u8::from(self.is_skipping) << 1);
        bytes.extend_from_slice(&self.line.to_be_bytes());
        bytes.extend_from_slice(&self.carry);
        bytes
    }

    /// What [`Cursor::to_bytes`] made; none when it did not make them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first()?;
        let (line, carry) = rest.split_first_chunk::<8>()?;
        Some(Self {
            line: u64::from_be_bytes(*line),
            is_header_read: flags & 1 != 0,
            is_skipping: flags & 2 != 0,
            carry: carry.to_vec(),
        })
    }
}

/// The fields of one record; used again for the next, so that a million rows make no garbage.
#[derive(Debug, Default)]
pub struct Fields {
    text: String,
    ends: Vec<usize>,
}

impl Fields {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The field at a place, from 0; a row that ends early has empty ones.
    pub fn get(&self, place: usize) -> &str {
        let Some(end) = self.ends.get(place) else {
            return "";
        };
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.text[start..*end]
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|place| self.get(place))
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn end_field(&mut self) {
        self.ends.push(self.text.len());
    }
}

/// One row of a file.
#[derive(Debug)]
pub struct Row<'a> {
    /// Where it begins, from 1; the header is line 1 if nothing stands above it.
    pub line: u64,
    /// Its fields, or why they cannot be told apart.
    pub fields: Result<&'a Fields, RowDamage>,
}

/// Why a row's fields cannot be told apart. Shown to people as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowDamage {
    /// A quote that begins a field and does not end it; reading goes on at the next line.
    #[error("a quote is opened and not closed")]
    OpenQuote,
    /// More than 64 KiB.
    #[error("the row is longer than {RECORD_BYTES_MAX} bytes")]
    TooLong,
    /// More fields than the header has columns.
    #[error("the row has {fields} fields, the header {columns}")]
    TooManyFields {
        /// In this row.
        fields: usize,
        /// In the header.
        columns: usize,
    },
}

pub(super) fn read(
    layout: &Layout,
    mut cursor: Cursor,
    chunk: &[u8],
    is_last: bool,
    mut each: impl FnMut(Row<'_>),
) -> Result<Cursor, FileRefusal> {
    let mut bytes = std::mem::take(&mut cursor.carry);
    bytes.extend_from_slice(chunk);
    let bytes = if cursor.is_header_read {
        &bytes[..]
    } else {
        without_mark(layout.encoding, &bytes)
    };
    let (text, left_over) = decode(layout.encoding, bytes, is_last)?;
    let mut reader = Reader {
        layout,
        text: &text,
        at: 0,
        is_last,
        cursor,
    };
    reader.read(&mut each);
    let tail = encoded_len(layout.encoding, &text[reader.at..]) + left_over;
    let mut cursor = reader.cursor;
    cursor.carry = bytes[bytes.len() - tail..].to_vec();
    Ok(cursor)
}

struct Reader<'a> {
    layout: &'a Layout,
    text: &'a str,
    at: usize,
    is_last: bool,
    cursor: Cursor,
}

impl Reader<'_> {
    fn read(&mut self, each: &mut impl FnMut(Row<'_>)) {
        if self.cursor.is_skipping {
            self.skip_line();
        }
        let mut fields = Fields::default();
        while !self.cursor.is_skipping {
            let (blank, lines) = skip_blank_lines(&self.text[self.at..], self.is_last);
            self.at += blank;
            self.cursor.line += lines;
            let rest = &self.text[self.at..];
            if rest.is_empty() {
                break;
            }
            let delimiter = self.layout.delimiter.byte();
            match parse_record(rest, delimiter, self.is_last, &mut fields) {
                Parsed::Record { len, lines } => self.take_record(len, lines, &fields, each),
                Parsed::Unfinished { len, in_quotes } => {
                    if !self.is_last && len <= RECORD_BYTES_MAX {
                        break;
                    }
                    let damage = if in_quotes {
                        RowDamage::OpenQuote
                    } else {
                        RowDamage::TooLong
                    };
                    self.refuse_line(damage, each);
                }
            }
        }
    }

    fn take_record(
        &mut self,
        len: usize,
        lines: u64,
        fields: &Fields,
        each: &mut impl FnMut(Row<'_>),
    ) {
        let columns = self.layout.columns.len();
        // A stray quote swallows the rows up to the next quote. What spans lines and does not fit the
        // header is taken for that, so that one bad line costs one row.
        if self.cursor.is_header_read && lines > 1 && fields.len() != columns {
            return self.refuse_line(RowDamage::OpenQuote, each);
        }
        if len > RECORD_BYTES_MAX && lines > 1 {
            return self.refuse_line(RowDamage::OpenQuote, each);
        }
        if self.cursor.is_header_read {
            let has_more = fields
                .iter()
                .skip(columns)
                .any(|field| !field.trim().is_empty());
            let judged = if len > RECORD_BYTES_MAX {
                Err(RowDamage::TooLong)
            } else if has_more {
                let fields = fields.len();
                Err(RowDamage::TooManyFields { fields, columns })
            } else {
                Ok(fields)
            };
            each(Row {
                line: self.cursor.line,
                fields: judged,
            });
        }
        self.cursor.is_header_read = true;
        self.cursor.line += lines;
        self.at += len;
    }

    fn refuse_line(&mut self, damage: RowDamage, each: &mut impl FnMut(Row<'_>)) {
        each(Row {
            line: self.cursor.line,
            fields: Err(damage),
        });
        self.cursor.is_skipping = true;
        self.skip_line();
    }

    /// Goes behind the next line end; without one, to the end of what is there.
    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        let Some(end) = rest.find(['\n', '\r']) else {
            self.at = self.text.len();
            return;
        };
        self.at += end;
        match line_end(&self.text.as_bytes()[self.at..], self.is_last) {
            LineEnd::Len(len) => {
                self.at += len;
                self.cursor.line += 1;
                self.cursor.is_skipping = false;
            }
            LineEnd::Unknown | LineEnd::None => {}
        }
    }
}

pub(super) enum Parsed {
    /// A record of `len` bytes with its line end, over `lines` lines.
    Record { len: usize, lines: u64 },
    /// The text ends inside a record that has `len` bytes so far; of a whole file, inside quotes.
    Unfinished { len: usize, in_quotes: bool },
}

enum LineEnd {
    None,
    Len(usize),
    /// A carriage return whose line feed may be in the next chunk.
    Unknown,
}

fn line_end(bytes: &[u8], is_last: bool) -> LineEnd {
    match bytes {
        [b'\r', b'\n', ..] => LineEnd::Len(2),
        [b'\r'] if !is_last => LineEnd::Unknown,
        [b'\n' | b'\r', ..] => LineEnd::Len(1),
        _ => LineEnd::None,
    }
}

/// Length and number of the line ends that the text begins with.
pub(super) fn skip_blank_lines(text: &str, is_last: bool) -> (usize, u64) {
    let (mut at, mut lines) = (0, 0);
    while let LineEnd::Len(len) = line_end(&text.as_bytes()[at..], is_last) {
        at += len;
        lines += 1;
    }
    (at, lines)
}

/// Takes the first record of `text` apart.
///
/// A quote counts where a field begins; a doubled one inside stands for itself, and what follows the
/// closing one up to the delimiter is taken as it is (RFC 4180 §2, read with patience).
pub(super) fn parse_record(
    text: &str,
    delimiter: u8,
    is_last: bool,
    fields: &mut Fields,
) -> Parsed {
    let bytes = text.as_bytes();
    let (mut at, mut lines) = (0, 1);
    fields.clear();
    loop {
        if bytes.get(at) == Some(&b'"') {
            match quoted(text, at + 1, is_last, fields) {
                Some((after, inside)) => (at, lines) = (after, lines + inside),
                None => return unfinished(bytes.len(), true),
            }
        }
        let plain = bytes[at..]
            .iter()
            .position(|byte| *byte == delimiter || matches!(byte, b'\n' | b'\r'));
        let end = at + plain.unwrap_or(bytes.len() - at);
        fields.text.push_str(&text[at..end]);
        fields.end_field();
        match line_end(&bytes[end..], is_last) {
            LineEnd::Len(len) => {
                return Parsed::Record {
                    len: end + len,
                    lines,
                };
            }
            LineEnd::None if end < bytes.len() => at = end + 1,
            LineEnd::None if is_last => {
                return Parsed::Record { len: end, lines };
            }
            LineEnd::None | LineEnd::Unknown => return unfinished(bytes.len(), false),
        }
    }
}

fn unfinished(len: usize, in_quotes: bool) -> Parsed {
    Parsed::Unfinished { len, in_quotes }
}

/// Takes a quoted part from behind its opening quote; returns the place behind the closing one and the
/// number of line ends inside. None when the text ends before.
fn quoted(text: &str, start: usize, is_last: bool, fields: &mut Fields) -> Option<(usize, u64)> {
    let bytes = text.as_bytes();
    let mut at = start;
    loop {
        let quote = at + bytes[at..].iter().position(|byte| *byte == b'"')?;
        fields.text.push_str(&text[at..quote]);
        match bytes.get(quote + 1) {
            Some(b'"') => {
                fields.text.push('"');
                at = quote + 2;
            }
            // Its twin may be in the next chunk.
            None if !is_last => return None,
            _ => return Some((quote + 1, count_line_ends(&bytes[start..quote]))),
        }
    }
}

fn count_line_ends(bytes: &[u8]) -> u64 {
    let followers = bytes.iter().skip(1).map(Some).chain([None]);
    let ends = bytes
        .iter()
        .zip(followers)
        .filter(|(byte, follower)| match byte {
            b'\n' => true,
            b'\r' => *follower != Some(&b'\n'),
            _ => false,
        });
    ends.count() as u64
}
