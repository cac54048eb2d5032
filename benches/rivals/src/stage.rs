//! The server that all contenders play on: durable, ours alone, gone afterwards.

use std::path::PathBuf;

use anyhow::Context;
use engageninja::dev::postgres::{Launch, Server};
use engageninja::store::migrate::ensure_database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, query};
use tokio::task::spawn_blocking;

/// A running server; its data go when it is dropped.
pub struct Stage {
    server: Option<Server>,
    dir: PathBuf,
}

impl Stage {
    pub async fn start() -> anyhow::Result<Self> {
        let name = format!("engageninja-rivals-{}", uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        let launch = Launch {
            pg_bin: std::env::var_os("ENGAGENINJA_PG_BIN").map(PathBuf::from),
            path: std::env::var_os("PATH"),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            ..Launch::new(&dir)
        };
        let server = spawn_blocking(move || launch.start()).await??;
        eprintln!("PostgreSQL {}, durable", server.version());
        Ok(Self {
            server: Some(server),
            dir,
        })
    }

    /// A new database of this name.
    pub async fn open(&self, name: &str) -> anyhow::Result<PgConnectOptions> {
        ensure_database(&self.options("postgres")?, name).await?;
        self.options(name)
    }

    /// Ends the database, whoever is still connected, and what was left to write.
    pub async fn close(&self, name: &str) -> anyhow::Result<()> {
        let mut admin = PgConnection::connect_with(&self.options("postgres")?).await?;
        query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
            .execute(&mut admin)
            .await?;
        // The next contender does not write this one's pages.
        query("CHECKPOINT").execute(&mut admin).await?;
        admin.close().await?;
        Ok(())
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(server) = self.server.take() {
            spawn_blocking(|| server.stop()).await??;
        }
        Ok(())
    }

    fn options(&self, database: &str) -> anyhow::Result<PgConnectOptions> {
        let server = self.server.as_ref().context("the server has stopped")?;
        Ok(server.options(database))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // First it ends, then its data go.
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
