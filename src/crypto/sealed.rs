//! Sealed columns: secrets of providers, bound to the place they lie in.
//!
//! AES-256-GCM under a key of the ring. The text is `key id:base64 of nonce and secret`; tenant, table, column and row are
//! authenticated with it, so that a value copied to another row does not open. Only `providers` open them.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::key_ring::{KeyRing, key_id_of};
use crate::domain::ids::TenantId;

const NONCE_BYTES: usize = 12;

/// A secret as it lies in a row. Showing it shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(String);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}

impl From<String> for Sealed {
    fn from(stored: String) -> Self {
        Self(stored)
    }
}

impl Sealed {
    /// The text to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a sealed value lies; it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whose row it is.
    pub tenant_id: TenantId,
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row.
    pub row: Uuid,
}

impl Place {
    /// The authenticated data; no name holds a zero byte.
    fn bytes(&self) -> Vec<u8> {
        let Self {
            tenant_id,
            table,
            column,
            row,
        } = self;
        format!("{tenant_id}\0{table}\0{column}\0{row}").into_bytes()
    }
}

/// Why a secret cannot be sealed or opened. Never says anything of the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no key to seal with.
    #[error("the key ring is empty; set ENGAGENINJA_KEYS")]
    NoKey,
    /// The ring lacks the key that sealed it.
    #[error("the key ring lacks the key that sealed this value")]
    UnknownKey,
    /// It was changed, or belongs elsewhere.
    #[error("the sealed value does not open in this place")]
    NotOurs,
}

/// Seals a secret for its place with the first key of the ring.
///
/// # Errors
/// [`SealError::NoKey`] when the ring is empty.
#[expect(
    clippy::expect_used,
    reason = "lengths are fixed, and secrets are far below 64 GiB"
)]
pub fn seal(ring: &KeyRing, place: Place, secret: &SecretString) -> Result<Sealed, SealError> {
    let (id, key) = ring.first().ok_or(SealError::NoKey)?;
    let cipher = Aes256Gcm::new_from_slice(key).expect("a key of 32 bytes");
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let payload = Payload {
        msg: secret.expose_secret().as_bytes(),
        aad: &place.bytes(),
    };
    let sealed = cipher
        .encrypt(&Nonce::from(nonce), payload)
        .expect("a text that fits");
    let text = STANDARD.encode([nonce.as_slice(), &sealed].concat());
    Ok(Sealed(format!("{id}:{text}")))
}

/// Opens what [`seal`] made for the same place.
///
/// # Errors
/// [`SealError::UnknownKey`] when the ring lacks its key, [`SealError::NotOurs`] when it was changed or moved.
pub fn open(ring: &KeyRing, place: Place, sealed: &Sealed) -> Result<SecretString, SealError> {
    let id = key_id_of(&sealed.0).ok_or(SealError::NotOurs)?;
    let key = ring.find(id).ok_or(SealError::UnknownKey)?;
    let bytes = STANDARD
        .decode(&sealed.0[id.len() + 1..])
        .map_err(|_| SealError::NotOurs)?;
    let (nonce, text) = bytes
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or(SealError::NotOurs)?;
    let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| SealError::NotOurs)?;
    let payload = Payload {
        msg: text,
        aad: &place.bytes(),
    };
    let opened = cipher
        .decrypt(&Nonce::from(*nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| SealError::NotOurs)?;
    let text = std::str::from_utf8(&opened).map_err(|_| SealError::NotOurs)?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ids: &[(&str, u8)]) -> KeyRing {
        let entries: Vec<String> = ids
            .iter()
            .map(|(id, byte)| format!("{id}:{}", STANDARD.encode([*byte; 32])))
            .collect();
        KeyRing::parse(&entries.join(",").into()).unwrap()
    }

    fn place(tenant: u128, column: &'static str, row: u128) -> Place {
        Place {
            tenant_id: TenantId(Uuid::from_u128(tenant)),
            table: "tenant_channel_credentials_v2",
            column,
            row: Uuid::from_u128(row),
        }
    }

    #[test]
    fn a_secret_opens_in_its_place_alone() {
        let keys = ring(&[("k1", 1)]);
        let here = place(1, "twilio_auth_token_encrypted", 1);
        let sealed = seal(&keys, here, &"sesame".to_owned().into()).unwrap();

        assert!(sealed.as_str().starts_with("k1:"));
        assert!(!sealed.as_str().contains("sesame") && !format!("{sealed:?}").contains("k1"));
        let opened = open(&keys, here, &sealed).unwrap();
        assert_eq!(opened.expose_secret(), "sesame");
        for other in [
            place(2, "twilio_auth_token_encrypted", 1),
            place(1, "webhook_secret_encrypted", 1),
            place(1, "twilio_auth_token_encrypted", 2),
        ] {
            assert_eq!(open(&keys, other, &sealed).unwrap_err(), SealError::NotOurs);
        }
        for text in ["", "k1:", "k1:AAAA", "k1:!", "c2VhbGVk"] {
            let broken = Sealed::from(text.to_owned());
            assert_eq!(open(&keys, here, &broken).unwrap_err(), SealError::NotOurs);
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = ring(&[("k1", 1)]);
        let here = place(1, "twilio_auth_token_encrypted", 1);
        let sealed = seal(&old, here, &"sesame".to_owned().into()).unwrap();

        let both = ring(&[("k2", 2), ("k1", 1)]);
        assert!(open(&both, here, &sealed).is_ok());
        let newer = seal(&both, here, &"sesame".to_owned().into()).unwrap();
        assert!(newer.as_str().starts_with("k2:"));
        assert_eq!(open(&old, here, &newer).unwrap_err(), SealError::UnknownKey);
        let nothing = KeyRing::default();
        assert_eq!(
            seal(&nothing, here, &"sesame".to_owned().into()).unwrap_err(),
            SealError::NoKey
        );
    }
}
