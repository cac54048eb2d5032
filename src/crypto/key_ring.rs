//! The keys at hand for sealed columns.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretBox, SecretString};
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

/// The keys at hand for sealed columns, by id: the first seals, all open. Clones share them; showing it shows no key.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: Arc<Vec<(String, Key)>>,
}

type Key = SecretBox<[u8; KEY_BYTES]>;

impl KeyRing {
    /// Reads `ENGAGENINJA_KEYS`: `id:base64,…`.
    pub fn parse(text: &SecretString) -> Result<Self, RingError> {
        let mut keys: Vec<(String, Key)> = Vec::new();
        for entry in text.expose_secret().split(',') {
            let (id, key) = entry.trim().split_once(':').ok_or(RingError::NotARing)?;
            if !is_key_id(id) {
                return Err(RingError::NotARing);
            }
            let key = read_key(id, key)?;
            if keys.iter().any(|(known, _)| known == id) {
                return Err(RingError::Twice(id.into()));
            }
            keys.push((id.into(), key));
        }
        Ok(Self {
            keys: Arc::new(keys),
        })
    }

    /// Every id, the one that seals first.
    pub fn ids(&self) -> Vec<String> {
        self.keys.iter().map(|(id, _)| id.clone()).collect()
    }

    /// The key that seals.
    pub(super) fn first(&self) -> Option<(&str, &[u8; KEY_BYTES])> {
        let (id, key) = self.keys.first()?;
        Some((id, key.expose_secret()))
    }

    /// A key by its id.
    pub(super) fn find(&self, id: &str) -> Option<&[u8; KEY_BYTES]> {
        let found = self.keys.iter().find(|(known, _)| known == id);
        found.map(|(_, key)| key.expose_secret())
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

fn read_key(id: &str, text: &str) -> Result<Key, RingError> {
    let bytes = STANDARD.decode(text).map(Zeroizing::new).ok();
    let key = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok());
    key.map(|key| SecretBox::new(Box::new(key)))
        .ok_or_else(|| RingError::NotAKey(id.into()))
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
            assert_eq!(ring(text).err(), Some(RingError::NotARing));
        }
        let refused = |text: String| ring(text).unwrap_err();
        assert_eq!(refused("k:c2hvcnQ=".into()), RingError::NotAKey("k".into()));
        assert_eq!(refused(format!("k:{one},")), RingError::NotARing);
        assert_eq!(
            refused(format!("k:{one},k:{one}")),
            RingError::Twice("k".into())
        );
        assert!(!format!("{:?}", ring(format!("k:{one}")).unwrap()).contains(&one));
    }

    #[test]
    fn a_sealed_text_names_its_key() {
        assert_eq!(key_id_of("k1:c2VhbGVk"), Some("k1"));
        assert_eq!(key_id_of("c2VhbGVk"), None);
        assert_eq!(key_id_of("not a key id:c2VhbGVk"), None);
    }
}
