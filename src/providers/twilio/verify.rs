//! Callbacks: whether Twilio signed them, and what they say. The doors use this module; tokens are opened here.
//!
//! Source: Twilio, "Webhooks Security"; where its own libraries are more forgiving than the page, so is this: a port may
//! be in the signed address or not, and the address may have been normalised before it was signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use url::Url;

pub use super::Account;
use super::is_sid;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::sealed::SealError;

/// What a status callback says, as it says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCallback {
    /// `SM…`.
    pub message_sid: String,
    /// With which account it was made.
    pub account_sid: String,
    /// Twilio's word.
    pub status: String,
    /// Its error code, where there is one.
    pub error_code: Option<String>,
}

/// Fields whose values [`StatusCallback`] holds, two of them by an older name.
pub const CALLBACK_FIELDS: [&str; 5] = [
    "MessageSid",
    "SmsSid",
    "AccountSid",
    "MessageStatus",
    "SmsStatus",
];

/// Why a form is no status callback that can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// It names no message, no account or no status.
    #[error("a callback without a message, an account or a status")]
    Incomplete,
    /// A field has a NUL in its name or its value, which no column takes.
    #[error("a field with a NUL")]
    Nul,
    /// What it calls the message is nothing that Twilio calls one.
    #[error("MessageSid is no message's")]
    Sid,
    /// A status or an error code is no plain word.
    #[error("{0} is no plain word")]
    Word(&'static str),
}

/// Longer than any status and any error code there is.
const WORD_CHARS_MAX: usize = 32;

/// Reads a status callback.
///
/// Whoever holds an account's token can sign anything. So what becomes part of a key is bounded here: events of many tenants
/// are stored by one statement, and one that no column takes would fail them all. A new word of Twilio's is a word.
///
/// # Errors
/// [`CallbackError`] for what Twilio would never say.
pub fn read_callback(form: &[(String, String)]) -> Result<StatusCallback, CallbackError> {
    let has_nul = |(name, value): &(String, String)| name.contains('\0') || value.contains('\0');
    if form.iter().any(has_nul) {
        return Err(CallbackError::Nul);
    }
    let field = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    let either = |name: &str, older: &str| {
        let found = field(name).or_else(|| field(older));
        found.ok_or(CallbackError::Incomplete)
    };
    let callback = StatusCallback {
        message_sid: either("MessageSid", "SmsSid")?,
        account_sid: field("AccountSid").ok_or(CallbackError::Incomplete)?,
        status: either("MessageStatus", "SmsStatus")?,
        error_code: field("ErrorCode").filter(|code| code != "0"),
    };
    if !is_sid(&callback.message_sid) {
        return Err(CallbackError::Sid);
    }
    if !is_word(&callback.status) {
        return Err(CallbackError::Word("MessageStatus"));
    }
    // Each of them: the form is kept as it came, and read again later.
    let mut codes = form
        .iter()
        .filter(|(name, code)| name == "ErrorCode" && !code.is_empty());
    if !codes.all(|(_, code)| is_word(code)) {
        return Err(CallbackError::Word("ErrorCode"));
    }
    Ok(callback)
}

fn is_word(text: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    (1..=WORD_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Whether the holder of the account's token signed this form for this address.
///
/// # Errors
/// [`SealError`] when the token does not open.
pub fn is_signed_by(
    account: &Account,
    keys: &KeyRing,
    url: &str,
    form: &[(String, String)],
    signature: &str,
) -> Result<bool, SealError> {
    let token = account.token(keys)?;
    Ok(is_signed(&token, url, form, signature))
}

fn is_signed(token: &SecretString, url: &str, form: &[(String, String)], signature: &str) -> bool {
    let Ok(given) = STANDARD.decode(signature) else {
        return false;
    };
    let parameters = parameters(form);
    forms_of(url).iter().any(|url| {
        let mut mac = keyed(token);
        mac.update(url.as_bytes());
        mac.update(parameters.as_bytes());
        // In constant time.
        mac.verify_slice(&given).is_ok()
    })
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn keyed(token: &SecretString) -> Hmac<Sha1> {
    Hmac::<Sha1>::new_from_slice(token.expose_secret().as_bytes()).expect("a key of any length")
}

/// Key and value of every parameter, sorted by key; a repeated key has its values sorted, each once.
fn parameters(form: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = form.iter().collect();
    sorted.sort();
    sorted.dedup();
    let pairs = sorted
        .iter()
        .flat_map(|(key, value)| [key.as_str(), value.as_str()]);
    pairs.collect()
}

/// The spellings of an address that may have been signed: without its port, with it, and both once more as the WHATWG
/// writes addresses.
fn forms_of(url: &str) -> Vec<String> {
    let url = url.split('#').next().unwrap_or_default();
    let mut forms = with_and_without_port(url);
    if let Ok(parsed) = Url::parse(url) {
        for form in with_and_without_port(parsed.as_str()) {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

/// Text alone: parsing would change what was signed.
fn with_and_without_port(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return vec![url.to_owned()];
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (format!("{user}@"), host),
        None => (String::new(), authority),
    };
    let default = if scheme.eq_ignore_ascii_case("https") {
        "443"
    } else {
        "80"
    };
    // Brackets hold an IPv6 address, whose colons are no port's.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, default),
    };
    vec![
        format!("{scheme}://{user}{name}{tail}"),
        format!("{scheme}://{user}{name}:{port}{tail}"),
    ]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        auth_token: String,
        request_url: String,
        form: Vec<(String, String)>,
        signature: String,
        valid: bool,
        /// There is one where the body is JSON, which this door does not take.
        raw_body: Option<String>,
    }

    fn vectors() -> Vec<Vector> {
        serde_json::from_str(include_str!("../../../tests/data/twilio-signatures.json")).unwrap()
    }

    #[test]
    fn every_vector_of_a_form_is_judged_as_it_says() {
        let mut judged = 0;
        for vector in vectors().iter().filter(|vector| vector.raw_body.is_none()) {
            let token = vector.auth_token.clone().into();
            let is_valid = is_signed(&token, &vector.request_url, &vector.form, &vector.signature);
            assert_eq!(is_valid, vector.valid, "{}", vector.name);
            judged += 1;
        }
        assert_eq!(judged, 21);
    }

    #[test]
    fn any_change_of_a_signed_callback_is_seen() {
        let vectors = vectors();
        let vector = vectors
            .iter()
            .find(|vector| vector.name == "status callback delivered")
            .unwrap();
        let token: SecretString = vector.auth_token.clone().into();
        let check =
            |token: &SecretString, url: &str, form: &[(String, String)], signature: &str| {
                is_signed(token, url, form, signature)
            };
        assert!(check(
            &token,
            &vector.request_url,
            &vector.form,
            &vector.signature
        ));
        let fragment = format!("{}#rc=5&rp=all", vector.request_url);
        assert!(check(&token, &fragment, &vector.form, &vector.signature));

        let other: SecretString = "12346".to_owned().into();
        assert!(!check(
            &other,
            &vector.request_url,
            &vector.form,
            &vector.signature
        ));
        let url = vector.request_url.replace("01JD", "01JE");
        assert!(!check(&token, &url, &vector.form, &vector.signature));
        let mut form = vector.form.clone();
        form[0].1.push('1');
        assert!(!check(
            &token,
            &vector.request_url,
            &form,
            &vector.signature
        ));
        for signature in ["", "x", "!", "AAAA", &vector.signature[1..]] {
            assert!(!check(&token, &vector.request_url, &vector.form, signature));
        }
    }

    const SID: &str = "SM0123456789abcdef0123456789abcdef";

    fn form(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    fn failed() -> Vec<(String, String)> {
        form(&[
            ("MessageSid", SID),
            ("AccountSid", "AC1"),
            ("MessageStatus", "undelivered"),
            ("ErrorCode", "30003"),
        ])
    }

    #[test]
    fn a_callback_names_its_message_its_account_and_its_status() {
        let read = read_callback(&failed()).unwrap();
        assert_eq!(
            (read.status.as_str(), read.error_code.as_deref()),
            ("undelivered", Some("30003"))
        );
        let older = form(&[
            ("SmsSid", SID),
            ("AccountSid", "AC1"),
            ("SmsStatus", "sent"),
            ("ErrorCode", ""),
        ]);
        assert_eq!(read_callback(&older).unwrap().error_code, None);
        for missing in 0..3 {
            let mut form = failed();
            form.remove(missing);
            let refused = read_callback(&form);
            assert_eq!(refused, Err(CallbackError::Incomplete), "{form:?}");
        }
    }

    #[test]
    fn what_becomes_part_of_a_key_is_short_and_plain_and_a_new_word_is_a_word() {
        let with = |at: usize, value: &str| {
            let mut form = failed();
            form[at].1 = value.into();
            read_callback(&form).map(|_| ())
        };
        let long = format!("SM{}", "f".repeat(2_660));
        let other = SID.replace('f', "g");
        for sid in ["SM1", &SID[1..], other.as_str(), long.as_str()] {
            assert_eq!(with(0, sid), Err(CallbackError::Sid), "{sid}");
        }
        assert_eq!(with(0, &SID.replace("SM", "MM")), Ok(()));
        let longest = "x".repeat(WORD_CHARS_MAX);
        let longer = "x".repeat(WORD_CHARS_MAX + 1);
        for (at, field) in [(2, "MessageStatus"), (3, "ErrorCode")] {
            for word in [
                "teleported",
                "partially_delivered",
                "63014",
                "a-b",
                longest.as_str(),
            ] {
                assert_eq!(with(at, word), Ok(()), "{word}");
            }
            for word in [
                "deli vered",
                "sent\n",
                "gesendet_ä",
                "30003;",
                longer.as_str(),
                long.as_str(),
            ] {
                assert_eq!(with(at, word), Err(CallbackError::Word(field)), "{word}");
            }
        }
        let mut twice = failed();
        twice.push(("ErrorCode".into(), long));
        let refused = read_callback(&twice);
        assert_eq!(refused, Err(CallbackError::Word("ErrorCode")));
    }

    #[test]
    fn a_nul_in_any_name_or_value_is_refused() {
        for (name, value) in [("Body", "a\0b"), ("\0", ""), ("ErrorMessage", "\0")] {
            let mut form = failed();
            form.push((name.into(), value.into()));
            assert_eq!(read_callback(&form), Err(CallbackError::Nul), "{form:?}");
        }
    }
}
