//! Databases of the tests: one server per test process, one database per test.
//!
//! The server is not durable, since nobody wants its databases afterwards; a test that restarts one takes
//! a [`Cluster`] of its own. No server and no directory outlives the test process, however that ends: a
//! watchdog waits for it and cleans up.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Timelike as _};
use engageninja::clock::Clock;
use engageninja::dev::postgres::{Durability, Launch, Server};
use engageninja::store::migrate::migrate;
use engageninja::store::{Db, DbOptions};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use tokio::sync::OnceCell;

use super::{TempDir, within};

/// Connections a pool of a test may open; tests run beside each other.
const POOL_CONNECTIONS_MAX: u32 = 8;
/// Lines of a crash that are told: the message, and the statement after it.
const CRASH_LINES: usize = 40;

/// Ends the server of `$1` and removes the directory when its input ends: when we do.
const WATCHDOG: &str = r#"
read -r _
for file in "$1"/data/pg/data-*/postmaster.pid; do
  pid=$(head -n 1 "$file" 2>/dev/null) || continue
  kill -INT "$pid" 2>/dev/null
  while kill -0 "$pid" 2>/dev/null && [ -e "$file" ]; do sleep 0.05; done
done
rm -rf "$(readlink -f "$1/data/pg")" "$1"
"#;

static SHARED: OnceCell<Shared> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server of this process, with a migrated database to copy.
struct Shared {
    cluster: Cluster,
    split: OnceCell<()>,
}

/// `control` and `cell` together, as most installations have them.
const TEMPLATE: &str = "template_both";
const TEMPLATE_CONTROL: &str = "template_control";
const TEMPLATE_CELL: &str = "template_cell";

/// Leaves few partitions: each is opened by each plan of each new connection, and what is further ahead than two weeks
/// no test of a moment sees.
const FEW_PARTITIONS: &str = "
    UPDATE cell.partition_rules SET ahead = CASE unit WHEN 'uuid_week' THEN 2 ELSE 4 END;
    DO $$
    DECLARE piece text;
    BEGIN
        FOR piece IN
            SELECT c.relname
            FROM cell.partition_rules r
            JOIN pg_inherits i ON i.inhparent = ('cell.' || r.parent)::regclass
            JOIN pg_class c ON c.oid = i.inhrelid
            WHERE cell.partition_start(c.relname)
                > now() + CASE r.unit WHEN 'uuid_week' THEN interval '2 weeks' ELSE interval '4 days' END
        LOOP
            EXECUTE format('DROP TABLE cell.%I', piece);
        END LOOP;
    END $$";
/// As many as the migrations made.
const ALL_PARTITIONS: &str = "
    UPDATE cell.partition_rules SET ahead = CASE unit WHEN 'uuid_week' THEN 10 ELSE 74 END;
    SELECT cell.maintain_partitions()";

impl Shared {
    async fn get() -> &'static Self {
        SHARED
            .get_or_init(|| async {
                let cluster = Cluster::dedicated(false).await;
                cluster.create(TEMPLATE, None).await;
                let options = cluster.options(TEMPLATE);
                migrate(&options, &options).await.unwrap();
                execute(&options, FEW_PARTITIONS.to_owned()).await;
                Self {
                    cluster,
                    split: OnceCell::new(),
                }
            })
            .await
    }

    /// Makes the two templates that hold one schema each.
    async fn make_split_templates(&self) {
        self.split
            .get_or_init(|| async {
                self.cluster.create(TEMPLATE_CONTROL, None).await;
                self.cluster.create(TEMPLATE_CELL, None).await;
                let control = self.cluster.options(TEMPLATE_CONTROL);
                let cell = self.cluster.options(TEMPLATE_CELL);
                migrate(&control, &cell).await.unwrap();
                execute(&cell, FEW_PARTITIONS.to_owned()).await;
            })
            .await;
    }
}

/// A PostgreSQL server of the tests.
#[derive(Debug)]
pub struct Cluster {
    launch: Launch,
    server: Option<Server>,
    options: PgConnectOptions,
    // Before the directory, in which it finds what to remove.
    _watchdog: Watchdog,
    _dir: TempDir,
}

/// Waits for the end of this process, whatever brings it about, or of the test; then it ends the server in a
/// directory and removes the directory.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// Watches over `dir`, in which `data` is a data directory.
    pub fn of(dir: &Path) -> Self {
        let child = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(dir)
            // Ctrl-C ends us, and must not end it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Cluster {
    /// A server that the caller may stop, crash and start again; `durable` if what was committed has to
    /// survive that.
    pub async fn dedicated(durable: bool) -> Self {
        let dir = if durable {
            TempDir::new()
        } else {
            TempDir::in_memory()
        };
        let watchdog = Watchdog::of(dir.path());
        let launch = Launch {
            durability: if durable {
                Durability::Durable
            } else {
                Durability::None
            },
            settings: vec![
                ("max_connections".into(), "400".into()),
                ("shared_buffers".into(), "128MB".into()),
                ("max_wal_size".into(), "256MB".into()),
            ],
            ..Launch::new(dir.path().join("data"))
        };
        let server = start(&launch).await;
        Self {
            options: server.options("postgres"),
            server: Some(server),
            _dir: dir,
            launch,
            _watchdog: watchdog,
        }
    }

    /// How to reach a database of it as superuser; the same after a restart.
    pub fn options(&self, database: &str) -> PgConnectOptions {
        self.options.clone().database(database)
    }

    /// How often it found two transactions waiting for each other, over all its restarts: a crash forgets its statistics.
    pub fn deadlocks(&self) -> usize {
        let server = self.server.as_ref().expect("the server runs");
        let log = std::fs::read(server.log()).unwrap();
        String::from_utf8_lossy(&log)
            .matches("deadlock detected")
            .count()
    }

    /// The server's process.
    pub fn pid(&self) -> i32 {
        self.server.as_ref().expect("the server runs").pid()
    }

    /// Ends it in order.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            let stopped = tokio::task::spawn_blocking(|| server.stop());
            within(60, "PostgreSQL stops", stopped)
                .await
                .unwrap()
                .unwrap();
        }
    }

    /// Ends it as `pg_ctl stop -m immediate` does: the next start recovers.
    pub async fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            let stopped = tokio::task::spawn_blocking(|| server.stop_immediately());
            within(60, "PostgreSQL stops", stopped)
                .await
                .unwrap()
                .unwrap();
        }
    }

    /// Starts it again.
    pub async fn start(&mut self) {
        self.server = Some(start(&self.launch).await);
    }

    /// Keeps a copy of it as it is now, which is what a standby is that hears no more.
    pub async fn keep_copy(&mut self) -> StandBy {
        let data = self
            .server
            .as_ref()
            .expect("the server runs")
            .database_dir()
            .to_owned();
        let copy = data.with_extension("copy");
        self.stop().await;
        shell(&["cp", "-a"], &[&data, &copy]).await;
        self.start().await;
        StandBy {
            data,
            copy,
            shipped: None,
        }
    }

    /// Gives a copy what the log holds by now; after this it hears no more.
    pub async fn ship_log(&self, to: &mut StandBy) {
        let shipped = to.data.with_extension("log");
        shell(&["cp", "-a"], &[&to.data.join("pg_wal"), &shipped]).await;
        to.shipped = Some(shipped);
    }

    /// Crashes, and promotes the copy in its place: at the same address answers another timeline, which has forgotten
    /// everything since the copy, or since it was given the log.
    pub async fn fail_over(&mut self, to: StandBy) {
        self.crash().await;
        shell(&["rm", "-rf"], &[&to.data]).await;
        shell(&["mv"], &[&to.copy, &to.data]).await;
        shell(&["touch"], &[&to.data.join("recovery.signal")]).await;
        self.launch
            .settings
            .push(("restore_command".into(), to.restore_command()));
        self.start().await;
    }

    /// A migrated database of it.
    pub async fn db(&self) -> TestDb {
        let name = next_name();
        self.create(&name, None).await;
        let options = self.options(&name);
        migrate(&options, &options).await.unwrap();
        TestDb::reach(&options, &options, vec![])
    }

    async fn create(&self, name: &str, template: Option<&str>) {
        let sql = match template {
            Some(template) => format!("CREATE DATABASE {name} TEMPLATE {template}"),
            None => format!("CREATE DATABASE {name}"),
        };
        execute(&self.options, sql).await;
    }
}

/// A copy of a cluster.
#[derive(Debug)]
pub struct StandBy {
    data: PathBuf,
    copy: PathBuf,
    shipped: Option<PathBuf>,
}

impl StandBy {
    fn restore_command(&self) -> String {
        match &self.shipped {
            Some(shipped) => format!("cp {}/%f %p", shipped.display()),
            None => "false".into(),
        }
    }
}

async fn shell(command: &[&str], paths: &[&Path]) {
    let status = tokio::process::Command::new(command[0])
        .args(&command[1..])
        .args(paths)
        .status()
        .await
        .unwrap();
    assert!(status.success(), "{command:?} {paths:?}");
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let server = self.server.take();
        if let Some(server) = server.as_ref().filter(|_| std::thread::panicking()) {
            tell_crashes(server.log());
        }
    }
}

/// Which processes of a server crashed, and in which statement: its log goes with it.
fn tell_crashes(log: &Path) {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.contains("was terminated by signal") {
            let told = &lines[at..lines.len().min(at + CRASH_LINES)];
            eprintln!("{}", told.join("\n"));
        }
    }
}

async fn start(launch: &Launch) -> Server {
    let launch = launch.clone();
    let started = tokio::task::spawn_blocking(move || launch.start());
    within(120, "PostgreSQL starts", started)
        .await
        .unwrap()
        .unwrap()
}

async fn execute(options: &PgConnectOptions, sql: String) {
    let mut conn = options.connect().await.unwrap();
    conn.execute(AssertSqlSafe(sql)).await.unwrap();
    conn.close().await.unwrap();
}

fn next_name() -> String {
    format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed))
}

/// An equality of UUIDs that comes before PostgreSQL's own in the statements of the application's role: to it all
/// tenants are one. Policies, keys and the system's statements keep the real one.
const ALL_TENANTS_ARE_ONE: &str = "
    CREATE SCHEMA loose;
    GRANT USAGE ON SCHEMA loose TO PUBLIC;
    CREATE FUNCTION loose.is_tenant(id uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$
        SELECT EXISTS (SELECT FROM cell.tenants t WHERE t.id OPERATOR(pg_catalog.=) $1)
    $$;
    CREATE FUNCTION loose.same(a uuid, b uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
        SELECT a OPERATOR(pg_catalog.=) b
            OR (current_user = 'engageninja_app' AND loose.is_tenant(a) AND loose.is_tenant(b))
    $$;
    CREATE OPERATOR loose.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = loose.same);";

/// A migrated database of one test, and the clock that it and the product agree on.
#[derive(Debug)]
pub struct TestDb {
    options: DbOptions,
    db: Db,
    clock: Clock,
    databases: Vec<PgConnectOptions>,
    asker: Arc<Asker>,
    dropped_at_end: Vec<String>,
}

/// A session of a superuser that is kept for the next question: to open one costs more than to answer it, and a test that waits
/// asks a hundred times a second.
#[derive(Debug, Default)]
struct Asker {
    kept: Mutex<Option<(u64, PgConnection)>>,
    /// Raised when the database may have got other settings, which only a new session has.
    settings: AtomicU64,
}

impl Asker {
    fn take(&self) -> Option<PgConnection> {
        let settings = self.settings.load(Ordering::Relaxed);
        let kept = self.kept.lock().unwrap().take();
        kept.filter(|(known, _)| *known == settings)
            .map(|(_, conn)| conn)
    }

    fn settings_change(&self) {
        self.settings.fetch_add(1, Ordering::Relaxed);
    }
}

impl TestDb {
    /// `control` and `cell` in one database.
    pub async fn new() -> Self {
        let shared = Shared::get().await;
        let name = next_name();
        shared.cluster.create(&name, Some(TEMPLATE)).await;
        let options = shared.cluster.options(&name);
        Self::reach(&options, &options, vec![name])
    }

    /// As [`TestDb::new`], with as many partitions ahead as an installation has.
    pub async fn with_all_partitions() -> Self {
        let db = Self::new().await;
        db.execute(ALL_PARTITIONS).await;
        db
    }

    /// As [`TestDb::new`], with pools for so many who come at once.
    pub async fn for_many(connections_max: u32) -> Self {
        let plain = Self::new().await;
        let options = DbOptions {
            pool_connections_max: connections_max,
            ..plain.options.clone()
        };
        Self {
            db: Db::new(&options, plain.clock.clone()),
            options,
            clock: plain.clock.clone(),
            databases: plain.databases.clone(),
            asker: Arc::default(),
            dropped_at_end: plain.names_given_up(),
        }
    }

    /// `control` and `cell` in two databases, so that whatever mixes them fails.
    pub async fn split() -> Self {
        let shared = Shared::get().await;
        shared.make_split_templates().await;
        let names = vec![next_name(), next_name()];
        shared
            .cluster
            .create(&names[0], Some(TEMPLATE_CONTROL))
            .await;
        shared.cluster.create(&names[1], Some(TEMPLATE_CELL)).await;
        let control = shared.cluster.options(&names[0]);
        let cell = shared.cluster.options(&names[1]);
        Self::reach(&control, &cell, names)
    }

    /// A database on which the application's own conditions on the tenant always hold, so that row-level security alone
    /// keeps tenants apart.
    pub async fn without_tenant_conditions() -> Self {
        let plain = Self::new().await;
        plain.execute(ALL_TENANTS_ARE_ONE).await;
        let options = DbOptions {
            schema_first: Some("loose".into()),
            ..plain.options.clone()
        };
        Self {
            db: Db::new(&options, plain.clock.clone()),
            options,
            clock: plain.clock.clone(),
            databases: plain.databases.clone(),
            asker: Arc::default(),
            dropped_at_end: plain.names_given_up(),
        }
    }

    /// The databases are somebody else's to drop.
    fn names_given_up(mut self) -> Vec<String> {
        std::mem::take(&mut self.dropped_at_end)
    }

    /// An empty database, for the tests of `migrate` itself: its options as superuser.
    pub async fn unmigrated() -> (Self, PgConnectOptions) {
        let shared = Shared::get().await;
        let name = next_name();
        shared.cluster.create(&name, None).await;
        let options = shared.cluster.options(&name);
        (Self::reach(&options, &options, vec![name]), options)
    }

    fn reach(
        control: &PgConnectOptions,
        cell: &PgConnectOptions,
        dropped_at_end: Vec<String>,
    ) -> Self {
        let clock = Clock::default();
        let options = DbOptions {
            control: control.clone(),
            pool_connections_max: POOL_CONNECTIONS_MAX,
            ..DbOptions::single(cell)
        };
        Self {
            db: Db::new(&options, clock.clone()),
            options,
            clock,
            databases: vec![control.clone(), cell.clone()],
            asker: Arc::default(),
            dropped_at_end,
        }
    }

    /// The same database for somebody else; it goes with the first.
    pub fn share(&self) -> Self {
        Self {
            options: self.options.clone(),
            db: self.db.clone(),
            clock: self.clock.clone(),
            databases: self.databases.clone(),
            asker: Arc::clone(&self.asker),
            dropped_at_end: Vec::new(),
        }
    }

    /// The ways into it.
    pub fn db(&self) -> Db {
        self.db.clone()
    }

    /// How to reach it, for a process of its own.
    pub fn options(&self) -> DbOptions {
        self.options.clone()
    }

    /// The clock of [`TestDb::db`].
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Moves time on: `app_now()` of every new session, of every connection as it leaves a pool of
    /// [`TestDb::db`], and the clock in Rust.
    pub async fn advance(&self, by: Duration) {
        let offset = self.clock.offset() + TimeDelta::from_std(by).unwrap();
        let micros = offset.num_microseconds().unwrap();
        for options in &self.databases {
            let database = options.get_database().unwrap();
            let sql = format!(
                "ALTER DATABASE {database} SET engageninja.clock_offset = '{micros} microseconds'"
            );
            execute(options, sql).await;
        }
        self.clock.set_offset(offset);
        self.asker.settings_change();
    }

    /// Moves time past the end of an hour that is near, for a test that must see no hour and no day end under it.
    pub async fn step_past_hours_end(&self) {
        if self.clock.now().minute() >= 58 {
            self.advance(Duration::from_mins(2)).await;
        }
    }

    /// Runs statements as superuser in the cell's database, for what the product has no way to do.
    pub async fn execute(&self, sql: &str) {
        execute(&self.options.cell, sql.to_owned()).await;
        self.asker.settings_change();
    }

    /// One value, asked by a superuser in the cell's database. Tables of `control` are named with their schema.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let settings = self.asker.settings.load(Ordering::Relaxed);
        let sql = format!("SET search_path = cell, public; {sql}");
        let ask = async |conn: &mut PgConnection| {
            let sql = AssertSqlSafe(sql.clone());
            sqlx::raw_sql(sql).fetch_all(conn).await
        };
        if let Some(mut conn) = self.asker.take()
            && let Ok(rows) = ask(&mut conn).await
        {
            *self.asker.kept.lock().unwrap() = Some((settings, conn));
            return rows.last().unwrap().get(0);
        }
        // The server was another one since, or has ended it.
        let mut conn = self.options.cell.connect().await.unwrap();
        let rows = ask(&mut conn).await.unwrap();
        *self.asker.kept.lock().unwrap() = Some((settings, conn));
        rows.last().unwrap().get(0)
    }

    /// One number, as [`TestDb::value`].
    pub async fn number(&self, sql: &str) -> i64 {
        self.value(sql).await
    }

    /// One text, as [`TestDb::value`].
    pub async fn text(&self, sql: &str) -> String {
        self.value(sql).await
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.dropped_at_end);
        let Some(shared) = SHARED.get().filter(|_| !names.is_empty()) else {
            return;
        };
        let admin = shared.cluster.options.clone();
        // A thread, since a test's runtime cannot wait here; nobody waits for it, as the server goes soon.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let Ok(mut conn) = admin.connect().await else {
                    return;
                };
                for name in names {
                    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    let _ = conn.execute(AssertSqlSafe(sql)).await;
                }
            });
        });
    }
}
