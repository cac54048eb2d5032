//! Any order of what may happen to a message: the rows hold to the state machine, whatever comes first.
//!
//! `MODEL_CASES` says how many stories are told, 40 when absent.

use std::time::Duration;

use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::MessageKey;
use engageninja::domain::message::Phase;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::settle::{Office, Owner};
use crate::harness::world::World;

/// One thing that may happen.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A process that lives begins it.
    Begin,
    /// The provider takes the newest attempt; its answer is lost.
    Take,
    /// The process is killed.
    Crash,
    /// Time passes, and somebody looks.
    Look { secs: u64 },
    /// The provider reports everything it took.
    Report { word: &'static str },
    /// The leader lets it out again.
    LetOut,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Begin),
        3 => Just(Event::Take),
        2 => Just(Event::Crash),
        4 => (20_u64..700).prop_map(|secs| Event::Look { secs }),
        2 => prop::sample::select(vec!["queued", "sent", "undelivered", "delivered"])
            .prop_map(|word| Event::Report { word }),
        2 => Just(Event::LetOut),
    ];
    prop::collection::vec(event, 1..14)
}

/// Stories of one world: what the leader lets out while nobody sends.
const STORIES_MAX: usize = 40;

#[expect(clippy::disallowed_methods, reason = "settings of this test alone")]
fn cases() -> usize {
    let asked = std::env::var("MODEL_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(40)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_story_of_a_message_keeps_to_the_states() {
    let cases = cases();
    let seed: u64 = rand::random();
    eprintln!("seed {seed}, {cases} stories");
    let mut runner = TestRunner::new(Config {
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    });
    let mut untold = cases;
    while untold > 0 {
        let stories = untold.min(STORIES_MAX);
        tell_some(stories, &mut runner).await;
        untold -= stories;
    }
}

/// Stories of one world, each of a message of its own.
async fn tell_some(stories: usize, runner: &mut TestRunner) {
    let office = Office::with_messages(stories as u32).await;
    for key in office.released.clone() {
        let story = events().new_tree(runner).unwrap().current();
        tell(&office, key, &story).await;
    }
    assert_eq!(
        office
            .world
            .number(
                "SELECT count(*) FROM schema_faults() WHERE fault NOT LIKE 'fewer than 8 weeks%'"
            )
            .await,
        0
    );
    let counts = office.world.counts(office.campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(counts.get(CountWord::Audience), stories as i64);
    office.resolver.end().await;
}

async fn tell(office: &Office, key: MessageKey, story: &[Event]) {
    let world = &office.world;
    let mut owner = Some(Owner::start(world).await);
    let mut phase = world.phase(key).await;
    for (at, event) in story.iter().enumerate() {
        match event {
            Event::Begin => {
                let by = match owner.take() {
                    Some(alive) => alive,
                    None => Owner::start(world).await,
                };
                office.begin_as(&by, key).await;
                owner = Some(by);
            }
            Event::Take => world.take_newest(key).await,
            Event::Crash => {
                if let Some(owner) = owner.take() {
                    owner.die().await;
                }
            }
            Event::Look { secs } => {
                world.db.advance(Duration::from_secs(*secs)).await;
                office.resolver.look().await;
            }
            Event::Report { word } => world.report_all(word).await,
            Event::LetOut => {
                let sql = format!(
                    "UPDATE cell.messages SET phase = 1 WHERE id = '{}' AND phase = 0",
                    key.id
                );
                let delta = format!(
                    "INSERT INTO cell.campaign_deltas (tenant_id, campaign_id, counts)
                     SELECT tenant_id, campaign_id, '{{\"queued\": -1, \"released\": 1}}' FROM cell.messages
                     WHERE id = '{}' AND phase = 0",
                    key.id
                );
                world
                    .db
                    .execute(&format!("BEGIN; {delta}; {sql}; COMMIT"))
                    .await;
            }
        }
        let now = world.phase(key).await;
        assert!(
            may_follow(phase, now),
            "{phase:?} to {now:?} at {at} of {story:?}"
        );
        phase = now;
        assert_states(world, key, phase, story).await;
    }
    if let Some(owner) = owner {
        owner.die().await;
    }
}

/// The arrows of a message's life that these events may take.
fn may_follow(before: Phase, after: Phase) -> bool {
    use Phase::{HandedOver, Parked, Queued, Released, Sending};
    before == after
        || match before {
            Queued => matches!(after, Released | HandedOver),
            Released => matches!(after, Sending | HandedOver),
            Sending => matches!(after, HandedOver | Queued | Parked),
            Parked => after == HandedOver,
            _ => false,
        }
}

async fn assert_states(world: &World, key: MessageKey, phase: Phase, story: &[Event]) {
    let count = |states: &str| {
        let sql = format!(
            "SELECT count(*) FROM send_attempts WHERE message_id = '{}' AND state IN ({states})",
            key.id
        );
        async move { world.number(&sql).await }
    };
    let live = count("0, 2").await;
    assert!(live <= 1, "{live} live attempts after {story:?}");
    let calls = format!(
        "SELECT count(*) FROM live_calls WHERE message_id = '{}'",
        key.id
    );
    assert_eq!(
        world.number(&calls).await,
        live,
        "live calls after {story:?}"
    );
    let accepted = count("1").await;
    assert_eq!(
        accepted > 0,
        phase == Phase::HandedOver,
        "{phase:?} after {story:?}"
    );
    if phase == Phase::Sending {
        assert_eq!(live, 1, "{story:?}");
    }
}

impl World {
    async fn phase(&self, key: MessageKey) -> Phase {
        let sql = format!("SELECT phase::bigint FROM messages WHERE id = '{}'", key.id);
        Phase::try_from(self.number(&sql).await as i16).unwrap()
    }

    /// As [`World::take`], of the newest attempt, once, while it is live.
    async fn take_newest(&self, key: MessageKey) {
        let newest = format!(
            "SELECT COALESCE(max(a.attempt_no), 0)::bigint FROM send_attempts a WHERE a.message_id = '{}' AND a.state IN (0, 2)
             AND NOT EXISTS (SELECT FROM demo_ledger d WHERE d.attempt_id = a.id)",
            key.id
        );
        let attempt_no = self.number(&newest).await;
        if attempt_no > 0 {
            self.take(key, attempt_no as i16).await;
        }
    }
}
