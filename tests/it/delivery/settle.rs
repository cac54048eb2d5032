//! Attempts and slots whose owner is gone.

use std::time::{Duration, Instant};

use engageninja::delivery::inbox::{Named, StatusReport, merge};
use engageninja::domain::channel::Channel;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{AttemptId, CampaignId, Incarnation, MessageId, MessageKey};
use engageninja::domain::status::Status;
use engageninja::store::StoreResult;
use engageninja::store::attempts::{self, Judged};
use engageninja::store::demo_ledger::{NewEntry, insert_entries};
use metrics_exporter_prometheus::PrometheusBuilder;
use sqlx::{Connection, Executor, PgConnection, Row};
use uuid::Uuid;

use crate::harness::doubts::{Resolver, process};
use crate::harness::eventually;
use crate::harness::killable::Killable;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

/// A world whose messages are let out, and somebody to look at what becomes of them.
pub struct Office {
    pub world: World,
    pub campaign: CampaignId,
    pub released: Vec<MessageKey>,
    pub resolver: Resolver,
    /// When time began to be moved.
    started: Instant,
}

impl Office {
    pub async fn with_messages(count: u32) -> Self {
        Self::on(World::start().await, count).await
    }

    /// In a world of the caller's.
    pub async fn on(world: World, count: u32) -> Self {
        world.add_contacts(count).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let released = world.let_out(campaign, count as usize).await;
        let resolver = world.resolver().await;
        Self {
            world,
            campaign,
            released,
            resolver,
            started: Instant::now(),
        }
    }

    /// Moves time on to `after` the begin, and looks.
    pub async fn look_at(&self, secs: u64) {
        // A busy machine moves it too.
        let now = self.world.db.clock().offset().to_std().unwrap() + self.started.elapsed();
        let wanted = Duration::from_secs(secs);
        self.world.db.advance(wanted.saturating_sub(now)).await;
        self.resolver.look().await;
    }

    pub async fn count(&self, word: CountWord) -> i64 {
        let counts = self.world.counts(self.campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        counts.get(word)
    }

    /// Begins one message as another process, which has its lock on `session`.
    pub async fn begin_as(&self, owner: &Owner, key: MessageKey) -> Judged {
        self.ask_as(owner, key).await.unwrap()
    }

    /// The same, should the server not let anybody begin.
    pub async fn ask_as(&self, owner: &Owner, key: MessageKey) -> StoreResult<Judged> {
        let pool = self.world.db.db().batch_pool();
        let (keys, tokens) = ([key], [AttemptId(Uuid::new_v4())]);
        let holds = &self.world.holds;
        let judged = attempts::begin_attempts(&pool, owner.incarnation, &keys, &tokens, holds);
        Ok(judged.await?[0])
    }
}

/// Another process, as the database sees it: an incarnation, and a session that holds its lock.
pub struct Owner {
    incarnation: Incarnation,
    session: PgConnection,
}

impl Owner {
    pub async fn start(world: &World) -> Self {
        let mut session = world.session().await;
        let incarnation =
            engageninja::store::incarnations::open_incarnation(&mut session, &process(2)).await;
        Self {
            incarnation: incarnation.unwrap(),
            session,
        }
    }

    pub async fn die(self) {
        self.session.close().await.unwrap();
    }

    /// Waits until the server has ended its session, which it does not hear of before it says something.
    pub async fn is_cut_off(&mut self) {
        self.session
            .execute("SELECT pg_sleep(60)")
            .await
            .unwrap_err();
    }
}

impl World {
    /// What the provider would have written down, had the call of this attempt got through.
    pub async fn take(&self, key: MessageKey, attempt_no: i16) {
        let attempt_id = self
            .db
            .text(&format!(
                "SELECT id::text FROM send_attempts WHERE message_id = '{}' AND attempt_no = {attempt_no}",
                key.id
            ))
            .await;
        let attempt_id = AttemptId(attempt_id.parse().unwrap());
        let entry = NewEntry {
            key,
            attempt_id,
            provider_message_id: format!("DM{}", attempt_id.0.simple()),
            next: None,
        };
        insert_entries(&self.db.db().batch_pool(), &[entry])
            .await
            .unwrap();
    }

    /// The provider says `word` of everything that it took.
    pub async fn report_all(&self, word: &str) {
        let rows = self
            .rows("SELECT message_id, attempt_id, provider_message_id FROM demo_ledger")
            .await;
        let reports: Vec<StatusReport> = rows
            .iter()
            .map(|row| StatusReport {
                key: MessageKey {
                    tenant_id: self.tenant_id,
                    id: MessageId(row.get(0)),
                },
                attempt: Some(Named {
                    attempt_id: AttemptId(row.get(1)),
                    provider_message_id: row.get(2),
                }),
                status: Status::parse(Channel::Sms, word).unwrap(),
                error_code: None,
            })
            .collect();
        let mut tx = self.db.db().system().begin().await.unwrap();
        merge(&mut tx, &reports).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_happened_is_found_at_the_first_look_and_not_repeated() {
    let office = Office::with_messages(5).await;
    office.world.begin(&office.released).await;
    office.world.take(office.released[0], 1).await;

    office.look_at(24).await;
    assert_eq!(office.count(CountWord::Sending).await, 5);
    office.look_at(26).await;

    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    assert_eq!(office.count(CountWord::Sending).await, 4);
    let found = "SELECT count(*) FROM send_attempts a JOIN message_provider_mappings p USING (tenant_id, message_id, attempt_no)
        WHERE a.state = 1 AND a.resolved_by = 'look_up' AND a.provider_message_id = p.provider_message_id";
    assert_eq!(office.world.number(found).await, 1);
    assert_eq!(
        office.world.number("SELECT count(*) FROM live_calls").await,
        4
    );
    office.resolver.end().await;
}

#[tokio::test]
async fn a_call_that_never_happened_is_sent_again_after_the_hold_and_not_before() {
    let office = Office::with_messages(3).await;
    office.world.begin(&office.released).await;

    for secs in [26, 52, 139] {
        office.look_at(secs).await;
        assert_eq!(office.count(CountWord::Sending).await, 3, "after {secs} s");
    }
    office.look_at(145).await;
    assert_eq!(office.count(CountWord::Queued).await, 3);
    let not_sent = "SELECT count(*) FROM send_attempts WHERE state = 5 AND next_look_at IS NULL AND resolved_by = 'look_up'";
    assert_eq!(office.world.number(not_sent).await, 3);

    let worker = office.world.worker().await;
    eventually("they go out", || async {
        office.world.through(office.campaign).await == 3
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(office.world.doubled().await, 0);
    office.resolver.end().await;
}

#[tokio::test]
async fn nothing_is_judged_while_its_owner_holds_its_lock() {
    let office = Office::with_messages(1).await;
    let owner = Owner::start(&office.world).await;
    office.begin_as(&owner, office.released[0]).await;

    for secs in [26, 60, 150, 400, 900] {
        office.look_at(secs).await;
        assert_eq!(office.count(CountWord::Sending).await, 1, "after {secs} s");
    }
    // Killed: what was seen before proves nothing, so it takes two more looks.
    owner.die().await;
    office.look_at(970).await;
    assert_eq!(office.count(CountWord::Sending).await, 1);
    office.look_at(1035).await;
    assert_eq!(office.count(CountWord::Queued).await, 1);
    office.resolver.end().await;
}

#[tokio::test]
async fn a_stopped_owner_ends_at_a_person_and_its_late_answer_still_counts() {
    let office = Office::with_messages(1).await;
    let owner = Owner::start(&office.world).await;
    let key = office.released[0];
    office.begin_as(&owner, key).await;

    office.look_at(1_799).await;
    assert_eq!(office.count(CountWord::Sending).await, 1);
    office.look_at(1_900).await;
    assert_eq!(office.count(CountWord::Parked).await, 1);
    let explained =
        "SELECT count(*) FROM send_attempts WHERE state = 6 AND resolved_by = 'deadline'
        AND error_code LIKE '%stopped%' AND next_look_at IS NULL AND look_ups > 0";
    assert_eq!(office.world.number(explained).await, 1);
    assert_eq!(
        office.world.number("SELECT count(*) FROM live_calls").await,
        0
    );

    // It wakes up in the middle of its call: the provider reports.
    office.world.take(key, 1).await;
    office.world.report_all("delivered").await;
    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    assert_eq!(office.count(CountWord::Delivered).await, 1);
    owner.die().await;
    office.resolver.end().await;
}

/// One that the database refuses, and then one that somebody holds: the others of the round are judged.
#[tokio::test]
async fn a_look_that_cannot_be_written_down_keeps_no_other_back() {
    let office = Office::with_messages(3).await;
    let world = &office.world;
    world.begin(&office.released).await;
    world.refuse_outcomes_of(&office.released[..1]).await;
    let mut holder = world.hold(office.released[1].id).await;

    for secs in [26, 90, 150] {
        office.look_at(secs).await;
    }
    assert_eq!(office.count(CountWord::Queued).await, 1);
    assert_eq!(office.count(CountWord::Sending).await, 2);

    holder.execute("ROLLBACK").await.unwrap();
    let mend = "DROP TRIGGER refuse ON cell.send_attempts";
    world.db.execute(mend).await;
    for secs in [180, 260] {
        office.look_at(secs).await;
    }
    assert_eq!(office.count(CountWord::Queued).await, 3);
    office.resolver.end().await;
}

#[tokio::test]
async fn tenants_say_what_follows_a_verdict() {
    let office = Office::with_messages(2).await;
    office
        .world
        .db
        .execute("UPDATE cell.tenants SET on_not_sent = 'park', on_unresolved = 'resend'")
        .await;
    let owner = Owner::start(&office.world).await;
    office.world.begin(&office.released[..1]).await;
    office.begin_as(&owner, office.released[1]).await;

    for secs in [26, 60, 150, 1_900] {
        office.look_at(secs).await;
    }
    assert_eq!(office.count(CountWord::Parked).await, 1);
    assert_eq!(office.count(CountWord::Queued).await, 1);
    let states = "SELECT sum(state)::bigint FROM send_attempts WHERE state IN (5, 6)";
    assert_eq!(office.world.number(states).await, 11);
    owner.die().await;
    office.resolver.end().await;
}

/// The answer of an attempt that was judged not sent, after the message went out again: what no rule can rule out is seen. On one
/// thread, whose metrics are this test's own.
#[tokio::test]
async fn a_message_that_went_out_twice_is_noticed_and_stays_handed_over() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let office = Office::with_messages(1).await;
    let key = office.released[0];
    office.world.begin(&[key]).await;
    for secs in [26, 90, 150] {
        office.look_at(secs).await;
    }
    assert_eq!(office.count(CountWord::Queued).await, 1);
    let released = office.world.let_out(office.campaign, 1).await;
    office.world.begin(&released).await;
    office.world.take(key, 2).await;
    office.look_at(200).await;
    assert_eq!(office.count(CountWord::HandedOver).await, 1);

    office.world.take(key, 1).await;
    office.world.report_all("sent").await;

    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    let accepted = "SELECT count(*) FROM send_attempts WHERE state = 1";
    assert_eq!(office.world.number(accepted).await, 2);
    let mapped = "SELECT count(*) FROM message_provider_mappings";
    assert_eq!(office.world.number(mapped).await, 2);
    let shown = recorder.handle().render();
    assert!(
        shown.contains("engageninja_duplicate_detected_total 1"),
        "{shown}"
    );
    office.resolver.end().await;
}

#[tokio::test]
async fn a_report_settles_an_attempt_whose_answer_was_lost() {
    let office = Office::with_messages(1).await;
    office.world.begin(&office.released).await;
    office.world.take(office.released[0], 1).await;

    office.world.report_all("sent").await;

    assert_eq!(office.count(CountWord::HandedOver).await, 1);
    let told = "SELECT count(*) FROM send_attempts WHERE state = 1 AND resolved_by = 'callback'";
    assert_eq!(office.world.number(told).await, 1);
    assert_eq!(
        office.world.number("SELECT count(*) FROM live_calls").await,
        0
    );
    office.resolver.end().await;
}

#[tokio::test]
async fn the_slots_of_a_dead_worker_go_back_after_their_hold() {
    let world = World::start().await;
    world.add_contacts(30).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let dead = Killable::start(&world, world.without_sends()).await;
    eventually("messages are let out", || async {
        world.list_released(campaign).await.len() == 30
    })
    .await;
    dead.kill();
    // Its jobs went with it.
    world
        .db
        .execute("DELETE FROM cell.jobs WHERE queue = 'send'")
        .await;

    let worker = world.worker().await;
    eventually("another leads", || async {
        world.number("SELECT epoch FROM release_shards").await == 2
    })
    .await;
    assert_eq!(world.list_released(campaign).await.len(), 30);

    world.db.advance(world.holds.slot + SECOND).await;
    eventually("all go out", || async {
        world.through(campaign).await == 30
    })
    .await;
    worker.drain(DRAIN).await;

    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
}

/// Between permission and call a process may be stopped for as long as anybody likes.
#[tokio::test]
async fn a_permission_that_grew_old_is_given_back_unused() {
    let mut world = World::start().await;
    world.holds.begin_to_call = Duration::ZERO;
    world.add_contacts(3).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let worker = world.slow_worker().await;
    eventually("permissions are given back", || async {
        world
            .number("SELECT count(*) FROM send_attempts WHERE state = 4")
            .await
            >= 3
    })
    .await;
    worker.drain(DRAIN).await;

    assert_eq!(world.number("SELECT count(*) FROM demo_ledger").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(world.through(campaign).await, 0);
}
