//! Whoever is killed, stopped or restarted, and however often: no message is lost and none goes out twice.
//!
//! Workers, schedulers and the API are processes of their own on a durable server, the holds are those of production twenty
//! times as fast, and the provider's ledger judges: the demo provider's, or that of a Twilio that lies, stalls and forgets.
//! The seed is printed; `make chaos` runs the same for as long as it is told. Each run needs the machine for itself, so that
//! `make test` has them one after another behind all other tests.

mod crew;
mod judge;
mod stage;

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use self::stage::Stage;

/// Who carries the messages out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// The simulated provider.
    Demo,
    /// The stand-in for Twilio in bad weather, with callbacks, and two tenants on one account.
    Twilio,
}

/// What happens to the processes, and to the server.
#[derive(Debug, Clone)]
struct Profile {
    carrier: Carrier,
    /// How long.
    length: Duration,
    /// Between two faults of processes.
    fault_every_ms: std::ops::Range<u64>,
    /// How long a stopped process stands still: longer than the hold before a verdict of "not sent", so that only the
    /// proof of its death may bring one.
    stop_ms: std::ops::Range<u64>,
    /// How long one stands still now and then, so that the server crashes meanwhile and frees its lock.
    long_stop_ms: Option<std::ops::Range<u64>>,
    /// Between two crashes of the server.
    crash_every: Option<Duration>,
}

const KILLS: Profile = Profile {
    carrier: Carrier::Demo,
    length: Duration::from_secs(20),
    fault_every_ms: 200..1_200,
    stop_ms: 50..9_000,
    long_stop_ms: None,
    crash_every: None,
};

const CRASHES: Profile = Profile {
    carrier: Carrier::Demo,
    length: Duration::from_secs(10),
    fault_every_ms: 300..1_500,
    // Across a restart the lock proves nothing, and the hold is what is left.
    stop_ms: 50..5_000,
    long_stop_ms: None,
    crash_every: Some(Duration::from_secs(4)),
};

/// Long enough for the short hold to be over, with the looks that follow it: were a lock that a crash has freed taken for the
/// proof of a death, messages would be sent again whose first call arrives when its process wakes.
///
/// And well below the long hold, which ends 31 seconds after a begin. Nothing else stands against such a call: a longer stop is
/// the one way to send twice that nobody can close (`docs/guarantees.md`). Before a socket that is a matter of microseconds; the
/// simulated provider gathers its calls for milliseconds, so that many a stop catches some.
const LONG_CRASHES: Profile = Profile {
    long_stop_ms: Some(13_000..20_000),
    ..CRASHES
};

const WEATHER: Profile = Profile {
    carrier: Carrier::Twilio,
    length: Duration::from_secs(20),
    crash_every: Some(Duration::from_secs(9)),
    ..CRASHES
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
async fn a_twilio_that_lies_stalls_and_forgets_changes_nothing_of_that() {
    chaos(WEATHER).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "as long as CHAOS_SECS says: make chaos"]
async fn the_same_for_long() {
    let length = Duration::from_secs(setting("CHAOS_SECS").unwrap_or(1_800));
    for (profile, share) in [(KILLS, 4), (LONG_CRASHES, 4), (WEATHER, 2)] {
        let length = length / share;
        chaos(Profile { length, ..profile }).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "settings of this test alone")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn chaos(profile: Profile) {
    let seed = setting("CHAOS_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed}, {profile:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::start(profile, seed).await;
    stage.play(&mut random).await;
    stage.judge(seed).await;
}
