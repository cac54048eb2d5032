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
            .read_pages(
                first,
                question.since,
                LOOK_UP_PAGES_MAX,
                |row, created_at| {
                    candidates.extend(row.candidate(created_at, question));
                },
            )
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
            .read_pages(first, since, LIST_PAGES_MAX, |row, created_at| {
                messages.extend(row.listed(created_at, since));
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
        mut take: impl FnMut(Row, DateTime<Utc>) + Send,
    ) -> Result<bool, AccountError> {
        let mut next = Some(first);
        for _ in 0..pages_max {
            let Some(path) = next else { break };
            let page: Page = self.read(&path).await?;
            let mut is_behind = true;
            for row in page.messages {
                let created_at = row.created_at()?;
                is_behind &= created_at < since;
                take(row, created_at);
            }
            // The newest come first: a page that is wholly older has only older ones behind it.
            next = page.next_page_uri.filter(|_| !is_behind);
        }
        Ok(next.is_none())
    }
}

impl Row {
    /// When it was made. One of which that cannot be read may be any of ours, so that a list with it proves nothing.
    fn created_at(&self) -> Result<DateTime<Utc>, AccountError> {
        DateTime::parse_from_rfc2822(&self.date_created)
            .map(|at| at.with_timezone(&Utc))
            .map_err(|_| AccountError::Unreachable("a date in its list cannot be read".into()))
    }

    /// Whether it was asked for by the API, as ours are. A word that is new may stand for that.
    fn is_asked_for(&self) -> bool {
        !matches!(
            self.direction.as_str(),
            "inbound" | "outbound-call" | "outbound-reply"
        )
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
    fn candidate(self, created_at: DateTime<Utc>, question: &LookUp) -> Option<Candidate> {
        let is_within = (question.since..=question.until).contains(&created_at);
        (is_within && self.is_asked_for()).then_some(())?;
        Some(Candidate {
            has_same_text: self.text() == question.body,
            created_at,
            status: self.status(question.channel)?,
            provider_message_id: self.sid,
            error_code: self.error_code.map(|code| code.to_string()),
        })
    }

    /// What it is in the account's list, when it was asked for since then.
    fn listed(self, created_at: DateTime<Utc>, since: DateTime<Utc>) -> Option<Listed> {
        (created_at >= since && self.is_asked_for()).then_some(())?;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(direction: &str, date_created: &str) -> Row {
        let row = json!({
            "sid": "SM1",
            "from": "+15005550006",
            "to": "+12055550001",
            "body": "Hello",
            "direction": direction,
            "status": "queued",
            "date_created": date_created,
        });
        serde_json::from_value(row).unwrap()
    }

    /// What cannot be read is perhaps ours, so that it never counts as the proof that ours is not there.
    #[test]
    fn what_cannot_be_read_is_no_proof() {
        let dated = row("outbound-api", "Mon, 30 Nov 2026 19:00:00 +0000");
        assert!(dated.created_at().is_ok());
        for date in ["2026-11-30T19:00:00Z", ""] {
            assert!(row("outbound-api", date).created_at().is_err(), "{date}");
        }
        for (direction, is_perhaps_ours) in [
            ("outbound-api", true),
            ("outbound-api-of-tomorrow", true),
            ("inbound", false),
            ("outbound-reply", false),
            ("outbound-call", false),
        ] {
            let row = row(direction, "Mon, 30 Nov 2026 19:00:00 +0000");
            assert_eq!(row.is_asked_for(), is_perhaps_ours, "{direction}");
        }
    }
}
