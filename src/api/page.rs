//! Pages of lists: a limit and an opaque cursor.
//!
//! A cursor holds the key of the last row and the name of its list. It is read strictly, so that rubbish and another
//! list's cursor are refused; a forged one opens nothing, since row-level security holds for every page.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem_openapi::Object;
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::problem::{ApiError, ApiResult, ProblemType};

/// Rows of a page when nobody asks for another number.
pub const LIMIT_DEFAULT: i64 = 50;
/// Rows of a page at most.
pub const LIMIT_MAX: i64 = 200;
/// A longer cursor is not one of ours.
const CURSOR_BYTES_MAX: usize = 1024;

/// One page of a list.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct Page<T: Type + ParseFromJSON + ToJSON> {
    /// The rows, in the list's order.
    pub items: Vec<T>,
    /// Send it as `cursor` to get the next page; absent on the last one.
    pub next_cursor: Option<String>,
}

/// Which page of which list is asked for.
#[derive(Debug)]
pub struct PageRequest<K> {
    list: &'static str,
    /// The key of the last row of the page before.
    pub after: Option<K>,
    limit: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor<K> {
    #[serde(rename = "l")]
    list: String,
    #[serde(rename = "k")]
    key: K,
}

impl<K: Serialize + DeserializeOwned> PageRequest<K> {
    /// Reads the two parameters of a list; `list` is the name of the operation, with what it filters by where the
    /// filter changes the order.
    ///
    /// # Errors
    /// A limit outside 1 to 200; a cursor that this list did not hand out.
    pub fn new(list: &'static str, limit: Option<i64>, cursor: Option<&str>) -> ApiResult<Self> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(ApiError::new(
                ProblemType::InvalidParameter,
                format!("The parameter 'limit' must be from 1 to {LIMIT_MAX}."),
            )
            .with_field("limit", format!("must be from 1 to {LIMIT_MAX}")));
        }
        let after = cursor.map(|text| read_cursor(list, text)).transpose()?;
        Ok(Self {
            list,
            after,
            limit: limit as usize,
        })
    }

    /// How many rows to load: one more than is shown tells whether there is another page.
    pub fn rows_to_load(&self) -> i64 {
        self.limit as i64 + 1
    }

    /// Makes the page out of the rows that were loaded; `key` is what the list is ordered by.
    pub fn page<R, T>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> K) -> Page<T>
    where
        T: From<R> + Type + ParseFromJSON + ToJSON,
    {
        let has_more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next_cursor = rows
            .last()
            .filter(|_| has_more)
            .map(|row| write_cursor(self.list, key(row)));
        Page {
            items: rows.into_iter().map(T::from).collect(),
            next_cursor,
        }
    }
}

fn write_cursor<K: Serialize>(list: &str, key: K) -> String {
    let cursor = Cursor {
        list: list.to_owned(),
        key,
    };
    // Keys are ids and texts, which always serialise; an empty cursor would be refused, never misread.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
}

fn read_cursor<K: DeserializeOwned>(list: &str, text: &str) -> ApiResult<K> {
    let cursor: Option<Cursor<K>> = (text.len() <= CURSOR_BYTES_MAX)
        .then(|| URL_SAFE_NO_PAD.decode(text).ok())
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match cursor {
        Some(cursor) if cursor.list == list => Ok(cursor.key),
        _ => Err(ApiError::new(
            ProblemType::InvalidCursor,
            "Send the next_cursor of this list's last page, as it was; or leave it out to begin anew.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Object)]
    struct Row {
        id: i64,
    }

    impl From<i64> for Row {
        fn from(id: i64) -> Self {
            Self { id }
        }
    }

    #[test]
    fn a_list_is_walked_to_its_end_without_gap_or_repeat() {
        let all: Vec<i64> = (0..25).collect();
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let request = PageRequest::<i64>::new("rows", Some(10), cursor.as_deref()).unwrap();
            let after = request.after.unwrap_or(-1);
            let rows = all
                .iter()
                .copied()
                .filter(|id| *id > after)
                .take(request.rows_to_load() as usize)
                .collect();
            let page: Page<Row> = request.page(rows, |id| *id);
            seen.extend(page.items.iter().map(|row| row.id));
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn rubbish_and_other_lists_cursors_are_refused() {
        let other = write_cursor("others", 3_i64);
        let text = write_cursor("rows", "three");
        let long = "a".repeat(5000);
        for cursor in ["", "x", "%%", &other, &text, &long] {
            let error = PageRequest::<i64>::new("rows", None, Some(cursor)).unwrap_err();
            assert_eq!(error.problem(), ProblemType::InvalidCursor, "{cursor}");
        }
    }

    #[test]
    fn limits_have_bounds() {
        for limit in [0, -1, 201, i64::MAX] {
            assert!(PageRequest::<i64>::new("rows", Some(limit), None).is_err());
        }
        for limit in [1, 200] {
            assert!(PageRequest::<i64>::new("rows", Some(limit), None).is_ok());
        }
    }
}
