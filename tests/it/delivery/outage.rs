//! PostgreSQL goes away in the middle of a campaign and comes back: workers wait and go on.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use engageninja::delivery::incarnation::Myself;
use engageninja::domain::counts::CountWord;
use engageninja::jobs::worker::{Worker, WorkerOptions};
use engageninja::store::StoreError;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::db::Cluster;
use crate::harness::doubts::process;
use crate::harness::silence::Way;
use crate::harness::twilio::TwilioWorld;
use crate::harness::world::World;
use crate::harness::{TempDir, eventually, within};

const CONTACTS: i64 = 1_500;

/// How the server goes away.
#[derive(Debug, Clone, Copy)]
enum End {
    InOrder,
    Crash,
}

/// Takes the server away until a request has been told so, brings it back, and says when that was.
async fn outage(world: &World, cluster: &mut Cluster, end: End) -> DateTime<Utc> {
    match end {
        End::InOrder => cluster.stop().await,
        End::Crash => cluster.crash().await,
    }
    let refused = within(30, "a request is refused", world.db.db().system().begin()).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    cluster.start().await;
    world.db.clock().now()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_wait_for_postgresql_and_nothing_is_lost_or_sent_twice() {
    let mut cluster = Cluster::dedicated(true).await;
    let world = World::on(cluster.db().await).await;
    world.add_contacts(CONTACTS as u32).await;
    let worker = world.slow_worker().await;
    let _scheduler = world.scheduler();
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let mut back_at = DateTime::UNIX_EPOCH;
    for (round, end) in [End::InOrder, End::Crash].into_iter().enumerate() {
        let enough = 300 * (round as i64 + 1);
        eventually("messages go out", || async {
            world.through(campaign).await >= enough
        })
        .await;
        back_at = outage(&world, &mut cluster, end).await;
        let counts = world.counts(campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        assert!(counts.get(CountWord::Queued) > 0, "{end:?} came too late");
    }
    let under_way = format!(
        "SELECT (SELECT count(*) FROM messages WHERE phase IN (-1, 0, 1))
              + (SELECT count(*) FROM send_attempts WHERE state IN (0, 2) AND started_at >= '{}')",
        back_at.to_rfc3339()
    );
    eventually("the rest goes out", || async {
        world.number(&under_way).await == 0
    })
    .await;
    // What was open when the server went has no owner who knows.
    world.settle().await;
    within(60, "the campaign completes", world.completed(campaign)).await;
    worker.drain(Duration::from_secs(5)).await;

    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(world.through(campaign).await, CONTACTS);
    assert_eq!(world.doubled().await, 0);
    let unsent = "SELECT count(*) FROM messages m WHERE m.phase = 4 AND NOT EXISTS (
        SELECT FROM demo_ledger d WHERE d.tenant_id = m.tenant_id AND d.message_id = m.id)";
    assert_eq!(world.number(unsent).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    assert_eq!(
        world
            .number("SELECT count(*) FROM jobs WHERE queue = 'send'")
            .await,
        0
    );
    assert_eq!(world.number("SELECT count(*) FROM dead_jobs").await, 0);
}

/// Begins whose commits wait for a standby.
const BEGINS: &str =
    "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%begin_attempts%'";
/// Finishes whose commits do, and that heard of an account: nobody else writes of its refusals.
const FINISHES: &str = "FROM pg_stat_activity a WHERE a.wait_event = 'SyncRep' AND EXISTS (
    SELECT FROM pg_locks l
    WHERE l.pid = a.pid AND l.relation = 'account_refusals'::regclass AND l.mode = 'RowExclusiveLock')";

impl World {
    /// Lets each commit wait for a standby that is not there, and stand when the wait is cut off; none waits without a name.
    async fn wait_for_standby(&self, name: &str) {
        let mut session = self.session().await;
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
        session.execute(AssertSqlSafe(set)).await.unwrap();
        session.execute("SELECT pg_reload_conf()").await.unwrap();
        if name.is_empty() {
            return;
        }
        // The server's processes hear of it one after another.
        let probing = tokio::spawn(async move {
            let probe = "SELECT pg_logical_emit_message(true, 'probe', '')";
            while session.execute(probe).await.is_ok() {}
        });
        eventually("commits wait", || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%probe%'";
            self.number(waiting).await > 0
        })
        .await;
        probing.abort();
    }

    /// A worker whose begin has committed and got no answer yet, which comes with the standby; `meanwhile` is done before.
    async fn worker_before_its_answer(&self, meanwhile: &str) -> Worker {
        let mut session = self.session().await;
        let mut rows = session.begin().await.unwrap();
        rows.execute("SELECT FROM messages FOR UPDATE")
            .await
            .unwrap();
        let worker = self.slow_worker().await;
        eventually("its begin waits for a row", || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND wait_event = 'transactionid' AND query LIKE '%begin_attempts%'";
            self.number(waiting).await > 0
        })
        .await;
        self.db.execute(meanwhile).await;
        self.wait_for_standby("nobody").await;
        rows.rollback().await.unwrap();
        eventually("it has committed and waits", || async {
            self.number(&format!("SELECT count(*) {BEGINS}")).await > 0
        })
        .await;
        worker
    }
}

/// The connection ends between begin's commit and its answer, and the process lives: only it can know that it never called.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_committed_and_got_no_answer_is_given_back_by_the_process_that_lives() {
    const PEOPLE: i64 = 12;
    let cluster = Cluster::dedicated(true).await;
    let world = World::on(cluster.db().await).await;
    world.add_contacts(PEOPLE as u32).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, PEOPLE as usize).await;
    let worker = world.worker_before_its_answer("SELECT 1").await;
    let cut = format!("SELECT count(pg_terminate_backend(pid)) {BEGINS}");
    assert!(world.number(&cut).await > 0);
    world.wait_for_standby("").await;

    eventually("all are through", || async {
        world.through(campaign).await == PEOPLE
    })
    .await;
    let given_back = "SELECT count(*) FROM send_attempts WHERE state = 4 AND resolved_by = 'owner'
        AND error_code = 'begin got no answer'";
    assert!(world.number(given_back).await > 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    assert_eq!(world.doubled().await, 0);
    worker.drain(Duration::from_secs(5)).await;
}

/// Its lease is lost while begin has not answered, and its handler is stopped. The grant that comes then is used all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_is_answered_when_its_handler_was_stopped_is_not_forgotten() {
    let cluster = Cluster::dedicated(true).await;
    let mut world = World::on(cluster.db().await).await;
    world.add_contacts(5).await;
    world.holds.lease = Duration::from_millis(900);
    let campaign = world.campaign("Hello {{ first_name }}").await;
    world.let_out(campaign, 5).await;
    let taken_away = "UPDATE cell.jobs SET lease = lease + 1, lease_until = app_now() + interval '1 hour' WHERE queue = 'send'";
    let worker = world.worker_before_its_answer(taken_away).await;
    // Longer than until a lost lease is noticed, and borne for a while.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.wait_for_standby("").await;

    eventually("all are through", || async {
        world.through(campaign).await == 5
    })
    .await;
    assert_eq!(world.doubled().await, 0);
    worker.drain(Duration::from_secs(5)).await;
}

/// The connection ends between finish's commit and its answer: the outcome is recorded once more, and told of once.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_recorded_again_is_counted_once() {
    let cluster = Cluster::dedicated(true).await;
    let it = TwilioWorld::on(World::on(cluster.db().await).await).await;
    // Time to let commits wait while it is called.
    let (worker, _) = it.call_that_is_refused_after(5_000).await;
    it.world.wait_for_standby("nobody").await;
    eventually("the refusal is committed and waits", || async {
        let waiting = format!("SELECT count(*) {FINISHES}");
        it.world.number(&waiting).await > 0
    })
    .await;
    let cut = format!("SELECT count(pg_terminate_backend(a.pid)) {FINISHES}");
    assert!(it.world.number(&cut).await > 0);
    it.world.wait_for_standby("").await;
    // It waits for what is still to be recorded.
    worker.drain(Duration::from_secs(20)).await;

    let refused = "SELECT count(*) FROM send_attempts WHERE state = 3 AND resolved_by = 'owner'";
    assert_eq!(it.world.number(refused).await, 1);
    let counted = "SELECT refusals::bigint FROM account_refusals";
    assert_eq!(it.world.number(counted).await, 1);
    assert_eq!(it.fake.ledger().requested().len(), 1);
}

/// The first connection of a process is taken and never answered, and the host that took it will not say so.
#[tokio::test]
async fn a_process_that_gets_no_answer_when_it_starts_tries_another_connection() {
    let world = World::start().await;
    let direct = world.db.db().direct_options();
    let dir = TempDir::new();
    let name = format!(".s.PGSQL.{}", direct.get_port());
    let server = direct.get_socket().unwrap().join(&name);
    let listener = UnixListener::bind(dir.path().join(&name)).unwrap();
    tokio::spawn(async move {
        let _silent = listener.accept().await.unwrap();
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = UnixStream::connect(&server).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await;
    });

    let starting = Myself::start(direct.socket(dir.path()), process(1));
    let me = within(30, "it is somebody", starting).await;

    assert!(me.current().is_some());
    within(30, "it ends in order", me.end()).await;
    let ended = "SELECT count(*) FROM incarnations WHERE ended_by = 'self'";
    assert_eq!(world.number(ended).await, 1);
}

/// A host loses power: nobody is told that the connections are dead, and whoever waits for an answer would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_hold_nobody_up_for_long() {
    const PEOPLE: i64 = 2_000;
    const CALLS: i64 = 8;
    let world = World::start().await;
    world.add_contacts(PEOPLE as u32).await;
    let way = Way::to(&world.db.options().cell);
    let options = WorkerOptions {
        concurrency: Some(CALLS as usize),
        ..world.worker_options()
    };
    let db = way.db(&world.db);
    let worker = Worker::start(db.clone(), options).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    eventually("messages go out", || async {
        world.through(campaign).await > 200
    })
    .await;
    // All connections that the release and the claims may have: nothing goes on before the places of these are free again.
    let ticks = (
        db.tick().begin().await.unwrap(),
        db.tick().begin().await.unwrap(),
    );
    let claims = db.claim_pool();
    let mut asking = JoinSet::new();
    for _ in 0..claims.options().get_max_connections() {
        let mut claim = claims.acquire().await.unwrap();
        asking.spawn(async move { claim.execute("SELECT pg_sleep(1)").await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    way.fall_silent();
    drop((ticks, asking));
    let left = PEOPLE - world.through(campaign).await;
    assert!(left > 500, "{left} are left");

    // Of a call whose entry in the demo's ledger got no answer nobody knows whether it was made: it waits for proof.
    let in_doubt = async || world.counts(campaign).await.get(CountWord::InDoubt);
    within(150, "the rest goes out", async {
        while world.through(campaign).await + in_doubt().await < PEOPLE {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let in_doubt = in_doubt().await;
    assert!(in_doubt <= CALLS, "{in_doubt} are in doubt");
    assert!(world.counts(campaign).await.is_balanced());
    assert_eq!(world.doubled().await, 0);
    worker.drain(Duration::from_secs(5)).await;
}

/// Waits for something, and stops when it has not come after having been asked so often.
async fn asked<F: Future>(times: u32, wanted: F) -> Option<F::Output> {
    let mut wanted = pin!(wanted);
    let mut left = times;
    poll_fn(|context| {
        let answer = wanted.as_mut().poll(context).map(Some);
        left -= 1;
        if left == 0 && answer.is_pending() {
            return Poll::Ready(None);
        }
        answer
    })
    .await
}

/// Transactions that nobody goes on with.
const OPEN: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";

/// Whoever waits for a transaction may be stopped at any moment of BEGIN. Were the connection given back inside it, what the
/// next one writes would be answered and never committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_nobody_waits_for_any_more_leaves_no_transaction_open() {
    let world = World::start().await;
    let db = world.db.db();
    let system = db.system();
    system.begin().await.unwrap().rollback().await.unwrap();
    let mut cut_off = 0;
    for round in 0.. {
        if round >= 20 && cut_off >= 20 {
            break;
        }
        assert!(round < 200, "{cut_off} were cut off");
        for times in 1..10 {
            cut_off += u32::from(asked(times, system.begin()).await.is_none());
            // Sooner than the server ends it by itself.
            let limit = Instant::now() + Duration::from_secs(4);
            while world.number(OPEN).await != 0 {
                assert!(Instant::now() < limit, "asked {times} times");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
