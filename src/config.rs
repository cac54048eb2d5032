//! The only file that reads the environment.
//!
//! Flags win over the environment, the environment over defaults, and there is no file. `--help` of any
//! command is the reference, since clap prints what is declared here.

mod front;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use url::Url;

pub use self::front::{Network, PublicUrl};

/// Every setting of every program.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
pub struct Config {
    /// PostgreSQL to use. Absent: the embedded server of the data directory, which `up` starts.
    #[arg(
        long,
        global = true,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<DatabaseUrl>,

    /// The same database without a transaction pooler between, for LISTEN and session locks
    /// [default: the database URL].
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_DATABASE_DIRECT_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_direct_url: Option<DatabaseUrl>,

    /// Where the schema `control` lives [default: the database URL].
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_CONTROL_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub control_database_url: Option<DatabaseUrl>,

    /// Where the API listens.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// Where health and `/metrics` are served; never open this to the world.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_ADMIN_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,

    /// Where browsers and providers find this installation: `https://host`. Pages of this address alone may use a
    /// session; with https its cookie never leaves TLS.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_PUBLIC_URL",
        value_name = "URL"
    )]
    pub public_url: Option<PublicUrl>,

    /// Networks of the proxies before the API, `10.0.0.0/8,…`: `X-Forwarded-For` counts from these alone.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_name = "NETWORKS"
    )]
    pub trusted_proxies: Vec<Network>,

    /// What the embedded server and `up` keep: databases, keys, credentials, log.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_DATA_DIR",
        default_value = ".data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,

    /// Directory of `postgres` and `initdb` for the embedded server [default: bundled, then the
    /// system's, then PATH].
    #[arg(long, global = true, env = "ENGAGENINJA_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,

    /// Key ring for stored secrets, `id:base64,…`: the first seals, all open. `up` makes one.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_KEYS",
        hide_env_values = true,
        value_name = "RING"
    )]
    pub keys: Option<SecretString>,

    /// Key of address MACs, base64; never change it. `up` makes one.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_MAC_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub mac_key: Option<SecretString>,

    /// `development` allows a moved clock and scaled holds [default: production; of `up`, and on the embedded server:
    /// development].
    #[arg(
        long = "env",
        global = true,
        env = "ENGAGENINJA_ENV",
        value_name = "NAME"
    )]
    pub environment: Option<Environment>,

    /// 1: accept a server that may forget commits. In tests only.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_ALLOW_UNSAFE_DURABILITY",
        default_value = "0",
        value_parser = ["0", "1"],
        value_name = "0|1"
    )]
    pub allow_unsafe_durability: String,

    /// Where Twilio's API for messages is; a stand-in in tests.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_TWILIO_API_URL",
        default_value = "https://api.twilio.com",
        value_name = "URL"
    )]
    pub twilio_api_url: Url,

    /// What is logged: a level, or `target=level,…`.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,

    /// How it is logged.
    #[arg(
        long,
        global = true,
        env = "ENGAGENINJA_LOG_FORMAT",
        default_value = "text",
        value_parser = ["text", "json"],
        value_name = "FORMAT"
    )]
    pub log_format: String,
}

impl Config {
    /// Whether a server that may forget commits is accepted.
    pub fn allows_unsafe_durability(&self) -> bool {
        self.allow_unsafe_durability == "1"
    }
}

/// What kind of installation this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Environment {
    /// Real messages: nothing may be bent.
    Production,
    /// Tests and first steps: the clock may be moved, holds may be scaled.
    Development,
}

/// A PostgreSQL URL, password and all: never shown.
#[derive(Clone)]
pub struct DatabaseUrl {
    options: PgConnectOptions,
}

impl DatabaseUrl {
    /// How to connect.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("a URL begins with postgres://".into());
        }
        PgConnectOptions::from_str(text)
            .map(|options| Self { options })
            // Without the cause, which may quote the password.
            .map_err(|_| "not a PostgreSQL URL: postgres://user:password@host:5432/name".into())
    }
}

/// What is read of the environment beside the settings: where programs and short-lived files are.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// `PATH`.
    pub path: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `NO_COLOR` is set to something.
    pub no_color: bool,
}

impl Surroundings {
    /// Reads them.
    #[expect(
        clippy::disallowed_methods,
        reason = "config.rs alone reads the environment"
    )]
    pub fn read() -> Self {
        Self {
            path: std::env::var_os("PATH"),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            no_color: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn the_definition_is_sound() {
        Program::command().debug_assert();
    }

    #[test]
    fn flags_are_read() {
        let program = Program::try_parse_from([
            "engageninja",
            "--database-url=postgres://me:secret@db/product",
            "--listen=0.0.0.0:80",
            "--env=development",
            "--allow-unsafe-durability=1",
        ])
        .ok()
        .unwrap();
        let config = program.config;
        assert_eq!(
            config.database_url.unwrap().options().get_database(),
            Some("product")
        );
        assert_eq!(config.listen.port(), 80);
        assert_eq!(config.environment, Some(Environment::Development));
        assert_eq!(config.data_dir, PathBuf::from(".data"));
    }

    #[test]
    fn no_refusal_and_no_debug_shows_a_secret() {
        let told = |url: &str| match Program::try_parse_from(["x", "--database-url", url]) {
            Ok(program) => format!("{:?}", program.config),
            Err(error) => error.to_string(),
        };
        assert!(!told("postgres://me:sesame@db/product").contains("sesame"));
        let refused = told("postgres://me:sesame@db:port/product");
        assert!(
            refused.contains("postgres://user:password@host"),
            "{refused}"
        );
        assert!(told("mysql://db").contains("begins with postgres://"));
    }
}
