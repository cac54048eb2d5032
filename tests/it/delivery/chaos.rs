//! Whoever is killed, stopped or restarted, and however often: no message is lost and none goes out twice.
//!
//! Four workers are processes of their own on a durable server, the holds are those of production twenty times as fast, and
//! the demo provider's ledger judges. The seed is printed; `make chaos` runs the same for as long as it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use engageninja::crypto::mac::MacKey;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::CountWord;
use engageninja::domain::holds::Holds;
use engageninja::domain::ids::CampaignId;
use engageninja::domain::message::{DropReason, Phase};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::Row;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::db::Cluster;
use crate::harness::program::{MAC_KEY, Started, on};
use crate::harness::world::World;

const WORKERS: usize = 4;
const SCALE: f64 = 0.05;
/// People of one campaign; the next one starts when this one has gone out.
const PEOPLE: u32 = 2_000;
/// After the faults: everything is final or with a person by then, the ladder to its end included.
const SETTLED_WITHIN_SECS: u64 = 150;

/// What happens to the workers, and to the server.
#[derive(Debug, Clone)]
struct Profile {
    /// How long.
    length: Duration,
    /// Between two faults of workers.
    fault_every_ms: std::ops::Range<u64>,
    /// How long a stopped worker stands still: longer than the hold before a verdict of "not sent", so that only the
    /// proof of its death may bring one.
    stop_ms: std::ops::Range<u64>,
    /// Between two crashes of the server.
    crash_every: Option<Duration>,
}

const KILLS: Profile = Profile {
    length: Duration::from_secs(20),
    fault_every_ms: 200..1_200,
    stop_ms: 50..9_000,
    crash_every: None,
};

const CRASHES: Profile = Profile {
    length: Duration::from_secs(10),
    fault_every_ms: 300..1_500,
    // Across a restart the lock proves nothing, and the hold is what is left.
    stop_ms: 50..5_000,
    crash_every: Some(Duration::from_secs(4)),
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_and_stopped_lose_nothing_and_send_nothing_twice() {
    chaos(KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_under_them_changes_nothing_of_that() {
    chaos(CRASHES).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "as long as CHAOS_SECS says: make chaos"]
async fn the_same_for_long() {
    let length = Duration::from_secs(setting("CHAOS_SECS").unwrap_or(1_800));
    for profile in [KILLS, CRASHES] {
        let length = length / 2;
        chaos(Profile { length, ..profile }).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "settings of this test alone")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One at a time: each needs the whole machine.
static STAGE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn chaos(profile: Profile) {
    let _stage = STAGE.lock().await;
    let seed = setting("CHAOS_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed}, {profile:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::start().await;

    let end_at = Instant::now() + profile.length;
    let mut crash_at = profile.crash_every.map(|every| Instant::now() + every);
    while Instant::now() < end_at {
        stage.keep_busy().await;
        let pause = random.random_range(profile.fault_every_ms.clone());
        tokio::time::sleep(Duration::from_millis(pause)).await;
        stage.hurt_somebody(&mut random, &profile).await;
        if let (Some(at), Some(every)) = (crash_at, profile.crash_every)
            && Instant::now() >= at
        {
            stage.crash_server().await;
            crash_at = Some(Instant::now() + every);
        }
    }
    stage.judge(seed).await;
}

/// The world, its workers, and what was done to them.
struct Stage {
    cluster: Cluster,
    world: World,
    workers: Vec<Worker>,
    campaigns: Vec<CampaignId>,
    faults: BTreeMap<&'static str, u64>,
    _scheduler: tokio_util::sync::DropGuard,
}

/// A place for a worker: one that runs or stands still, or the next one on its way.
struct Worker {
    process: Option<Started>,
    next: Option<JoinHandle<Started>>,
    wakes_at: Option<Instant>,
}

impl Stage {
    async fn start() -> Self {
        let cluster = Cluster::dedicated(true).await;
        let world = World {
            mac_key: MacKey::from_base64(&MAC_KEY.into()).unwrap(),
            holds: Holds::REAL.scaled(SCALE),
            ..World::on(cluster.db().await).await
        };
        let scale = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET engageninja.holds_scale = {SCALE}', current_database()); END $$"
        );
        world.db.execute(&scale).await;
        world.add_contacts(PEOPLE).await;
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(start_worker(&world));
        }
        Self {
            _scheduler: world.scheduler(),
            cluster,
            world,
            workers,
            campaigns: Vec::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Something is always going out.
    async fn keep_busy(&mut self) {
        if let Some(last) = self.campaigns.last() {
            let counts = self.world.counts(*last).await;
            assert!(counts.is_balanced(), "{counts:?}");
            let waiting = [
                CountWord::Unexpanded,
                CountWord::Queued,
                CountWord::Released,
            ]
            .map(|word| counts.get(word))
            .iter()
            .sum::<i64>();
            if waiting > i64::from(PEOPLE) / 4 {
                return;
            }
        }
        // Other words each time, so that no campaign waits for its like.
        let body = format!("{} hello {{{{ first_name }}}}", self.campaigns.len());
        self.campaigns.push(self.world.campaign(&body).await);
    }

    async fn hurt_somebody(&mut self, random: &mut StdRng, profile: &Profile) {
        let now = Instant::now();
        for worker in &mut self.workers {
            worker.wake_if_due(now);
        }
        let at = random.random_range(0..self.workers.len());
        let worker = &mut self.workers[at];
        worker.arrive_if_there().await;
        let Some(process) = &mut worker.process else {
            return;
        };
        let fault = if random.random_bool(0.5) {
            // A stopped one is killed, too.
            process.signal(Signal::SIGKILL);
            process.ended().await;
            *worker = start_worker(&self.world);
            "kill"
        } else {
            let length = random.random_range(profile.stop_ms.clone());
            if worker.wakes_at.is_none() {
                process.signal(Signal::SIGSTOP);
                worker.wakes_at = Some(now + Duration::from_millis(length));
            }
            "stop"
        };
        *self.faults.entry(fault).or_default() += 1;
    }

    async fn crash_server(&mut self) {
        *self.faults.entry("crash").or_default() += 1;
        // A program that finds no server does not start.
        for worker in &mut self.workers {
            worker.arrive().await;
        }
        // Whoever is stopped now comes back to another server, without its lock.
        self.cluster.crash().await;
        self.cluster.start().await;
    }

    async fn judge(mut self, seed: u64) {
        while let Some(at) = self.workers.iter().filter_map(|w| w.wakes_at).max() {
            tokio::time::sleep_until(at).await;
            for worker in &mut self.workers {
                worker.wake_if_due(at);
            }
        }
        for id in &self.campaigns {
            let settled = async {
                while self.world.load(*id).await.status != CampaignStatus::Completed {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            let limit = Duration::from_secs(SETTLED_WITHIN_SECS);
            if tokio::time::timeout(limit, settled).await.is_err() {
                let where_they_are = self
                    .world
                    .db
                    .text(
                        "SELECT jsonb_build_object(
                         'messages', (SELECT jsonb_object_agg(p, n) FROM (SELECT phase p, count(*) n FROM messages GROUP BY 1) x),
                         'attempts', (SELECT jsonb_object_agg(s, n) FROM (SELECT state s, count(*) n FROM send_attempts GROUP BY 1) x),
                         'jobs', (SELECT jsonb_object_agg(k, n) FROM (SELECT kind || state k, count(*) n FROM jobs GROUP BY 1) x),
                         'campaigns', (SELECT jsonb_agg(status) FROM campaigns),
                         'lanes', (SELECT jsonb_agg(to_jsonb(l)) FROM lanes l),
                         'shards', (SELECT jsonb_agg(to_jsonb(r)) FROM release_shards r),
                         'live', (SELECT jsonb_agg(to_jsonb(i)) FROM incarnations i WHERE ended_at IS NULL AND seen_at > app_now() - interval '10 s'),
                         'now', app_now())::text",
                    )
                    .await;
                panic!("seed {seed}, {:?}: {where_they_are}", self.faults);
            }
        }
        for mut worker in self.workers.drain(..) {
            worker.arrive().await;
            if let Some(process) = worker.process {
                process.stop().await;
            }
        }
        let world = &self.world;
        let how = world
            .db
            .text(
                "SELECT string_agg(x.resolved_by || ' ' || x.state || ' ' || x.n, ', ') FROM (
                 SELECT resolved_by, state, count(*) AS n FROM send_attempts GROUP BY 1, 2 ORDER BY 1, 2) x",
            )
            .await;
        eprintln!("seed {seed}: {:?}; {how}", self.faults);
        assert_nothing_lost_or_doubled(world).await;
        for id in &self.campaigns {
            assert_counted(world, *id).await;
        }
        assert_eq!(world.deadlocks().await, 0);
    }
}

fn start_worker(world: &World) -> Worker {
    let mut command = on(&world.db, &["worker", "--concurrency", "16"]);
    command.env_remove("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY");
    Worker {
        process: None,
        next: Some(tokio::spawn(Started::new(command))),
        wakes_at: None,
    }
}

impl Worker {
    async fn arrive(&mut self) {
        if let Some(next) = self.next.take() {
            self.process = Some(next.await.unwrap());
        }
    }

    async fn arrive_if_there(&mut self) {
        if self.next.as_ref().is_some_and(JoinHandle::is_finished) {
            self.arrive().await;
        }
    }

    fn wake_if_due(&mut self, now: Instant) {
        if let Some(process) = self
            .process
            .as_ref()
            .filter(|_| self.wakes_at.is_some_and(|at| at <= now))
        {
            process.signal(Signal::SIGCONT);
            self.wakes_at = None;
        }
    }
}

async fn assert_nothing_lost_or_doubled(world: &World) {
    let none = [
        (
            "accepted twice",
            "SELECT count(*) FROM (SELECT FROM demo_ledger GROUP BY tenant_id, message_id HAVING count(*) > 1) x",
        ),
        ("not final", "SELECT count(*) FROM messages WHERE phase NOT IN (4, 5, 6)"),
        (
            "handed over and never taken",
            "SELECT count(*) FROM messages m WHERE m.phase = 4 AND NOT EXISTS (
             SELECT FROM demo_ledger d WHERE d.tenant_id = m.tenant_id AND d.message_id = m.id)",
        ),
        (
            "taken and not handed over",
            "SELECT count(*) FROM demo_ledger d JOIN messages m ON m.tenant_id = d.tenant_id AND m.id = d.message_id
             WHERE m.phase NOT IN (4, 5)",
        ),
        (
            "parked without a cause",
            "SELECT count(*) FROM messages m WHERE m.phase = 5 AND NOT EXISTS (
             SELECT FROM send_attempts a WHERE a.tenant_id = m.tenant_id AND a.message_id = m.id
             AND a.state = 6 AND a.error_code IS NOT NULL)",
        ),
        (
            "known to be doubled",
            "SELECT count(*) FROM (SELECT FROM send_attempts WHERE state = 1
             GROUP BY tenant_id, message_id HAVING count(*) > 1) x",
        ),
        ("open attempts", "SELECT count(*) FROM send_attempts WHERE state IN (0, 2)"),
        ("live calls", "SELECT count(*) FROM live_calls"),
        ("dead jobs", "SELECT count(*) FROM dead_jobs"),
        ("faults of the schema", "SELECT count(*) FROM schema_faults()"),
    ];
    for (what, sql) in none {
        assert_eq!(world.number(sql).await, 0, "{what}");
    }
    let all = world.number("SELECT count(*) FROM messages").await;
    let parked = world
        .number("SELECT count(*) FROM messages WHERE phase = 5")
        .await;
    assert!(parked * 1_000 <= all, "{parked} of {all} are parked");
    // Else nothing of this was tried.
    let settled = "SELECT count(*) FROM send_attempts WHERE resolved_by IN ('look_up', 'callback')";
    assert!(
        world.number(settled).await > 0,
        "no attempt was ever in doubt"
    );
}

/// What was counted on the way is what stands in the rows.
async fn assert_counted(world: &World, id: CampaignId) {
    let counts = world.counts(id).await;
    assert!(counts.is_balanced(), "{counts:?}");
    let sql = format!(
        "SELECT phase, drop_reason, count(*) FROM messages WHERE campaign_id = '{id}' GROUP BY 1, 2"
    );
    let mut counted = 0;
    for row in world.rows(&sql).await {
        let phase = Phase::try_from(row.get::<i16, _>(0)).unwrap();
        let reason: Option<DropReason> = row
            .get::<Option<String>, _>(1)
            .map(|word| word.parse().unwrap());
        let rows: i64 = row.get(2);
        assert_eq!(counts.get(CountWord::of(phase, reason)), rows, "{phase:?}");
        counted += rows;
    }
    assert_eq!(counted, i64::from(PEOPLE));
}
