//! Sealed answers: what is kept for a repeated request may hold a secret that is shown once.
//!
//! AES-256-GCM under a key derived from the MAC key, which every program has. They are kept for days, not for ever, so
//! nothing is lost with a key but a repeat.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::mac::MacKey;

const NONCE_BYTES: usize = 12;

/// Why a sealed answer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kept answer was sealed with another key or for another request")]
pub struct NotOurs;

/// Seals a text for one place; it opens in no other.
#[expect(
    clippy::expect_used,
    reason = "lengths are fixed, and texts are far below 64 GiB"
)]
pub fn seal(key: &MacKey, place: &str, text: &str) -> String {
    let cipher = Aes256Gcm::new_from_slice(&key.answers()).expect("a key of 32 bytes");
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let payload = Payload {
        msg: text.as_bytes(),
        aad: place.as_bytes(),
    };
    let sealed = cipher
        .encrypt(&Nonce::from(nonce), payload)
        .expect("a text that fits");
    STANDARD.encode([nonce.as_slice(), &sealed].concat())
}

/// Opens what [`seal`] made for the same place.
///
/// # Errors
/// [`NotOurs`] when it was changed, or sealed with another key or for another place.
pub fn open(key: &MacKey, place: &str, sealed: &str) -> Result<String, NotOurs> {
    let bytes = STANDARD.decode(sealed).map_err(|_| NotOurs)?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(NotOurs)?;
    let cipher = Aes256Gcm::new_from_slice(&key.answers()).map_err(|_| NotOurs)?;
    let payload = Payload {
        msg: sealed,
        aad: place.as_bytes(),
    };
    let text = cipher
        .decrypt(&Nonce::from(*nonce), payload)
        .map_err(|_| NotOurs)?;
    String::from_utf8(text).map_err(|_| NotOurs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_opens_with_its_key_in_its_place_alone() {
        let key = MacKey::from_base64(&MacKey::generate()).unwrap();
        let other = MacKey::from_base64(&MacKey::generate()).unwrap();
        let sealed = seal(&key, "tenant:1 a", "en_secret");
        assert!(!sealed.contains("en_secret"));
        assert_ne!(sealed, seal(&key, "tenant:1 a", "en_secret"));
        assert_eq!(open(&key, "tenant:1 a", &sealed).unwrap(), "en_secret");
        assert_eq!(open(&key, "tenant:2 a", &sealed), Err(NotOurs));
        assert_eq!(open(&other, "tenant:1 a", &sealed), Err(NotOurs));
        assert_eq!(open(&key, "tenant:1 a", "AAAA"), Err(NotOurs));
        let mut changed = sealed.into_bytes();
        changed[20] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(open(&key, "tenant:1 a", &changed), Err(NotOurs));
    }
}
