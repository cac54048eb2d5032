//! The header: what parts the fields, and what the columns are called.

use super::records::{Fields, Parsed, parse_record, skip_blank_lines};
use super::{
    COLUMN_NAME_CHARS_MAX, COLUMNS_MAX, Delimiter, Encoding, FileRefusal, Layout, RECORD_BYTES_MAX,
    key_of,
};

/// Records that have a say in which delimiter it is.
const SAMPLE_RECORDS: usize = 20;
/// Digits that no column's name has in a row of nothing else, and every phone number has.
const PHONE_DIGITS_MIN: usize = 7;

/// Finds delimiter and header in the beginning of a file.
pub(super) fn layout(
    encoding: Encoding,
    text: &str,
    is_whole: bool,
) -> Result<Layout, FileRefusal> {
    if text.trim().is_empty() {
        return Err(FileRefusal::Empty);
    }
    let delimiter = find_delimiter(text, is_whole);
    let mut fields = Fields::default();
    let start = skip_blank_lines(text, is_whole).0;
    match parse_record(&text[start..], delimiter.byte(), is_whole, &mut fields) {
        // A quote left open before a delimiter makes one column of the whole header.
        Parsed::Record { len, .. }
            if len <= RECORD_BYTES_MAX && (fields.len() > 1 || !fields.get(0).contains('"')) => {}
        _ => {
            let near = text[start..].chars().take(40).collect();
            return Err(FileRefusal::EndlessHeader { near });
        }
    }
    Ok(Layout {
        encoding,
        delimiter,
        columns: check_columns(&fields)?,
    })
}

/// The delimiter that makes most columns in the header and as many in the rows below it.
fn find_delimiter(text: &str, is_whole: bool) -> Delimiter {
    let score = |delimiter: &Delimiter| {
        let mut counts = Vec::new();
        let mut fields = Fields::default();
        let mut at = 0;
        while counts.len() < SAMPLE_RECORDS {
            at += skip_blank_lines(&text[at..], is_whole).0;
            match parse_record(&text[at..], delimiter.byte(), is_whole, &mut fields) {
                Parsed::Record { len, .. } if len > 0 => at += len,
                _ => break,
            }
            counts.push(fields.len());
        }
        let columns = counts.first().copied().unwrap_or(0);
        let agreeing = counts.iter().filter(|count| **count == columns).count();
        (columns > 1, agreeing * 2 > counts.len(), columns)
    };
    // The last of equals wins: a file of one column is a file of commas.
    [Delimiter::Tab, Delimiter::Semicolon, Delimiter::Comma]
        .into_iter()
        .max_by_key(score)
        .unwrap_or(Delimiter::Comma)
}

fn check_columns(fields: &Fields) -> Result<Vec<String>, FileRefusal> {
    if fields.len() > COLUMNS_MAX {
        let columns = fields.len();
        return Err(FileRefusal::TooManyColumns { columns });
    }
    let names: Vec<&str> = fields.iter().map(str::trim).collect();
    if names.iter().all(|name| name.is_empty()) {
        let seen = names.join(" ");
        return Err(FileRefusal::NoHeader { seen });
    }
    if let Some(data) = names.iter().find(|name| is_data(name)) {
        let seen = (*data).into();
        return Err(FileRefusal::NoHeader { seen });
    }
    if let Some(long) = names
        .iter()
        .find(|name| name.chars().count() > COLUMN_NAME_CHARS_MAX)
    {
        let near = long.chars().take(40).collect();
        return Err(FileRefusal::EndlessHeader { near });
    }
    let keys: Vec<String> = (1..)
        .zip(&names)
        .map(|(place, name)| key_of(name, place))
        .collect();
    for (place, key) in keys.iter().enumerate() {
        if let Some(first) = keys[..place].iter().position(|earlier| earlier == key) {
            return Err(FileRefusal::DuplicateColumn {
                name: names[place].into(),
                first: first + 1,
                second: place + 1,
            });
        }
    }
    let name = |(name, key): (&&str, String)| if name.is_empty() { key } else { (*name).into() };
    Ok(names.iter().zip(keys).map(name).collect())
}

/// An address or a number: nobody calls a column that.
fn is_data(name: &str) -> bool {
    let digits = name.chars().filter(char::is_ascii_digit).count();
    name.contains('@') || (digits >= PHONE_DIGITS_MIN && !name.chars().any(char::is_alphabetic))
}
