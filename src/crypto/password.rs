//! Passwords and tokens: how they are made, kept and compared.
//!
//! A password is kept as argon2id; a token of 256 random bits is kept as its SHA-256, which nobody can guess back.

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Compared with when there is no such user, so that the answer takes as long as for a wrong password. The hash of
/// random bytes with the same parameters as [`hash_password`] uses.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$mk2WHQwBnCwdtPT6CqXt9A$ZCHUZ9F0swYVtLMMQ7ayhxTaF5VYRUuNhoDPFeeRcKs";

/// Characters that a password which people choose has at least.
pub const PASSWORD_CHARS_MIN: usize = 12;

/// A password could not be hashed; only a broken random source or no memory does that.
#[derive(Debug, thiserror::Error)]
#[error("password could not be hashed: {0}")]
pub struct HashError(String);

/// The memory that one password at a time is computed in. Kept for the next one: allocated anew each time, a piece of it
/// would stay behind with every thread that ever computed one.
pub struct Workspace(Vec<Block>);

impl Default for Workspace {
    fn default() -> Self {
        Self(vec![Block::new(); Params::DEFAULT.block_count()])
    }
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workspace")
    }
}

impl Workspace {
    fn compute(
        &mut self,
        params: Params,
        password: &SecretString,
        salt: &[u8],
        out: &mut [u8],
    ) -> Result<(), HashError> {
        let blocks = params.block_count();
        if self.0.len() < blocks {
            self.0.resize(blocks, Block::new());
        }
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                password.expose_secret().as_bytes(),
                salt,
                out,
                &mut self.0[..blocks],
            )
            .map_err(|error| HashError(error.to_string()))
    }
}

/// The text to store for a password: argon2id with its parameters and salt.
///
/// Takes about 19 MiB and tens of milliseconds; never call it on a thread that serves others.
pub fn hash_password(password: &SecretString) -> Result<String, HashError> {
    Argon2::default()
        .hash_password(password.expose_secret().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| HashError(error.to_string()))
}

/// Whether the password is the stored one. Without a stored one the answer is no, after the same work.
pub fn verify_password(
    workspace: &mut Workspace,
    stored: Option<&str>,
    password: &SecretString,
) -> bool {
    let is_known = stored.is_some();
    let Ok(hash) = PasswordHash::new(stored.unwrap_or(NOBODY)) else {
        return false;
    };
    let is_ours = hash.algorithm == Algorithm::Argon2id.ident()
        && hash.version == Some(Version::V0x13.into());
    let (Some(salt), Some(wanted), true) = (&hash.salt, &hash.hash, is_ours) else {
        return false;
    };
    let Ok(params) = Params::try_from(&hash) else {
        return false;
    };
    let mut out = vec![0; wanted.len()];
    let computed = workspace.compute(params, password, salt.as_ref(), &mut out);
    // Compared in a time that tells nothing.
    let is_right = computed.is_ok() && Output::new(&out).is_ok_and(|output| output == *wanted);
    is_known && is_right
}

/// A new secret of 256 random bits as 43 characters that need no escaping anywhere.
pub fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes())
}

/// What every API key begins with, so that people and scanners recognise one.
pub const KEY_PREFIX: &str = "en_";

/// A secret that is shown once and stored hashed.
#[derive(Clone)]
pub struct NewSecret {
    /// The whole secret.
    pub text: String,
}

impl NewSecret {
    /// The secret of an API key.
    pub fn api_key() -> Self {
        Self {
            text: format!("{KEY_PREFIX}{}", random_token()),
        }
    }

    /// The first characters, by which people recognise it.
    pub fn prefix(&self) -> &str {
        &self.text[..KEY_PREFIX.len() + 8]
    }

    /// What is stored of it.
    pub fn hash(&self) -> [u8; 32] {
        token_hash(&self.text)
    }
}

/// 32 random bytes.
pub fn random_bytes() -> [u8; 32] {
    rand::random()
}

/// What is stored of a token.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_alone() {
        let right = SecretString::from("correct horse");
        let stored = hash_password(&right).unwrap();
        let mut workspace = Workspace::default();
        let mut fits = |stored: Option<&str>, password: &str| {
            verify_password(&mut workspace, stored, &SecretString::from(password))
        };
        assert!(fits(Some(&stored), "correct horse"));
        assert!(!fits(Some(&stored), "wrong"));
        assert!(!fits(None, "correct horse"));
        assert!(!fits(Some("rubbish"), "correct horse"));
        let other = stored.replace("argon2id", "argon2i");
        assert!(!fits(Some(&other), "correct horse"));
        // What was computed before leaves nothing behind.
        assert!(fits(Some(&stored), "correct horse"));
    }

    /// Otherwise the time taken would tell who has an account.
    #[test]
    fn an_unknown_user_costs_what_a_known_one_costs() {
        let stored = hash_password(&SecretString::from("x")).unwrap();
        let parameters = |phc: &str| phc.split('$').take(4).collect::<Vec<_>>().join("$");
        assert_eq!(parameters(NOBODY), parameters(&stored));
        assert!(PasswordHash::new(NOBODY).is_ok());
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let (a, b) = (random_token(), random_token());
        assert_ne!(a, b);
        assert_eq!(a.len(), 43);
    }
}
