//! What `up` keeps beside its databases: the keys of the installation and the way in for the demo tenant.
//!
//! Both files are readable by their owner alone and appear whole or not at all.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::crypto::mac::MacKey;

const KEYS: &str = "keys.json";
const CREDENTIALS: &str = "credentials.json";
const LOG: &str = "engageninja.log";

/// The directory; it need not be there yet.
#[derive(Debug, Clone)]
pub(super) struct DataDir(PathBuf);

/// The keys of one installation.
#[derive(Debug)]
pub(super) struct Keys {
    /// As `ENGAGENINJA_KEYS`.
    pub(super) ring: Option<SecretString>,
    /// As `ENGAGENINJA_MAC_KEY`.
    pub(super) mac_key: SecretString,
}

#[derive(Serialize, Deserialize)]
struct StoredKeys {
    keys: String,
    mac_key: String,
}

impl StoredKeys {
    fn generate() -> Self {
        Self {
            // A key of the ring has the same form as the other: 32 random bytes.
            keys: format!("k1:{}", MacKey::generate().expose_secret()),
            mac_key: MacKey::generate().expose_secret().into(),
        }
    }
}

impl Keys {
    /// New ones, kept by nobody.
    pub(super) fn generate() -> Self {
        StoredKeys::generate().into()
    }
}

impl From<StoredKeys> for Keys {
    fn from(stored: StoredKeys) -> Self {
        Self {
            ring: Some(stored.keys.into()),
            mac_key: stored.mac_key.into(),
        }
    }
}

/// The way in, as `up --json` prints it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Credentials {
    pub(super) url: String,
    pub(super) email: String,
    pub(super) password: String,
    pub(super) api_key: String,
    pub(super) tenant_id: String,
}

impl DataDir {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.into())
    }

    /// Where the log of `up` goes while a terminal shows its answers.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join(LOG)
    }

    /// Where the credentials are.
    pub(super) fn credentials(&self) -> PathBuf {
        self.0.join(CREDENTIALS)
    }

    /// The keys, if an `up` has made them.
    pub(super) fn read_keys(&self) -> Result<Option<Keys>> {
        let stored: Option<StoredKeys> = self.read(KEYS)?;
        Ok(stored.map(Into::into))
    }

    /// The keys, made now if there are none.
    pub(super) fn ensure_keys(&self) -> Result<Keys> {
        if let Some(keys) = self.read_keys()? {
            return Ok(keys);
        }
        let stored = StoredKeys::generate();
        self.write(KEYS, &stored)?;
        Ok(stored.into())
    }

    pub(super) fn read_credentials(&self) -> Result<Option<Credentials>> {
        self.read(CREDENTIALS)
    }

    pub(super) fn write_credentials(&self, credentials: &Credentials) -> Result<()> {
        self.write(CREDENTIALS, credentials)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>> {
        let path = self.0.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        // The parser's own message could quote a secret.
        let value = serde_json::from_str(&text)
            .map_err(|_| anyhow::anyhow!("{} is damaged; put back a copy of it", path.display()))?;
        Ok(Some(value))
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.0.join(name);
        let unfinished = path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let _ = std::fs::remove_file(&unfinished);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(serde_json::to_string_pretty(value)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_are_nobody_elses() {
        let dir = Path::new("/tmp").join(format!("engageninja-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let data_dir = DataDir::new(&dir);
        assert!(data_dir.read_keys().unwrap().is_none());

        let made = data_dir.ensure_keys().unwrap();
        let again = data_dir.ensure_keys().unwrap();

        assert_eq!(made.mac_key.expose_secret(), again.mac_key.expose_secret());
        assert_eq!(dir.join(KEYS).metadata().unwrap().mode() & 0o777, 0o600);
        std::fs::write(dir.join(KEYS), "{").unwrap();
        let said = data_dir.ensure_keys().unwrap_err().to_string();
        assert!(said.contains("damaged"), "{said}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
