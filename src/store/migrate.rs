//! Brings the databases to the schema this version knows, and says what is missing.
//!
//! It goes forward only, and any number of programs may do it at once: an advisory lock lets one work
//! while the others wait and then find nothing to do. The statements here are the only ones that are not
//! checked against the schema when compiling, since they run before there is one; for the same reason
//! the module needs nothing else of the crate, and `tools/prepare` can use it when the rest does not
//! compile.

use sqlx::migrate::{Migrate, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

/// What both schemas stand on: roles, and the functions every statement may call.
const FOUNDATION: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/migrations/foundation.sql"
));

static CONTROL: Migrator = sqlx::migrate!("./migrations/control");
static CELL: Migrator = sqlx::migrate!("./migrations/cell");

/// Where sqlx keeps the list of one schema's applied migrations.
const LIST: &str = "_sqlx_migrations";

/// Roles belong to the server, the lock to one database of it, so two may collide over them.
const FOUNDATION_TRIES: u32 = 5;

/// Why the schema is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// A later version has been here.
    #[error(
        "schema {schema} is at {found}, and this version knows nothing after {known}; run the version \
         that made it, or a later one"
    )]
    Newer {
        /// `control` or `cell`.
        schema: &'static str,
        /// The highest migration applied.
        found: i64,
        /// The highest one known here.
        known: i64,
    },
    /// The login may not do what a migration needs.
    #[error(
        "the login of DATABASE_URL may not prepare the database; it needs CREATEROLE once and CREATE on \
         the database"
    )]
    Forbidden(#[source] sqlx::Error),
    /// Roles and shared functions could not be made.
    #[error("cannot prepare the database")]
    Foundation(#[source] sqlx::Error),
    /// A migration failed and left no trace; or one that was applied has changed since.
    #[error("schema {schema} cannot be migrated")]
    Migration {
        /// `control` or `cell`.
        schema: &'static str,
        /// Which one, and why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The result breaks a rule of the schema.
    #[error("the schema has faults: {0}")]
    Faults(String),
}

/// A migration that has not been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `control` or `cell`.
    pub schema: &'static str,
    /// When it was written, as a number: its order.
    pub version: i64,
    /// What it does.
    pub description: String,
}

/// How a database compares with this version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What `migrate` would do, in order.
    pub pending: Vec<Pending>,
    /// A migration of a later version, where there is one.
    pub newer: Option<(&'static str, i64)>,
}

#[derive(Clone, Copy)]
struct Schema {
    name: &'static str,
    search_path: &'static str,
    migrator: &'static Migrator,
}

const SCHEMAS: [Schema; 2] = [
    Schema {
        name: "control",
        search_path: "control,public",
        migrator: &CONTROL,
    },
    Schema {
        name: "cell",
        search_path: "cell,public",
        migrator: &CELL,
    },
];

/// Applies what is missing and answers what that was.
///
/// # Errors
/// [`MigrateError`]; what was applied before the failure stays.
pub async fn migrate(
    control: &PgConnectOptions,
    cell: &PgConnectOptions,
) -> Result<Vec<Pending>, MigrateError> {
    let mut applied = Vec::new();
    for (schema, options) in SCHEMAS.into_iter().zip([control, cell]) {
        applied.extend(migrate_schema(schema, options).await?);
    }
    Ok(applied)
}

/// What [`migrate`] would do, without doing it.
pub async fn check(
    control: &PgConnectOptions,
    cell: &PgConnectOptions,
) -> Result<Difference, MigrateError> {
    let mut difference = Difference::default();
    for (schema, options) in SCHEMAS.into_iter().zip([control, cell]) {
        let mut conn = connect(options, &[("search_path", schema.name)]).await?;
        let applied = list_applied(&mut conn).await.map_err(classify)?;
        close(conn).await;
        let found = compare(schema, &applied);
        difference.pending.extend(found.pending);
        difference.newer = difference.newer.or(found.newer);
    }
    Ok(difference)
}

/// Makes `name` in the server of `admin`, unless it is there.
pub async fn ensure_database(admin: &PgConnectOptions, name: &str) -> Result<(), MigrateError> {
    let mut conn = connect(admin, &[]).await?;
    let quoted = name.replace('"', "\"\"");
    let created = conn
        .execute(AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\"")))
        .await;
    close(conn).await;
    match created {
        // Made before, or by another program just now.
        Err(error) if matches!(code(&error).as_deref(), Some("42P04" | "23505")) => Ok(()),
        other => other.map(drop).map_err(classify),
    }
}

async fn migrate_schema(
    schema: Schema,
    options: &PgConnectOptions,
) -> Result<Vec<Pending>, MigrateError> {
    // Held while this connection lives: 3 is the name space of partitions and migrations.
    let mut guard = connect(options, &[]).await?;
    guard
        .execute("SELECT pg_advisory_lock((3::bigint << 56) | 2)")
        .await
        .map_err(classify)?;

    lay_foundation(&mut guard).await?;
    let mut conn = connect(
        options,
        &[
            ("role", "engageninja_owner"),
            ("search_path", schema.search_path),
            ("engageninja.schema", schema.name),
        ],
    )
    .await?;
    make_schema(&mut conn, schema).await.map_err(classify)?;

    let applied = list_applied(&mut conn).await.map_err(classify)?;
    let difference = compare(schema, &applied);
    if let Some((_, found)) = difference.newer {
        return Err(MigrateError::Newer {
            schema: schema.name,
            found,
            known: highest_known(schema),
        });
    }
    schema
        .migrator
        .run_direct(None, &mut conn, false)
        .await
        .map_err(|source| MigrateError::Migration {
            schema: schema.name,
            source,
        })?;
    finish(&mut conn, schema).await?;
    close(conn).await;
    close(guard).await;
    Ok(difference.pending)
}

async fn lay_foundation(guard: &mut PgConnection) -> Result<(), MigrateError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match guard.execute(FOUNDATION).await {
            Ok(_) => return Ok(()),
            // Another database of this server makes the same roles at the same moment.
            Err(error)
                if tries < FOUNDATION_TRIES
                    && matches!(code(&error).as_deref(), Some("XX000" | "23505" | "42710")) => {}
            Err(error) if code(&error).as_deref() == Some("42501") => {
                return Err(MigrateError::Forbidden(error));
            }
            Err(error) => return Err(MigrateError::Foundation(error)),
        }
    }
}

async fn make_schema(conn: &mut PgConnection, schema: Schema) -> Result<(), sqlx::Error> {
    conn.execute(match schema.name {
        "control" => "CREATE SCHEMA IF NOT EXISTS control",
        _ => "CREATE SCHEMA IF NOT EXISTS cell",
    })
    .await?;
    conn.execute(match schema.name {
        "control" => "GRANT USAGE ON SCHEMA control TO engageninja_app, engageninja_system",
        _ => "GRANT USAGE ON SCHEMA cell TO engageninja_app, engageninja_system",
    })
    .await?;
    Ok(())
}

/// What follows every migration: partitions ahead, and a schema that keeps its own rules.
async fn finish(conn: &mut PgConnection, schema: Schema) -> Result<(), MigrateError> {
    conn.execute(
        "COMMENT ON TABLE _sqlx_migrations IS 'Migrations applied to this schema, by sqlx.'",
    )
    .await
    .map_err(classify)?;
    if schema.name != "cell" {
        return Ok(());
    }
    conn.execute("SELECT count(*) FROM maintain_partitions()")
        .await
        .map_err(classify)?;
    let faults: Vec<String> = conn
        .fetch_all("SELECT fault || ': ' || object FROM schema_faults() ORDER BY 1")
        .await
        .map_err(classify)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(MigrateError::Faults(faults.join("; ")))
    }
}

/// The versions in the list of the connection's first schema; none where there is no list.
async fn list_applied(conn: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    let is_there: bool = conn
        .fetch_one(
            "SELECT EXISTS (SELECT FROM pg_tables
             WHERE tablename = '_sqlx_migrations' AND schemaname = current_schema())",
        )
        .await?
        .get(0);
    if !is_there {
        return Ok(Vec::new());
    }
    // Only the owner may read it, and there is one where there is a list.
    conn.execute("SET ROLE engageninja_owner").await?;
    let applied = conn.list_applied_migrations(LIST).await;
    match applied {
        Ok(applied) => Ok(applied.into_iter().map(|known| known.version).collect()),
        Err(sqlx::migrate::MigrateError::Execute(error)) => Err(error),
        Err(other) => Err(sqlx::Error::Configuration(other.into())),
    }
}

fn compare(schema: Schema, applied: &[i64]) -> Difference {
    let pending = schema
        .migrator
        .iter()
        .filter(|known| !applied.contains(&known.version))
        .map(|known| Pending {
            schema: schema.name,
            version: known.version,
            description: known.description.clone().into_owned(),
        })
        .collect();
    let known = highest_known(schema);
    let newer = applied.iter().copied().filter(|found| *found > known).max();
    Difference {
        pending,
        newer: newer.map(|found| (schema.name, found)),
    }
}

fn highest_known(schema: Schema) -> i64 {
    schema
        .migrator
        .iter()
        .map(|known| known.version)
        .max()
        .unwrap_or_default()
}

async fn connect(
    options: &PgConnectOptions,
    settings: &[(&str, &str)],
) -> Result<PgConnection, MigrateError> {
    options
        .clone()
        .application_name("engageninja migrate")
        .options(settings.iter().copied())
        .disable_statement_logging()
        .connect()
        .await
        .map_err(MigrateError::Unavailable)
}

/// Says goodbye; a connection that is already gone has nothing to hear.
async fn close(conn: PgConnection) {
    let _ = conn.close().await;
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

fn classify(error: sqlx::Error) -> MigrateError {
    match code(&error).as_deref() {
        Some("42501") => MigrateError::Forbidden(error),
        Some(_) => MigrateError::Foundation(error),
        None => MigrateError::Unavailable(error),
    }
}
