//! The wire format, declared once more on purpose: what a client that is wrong would say must not be what a fake that is
//! wrong the same way takes.
//!
//! Source: Twilio's OpenAPI document `api_v2010`, and its pages "Message resource" and "Test Credentials".

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::SERVICE_NUMBER;
use super::ledger::Accepted;

/// Every field that making a message takes.
const FIELDS: &[&str] = &[
    "To",
    "StatusCallback",
    "ApplicationSid",
    "MaxPrice",
    "ProvideFeedback",
    "Attempt",
    "ValidityPeriod",
    "ForceDelivery",
    "ContentRetention",
    "AddressRetention",
    "SmartEncoded",
    "PersistentAction",
    "TrafficType",
    "ShortenUrls",
    "ScheduleType",
    "SendAt",
    "SendAsMms",
    "ContentVariables",
    "RiskCheck",
    "From",
    "MessagingServiceSid",
    "Body",
    "MediaUrl",
    "ContentSid",
    "FallbackFrom",
];
const BODY_CHARS_MAX: usize = 1600;
const VALIDITY_SECS_MAX: u32 = 36_000;
/// Of a sender that is a word.
const WORD_CHARS_MAX: usize = 11;
const SHORT_CODE_DIGITS: std::ops::RangeInclusive<usize> = 3..=8;

/// An error of the API: HTTP status and code.
pub(super) type Refusal = (u16, u32);

/// A parameter that does not exist, or one of a wrong type.
const WRONG: Refusal = (400, 20001);
/// Recipients that are always refused.
const MAGIC_TO: &[(&str, u32)] = &[
    ("+15005550001", 21211),
    ("+15005550002", 21612),
    ("+15005550003", 21408),
    ("+15005550004", 21610),
    ("+15005550009", 21614),
];
/// Senders that always are.
const MAGIC_FROM: &[(&str, u32)] = &[
    ("+15005550001", 21212),
    ("+15005550007", 21606),
    ("+15005550008", 21611),
];

/// What a form asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) to: String,
    pub(super) from: Option<String>,
    pub(super) messaging_service_sid: Option<String>,
    pub(super) body: String,
    pub(super) status_callback: Option<String>,
}

impl Asked {
    /// What is said of it in the answer: a messaging service has yet to choose whom it comes from.
    pub(super) fn first_status(&self) -> &'static str {
        match self.messaging_service_sid {
            Some(_) => "accepted",
            None => "queued",
        }
    }
}

/// Reads a form as strictly as the document says it.
pub(super) fn read(form: &[(String, String)]) -> Result<Asked, Refusal> {
    let field = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    };
    let is_twice = |name: &str| form.iter().filter(|(key, _)| key == name).count() > 1;
    for (key, _) in form {
        if !FIELDS.contains(&key.as_str()) || (is_twice(key) && key != "MediaUrl") {
            return Err(WRONG);
        }
    }
    let to = field("To").ok_or((400, 21604))?;
    let (from, service) = (field("From"), field("MessagingServiceSid"));
    check_sender(from, service)?;
    let body = field("Body")
        .or_else(|| field("ContentSid"))
        .ok_or((400, 21602))?;
    if body.chars().count() > BODY_CHARS_MAX {
        return Err((400, 21617));
    }
    check_addresses(to, from)?;
    let within = |name: &str, max: u32| match field(name) {
        None => true,
        Some(text) => text
            .parse()
            .is_ok_and(|number: u32| (1..=max).contains(&number)),
    };
    if !within("ValidityPeriod", VALIDITY_SECS_MAX) || !within("Attempt", u32::MAX) {
        return Err(WRONG);
    }
    let status_callback = field("StatusCallback").map(str::to_owned);
    if status_callback
        .as_deref()
        .is_some_and(|url| !is_callback(url))
    {
        return Err((400, 21609));
    }
    Ok(Asked {
        to: to.into(),
        from: from.map(str::to_owned),
        messaging_service_sid: service.map(str::to_owned),
        body: body.into(),
        status_callback,
    })
}

/// A sender, a messaging service that chooses one, or a service and whom it shall choose.
fn check_sender(from: Option<&str>, service: Option<&str>) -> Result<(), Refusal> {
    match (from, service) {
        (None, None) => Err((400, 21603)),
        (_, Some(sid)) if !is_service(sid) => Err(WRONG),
        (Some(from), Some(_)) if from != SERVICE_NUMBER => Err((400, 21606)),
        // A service among them, which has a field of its own.
        (Some(from), None) if !is_sender(from) => Err((400, 21212)),
        _ => Ok(()),
    }
}

fn is_service(sid: &str) -> bool {
    let digits = sid.strip_prefix("MG").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|c| c.is_ascii_hexdigit())
}

/// A number, a short code, a word of letters and digits, or the number of another channel.
fn is_sender(from: &str) -> bool {
    let number = from.strip_prefix("whatsapp:").unwrap_or(from);
    let is_short_code =
        SHORT_CODE_DIGITS.contains(&from.len()) && from.bytes().all(|c| c.is_ascii_digit());
    let is_word = from.len() <= WORD_CHARS_MAX
        && from.bytes().all(|c| c.is_ascii_alphanumeric() || c == b' ')
        && from.bytes().any(|c| c.is_ascii_alphabetic());
    is_e164(number) || is_short_code || is_word
}

fn check_addresses(to: &str, from: Option<&str>) -> Result<(), Refusal> {
    let magic = |table: &[(&str, u32)], address: &str| {
        let found = table.iter().find(|(number, _)| *number == address);
        found.map(|(_, code)| *code)
    };
    let of_sender = from.and_then(|from| magic(MAGIC_FROM, from));
    if let Some(code) = of_sender.or_else(|| magic(MAGIC_TO, to)) {
        return Err((400, code));
    }
    let number = to.strip_prefix("whatsapp:").unwrap_or(to);
    if is_e164(number) {
        Ok(())
    } else {
        Err((400, 21211))
    }
}

fn is_e164(number: &str) -> bool {
    let digits = number.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len())
        && !digits.starts_with('0')
        && digits.bytes().all(|c| c.is_ascii_digit())
}

/// A host with an underscore is not taken.
fn is_callback(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.contains('_'))
    })
}

/// A message, as the API shows it.
pub(super) fn message(one: &Accepted) -> Value {
    let uri = format!(
        "/2010-04-01/Accounts/{}/Messages/{}",
        one.account_sid, one.sid
    );
    let is_unsent = matches!(one.status.as_str(), "accepted" | "queued");
    // Segments are counted for a sender.
    let segments = if one.from.is_some() { "1" } else { "0" };
    json!({
        "account_sid": one.account_sid,
        "api_version": "2010-04-01",
        "body": one.body,
        "date_created": rfc_2822(one.accepted_at),
        "date_sent": if is_unsent { Value::Null } else { rfc_2822(one.accepted_at).into() },
        "date_updated": rfc_2822(one.accepted_at),
        "direction": one.direction,
        "error_code": one.error_code,
        "error_message": null,
        "from": one.from,
        "messaging_service_sid": one.messaging_service_sid,
        "num_media": "0",
        "num_segments": segments,
        "price": null,
        "price_unit": "USD",
        "sid": one.sid,
        "status": one.status,
        "subresource_uris": { "media": format!("{uri}/Media.json") },
        "tags": null,
        "to": one.to,
        "uri": format!("{uri}.json"),
    })
}

fn rfc_2822(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// An error, as the API shows it.
pub(super) fn error((status, code): Refusal) -> Value {
    json!({
        "code": code,
        "message": format!("Error {code}"),
        "more_info": format!("https://www.twilio.com/docs/errors/{code}"),
        "status": status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

    /// Fields that differ from a good form's, and the code they are refused with.
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<u32>);

    fn refused(pairs: &[(&str, &str)]) -> Option<u32> {
        let mut form = vec![
            ("To", "+15005550006"),
            ("From", "+15005550006"),
            ("Body", "Hello"),
        ];
        for (key, value) in pairs {
            form.retain(|(known, _)| known != key);
            form.push((key, value));
        }
        let form: Vec<(String, String)> = form
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        read(&form).err().map(|(_, code)| code)
    }

    #[test]
    fn a_form_is_taken_or_refused_with_its_code() {
        let long = "x".repeat(1601);
        let cases: &[Case<'_>] = &[
            (&[], None),
            (
                &[("StatusCallback", "https://a.example/x?t=1#rc=5&rp=all")],
                None,
            ),
            (&[("StatusCallback", "https://a_b.example/x")], Some(21609)),
            (&[("StatusCallback", "a.example")], Some(21609)),
            (&[("ValidityPeriod", "60"), ("Attempt", "1")], None),
            (&[("ValidityPeriod", "0")], Some(20001)),
            (&[("ValidityPeriod", "36001")], Some(20001)),
            (&[("Attempt", "first")], Some(20001)),
            (&[("StatusCallBack", "https://a.example")], Some(20001)),
            (&[("To", "")], Some(21604)),
            (&[("From", "")], Some(21603)),
            (&[("Body", "")], Some(21602)),
            (&[("Body", &long)], Some(21617)),
            (&[("To", "5005550006")], Some(21211)),
            (&[("To", "+15005550001")], Some(21211)),
            (&[("To", "+15005550004")], Some(21610)),
            (&[("To", "whatsapp:+15005550006")], None),
            (&[("From", "+15005550008")], Some(21611)),
            (&[("From", "whatsapp:+15005550006")], None),
            (&[("From", "26246")], None),
            (&[("From", "Dojo Coffee")], None),
            (&[("From", "5005550006")], Some(21212)),
            (&[("From", SERVICE)], Some(21212)),
            (&[("From", ""), ("MessagingServiceSid", SERVICE)], None),
            (&[("From", ""), ("MessagingServiceSid", "MG1")], Some(20001)),
            // Whom a service shall choose is in its pool.
            (&[("MessagingServiceSid", SERVICE)], Some(21606)),
            (
                &[("From", SERVICE_NUMBER), ("MessagingServiceSid", SERVICE)],
                None,
            ),
        ];
        for (pairs, code) in cases {
            assert_eq!(refused(pairs), *code, "{pairs:?}");
        }
    }
}
