//! Writes `.sqlx`, the checked query data that builds without a database believe.
//!
//! Starts the embedded PostgreSQL, migrates it and lets the macros of sqlx describe every query while the
//! crate is checked. The old data stays when that fails.

#[path = "../../../src/store/migrate.rs"]
mod migrate;
#[path = "../../../src/dev/postgres/mod.rs"]
mod postgres;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use postgres::{Durability, Launch, Server};

const DATABASE: &str = "prepare";

fn main() -> ExitCode {
    match prepare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prepare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    // A new database each time: a migration that was edited before it was released must not be missed.
    let work = root.join("target/prepare-data");
    if work.exists() {
        std::fs::remove_dir_all(&work)?;
    }
    let server = Launch {
        durability: Durability::None,
        ..Launch::new(&work)
    }
    .start()?;
    let done = migrate_new_database(&server).and_then(|()| describe(&root, &server));
    server.stop()?;
    done
}

fn migrate_new_database(server: &Server) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        migrate::ensure_database(&server.options("postgres"), DATABASE).await?;
        let options = server.options(DATABASE);
        migrate::migrate(&options, &options).await?;
        Ok(())
    })
}

fn describe(root: &Path, server: &Server) -> Result<(), Box<dyn Error>> {
    let fresh = root.join("target/sqlx");
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh)?;
    // The macros run again only where the compiler does.
    let library = root.join("src/lib.rs");
    std::fs::File::options()
        .append(true)
        .open(&library)?
        .set_modified(std::time::SystemTime::now())?;

    let status = Command::new("cargo")
        .args(["check", "--quiet"])
        .current_dir(root)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &fresh)
        .env("DATABASE_URL", url(server.socket_dir()))
        .status()?;
    if !status.success() {
        return Err("the crate does not compile; .sqlx is as it was".into());
    }
    replace(&fresh, &root.join(".sqlx"))
}

/// Sees both schemas, as no program does.
fn url(socket_dir: &Path) -> String {
    format!(
        "postgres://{}@localhost:5432/{DATABASE}?host={}&options=-csearch_path%3Dcell,control,public",
        postgres::SUPERUSER,
        socket_dir.display()
    )
}

/// Makes `to` hold exactly the files of `from`, touching only those that differ.
fn replace(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    let (mut written, mut removed) = (0, 0);
    for file in list(to)? {
        if !from
            .join(file.file_name().ok_or("a file without a name")?)
            .exists()
        {
            std::fs::remove_file(file)?;
            removed += 1;
        }
    }
    for file in list(from)? {
        let target = to.join(file.file_name().ok_or("a file without a name")?);
        let text = std::fs::read(&file)?;
        if std::fs::read(&target).ok().as_ref() != Some(&text) {
            std::fs::write(target, text)?;
            written += 1;
        }
    }
    println!("prepare: {written} queries written, {removed} removed");
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}
