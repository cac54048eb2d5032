//! A process that lives and has lost its lock: to everybody else it is dead, so it calls nobody as who it was.

use std::time::Duration;

use crate::harness::eventually;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);

/// The start that the worker goes by now.
const NEWEST: &str = "SELECT COALESCE(max(id), 0) FROM incarnations";

/// Ends the session that holds the lock of a start, as a proxy or a lost packet may.
const CUT_OFF: &str = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l, incarnations i
    WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32 | l.objid::bigint) = incarnation_lock_key(i.id)";

/// Its begin commits as of somebody whose attempts may be judged by now. It notices, gives them back, and sends as who it is then.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_its_lock_between_begin_and_call_calls_nobody_and_goes_on_as_another() {
    let mut world = World::start().await;
    // Its clock says nothing here.
    world.holds.begin_to_call = HOUR;
    world.add_contacts(3).await;
    world.build_gate("send_attempts").await;
    world.shut_gate().await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let worker = world.worker().await;
    world.somebody_is_at_gate().await;
    let lost = world.number(NEWEST).await;

    assert_eq!(world.number(CUT_OFF).await, 1);
    eventually("it is somebody else", || async {
        world.number(NEWEST).await > lost
    })
    .await;
    world.open_gate().await;
    eventually("all are through", || async {
        world.through(campaign).await == 3
    })
    .await;
    worker.drain(DRAIN).await;

    let begun = format!("SELECT count(*) FROM send_attempts WHERE incarnation = {lost}");
    assert!(world.number(&begun).await > 0);
    let unused =
        format!("{begun} AND state = 4 AND error_code = 'the worker lost its incarnation'");
    assert_eq!(world.number(&unused).await, world.number(&begun).await);
    let called = format!(
        "SELECT count(*) FROM demo_ledger d JOIN send_attempts a ON a.id = d.attempt_id WHERE a.incarnation = {lost}"
    );
    assert_eq!(world.number(&called).await, 0);
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    assert!(world.counts(campaign).await.is_balanced());
}
