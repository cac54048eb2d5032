//! The key that never rotates: addresses are compared and suppressed by their MAC under it.
//!
//! A suppression has to outlive the contact it came from, and a ledger of consent its erasure. So neither
//! holds an address, and a new key would forget every opt-out.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// Bytes of the key, and of every MAC.
const KEY_BYTES: usize = 32;

/// The key of `ENGAGENINJA_MAC_KEY`.
#[derive(Debug, Clone)]
pub struct MacKey(Arc<SecretBox<[u8; KEY_BYTES]>>);

/// A text that is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a MAC key is {KEY_BYTES} bytes in base64")]
pub struct NotAMacKey;

impl MacKey {
    /// Reads the key as configured.
    ///
    /// # Errors
    /// [`NotAMacKey`] when it is not 32 bytes in base64.
    pub fn from_base64(text: &SecretString) -> Result<Self, NotAMacKey> {
        let bytes = STANDARD
            .decode(text.expose_secret().trim())
            .map_err(|_| NotAMacKey)?;
        let key: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| NotAMacKey)?;
        Ok(Self(Arc::new(SecretBox::new(Box::new(key)))))
    }

    /// A new key, as text to keep.
    pub fn generate() -> SecretString {
        STANDARD.encode(rand::random::<[u8; KEY_BYTES]>()).into()
    }

    /// What `dest_mac` holds for an address: a number as E.164, or a mail address in small letters.
    pub fn address(&self, normalized: &str) -> Vec<u8> {
        self.mac(b"address", normalized.as_bytes())
    }

    /// What `content_mac` holds for what a provider is asked to deliver: two calls with one address and one content MAC
    /// look alike to it.
    pub fn content(&self, parts: &[&str]) -> Vec<u8> {
        self.mac(b"content", &framed(parts))
    }

    /// What stands for an account and the address that it is tried from, in the count of tries.
    pub fn login(&self, parts: &[&str]) -> Vec<u8> {
        self.mac(b"login", &framed(parts))
    }

    /// What the installation remembers of the key, so that it is never started with another.
    pub fn fingerprint(&self) -> Vec<u8> {
        self.mac(b"fingerprint", b"")
    }

    /// The key that kept answers are sealed with.
    pub(super) fn answers(&self) -> Vec<u8> {
        self.mac(b"answers", b"")
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn mac(&self, purpose: &[u8], text: &[u8]) -> Vec<u8> {
        let key = self.0.expose_secret();
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of 32 bytes");
        mac.update(purpose);
        // No purpose holds a zero byte, so that no two of them run into each other.
        mac.update(&[0]);
        mac.update(text);
        mac.finalize().into_bytes().to_vec()
    }
}

/// Each part behind its length, so that no two lists of parts run into each other.
fn framed(parts: &[&str]) -> Vec<u8> {
    let mut framed = Vec::new();
    for part in parts {
        framed.extend((part.len() as u64).to_be_bytes());
        framed.extend(part.as_bytes());
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_gives_one_mac_and_another_another() {
        let text = MacKey::generate();
        let key = MacKey::from_base64(&text).unwrap();
        let again = MacKey::from_base64(&text).unwrap();
        let other = MacKey::from_base64(&MacKey::generate()).unwrap();
        assert_eq!(key.address("+15005550006"), again.address("+15005550006"));
        assert_ne!(key.address("+15005550006"), other.address("+15005550006"));
        assert_ne!(key.address("+15005550006"), key.address("+15005550007"));
        assert_ne!(key.fingerprint(), other.fingerprint());
        assert_ne!(key.fingerprint(), key.address(""));
        assert_ne!(key.content(&["a", "bc"]), key.content(&["ab", "c"]));
        assert!(format!("{key:?}").contains("REDACTED"));
    }

    /// Rows hang on it: another construction would forget every opt-out.
    #[test]
    fn the_construction_never_changes() {
        let key = MacKey::from_base64(&STANDARD.encode([7; KEY_BYTES]).into()).unwrap();
        let mac = STANDARD.encode(key.address("ann@example.com"));
        assert_eq!(mac, "bbsO33Rp5RAo08lRnbD01TOLmfUFlejKLB9YycXEzhw=");
        let mac = STANDARD.encode(key.address("+15005550006"));
        assert_eq!(mac, "5NsZAR/ApRiYBbgVdv4KEiG6oXvQ7bBkqYe+5zDuW08=");
        let mac = STANDARD.encode(key.content(&["sms", "Hello"]));
        assert_eq!(mac, "mZdzKSKb5UcgQhiofqVhO1QP1HY/cNCeV+EfviGyXaE=");
        let mac = STANDARD.encode(key.fingerprint());
        assert_eq!(mac, "bZutSHyZE5e04BkjW9/b95qaqxAZqmbyirilpmpkdHk=");
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        for text in ["", "short", "c2hvcnQ=", "!"] {
            assert!(MacKey::from_base64(&text.to_owned().into()).is_err());
        }
    }
}
