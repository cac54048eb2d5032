//! What every program asks of its databases before it does anything: a refusal here is one line that says
//! what to do, instead of a loss later.

use chrono::TimeDelta;
use sqlx::{query, query_scalar};

use super::migrate::{self, MigrateError};
use super::{Db, DbOptions, StoreError, StoreResult, partitions};

/// The oldest server the statements are written for, as `server_version_num` counts.
const SERVER_VERSION_MIN: i32 = 150_000;

/// Programs that start together make the partitions one after the other.
const PARTITION_TRIES: u32 = 10;

/// What a program brings along, and what it will not put up with.
#[derive(Debug, Clone)]
pub struct Expectations {
    /// In production the clock is real.
    pub is_production: bool,
    /// A server that may forget commits is good enough: tests only.
    pub allow_unsafe_durability: bool,
    /// Names the key of address MACs without giving it away.
    pub mac_key_fingerprint: Vec<u8>,
    /// The keys at hand that open sealed columns.
    pub key_ids: Vec<String>,
}

/// Why a program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupRefusal {
    /// No database answers.
    #[error(
        "the database does not answer: {0}; check that PostgreSQL runs and that DATABASE_URL names it"
    )]
    Unavailable(String),
    /// No database is named, and none runs here.
    #[error(
        "no DATABASE_URL, and no embedded server runs in {data_dir}; set DATABASE_URL, or run `engageninja up`"
    )]
    NoServer {
        /// Where it was looked for.
        data_dir: String,
    },
    /// The server is too old.
    #[error("PostgreSQL {found} is too old; 15 is the least")]
    OldServer {
        /// As the server says.
        found: String,
    },
    /// A commit may be forgotten, and with it the fact that a message went out.
    #[error(
        "the server may forget commits ({settings}); switch them on, or set \
         ENGAGENINJA_ALLOW_UNSAFE_DURABILITY=1 where nothing real is sent"
    )]
    UnsafeDurability {
        /// What is off.
        settings: String,
    },
    /// The schema is older than this version.
    #[error("the schema lacks {count} migrations, {first} first; run `engageninja migrate`")]
    Pending {
        /// How many.
        count: usize,
        /// The next one.
        first: String,
    },
    /// Another key than the one that all stored MACs were made with.
    #[error(
        "ENGAGENINJA_MAC_KEY is not the key this database was filled with; set the first one again, since \
         suppressions depend on it"
    )]
    OtherMacKey,
    /// Rows are sealed with keys that are not at hand.
    #[error("rows are sealed with keys that ENGAGENINJA_KEYS lacks: {}; add them", ids.join(", "))]
    UnknownKeys {
        /// Their ids.
        ids: Vec<String>,
    },
    /// Tests move the clock; production must not.
    #[error(
        "the database's clock is moved by {offset}; run `alter database … reset \
         engageninja.clock_offset`, or set ENGAGENINJA_ENV=development"
    )]
    ClockOffset {
        /// By how much.
        offset: String,
    },
    /// The schema could not be read.
    #[error(transparent)]
    Schema(MigrateError),
    /// A statement failed.
    #[error("a check at start failed")]
    Store(#[from] StoreError),
}

impl StartupRefusal {
    /// Whether another try may succeed without anybody changing a thing.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::NoServer { .. } | Self::Store(StoreError::Unavailable(_))
        )
    }
}

impl From<MigrateError> for StartupRefusal {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Unavailable(source) => Self::Unavailable(source.to_string()),
            other => Self::Schema(other),
        }
    }
}

/// Makes sure of both databases, gives the clock of `db` their offset and sees to partitions.
///
/// A schema that is newer than this version is accepted: migrations are safe while the previous version
/// runs, so it may also restart.
pub async fn check(
    db: &Db,
    options: &DbOptions,
    expected: &Expectations,
) -> Result<(), StartupRefusal> {
    check_schema(options).await?;
    let cell = Server::of_cell(db).await?;
    let control = Server::of_control(db).await?;
    for server in [&cell, &control] {
        server.check(expected)?;
    }
    db.clock().set_offset(cell.clock_offset);

    check_mac_key(db, &expected.mac_key_fingerprint).await?;
    check_keys(db, &expected.key_ids).await?;
    maintain_partitions(db).await?;
    Ok(())
}

/// One thing that a start depends on, and what it came to.
#[derive(Debug)]
pub struct Examined {
    /// What was looked at.
    pub check: &'static str,
    /// Why a program would not start.
    pub result: Result<(), StartupRefusal>,
}

/// Looks at everything that a start depends on, whatever the first look finds, and changes nothing.
///
/// # Errors
/// [`StartupRefusal`] when a database cannot be asked at all: then there is nothing to look at.
pub async fn examine(
    db: &Db,
    options: &DbOptions,
    expected: &Expectations,
) -> Result<Vec<Examined>, StartupRefusal> {
    let migrations = check_schema(options).await;
    match &migrations {
        Err(refusal) if refusal.is_unavailable() => return migrations.map(|()| Vec::new()),
        // Without a schema, and the roles that come with it, nothing else can be asked.
        Err(_) => {
            return Ok(vec![Examined {
                check: "migrations",
                result: migrations,
            }]);
        }
        Ok(()) => {}
    }
    let cell = Server::of_cell(db).await?;
    let control = Server::of_control(db).await?;
    let durability = cell.check(expected).and_then(|()| control.check(expected));
    let mac_key = match find_fingerprint(db).await? {
        Some(known) if known != expected.mac_key_fingerprint => Err(StartupRefusal::OtherMacKey),
        _ => Ok(()),
    };
    let keys = check_keys(db, &expected.key_ids).await;
    let looks = [
        ("migrations", migrations),
        ("durability", durability),
        ("mac_key", mac_key),
        ("keys", keys),
    ];
    let examined = looks.map(|(check, result)| Examined { check, result });
    Ok(examined.into())
}

async fn check_schema(options: &DbOptions) -> Result<(), StartupRefusal> {
    let found = migrate::check(&options.control, &options.cell).await?;
    if let Some((schema, version)) = found.newer {
        tracing::warn!(schema, version, "the schema is newer than this version");
    }
    match found.pending.first() {
        None => Ok(()),
        Some(first) => Err(StartupRefusal::Pending {
            count: found.pending.len(),
            first: first.description.clone(),
        }),
    }
}

/// What one database says of its server and its clock, seen through our role.
#[derive(Debug)]
struct Server {
    version: String,
    version_num: i32,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    clock_offset: TimeDelta,
}

impl Server {
    async fn of_cell(db: &Db) -> StoreResult<Self> {
        Self::read(&mut db.system().begin().await?).await
    }

    async fn of_control(db: &Db) -> StoreResult<Self> {
        Self::read(&mut db.control_system().begin().await?).await
    }

    async fn read<K>(tx: &mut super::Tx<K>) -> StoreResult<Self> {
        let row = query!(
            r#"
            SELECT current_setting('server_version') AS "version!",
                current_setting('server_version_num')::int AS "version_num!",
                current_setting('fsync') AS "fsync!",
                current_setting('full_page_writes') AS "full_page_writes!",
                current_setting('synchronous_commit') AS "synchronous_commit!",
                (extract(epoch FROM coalesce(
                    nullif(current_setting('engageninja.clock_offset', true), ''), '0')::interval)
                    * 1000000)::bigint AS "offset_micros!"
            "#
        )
        .fetch_one(tx.conn())
        .await?;
        Ok(Self {
            version: row.version,
            version_num: row.version_num,
            fsync: row.fsync,
            full_page_writes: row.full_page_writes,
            synchronous_commit: row.synchronous_commit,
            clock_offset: TimeDelta::microseconds(row.offset_micros),
        })
    }

    fn check(&self, expected: &Expectations) -> Result<(), StartupRefusal> {
        if self.version_num < SERVER_VERSION_MIN {
            return Err(StartupRefusal::OldServer {
                found: self.version.clone(),
            });
        }
        let off: Vec<&str> = [
            ("fsync", &self.fsync),
            ("full_page_writes", &self.full_page_writes),
            ("synchronous_commit", &self.synchronous_commit),
        ]
        .into_iter()
        .filter_map(|(name, value)| (value == "off").then_some(name))
        .collect();
        if !off.is_empty() && !expected.allow_unsafe_durability {
            return Err(StartupRefusal::UnsafeDurability {
                settings: format!("{} off", off.join(", ")),
            });
        }
        if !self.clock_offset.is_zero() && expected.is_production {
            return Err(StartupRefusal::ClockOffset {
                offset: format!("{} s", self.clock_offset.num_seconds()),
            });
        }
        Ok(())
    }
}

/// The first program of an installation writes its key's fingerprint down; every later one must match.
async fn check_mac_key(db: &Db, fingerprint: &[u8]) -> Result<(), StartupRefusal> {
    let mut tx = db.system().begin().await?;
    query!(
        "INSERT INTO installation (mac_key_fingerprint) VALUES ($1) ON CONFLICT DO NOTHING",
        fingerprint,
    )
    .execute(tx.conn())
    .await
    .map_err(StoreError::from)?;
    let known = query_scalar!("SELECT mac_key_fingerprint FROM installation")
        .fetch_one(tx.conn())
        .await
        .map_err(StoreError::from)?;
    tx.commit().await?;
    if known == fingerprint {
        Ok(())
    } else {
        Err(StartupRefusal::OtherMacKey)
    }
}

/// The fingerprint of the key that this database was filled with; none before its first program.
async fn find_fingerprint(db: &Db) -> StoreResult<Option<Vec<u8>>> {
    let mut tx = db.system().begin().await?;
    let known = query_scalar!("SELECT mac_key_fingerprint FROM installation")
        .fetch_optional(tx.conn())
        .await?;
    Ok(known)
}

/// A sealed text begins with its key's id and a colon.
async fn check_keys(db: &Db, key_ids: &[String]) -> Result<(), StartupRefusal> {
    let mut tx = db.system().begin().await?;
    let ids = query_scalar!(
        r#"
        SELECT DISTINCT split_part(s.sealed, ':', 1) AS "id!"
        FROM tenant_channel_credentials_v2 c
        CROSS JOIN LATERAL unnest(ARRAY[
            c.twilio_auth_token_encrypted, c.aws_access_key_id_encrypted,
            c.aws_secret_access_key_encrypted, c.webhook_secret_encrypted
        ]) AS s (sealed)
        WHERE s.sealed IS NOT NULL AND NOT split_part(s.sealed, ':', 1) = ANY($1)
        ORDER BY 1
        "#,
        key_ids,
    )
    .fetch_all(tx.conn())
    .await
    .map_err(StoreError::from)?;
    if ids.is_empty() {
        Ok(())
    } else {
        Err(StartupRefusal::UnknownKeys { ids })
    }
}

/// Sees to partitions, at least eight weeks ahead; answers how many were made or dropped.
pub async fn maintain_partitions(db: &Db) -> StoreResult<i64> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut tx = db.system().begin().await?;
        let done = partitions::maintain(&mut tx).await;
        match done {
            // Somebody else is at it.
            Err(StoreError::Unavailable(_)) if tries < PARTITION_TRIES => {}
            Err(error) => return Err(error),
            Ok(changed) => {
                tx.commit().await?;
                return Ok(changed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version_num: i32) -> Server {
        Server {
            version: "of a test".into(),
            version_num,
            fsync: "on".into(),
            full_page_writes: "on".into(),
            synchronous_commit: "on".into(),
            clock_offset: TimeDelta::zero(),
        }
    }

    fn production() -> Expectations {
        Expectations {
            is_production: true,
            allow_unsafe_durability: false,
            mac_key_fingerprint: vec![],
            key_ids: vec![],
        }
    }

    #[test]
    fn a_server_before_15_is_refused() {
        let refusal = server(140_012).check(&production()).unwrap_err();
        assert!(matches!(refusal, StartupRefusal::OldServer { .. }));
        server(150_000).check(&production()).unwrap();
        server(180_004).check(&production()).unwrap();
    }

    #[test]
    fn each_setting_that_forgets_commits_is_named() {
        type Change = fn(&mut Server);
        let changes: [(&str, Change); 3] = [
            ("fsync", |server| server.fsync = "off".into()),
            ("full_page_writes", |server| {
                server.full_page_writes = "off".into();
            }),
            ("synchronous_commit", |server| {
                server.synchronous_commit = "off".into();
            }),
        ];
        for (name, change) in changes {
            let mut server = server(180_000);
            change(&mut server);
            let said = server.check(&production()).unwrap_err().to_string();
            assert!(said.contains(&format!("({name} off)")), "{said}");
            let allowed = Expectations {
                allow_unsafe_durability: true,
                ..production()
            };
            server.check(&allowed).unwrap();
        }
    }
}
