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

/// Reads a status callback; none when it names no message, no account or no status.
pub fn read_callback(form: &[(String, String)]) -> Option<StatusCallback> {
    let field = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    Some(StatusCallback {
        message_sid: field("MessageSid").or_else(|| field("SmsSid"))?,
        account_sid: field("AccountSid")?,
        status: field("MessageStatus").or_else(|| field("SmsStatus"))?,
        error_code: field("ErrorCode").filter(|code| code != "0"),
    })
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

    #[test]
    fn a_callback_names_its_message_its_account_and_its_status() {
        let form = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let whole = form(&[
            ("MessageSid", "SM1"),
            ("AccountSid", "AC1"),
            ("MessageStatus", "undelivered"),
            ("ErrorCode", "30003"),
        ]);
        let read = read_callback(&whole).unwrap();
        assert_eq!(
            (read.status.as_str(), read.error_code.as_deref()),
            ("undelivered", Some("30003"))
        );
        let older = form(&[
            ("SmsSid", "SM1"),
            ("AccountSid", "AC1"),
            ("SmsStatus", "sent"),
            ("ErrorCode", ""),
        ]);
        assert_eq!(read_callback(&older).unwrap().error_code, None);
        for missing in 0..3 {
            let mut form = whole.clone();
            form.remove(missing);
            assert_eq!(read_callback(&form), None, "{form:?}");
        }
    }
}
