//! What every command stands on: the databases, the keys, and the checks of every start.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::clock::Clock;
use crate::config::{Config, Environment};
use crate::crypto::key_ring::KeyRing;
use crate::crypto::mac::MacKey;
use crate::dev::postgres::SUPERUSER;
use crate::domain::holds::Holds;
use crate::store::startup::{Expectations, StartupRefusal, check};
use crate::store::{Db, DbOptions, settings};

/// The embedded server's database.
pub(super) const DATABASE: &str = "engageninja";

/// A setting is missing, or is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misconfigured(pub(super) String);

/// A checked installation, ready for use.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) db: Db,
    pub(super) mac_key: MacKey,
    pub(super) holds: Holds,
}

impl Installation {
    /// Opens the installation that the configuration names, and makes sure of it.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let options = database_options(config)?;
        Self::open_on(config, &options, &Keys::of(config)?).await
    }

    /// The same with databases and keys at hand.
    pub(super) async fn open_on(
        config: &Config,
        options: &DbOptions,
        keys: &Keys,
    ) -> anyhow::Result<Self> {
        let mac_key = MacKey::from_base64(&keys.mac_key)
            .map_err(|error| Misconfigured(format!("ENGAGENINJA_MAC_KEY: {error}")))?;
        let key_ids = match &keys.ring {
            Some(ring) => KeyRing::parse(ring)
                .map_err(|error| Misconfigured(format!("ENGAGENINJA_KEYS: {error}")))?
                .ids()
                .to_vec(),
            None => Vec::new(),
        };
        let is_production = environment(config) == Environment::Production;
        let db = Db::new(options, Clock::default());
        let expected = Expectations {
            is_production,
            allow_unsafe_durability: config.allows_unsafe_durability(),
            mac_key_fingerprint: mac_key.fingerprint(),
            key_ids,
        };
        check(&db, options, &expected).await?;
        let mut tx = db.system().begin().await?;
        let scale = settings::read_holds_scale(&mut tx).await?;
        drop(tx);
        if is_production && (scale - 1.0).abs() > f64::EPSILON {
            let text = format!(
                "the database scales every hold by {scale}; run `alter database … reset engageninja.holds_scale`, or \
                 set ENGAGENINJA_ENV=development"
            );
            return Err(Misconfigured(text).into());
        }
        Ok(Self {
            db,
            mac_key,
            holds: Holds::REAL.scaled(scale),
        })
    }
}

/// `production`, unless the embedded server shows that these are somebody's first steps.
fn environment(config: &Config) -> Environment {
    config.environment.unwrap_or(match config.database_url {
        Some(_) => Environment::Production,
        None => Environment::Development,
    })
}

/// The databases that are configured; else the embedded server that runs in the data directory.
pub(super) fn database_options(config: &Config) -> anyhow::Result<DbOptions> {
    let cell = match &config.database_url {
        Some(url) => url.options().clone(),
        None => Socket::read(&config.data_dir)?.options(),
    };
    let other = |url: &Option<crate::config::DatabaseUrl>| {
        url.as_ref()
            .map_or_else(|| cell.clone(), |url| url.options().clone())
    };
    let mut options = DbOptions::single(&cell);
    options.cell_direct = other(&config.database_direct_url);
    options.control = other(&config.control_database_url);
    Ok(options)
}

/// The keys of an installation.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) mac_key: SecretString,
    pub(super) ring: Option<SecretString>,
}

#[derive(Serialize, Deserialize)]
struct StoredKeys {
    keys: String,
    mac_key: String,
}

impl Keys {
    /// The keys that are configured; else those `up` made in the data directory.
    pub(super) fn of(config: &Config) -> anyhow::Result<Self> {
        if let Some(mac_key) = &config.mac_key {
            return Ok(Self {
                mac_key: mac_key.clone(),
                ring: config.keys.clone(),
            });
        }
        let path = path(&config.data_dir);
        let text = std::fs::read_to_string(&path).map_err(|_| {
            Misconfigured(format!(
                "ENGAGENINJA_MAC_KEY is not set and {} is not there; set the key, or start `engageninja up` once",
                path.display()
            ))
        })?;
        Self::parse(&text, config)
    }

    /// The keys of the data directory, made when it has none yet.
    pub(super) fn of_or_new(config: &Config) -> anyhow::Result<Self> {
        let path = path(&config.data_dir);
        if config.mac_key.is_none() && !path.exists() {
            let stored = StoredKeys {
                // A ring's key has the same form as the other: 32 random bytes.
                keys: format!("k1:{}", MacKey::generate().expose_secret()),
                mac_key: MacKey::generate().expose_secret().to_owned(),
            };
            write_private(&path, &serde_json::to_string_pretty(&stored)?)?;
        }
        Self::of(config)
    }

    fn parse(text: &str, config: &Config) -> anyhow::Result<Self> {
        let stored: StoredKeys = serde_json::from_str(text).context("keys.json cannot be read")?;
        let ring = config.keys.clone().or_else(|| Some(stored.keys.into()));
        Ok(Self {
            mac_key: stored.mac_key.into(),
            ring,
        })
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("keys.json")
}

/// Where the embedded server listens, for commands beside the `up` that runs it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Socket {
    dir: PathBuf,
    port: u16,
}

impl Socket {
    /// Tells other commands of this data directory where the server is.
    pub(super) fn write(data_dir: &Path, options: &PgConnectOptions) -> anyhow::Result<()> {
        let dir = options
            .get_socket()
            .cloned()
            .context("the embedded server has a socket")?;
        let socket = Self {
            dir,
            port: options.get_port(),
        };
        write_private(&Self::path(data_dir), &serde_json::to_string(&socket)?)
    }

    fn read(data_dir: &Path) -> Result<Self, StartupRefusal> {
        let text = std::fs::read_to_string(Self::path(data_dir)).map_err(|_| {
            StartupRefusal::Unavailable(format!(
                "DATABASE_URL is not set and no `engageninja up` runs in {}",
                data_dir.display()
            ))
        })?;
        serde_json::from_str(&text).map_err(|error| StartupRefusal::Unavailable(error.to_string()))
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.dir)
            .port(self.port)
            .username(SUPERUSER)
            .database(DATABASE)
            .ssl_mode(PgSslMode::Disable)
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("database.json")
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
