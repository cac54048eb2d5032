//! The account's list of messages: it settles what had no answer, and tells a server that has forgotten calls what they were.
//!
//! Source: Twilio's OpenAPI document `api_v2010`. The newest come first. Nothing is asked for by `DateSent`, which is the day
//! of sending and missing of what is queued.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use url::form_urlencoded::byte_serialize;

use super::sms::TwilioSms;
use crate::domain::channel::Channel;
use crate::domain::reconcile_provider::Listed;
use crate::domain::status::Status;
use crate::providers::{AccountError, Candidate, Listing, LookUp, LookUpAnswer};

/// Pages of one look-up; more messages to one person in half an hour are not ours.
const LOOK_UP_PAGES_MAX: usize = 5;
/// Pages of one account's list: a quarter of an hour at 200 messages a second.
const LIST_PAGES_MAX: usize = 200;
const PAGE_SIZE: usize = 1000;
/// What trial accounts put before every text.
const TRIAL_PREFIX: &str = "Sent from your Twilio trial account - ";

#[derive(Deserialize)]
struct Page {
    messages: Vec<Row>,
    next_page_uri: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    sid: String,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    body: Option<String>,
    direction: String,
    status: String,
    #[serde(default)]
    error_code: Option<i64>,
    date_created: String,
}

impl TwilioSms {
    /// What went to one person.
    pub(super) async fn list_alike(&self, question: &LookUp) -> Result<LookUpAnswer, AccountError> {
        let to: String = byte_serialize(question.to.as_bytes()).collect();
        let first = self.path(&format!("/Messages.json?To={to}&PageSize={PAGE_SIZE}"));
        let mut candidates = Vec::new();
        let is_complete = self
            .read_pages(first, question.since, LOOK_UP_PAGES_MAX, |row| {
                candidates.extend(row.candidate(question));
            })
            .await?;
        // Dates have whole seconds; within one the list's own order counts.
        candidates.reverse();
        candidates.sort_by_key(|candidate| candidate.created_at);
        Ok(LookUpAnswer {
            candidates,
            is_complete,
        })
    }

    /// What went to anybody.
    pub(super) async fn list_since(&self, since: DateTime<Utc>) -> Result<Listing, AccountError> {
        let first = self.path(&format!("/Messages.json?PageSize={PAGE_SIZE}"));
        let mut messages = Vec::new();
        let is_complete = self
            .read_pages(first, since, LIST_PAGES_MAX, |row| {
                messages.extend(row.listed(since));
            })
            .await?;
        Ok(Listing {
            messages,
            is_complete,
        })
    }

    /// Reads a list until a page is wholly older than `since`, at most `pages_max`. Says whether that was all of it.
    async fn read_pages(
        &self,
        first: String,
        since: DateTime<Utc>,
        pages_max: usize,
        mut take: impl FnMut(Row) + Send,
    ) -> Result<bool, AccountError> {
        let mut next = Some(first);
        for _ in 0..pages_max {
            let Some(path) = next else { break };
            let page: Page = self.read(&path).await?;
            let is_behind = page
                .messages
                .iter()
                .all(|row| row.created_at().is_none_or(|at| at < since));
            page.messages.into_iter().for_each(&mut take);
            // The newest come first: a page that is wholly older has only older ones behind it.
            next = page.next_page_uri.filter(|_| !is_behind);
        }
        Ok(next.is_none())
    }
}

impl Row {
    fn created_at(&self) -> Option<DateTime<Utc>> {
        let at = DateTime::parse_from_rfc2822(&self.date_created).ok()?;
        Some(at.with_timezone(&Utc))
    }

    /// When it was made, if it was asked for by the API: nobody else's messages are ours.
    fn asked_for_at(&self) -> Option<DateTime<Utc>> {
        self.created_at()
            .filter(|_| self.direction == "outbound-api")
    }

    /// What is said of it. A word that is new stands for the first one: Twilio has the message.
    fn status(&self, channel: Channel) -> Option<Status> {
        Status::parse(channel, &self.status)
            .or_else(|_| Status::parse(channel, "accepted"))
            .ok()
    }

    fn text(&self) -> &str {
        let body = self.body.as_deref().unwrap_or_default();
        body.strip_prefix(TRIAL_PREFIX).unwrap_or(body)
    }

    /// The candidate it is, when it is one of ours within the window.
    fn candidate(self, question: &LookUp) -> Option<Candidate> {
        let created_at = self.asked_for_at()?;
        let is_within = (question.since..=question.until).contains(&created_at);
        is_within.then_some(())?;
        Some(Candidate {
            has_same_text: self.text() == question.body,
            created_at,
            status: self.status(question.channel)?,
            provider_message_id: self.sid,
            error_code: self.error_code.map(|code| code.to_string()),
        })
    }

    /// What it is in the account's list, when it was asked for since then.
    fn listed(self, since: DateTime<Utc>) -> Option<Listed> {
        let created_at = self.asked_for_at().filter(|at| *at >= since)?;
        Some(Listed {
            body: self.text().to_owned(),
            created_at,
            status: self.status(Channel::Sms)?,
            provider_message_id: self.sid,
            from: self.from.unwrap_or_default(),
            to: self.to.unwrap_or_default(),
            error_code: self.error_code.map(|code| code.to_string()),
        })
    }
}
