//! Every request that was made and every message that was taken: the judge of "once".

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::SERVICE_NUMBER;

/// One message that was taken.
#[derive(Debug, Clone, Serialize)]
pub struct Accepted {
    /// What the provider calls it.
    pub sid: String,
    /// With which account it was made.
    pub account_sid: String,
    /// Where it comes from; none while its messaging service has not chosen.
    pub from: Option<String>,
    /// The messaging service that chooses, if one was asked.
    pub messaging_service_sid: Option<String>,
    /// Where it goes.
    pub to: String,
    /// What it says.
    pub body: String,
    /// Where its callbacks go, as given.
    pub status_callback: Option<String>,
    /// When it was taken.
    pub accepted_at: DateTime<Utc>,
    /// What the provider says of it now.
    pub status: String,
    /// Its error, if it has one.
    pub error_code: Option<u32>,
    /// Which way it went.
    pub direction: &'static str,
    /// The form it was made with, as it came.
    pub form: Vec<(String, String)>,
}

/// One request to make a message, whatever came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Requested {
    /// With which account.
    pub account_sid: String,
    /// When it came.
    pub at: DateTime<Utc>,
    /// The form, as it came.
    pub form: Vec<(String, String)>,
}

impl Accepted {
    /// A field of the form it was made with.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.form, name)
    }

    /// A parameter of its callback address: the marks of whoever asked for it.
    pub fn mark(&self, name: &str) -> Option<String> {
        mark(self.status_callback.as_deref()?, name)
    }
}

impl Requested {
    /// A parameter of its callback address.
    pub fn mark(&self, name: &str) -> Option<String> {
        mark(field(&self.form, "StatusCallback")?, name)
    }
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = form.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

fn mark(callback: &str, name: &str) -> Option<String> {
    let url = url::Url::parse(callback).ok()?;
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned())
}

/// The ledger of one provider.
#[derive(Debug, Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    accepted: Vec<Accepted>,
    requested: Vec<Requested>,
    by_sid: HashMap<String, usize>,
    by_recipient: HashMap<(String, String), Vec<usize>>,
    file: Option<std::fs::File>,
}

impl Ledger {
    /// A ledger that writes each taken message to a file too, a line of JSON each, before it is answered.
    pub(super) fn new(file: Option<std::fs::File>) -> Self {
        let book = Book {
            file,
            ..Book::default()
        };
        Self {
            book: Mutex::new(book),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every message taken, oldest first.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.book().accepted.clone()
    }

    /// How many messages were taken.
    pub fn accepted_count(&self) -> usize {
        self.book().accepted.len()
    }

    /// Every request to make a message, oldest first.
    pub fn requested(&self) -> Vec<Requested> {
        self.book().requested.clone()
    }

    /// The marks that more than one taken message bears: what was sent twice.
    pub fn doubled(&self, name: &str) -> Vec<String> {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for mark in self.book().accepted.iter().filter_map(|one| one.mark(name)) {
            *counts.entry(mark).or_default() += 1;
        }
        let doubled = counts.into_iter().filter(|(_, count)| *count > 1);
        doubled.map(|(mark, _)| mark).collect()
    }

    /// Dates all that was taken so much later, as a clock does that is ahead.
    pub fn redate(&self, by: TimeDelta) {
        for one in &mut self.book().accepted {
            one.accepted_at += by;
        }
    }

    pub(super) fn request(&self, requested: Requested) {
        self.book().requested.push(requested);
    }

    pub(super) fn accept(&self, accepted: Accepted) {
        let mut book = self.book();
        if let Some(file) = &mut book.file
            && let Ok(line) = serde_json::to_string(&accepted)
            && let Err(error) = writeln!(file, "{line}")
        {
            tracing::error!(%error, "the ledger's file was not written");
        }
        let at = book.accepted.len();
        book.by_sid.insert(accepted.sid.clone(), at);
        let recipient = (accepted.account_sid.clone(), accepted.to.clone());
        book.by_recipient.entry(recipient).or_default().push(at);
        book.accepted.push(accepted);
    }

    pub(super) fn find(&self, sid: &str) -> Option<Accepted> {
        let book = self.book();
        book.by_sid.get(sid).map(|at| book.accepted[*at].clone())
    }

    /// Messages of an account to one recipient or to all, newest first, that were made until `until`.
    pub(super) fn list(
        &self,
        account_sid: &str,
        to: Option<&str>,
        until: DateTime<Utc>,
    ) -> Vec<Accepted> {
        let book = self.book();
        let all = || (0..book.accepted.len()).collect::<Vec<_>>();
        let found = match to {
            Some(to) => {
                let recipient = (account_sid.to_owned(), to.to_owned());
                book.by_recipient
                    .get(&recipient)
                    .cloned()
                    .unwrap_or_default()
            }
            None => all(),
        };
        let messages = found.iter().rev().map(|at| &book.accepted[*at]);
        messages
            .filter(|one| one.account_sid == account_sid && one.accepted_at <= until)
            .cloned()
            .collect()
    }

    /// Goes on to the next status, and says what the message is by then.
    pub(super) fn set_status(
        &self,
        sid: &str,
        status: &str,
        error_code: Option<u32>,
    ) -> Option<Accepted> {
        let mut book = self.book();
        let at = book.by_sid.get(sid).copied()?;
        let one = &mut book.accepted[at];
        status.clone_into(&mut one.status);
        one.error_code = error_code;
        // Any status after the first: its service has chosen.
        one.from.get_or_insert_with(|| SERVICE_NUMBER.into());
        Some(one.clone())
    }
}
