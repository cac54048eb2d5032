//! What every command stands on: the databases, the keys, and the checks of every start.

use super::data_dir::{DataDir, Keys};
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, Environment};
use crate::crypto::key_ring::KeyRing;
use crate::crypto::mac::MacKey;
use crate::dev::postgres::find_running;
use crate::domain::holds::Holds;
use crate::providers::ProviderSettings;
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
    pub(super) providers: ProviderSettings,
}

impl Installation {
    /// Opens the installation that the configuration names, and makes sure of it.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let options = database_options(config)?;
        Self::open_on(config, &options, &keys(config)?).await
    }

    /// The same with databases and keys at hand.
    pub(super) async fn open_on(
        config: &Config,
        options: &DbOptions,
        keys: &Keys,
    ) -> anyhow::Result<Self> {
        let mac_key = mac_key(keys)?;
        let expected = expectations(config, keys)?;
        let is_production = expected.is_production;
        let db = Db::new(options, Clock::default());
        let key_ring = key_ring(keys)?;
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
            providers: ProviderSettings {
                keys: key_ring,
                public_url: config
                    .public_url
                    .as_ref()
                    .map(|url| url.origin().to_owned()),
                twilio_api_url: config.twilio_api_url.clone(),
            },
        })
    }
}

/// What programs of this configuration expect of their databases.
pub(super) fn expectations(config: &Config, keys: &Keys) -> anyhow::Result<Expectations> {
    Ok(Expectations {
        is_production: environment(config) == Environment::Production,
        allow_unsafe_durability: config.allows_unsafe_durability(),
        mac_key_fingerprint: mac_key(keys)?.fingerprint(),
        key_ids: key_ring(keys)?.ids(),
    })
}

fn key_ring(keys: &Keys) -> anyhow::Result<KeyRing> {
    let Some(ring) = &keys.ring else {
        return Ok(KeyRing::default());
    };
    let ring = KeyRing::parse(ring)
        .map_err(|error| Misconfigured(format!("ENGAGENINJA_KEYS: {error}")))?;
    Ok(ring)
}

fn mac_key(keys: &Keys) -> anyhow::Result<MacKey> {
    let mac_key = MacKey::from_base64(&keys.mac_key)
        .map_err(|error| Misconfigured(format!("ENGAGENINJA_MAC_KEY: {error}")))?;
    Ok(mac_key)
}

/// `production`, unless the embedded server shows that these are somebody's first steps.
fn environment(config: &Config) -> Environment {
    config.environment.unwrap_or(match config.database_url {
        Some(_) => Environment::Production,
        None => Environment::Development,
    })
}

/// The databases that are configured; else the embedded server that runs in the data directory.
pub(super) fn database_options(config: &Config) -> Result<DbOptions, StartupRefusal> {
    let cell = match &config.database_url {
        Some(url) => url.options().clone(),
        None => {
            find_running(&config.data_dir, DATABASE).ok_or_else(|| StartupRefusal::NoServer {
                data_dir: config.data_dir.display().to_string(),
            })?
        }
    };
    let other = |url: &Option<DatabaseUrl>| {
        url.as_ref()
            .map_or_else(|| cell.clone(), |url| url.options().clone())
    };
    let mut options = DbOptions::single(&cell);
    options.cell_direct = other(&config.database_direct_url);
    options.control = other(&config.control_database_url);
    Ok(options)
}

/// The keys that are configured; else those that `up` made in the data directory.
pub(super) fn keys(config: &Config) -> anyhow::Result<Keys> {
    if let Some(mac_key) = &config.mac_key {
        return Ok(Keys {
            mac_key: mac_key.clone(),
            ring: config.keys.clone(),
        });
    }
    let kept = DataDir::new(&config.data_dir).read_keys()?;
    let Some(kept) = kept else {
        let text = format!(
            "ENGAGENINJA_MAC_KEY is not set, and there are no keys in {}; make one with `openssl rand -base64 32`, keep it \
             for ever and give it to every program",
            config.data_dir.display()
        );
        return Err(Misconfigured(text).into());
    };
    Ok(Keys {
        ring: config.keys.clone().or(kept.ring),
        ..kept
    })
}
