//! The tenants, the processes, and what is done to them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Duration;

use engageninja::crypto::mac::MacKey;
use engageninja::dev::fake_twilio::{CallbackWeather, FakeTwilio, Weather};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use tokio::time::Instant;

use super::crew::Member;
use super::{Carrier, Profile};
use crate::harness::db::{Cluster, TestDb};
use crate::harness::program::{MAC_KEY, on};
use crate::harness::twilio::TwilioWorld;
use crate::harness::world::World;

const WORKERS: usize = 4;
const SCHEDULERS: usize = 2;
/// How much shorter than in production the holds are.
pub(super) const SCALE: f64 = 0.05;
/// How long faults go on beyond their time until one has told.
const MORE_MAX: Duration = Duration::from_mins(1);
/// Attempts that others settled than their owners.
pub(super) const SETTLED_BY_EVIDENCE: &str =
    "SELECT count(*) FROM send_attempts WHERE resolved_by IN ('look_up', 'callback')";
/// Processes that stood still while the server crashed.
pub(super) const STOPPED_ACROSS: &str = "stopped across a crash";
/// How long after a crash every process knows that its lock is gone, and has another one; each looks every two seconds.
/// Before, it may begin without one, and against its stop nothing holds but the short hold.
const LOCKS_BACK_AFTER: Duration = Duration::from_secs(3);
/// Part of the stops that may be long which are; one in eight of all, since most come too soon after a crash.
const LONG_SHARE: f64 = 1.0 / 3.0;
/// People of one campaign; the next one starts when this one has gone out.
pub(super) const PEOPLE: u32 = 2_000;

/// The world, its processes, and what was done to them.
pub(super) struct Stage {
    pub(super) profile: Profile,
    pub(super) cluster: Cluster,
    /// Tenants, each with its campaigns.
    pub(super) tenants: Vec<(World, Vec<CampaignId>)>,
    pub(super) fake: Option<FakeTwilio>,
    pub(super) crew: Vec<Member>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    crashed_at: Option<Instant>,
    /// When the last fault was over, by the database.
    pub(super) calm_since: String,
}

impl Stage {
    pub(super) async fn start(profile: Profile, seed: u64) -> Self {
        let cluster = Cluster::dedicated(true).await;
        let mut world = World {
            mac_key: MacKey::from_base64(&MAC_KEY.into()).unwrap(),
            ..World::on(cluster.db().await).await
        };
        world.scale_holds(SCALE).await;
        let (tenants, fake) = match profile.carrier {
            Carrier::Demo => (vec![world], None),
            Carrier::Twilio => {
                let it = TwilioWorld::seeded(world, seed).await;
                it.fake.set_weather(bad_weather());
                let another = it.another("second", "+12025550107").await;
                (vec![it.world, another], Some(it.fake))
            }
        };
        for world in &tenants {
            world.add_contacts(PEOPLE).await;
        }
        let crew = start_crew(&tenants[0].db, fake.as_ref());
        Self {
            profile,
            cluster,
            tenants: tenants.into_iter().map(|world| (world, vec![])).collect(),
            fake,
            crew,
            faults: BTreeMap::new(),
            crashed_at: None,
            calm_since: String::new(),
        }
    }

    /// Something goes out, somebody is hurt, until the time is over.
    pub(super) async fn play(&mut self, random: &mut StdRng) {
        let end_at = Instant::now() + self.profile.length;
        let mut crash_at = self.profile.crash_every.map(|every| Instant::now() + every);
        while Instant::now() < end_at || self.has_more_to_try(end_at).await {
            for (world, campaigns) in &mut self.tenants {
                keep_busy(world, campaigns).await;
            }
            assert_eq!(
                self.tenants[0].0.wake_lost().await,
                0,
                "a lane was forgotten"
            );
            let pause = random.random_range(self.profile.fault_every_ms.clone());
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.hurt_somebody(random).await;
            if let (Some(at), Some(every)) = (crash_at, self.profile.crash_every)
                && Instant::now() >= at
            {
                self.crash_server().await;
                crash_at = Some(Instant::now() + every);
            }
        }
        // Whoever stands still goes on; nobody is hurt any more.
        while let Some(at) = self.crew.iter().filter_map(Member::wakes_at).max() {
            tokio::time::sleep_until(at).await;
            self.wake_all(at);
        }
        if let Some(fake) = &self.fake {
            fake.set_weather(Weather::default());
        }
        self.calm_since = self.tenants[0].0.db.text("SELECT app_now()::text").await;
    }

    /// Whether no fault has left a call without an answer yet, or no crash has met a process that stood still: a few may all
    /// miss. After a while it is up to the judge to say so.
    async fn has_more_to_try(&self, end_at: Instant) -> bool {
        let all_met =
            self.profile.crash_every.is_none() || self.faults.contains_key(STOPPED_ACROSS);
        Instant::now() < end_at + MORE_MAX
            && (!all_met || self.tenants[0].0.number(SETTLED_BY_EVIDENCE).await == 0)
    }

    async fn hurt_somebody(&mut self, random: &mut StdRng) {
        self.wake_all(Instant::now());
        let at = random.random_range(0..self.crew.len());
        let length = self.draw_stop(random);
        let member = &mut self.crew[at];
        if !member.is_there().await {
            return;
        }
        let fault = if random.random_bool(0.5) {
            member.kill().await;
            "kill"
        } else {
            member.stop_for(length);
            "stop"
        };
        *self.faults.entry(fault).or_default() += 1;
    }

    /// How long a process stands still that is stopped now.
    fn draw_stop(&self, random: &mut StdRng) -> Duration {
        let has_lock = self
            .crashed_at
            .is_none_or(|at| at.elapsed() > LOCKS_BACK_AFTER);
        let is_long = random.random_bool(LONG_SHARE) && has_lock;
        let long = self.profile.long_stop_ms.as_ref().filter(|_| is_long);
        let range = long.unwrap_or(&self.profile.stop_ms).clone();
        Duration::from_millis(random.random_range(range))
    }

    async fn crash_server(&mut self) {
        *self.faults.entry("crash").or_default() += 1;
        // A program that finds no server does not start.
        for member in &mut self.crew {
            member.arrive().await;
        }
        // Whoever is stopped now comes back to another server, without its lock.
        let now = Instant::now();
        let wake = self.crew.iter().filter_map(Member::wakes_at);
        let stopped = wake.filter(|at| *at > now).count() as u64;
        if stopped > 0 {
            *self.faults.entry(STOPPED_ACROSS).or_default() += stopped;
        }
        self.cluster.crash().await;
        self.cluster.start().await;
        self.crashed_at = Some(Instant::now());
    }

    fn wake_all(&mut self, now: Instant) {
        for member in &mut self.crew {
            member.wake_if_due(now);
        }
    }
}

/// Chances per mille: of some hundred messages one meets each of these.
fn bad_weather() -> Weather {
    Weather {
        before_ms: (0, 20),
        after_ms: (0, 40),
        throttled: 10,
        lying: 10,
        failing: 5,
        reset: 10,
        cut: 5,
        stalled: 3,
        listing_lag_ms: 500,
        callbacks: CallbackWeather {
            delay_ms: (0, 300),
            lost: 100,
            copies: 2,
            undelivered: 50,
            ..CallbackWeather::default()
        },
        ..Weather::default()
    }
}

/// An address that is still free when the program is started again: its port is none of those that the system gives to
/// whoever connects meanwhile (on Linux from 32768 on).
fn address_for_many_starts() -> String {
    let mut ports = (16_384..32_768)
        .choose_multiple(&mut rand::rng(), 100)
        .into_iter();
    let listener = ports.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    listener.unwrap().local_addr().unwrap().to_string()
}

fn start_crew(db: &TestDb, fake: Option<&FakeTwilio>) -> Vec<Member> {
    // The API's address is the same after each start: callbacks go there.
    let address = address_for_many_starts();
    let fake_url = fake.map(FakeTwilio::url);
    let start = |args: &'static [&'static str]| {
        let (db, address, fake_url) = (db.share(), address.clone(), fake_url.clone());
        Member::start(move || {
            let mut command: Command = on(&db, args);
            command
                .env_remove("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY")
                .env("ENGAGENINJA_PUBLIC_URL", format!("http://{address}"));
            if let Some(url) = &fake_url {
                command.env("ENGAGENINJA_TWILIO_API_URL", url);
            }
            if args[0] == "serve" {
                command.env("ENGAGENINJA_LISTEN", &address);
            }
            command
        })
    };
    let mut crew: Vec<Member> = (0..WORKERS)
        .map(|_| start(&["worker", "--concurrency", "16"]))
        .collect();
    crew.extend((0..SCHEDULERS).map(|_| start(&["scheduler"])));
    crew.push(start(&["serve"]));
    crew
}

/// Something is always going out.
async fn keep_busy(world: &World, campaigns: &mut Vec<CampaignId>) {
    if let Some(last) = campaigns.last() {
        let counted = world.counted(*last).await;
        counted.assert_equal();
        let counts = counted.counts;
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
    // Other words each time, so that no campaign waits for its like; two tenants say the same to the same people.
    let body = format!("{} hello {{{{ first_name }}}}", campaigns.len());
    campaigns.push(world.campaign(&body).await);
}
