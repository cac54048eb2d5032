//! Any order of what may happen to a message: the rows hold to the state machine, whatever comes first.
//!
//! `MODEL_CASES` says how many stories are told, 40 when absent.

use std::time::Duration;

use engageninja::delivery::outcomes::{Known, OWNER, record};
use engageninja::delivery::resolve::decide::{DecideError, decide_message};
use engageninja::domain::attempt::{AttemptState, CallOutcome, Verdict};
use engageninja::domain::channel::{Channel, Provider};
use engageninja::domain::counts::{CountDelta, CountWord};
use engageninja::domain::doubt::Decision;
use engageninja::domain::ids::{AttemptId, CampaignId, MessageId, MessageKey};
use engageninja::domain::message::Phase;
use engageninja::domain::status::Status;
use engageninja::store::campaign_counts::append_deltas;
use engageninja::store::cancellations::drop_waiting;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::settle::{Office, Owner};
use crate::harness::world::World;
use crate::quarantine::OTHER_TIMELINE;

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
    /// The process that called says what it saw of one of its attempts, the first or the newest, however late.
    Answer { said: Said, of_first: bool },
    /// The leader lets it out again.
    LetOut,
    /// Its campaign is paused, or goes on.
    Switch,
    /// Its campaign is cancelled.
    Cancel,
    /// A person decides over it, should it be parked.
    Decide(Decision),
    /// Another server answers, on which nobody may begin, or it is released.
    ChangeServer,
}

/// What a caller may have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Yes,
    Never,
    Later,
    NoByte,
    Nothing,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Begin),
        3 => Just(Event::Take),
        2 => Just(Event::Crash),
        4 => (20_u64..700).prop_map(|secs| Event::Look { secs }),
        6 => prop::sample::select(vec!["queued", "sent", "undelivered", "delivered"])
            .prop_map(|word| Event::Report { word }),
        3 => (
            prop::sample::select(vec![Said::Yes, Said::Never, Said::Later, Said::NoByte, Said::Nothing]),
            any::<bool>(),
        )
            .prop_map(|(said, of_first)| Event::Answer { said, of_first }),
        3 => Just(Event::LetOut),
        1 => Just(Event::Switch),
        1 => Just(Event::Cancel),
        1 => prop::sample::select(vec![Decision::ItWasSent, Decision::SendAgain, Decision::GiveUp])
            .prop_map(Event::Decide),
        1 => Just(Event::ChangeServer),
    ];
    prop::collection::vec(event, 1..18)
}

/// The server is the one that was left again, whoever has met the other meanwhile.
const RELEASED: &str = "DELETE FROM cell.database_timelines
        WHERE timeline <> '0000BEEF' AND EXISTS (SELECT FROM cell.database_timelines WHERE timeline = '0000BEEF');
    UPDATE cell.database_timelines SET timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

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

/// Stories of one world.
async fn tell_some(stories: usize, runner: &mut TestRunner) {
    let office = Office::with_messages(1).await;
    let begun = begin_stories(&office, stories).await;
    for (campaign, key) in begun.iter().copied() {
        let story = events().new_tree(runner).unwrap().current();
        tell(&office, campaign, key, &story).await;
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
    for (campaign, _) in begun {
        let counts = office.world.counts(campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        assert_eq!(counts.get(CountWord::Audience), 1);
    }
    office.resolver.end().await;
}

/// The message of each story, let out, with a campaign of its own: one that is cancelled has no other story to tell.
async fn begin_stories(office: &Office, stories: usize) -> Vec<(CampaignId, MessageKey)> {
    let world = &office.world;
    let mut campaigns = vec![office.campaign];
    for story in 1..stories {
        campaigns.push(world.campaign(&format!("Story {story}")).await);
    }
    let mut begun = Vec::with_capacity(stories);
    // The last one first: mostly all others are out by then.
    for campaign in campaigns.into_iter().rev() {
        let mut keys = world.list_released(campaign).await;
        if keys.is_empty() {
            keys = world.let_out(campaign, 1).await;
        }
        begun.push((campaign, keys[0]));
    }
    begun
}

async fn tell(office: &Office, campaign: CampaignId, key: MessageKey, story: &[Event]) {
    let world = &office.world;
    let mut owner = Some(Owner::start(world).await);
    let (mut is_paused, mut is_cancelled, mut is_released) = (false, false, true);
    let mut before = Snapshot::of(world, key).await;
    for (at, event) in story.iter().enumerate() {
        match event {
            Event::Begin => {
                let by = match owner.take() {
                    Some(alive) => alive,
                    None => Owner::start(world).await,
                };
                if is_released {
                    let judged = office.begin_as(&by, key).await;
                    assert!(
                        !is_paused || judged.verdict != Verdict::Begun,
                        "began while paused at {at} of {story:?}"
                    );
                    if judged.verdict == Verdict::Cancelled {
                        assert!(is_cancelled, "called off at {at} of {story:?}");
                        world.drop_all(campaign).await;
                    }
                } else {
                    let refused = office.ask_as(&by, key).await;
                    assert!(refused.is_err(), "began in quarantine at {at} of {story:?}");
                }
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
                if is_cancelled {
                    world.drop_all(campaign).await;
                }
            }
            Event::Report { word } => world.report_all(word).await,
            Event::Answer { said, of_first } => world.answer(key, *said, *of_first).await,
            Event::LetOut => world.let_out_again(key).await,
            Event::Switch if is_paused => {
                world.resume(campaign).await;
                is_paused = false;
            }
            Event::Switch => is_paused = world.pause(campaign).await.is_ok(),
            Event::Cancel if is_cancelled => {}
            Event::Cancel => {
                world.cancel(campaign).await.unwrap();
                (is_paused, is_cancelled) = (false, true);
            }
            Event::Decide(decision) => world.decide(key, *decision).await,
            Event::ChangeServer => {
                is_released = !is_released;
                let change = if is_released {
                    RELEASED
                } else {
                    OTHER_TIMELINE
                };
                world.db.execute(change).await;
            }
        }
        let now = Snapshot::of(world, key).await;
        now.assert_follows(&before, is_cancelled, &format!("{at} of {story:?}"));
        assert_live_calls(world, key, &now, story).await;
        before = now;
    }
    world.db.execute(RELEASED).await;
    if is_cancelled {
        world.drop_all(campaign).await;
        let end = Snapshot::of(world, key).await;
        end.assert_follows(&before, true, &format!("the end of {story:?}"));
        let waits = Phase::WAITING.contains(&end.phase);
        assert!(!waits, "{:?} for ever after {story:?}", end.phase);
    }
    if let Some(owner) = owner {
        owner.die().await;
    }
}

/// What the rows say of a message and its attempts.
#[derive(Debug)]
struct Snapshot {
    phase: Phase,
    status_rank: i64,
    drop_reason: Option<String>,
    /// The state of each attempt, the first one first.
    attempts: Vec<AttemptState>,
}

impl Snapshot {
    async fn of(world: &World, key: MessageKey) -> Self {
        let message = format!(
            "SELECT phase, status_rank::bigint, drop_reason FROM messages WHERE id = '{}'",
            key.id
        );
        let attempts = format!(
            "SELECT state FROM send_attempts WHERE message_id = '{}' ORDER BY attempt_no",
            key.id
        );
        let message = &world.rows(&message).await[0];
        let attempts = world.rows(&attempts).await;
        let state = |row: &PgRow| AttemptState::try_from(row.get::<i16, _>(0)).unwrap();
        Self {
            phase: Phase::try_from(message.get::<i16, _>(0)).unwrap(),
            status_rank: message.get(1),
            drop_reason: message.get(2),
            attempts: attempts.iter().map(state).collect(),
        }
    }

    fn live(&self) -> usize {
        let live =
            |state: &&AttemptState| matches!(state, AttemptState::Open | AttemptState::Doubt);
        self.attempts.iter().filter(live).count()
    }

    fn assert_follows(&self, before: &Self, is_cancelled: bool, place: &str) {
        let (from, to) = (before.phase, self.phase);
        if is_cancelled && to == Phase::Dropped && Phase::WAITING.contains(&from) {
            assert_eq!(self.drop_reason.as_deref(), Some("cancelled"), "{place}");
        } else {
            assert!(may_follow(from, to), "{from:?} to {to:?} at {place}");
        }
        assert!(
            !is_cancelled || self.attempts.len() == before.attempts.len(),
            "began after the cancellation at {place}"
        );
        assert!(
            self.status_rank >= before.status_rank,
            "a status was taken back at {place}"
        );
        for (from, to) in before.attempts.iter().zip(&self.attempts) {
            assert!(may_become(*from, *to), "{from:?} to {to:?} at {place}");
        }
        assert!(self.live() <= 1, "{:?} at {place}", self.attempts);
        assert_eq!(
            self.attempts.contains(&AttemptState::Accepted),
            self.phase == Phase::HandedOver,
            "{self:?} at {place}"
        );
        if matches!(self.phase, Phase::Sending | Phase::InDoubt) {
            assert_eq!(self.live(), 1, "{self:?} at {place}");
        }
    }
}

/// The arrows of a message's life that these events may take, unless what waits is called off.
fn may_follow(before: Phase, after: Phase) -> bool {
    use Phase::{Deferred, Dropped, HandedOver, InDoubt, Parked, Queued, Released, Sending};
    before == after
        || match before {
            Queued | Deferred => matches!(after, Released | HandedOver),
            Released => matches!(after, Sending | Queued | HandedOver),
            Sending => matches!(
                after,
                InDoubt | HandedOver | Queued | Deferred | Dropped | Parked
            ),
            InDoubt => matches!(after, HandedOver | Queued | Deferred | Dropped | Parked),
            Parked => matches!(after, HandedOver | Queued | Dropped),
            Dropped => after == HandedOver,
            HandedOver => false,
        }
}

/// The arrows of an attempt's life: what is over stays over, unless it turns out that the provider has it.
fn may_become(before: AttemptState, after: AttemptState) -> bool {
    use AttemptState::{Aborted, Accepted, Doubt, NotSent, Open, Parked, Refused};
    before == after
        || match before {
            Open => true,
            Doubt => after != Open,
            Refused | NotSent | Parked => after == Accepted,
            Accepted | Aborted => false,
        }
}

async fn assert_live_calls(world: &World, key: MessageKey, now: &Snapshot, story: &[Event]) {
    let calls = format!(
        "SELECT count(*) FROM live_calls WHERE message_id = '{}'",
        key.id
    );
    assert_eq!(
        world.number(&calls).await,
        now.live() as i64,
        "live calls after {story:?}"
    );
}

impl World {
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

    /// The caller of an attempt says what it saw of it: nothing but what can be true.
    async fn answer(&self, key: MessageKey, said: Said, of_first: bool) {
        let attempt = format!(
            "SELECT a.attempt_no, a.account_ref,
                    (SELECT min(d.provider_message_id) FROM demo_ledger d WHERE d.attempt_id = a.id), a.id
             FROM send_attempts a WHERE a.message_id = '{}' ORDER BY a.attempt_no {} LIMIT 1",
            key.id,
            if of_first { "" } else { "DESC" },
        );
        let rows = self.rows(&attempt).await;
        let Some(attempt) = rows.first() else { return };
        let taken: Option<String> = attempt.get(2);
        let outcome = match (said, taken) {
            (Said::Yes, Some(provider_message_id)) => CallOutcome::Taken {
                provider_message_id,
                status: Status::parse(Channel::Sms, "queued").unwrap(),
            },
            (Said::Never, None) => CallOutcome::Refused {
                code: "21211".into(),
            },
            (Said::Later, None) => CallOutcome::Later {
                code: "20429".into(),
                asked: None,
                after: Duration::from_secs(5),
            },
            (Said::NoByte, None) => CallOutcome::Aborted {
                reason: "no connection".into(),
            },
            (Said::Nothing, _) => CallOutcome::Doubt {
                reason: "no answer".into(),
            },
            _ => return,
        };
        let known = Known {
            key,
            attempt_no: attempt.get(0),
            attempt_id: Some(AttemptId(attempt.get(3))),
            channel: Channel::Sms,
            provider: Provider::Demo,
            account_ref: attempt.get(1),
            outcome,
            resolved_by: OWNER,
        };
        let mut tx = self.db.db().system().begin().await.unwrap();
        record(&mut tx, &[known]).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// As the job of a cancellation does, and the one that looked at a message of it: what waits is dropped.
    async fn drop_all(&self, campaign: CampaignId) {
        let (tenant_id, from) = (self.tenant_id, MessageId(Uuid::nil()));
        let mut tx = self.db.db().batch().begin().await.unwrap();
        let dropped = drop_waiting(&mut tx, tenant_id, campaign, from, 10).await;
        let mut delta = CountDelta::default();
        for part in dropped.unwrap() {
            let from = CountWord::of(part.from, None);
            delta.shift(from, CountWord::DroppedCancelled, part.messages);
        }
        append_deltas(tx.conn(), &[(tenant_id, campaign, delta)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// As the leader does, whatever time it is.
    async fn let_out_again(&self, key: MessageKey) {
        let waits = format!("WHERE id = '{}' AND phase IN (-1, 0)", key.id);
        let sql = format!(
            "BEGIN;
             INSERT INTO cell.campaign_deltas (tenant_id, campaign_id, counts)
             SELECT tenant_id, campaign_id,
                    jsonb_build_object(CASE phase WHEN 0 THEN 'queued' ELSE 'deferred' END, -1, 'released', 1)
             FROM cell.messages {waits};
             UPDATE cell.messages SET phase = 1 {waits};
             COMMIT"
        );
        self.db.execute(&sql).await;
    }

    /// A person decides; that it is not parked, or past its time, is an answer too.
    async fn decide(&self, key: MessageKey, decision: Decision) {
        let mut tx = self.db.db().cell(self.tenant_id).begin().await.unwrap();
        match decide_message(&mut tx, self.tenant_id, key.id, decision).await {
            Ok(()) => tx.commit().await.unwrap(),
            Err(DecideError::Store(error)) => panic!("{error}"),
            Err(_) => {}
        }
    }
}
