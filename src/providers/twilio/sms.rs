//! Text messages: what is asked, and what an answer means.
//!
//! Source: Twilio's OpenAPI document `api_v2010`; error pages 20429 (a refusal for speed was never processed), 20500 (a
//! message may have been sent all the same).

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded::Serializer;

use super::client::{Answer, CallError};
use super::{Account, Twilio, codes, is_sid};
use crate::domain::channel::Channel;
use crate::domain::status::Status;
use crate::providers::{
    AccountError, Listing, LookUp, LookUpAnswer, Provider, SendError, SendReceipt, SendRequest,
};

/// How long the provider may try: at most four hours, at least a minute.
const VALIDITY: std::ops::RangeInclusive<u64> = 60..=14_400;

/// Text messages with one account.
#[derive(Debug)]
pub struct TwilioSms {
    twilio: Twilio,
    account: Account,
}

impl TwilioSms {
    pub(super) fn new(twilio: Twilio, account: Account) -> Self {
        Self { twilio, account }
    }

    pub(super) fn path(&self, rest: &str) -> String {
        format!("/2010-04-01/Accounts/{}{rest}", self.account.account_sid)
    }

    /// The form of one message, with the marks that its callbacks come back with.
    fn form(&self, request: &SendRequest) -> Result<Vec<(&'static str, String)>, SendError> {
        // Without callbacks a message in doubt could be told by a list alone.
        let public = self.twilio.public_url().ok_or_else(|| SendError::Account {
            code: "no_public_url".into(),
        })?;
        let mut marks = Serializer::new(String::new());
        marks.append_pair("t", &request.key.tenant_id.to_string());
        marks.append_pair("m", &request.key.id.to_string());
        marks.append_pair("a", &request.attempt_id.to_string());
        let callback = format!(
            "{}/api/webhooks/twilio/sms?{}#rc=5&rp=all",
            public.trim_end_matches('/'),
            marks.finish()
        );
        let validity = request
            .validity
            .as_secs()
            .clamp(*VALIDITY.start(), *VALIDITY.end());
        let from = match &request.messaging_service_sid {
            Some(sid) => ("MessagingServiceSid", sid.clone()),
            None => ("From", request.from.clone()),
        };
        Ok(vec![
            ("To", request.to.clone()),
            from,
            ("Body", request.body.clone()),
            ("StatusCallback", callback),
            ("ValidityPeriod", validity.to_string()),
            ("Attempt", request.attempt_no.to_string()),
        ])
    }

    /// Reads what lies at `path`.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, AccountError> {
        let answer = self.twilio.get(&self.account, path).await?;
        match (answer.status, answer.body) {
            (200, Some(body)) => serde_json::from_slice(&body).map_err(|error| {
                // Where, and not what: the value may be a person's number.
                AccountError::Unreachable(format!(
                    "its answer cannot be read from line {}, column {} on",
                    error.line(),
                    error.column()
                ))
            }),
            (401 | 403 | 404, body) => Err(AccountError::Refused(
                code_of(body.as_deref()).unwrap_or_else(|| answer.status.to_string()),
            )),
            (status, _) => Err(AccountError::Unreachable(format!("answered {status}"))),
        }
    }

    async fn is_active(&self) -> Result<bool, AccountError> {
        #[derive(Deserialize)]
        struct Shown {
            status: String,
        }
        let path = format!("/2010-04-01/Accounts/{}.json", self.account.account_sid);
        let shown: Shown = self.read(&path).await?;
        Ok(shown.status == "active")
    }
}

impl Provider for TwilioSms {
    fn send<'a>(
        &'a self,
        request: &'a SendRequest,
    ) -> BoxFuture<'a, Result<SendReceipt, SendError>> {
        Box::pin(async move {
            let form = self.form(request)?;
            let path = self.path("/Messages.json");
            let answer = self.twilio.post(&self.account, &path, &form).await?;
            classify(request.channel, &answer)
        })
    }

    fn look_up<'a>(
        &'a self,
        question: &'a LookUp,
    ) -> BoxFuture<'a, Result<LookUpAnswer, AccountError>> {
        Box::pin(self.list_alike(question))
    }

    fn list_sent(&self, since: DateTime<Utc>) -> BoxFuture<'_, Result<Listing, AccountError>> {
        Box::pin(self.list_since(since))
    }

    fn verify<'a>(&'a self, _account_ref: &'a str) -> BoxFuture<'a, Result<(), AccountError>> {
        Box::pin(async move {
            if self.is_active().await? {
                Ok(())
            } else {
                Err(AccountError::Refused("the account is not active".into()))
            }
        })
    }
}

impl From<CallError> for SendError {
    fn from(error: CallError) -> Self {
        let reason = error.to_string();
        match error {
            CallError::Sealed(_) => Self::Account {
                code: "credentials_do_not_open".into(),
            },
            CallError::NoClient(_) => Self::Account {
                code: "no_http_client".into(),
            },
            // Made anew it would be the same.
            CallError::Unmade(_) => Self::Rejected {
                code: "unusable_request".into(),
            },
            CallError::Unreachable(_) => Self::Unavailable { reason },
            CallError::Broken(_) => Self::Uncertain { reason },
        }
    }
}

impl From<CallError> for AccountError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Sealed(error) => Self::Refused(error.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

#[derive(Deserialize)]
struct Made {
    sid: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct Failure {
    code: i64,
}

fn code_of(body: Option<&[u8]>) -> Option<String> {
    let failure: Failure = serde_json::from_slice(body?).ok()?;
    Some(failure.code.to_string())
}

/// What an answer to a request for a message means. What is not certain is doubt.
fn classify(channel: Channel, answer: &Answer) -> Result<SendReceipt, SendError> {
    let body = answer.body.as_deref();
    let doubt = |reason: String| Err(SendError::Uncertain { reason });
    match (answer.status, code_of(body)) {
        (201, _) => match receipt(channel, body) {
            Some(receipt) => Ok(receipt),
            None => doubt("201 without a message".into()),
        },
        // Never processed, whoever says so.
        (429, code) => Err(throttled(
            code.unwrap_or_else(|| codes::TOO_MANY_REQUESTS.to_owned()),
            answer,
        )),
        (400..=499, Some(code)) if codes::is_throttle(&code) => Err(throttled(code, answer)),
        (401 | 403, Some(code)) => Err(SendError::Account { code }),
        (408, _) => doubt("answered 408".into()),
        (400..=499, Some(code)) if codes::condemns(&code) => Err(SendError::Account { code }),
        (400..=499, Some(code)) => Err(SendError::Rejected { code }),
        (status, _) => doubt(format!("answered {status}")),
    }
}

fn receipt(channel: Channel, body: Option<&[u8]>) -> Option<SendReceipt> {
    let made: Made = serde_json::from_slice(body?).ok()?;
    is_sid(&made.sid).then_some(())?;
    // It has the message, whatever new word it says of it.
    let status =
        Status::parse(channel, &made.status).or_else(|_| Status::parse(channel, "accepted"));
    Some(SendReceipt {
        provider_message_id: made.sid,
        status: status.ok()?,
    })
}

fn throttled(code: String, answer: &Answer) -> SendError {
    // Dates are not read: a delay of our own does as well.
    let asked = answer
        .retry_after
        .as_deref()
        .and_then(|text| text.trim().parse().ok());
    SendError::Throttled {
        code,
        retry_after: asked.map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: &str = "SM0123456789abcdef0123456789abcdef";

    fn answered(status: u16, body: &str) -> Result<SendReceipt, SendError> {
        let answer = Answer {
            status,
            retry_after: None,
            body: Some(body.as_bytes().to_vec()),
        };
        classify(Channel::Sms, &answer)
    }

    #[derive(Debug, PartialEq)]
    enum Means {
        Taken(&'static str),
        Refused(&'static str),
        Later(&'static str),
        Halted(&'static str),
        Doubt,
    }

    #[test]
    fn every_answer_means_one_thing_and_the_unknown_is_doubt() {
        use Means::{Doubt, Halted, Later, Refused, Taken};
        let made = |word: &str| format!(r#"{{"sid":"{SID}","status":"{word}","error_code":null}}"#);
        let failed = |code: u32| format!(r#"{{"code":{code},"message":"x","status":400}}"#);
        let html = || "<html>We are sorry</html>".to_owned();
        let cases = [
            (201, made("queued"), Taken("queued")),
            (201, made("accepted"), Taken("accepted")),
            (201, made("a new word"), Taken("accepted")),
            (201, format!(r#"{{"sid":"{SID}"}}"#), Taken("accepted")),
            (201, r#"{"status":"queued"}"#.into(), Doubt),
            (201, r#"{"sid":"SM1","status":"queued"}"#.into(), Doubt),
            (201, r#"{"sid":null}"#.into(), Doubt),
            (201, html(), Doubt),
            (201, String::new(), Doubt),
            (200, made("queued"), Doubt),
            (202, made("queued"), Doubt),
            (204, String::new(), Doubt),
            (301, String::new(), Doubt),
            (307, html(), Doubt),
            (400, failed(21211), Refused("21211")),
            (400, failed(21610), Refused("21610")),
            (400, failed(21408), Refused("21408")),
            (400, failed(21606), Halted("21606")),
            (400, failed(21611), Later("21611")),
            (400, html(), Doubt),
            (400, String::new(), Doubt),
            (401, failed(20003), Halted("20003")),
            (401, html(), Doubt),
            (403, failed(20005), Halted("20005")),
            (404, failed(20404), Halted("20404")),
            (404, html(), Doubt),
            (408, failed(20001), Doubt),
            (409, failed(20009), Refused("20009")),
            (429, failed(20429), Later("20429")),
            (429, failed(21611), Later("21611")),
            (429, html(), Later("20429")),
            (500, failed(20500), Doubt),
            (502, html(), Doubt),
            (503, failed(20503), Doubt),
            (504, String::new(), Doubt),
            (599, String::new(), Doubt),
        ];
        for (status, body, means) in cases {
            let found = match answered(status, &body) {
                Ok(receipt) => {
                    assert_eq!(receipt.provider_message_id, SID);
                    Means::Taken(receipt.status.as_str())
                }
                Err(SendError::Rejected { code }) => Means::Refused(code.leak()),
                Err(SendError::Throttled { code, .. }) => Means::Later(code.leak()),
                Err(SendError::Account { code }) => Means::Halted(code.leak()),
                Err(SendError::Uncertain { .. }) => Means::Doubt,
                Err(SendError::Unavailable { reason }) => panic!("{status} {body}: {reason}"),
            };
            assert_eq!(found, means, "{status} {body}");
        }
    }

    #[test]
    fn a_body_that_broke_off_leaves_a_success_in_doubt_and_a_429_certain() {
        let broken = |status| {
            let answer = Answer {
                status,
                retry_after: None,
                body: None,
            };
            classify(Channel::Sms, &answer)
        };
        assert!(matches!(broken(201), Err(SendError::Uncertain { .. })));
        assert!(matches!(broken(400), Err(SendError::Uncertain { .. })));
        assert!(matches!(broken(429), Err(SendError::Throttled { .. })));
    }

    #[test]
    fn a_wait_is_read_as_it_is_asked_for() {
        let waits = |text: Option<&str>| {
            let answer = Answer {
                status: 429,
                retry_after: text.map(str::to_owned),
                body: None,
            };
            match classify(Channel::Sms, &answer) {
                Err(SendError::Throttled { retry_after, .. }) => retry_after,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(waits(None), None);
        assert_eq!(waits(Some("7")), Some(Duration::from_secs(7)));
        assert_eq!(waits(Some(" 0 ")), Some(Duration::ZERO));
        assert_eq!(waits(Some("604800")), Some(Duration::from_hours(24 * 7)));
        let longest = Duration::from_secs(u64::MAX);
        assert_eq!(waits(Some("18446744073709551615")), Some(longest));
        assert_eq!(waits(Some("-1")), None);
        assert_eq!(waits(Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
    }
}
