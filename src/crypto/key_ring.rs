//! The keys at hand for sealed columns.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const KEY_ID_CHARS_MAX: usize = 32;

/// Why `ENGAGENINJA_KEYS` cannot be used. No key is ever shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// An entry has no usable name.
    #[error("a key ring is `id:base64,id:base64`, an id being 1 to 32 of a-z, 0-9, - and _")]
    NotARing,
    /// Not base64, or not 32 bytes of it.
    #[error("key {0} is not 32 bytes in base64; make one with `openssl rand -base64 32`")]
    NotAKey(String),
    /// Two keys of one name.
    #[error("the key ring has two keys named {0}")]
    Twice(String),
}

/// The keys at hand for sealed columns, by id: the first seals, all open.
///
/// A start asks which ids there are, so a key is checked and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    ids: Vec<String>,
}

impl KeyRing {
    /// Reads `ENGAGENINJA_KEYS`: `id:base64,…`.
    pub fn parse(text: &SecretString) -> Result<Self, RingError> {
        let mut ids: Vec<String> = Vec::new();
        for entry in text.expose_secret().split(',') {
            let (id, key) = entry.trim().split_once(':').ok_or(RingError::NotARing)?;
            if !is_key_id(id) {
                return Err(RingError::NotARing);
            }
            check_key(id, key)?;
            if ids.iter().any(|known| known == id) {
                return Err(RingError::Twice(id.into()));
            }
            ids.push(id.into());
        }
        Ok(Self { ids })
    }

    /// Every id, the one that seals first.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }
}

fn is_key_id(id: &str) -> bool {
    (1..=KEY_ID_CHARS_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_')
}

/// The id of the key that sealed `text`: what stands before its first colon.
pub fn key_id_of(sealed: &str) -> Option<&str> {
    let (id, _) = sealed.split_once(':')?;
    is_key_id(id).then_some(id)
}

fn check_key(id: &str, text: &str) -> Result<(), RingError> {
    match STANDARD.decode(text).map(Zeroizing::new) {
        Ok(key) if key.len() == KEY_BYTES => Ok(()),
        _ => Err(RingError::NotAKey(id.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_read_and_what_is_no_ring_is_refused() {
        let one = STANDARD.encode([1; KEY_BYTES]);
        let ring = |text: String| KeyRing::parse(&text.into());
        assert_eq!(
            ring(format!("k2:{one}, k1:{one}")).unwrap().ids(),
            ["k2", "k1"]
        );
        for text in [
            String::new(),
            one.clone(),
            format!("K:{one}"),
            format!(":{one}"),
        ] {
            assert_eq!(ring(text), Err(RingError::NotARing));
        }
        assert_eq!(
            ring("k:c2hvcnQ=".into()),
            Err(RingError::NotAKey("k".into()))
        );
        assert_eq!(ring(format!("k:{one},")), Err(RingError::NotARing));
        assert_eq!(
            ring(format!("k:{one},k:{one}")),
            Err(RingError::Twice("k".into()))
        );
    }

    #[test]
    fn a_sealed_text_names_its_key() {
        assert_eq!(key_id_of("k1:c2VhbGVk"), Some("k1"));
        assert_eq!(key_id_of("c2VhbGVk"), None);
        assert_eq!(key_id_of("not a key id:c2VhbGVk"), None);
    }
}
