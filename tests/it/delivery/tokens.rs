//! A server that has forgotten an attempt gives its number to the next one, which may be another process's: what became of the
//! one closes the other in no case.

use std::time::Duration;

use engageninja::delivery::outcomes::{Known, OWNER, record};
use engageninja::dev::fake_twilio::{Act, Reply, Weather};
use engageninja::domain::attempt::CallOutcome;
use engageninja::domain::channel::{Channel, Provider};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{AttemptId, CampaignId, MessageKey};
use engageninja::domain::status::Status;
use engageninja::jobs::worker::Worker;
use sqlx::Row;

use super::settle::{Office, Owner};
use crate::harness::eventually;
use crate::harness::twilio::{TwilioWorld, silent};
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);

impl TwilioWorld {
    /// A worker whose one call is under way, and will be refused for its credentials.
    pub async fn call_that_is_refused_after(&self, ms: u64) -> (Worker, CampaignId) {
        self.fake.set_weather(Weather {
            before_ms: (ms, ms),
            ..silent()
        });
        self.fake.script([Act::untaken(Reply::Error {
            status: 401,
            code: 20003,
        })]);
        self.world.add_contacts(1).await;
        let worker = self.world.worker().await;
        let campaign = self.world.campaign("Hello").await;
        eventually("it is called", || async {
            self.fake.ledger().requested().len() == 1
        })
        .await;
        (worker, campaign)
    }
}

impl World {
    /// As if this server had forgotten the one attempt that is open, and another process had begun the message on it.
    async fn begin_anew(&self) {
        let anew = "UPDATE cell.send_attempts SET id = gen_random_uuid() WHERE state = 0";
        self.db.execute(anew).await;
    }

    /// The token of a message's one attempt.
    async fn token_of(&self, key: MessageKey) -> AttemptId {
        let sql = format!(
            "SELECT id FROM send_attempts WHERE message_id = '{}'",
            key.id
        );
        AttemptId(self.rows(&sql).await[0].get(0))
    }

    /// Somebody says what came of a message's first attempt. Says how many attempts that closed.
    async fn record_first(
        &self,
        key: MessageKey,
        attempt_id: Option<AttemptId>,
        outcome: &CallOutcome,
    ) -> usize {
        let known = Known {
            key,
            attempt_no: 1,
            attempt_id,
            channel: Channel::Sms,
            provider: Provider::Demo,
            account_ref: "demo".into(),
            outcome: outcome.clone(),
            resolved_by: OWNER,
        };
        let mut tx = self.db.db().system().begin().await.unwrap();
        let closed = record(&mut tx, &[known]).await.unwrap();
        tx.commit().await.unwrap();
        closed.len()
    }
}

/// What may become of a call. The last one leaves the attempt live.
fn outcomes() -> [CallOutcome; 4] {
    let status = Status::parse(Channel::Sms, "queued").unwrap();
    [
        CallOutcome::Taken {
            provider_message_id: "DM1".into(),
            status,
        },
        CallOutcome::Aborted {
            reason: "no connection".into(),
        },
        CallOutcome::Refused {
            code: "21211".into(),
        },
        CallOutcome::Doubt {
            reason: "no answer".into(),
        },
    ]
}

#[tokio::test]
async fn an_outcome_closes_the_attempt_with_its_token_and_none_with_its_number_alone() {
    let outcomes = outcomes();
    let office = Office::with_messages(outcomes.len() as u32).await;
    let world = &office.world;
    let owner = Owner::start(world).await;
    for (key, outcome) in office.released.iter().copied().zip(outcomes) {
        office.begin_as(&owner, key).await;
        let forgotten = world.token_of(key).await;
        world.begin_anew().await;
        let live = world.token_of(key).await;

        let closed = world.record_first(key, Some(forgotten), &outcome).await;

        assert_eq!(closed, 0, "{outcome:?}");
        assert_eq!(office.count(CountWord::Sending).await, 1, "{outcome:?}");
        let open = "SELECT count(*) FROM send_attempts WHERE state = 0 AND resolved_by IS NULL";
        assert_eq!(world.number(open).await, 1, "{outcome:?}");
        let calls = "SELECT count(*) FROM live_calls";
        assert_eq!(world.number(calls).await, 1, "{outcome:?}");

        let closed = world.record_first(key, Some(live), &outcome).await;
        assert_eq!(closed, 1, "{outcome:?}");
        assert_eq!(office.count(CountWord::Sending).await, 0, "{outcome:?}");
    }
    owner.die().await;
    office.resolver.end().await;
}

/// Whoever stood still and says at last that it does not know has called by then: an empty look before that is no proof.
#[tokio::test]
async fn a_doubt_that_its_owner_tells_late_begins_the_proof_anew() {
    let office = Office::with_messages(1).await;
    let world = &office.world;
    let (key, owner) = (office.released[0], Owner::start(world).await);
    office.begin_as(&owner, key).await;
    owner.die().await;
    office.look_at(26).await;
    let empty = "SELECT count(*) FROM send_attempts WHERE first_empty_look_at IS NOT NULL";
    assert_eq!(world.number(empty).await, 1);

    let [.., doubt] = outcomes();
    let token = world.token_of(key).await;
    assert_eq!(world.record_first(key, Some(token), &doubt).await, 1);
    assert_eq!(world.number(empty).await, 0);
    office.resolver.end().await;
}

/// A list of the provider's shows no tokens.
#[tokio::test]
async fn an_outcome_of_which_nobody_knows_the_token_closes_the_attempt_with_its_number() {
    let office = Office::with_messages(1).await;
    let owner = Owner::start(&office.world).await;
    let key = office.released[0];
    office.begin_as(&owner, key).await;

    let [taken, ..] = outcomes();
    assert_eq!(office.world.record_first(key, None, &taken).await, 1);

    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    owner.die().await;
    office.resolver.end().await;
}

/// The answer comes after the server has forgotten the call: that it was refused says nothing of the call that is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_to_a_forgotten_call_leaves_the_attempt_of_another_process_open() {
    let it = TwilioWorld::start().await;
    let (worker, campaign) = it.call_that_is_refused_after(3_000).await;
    it.world.begin_anew().await;

    let jobs = "SELECT count(*) FROM jobs WHERE queue = 'send'";
    eventually("its job is completed", || async {
        it.world.number(jobs).await == 0
    })
    .await;
    worker.drain(DRAIN).await;

    let open = "SELECT count(*) FROM send_attempts WHERE attempt_no = 1 AND state = 0";
    assert_eq!(it.world.number(open).await, 1);
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Sending), 1, "{counts:?}");
    assert_eq!(it.world.number("SELECT count(*) FROM halts").await, 0);
    assert_eq!(it.fake.ledger().requested().len(), 1);
}
