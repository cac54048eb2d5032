//! Who opts out gets nothing that begins afterwards: a thousand opt-outs against begins of the same people's messages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engageninja::domain::attempt::Verdict;
use engageninja::domain::ids::{MessageId, MessageKey};
use engageninja::jobs::worker::Worker;
use futures_util::future::join_all;
use rand::seq::SliceRandom;
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::harness::eventually;
use crate::harness::world::World;

const PEOPLE: u32 = 1_000;
/// Who begins, and who opts out, at the same time.
const BEGINNERS: usize = 6;
const LEAVERS: usize = 3;
/// Messages of one begin.
const BATCH: usize = 8;

/// Work that several take from.
type Shared<T> = Arc<Mutex<Vec<T>>>;

fn shuffled(keys: &[MessageKey]) -> Shared<MessageKey> {
    let mut keys = keys.to_vec();
    keys.shuffle(&mut rand::rng());
    Arc::new(Mutex::new(keys))
}

fn take(from: &Shared<MessageKey>, most: usize) -> Vec<MessageKey> {
    let mut keys = from.lock().unwrap();
    let rest = keys.len().saturating_sub(most);
    keys.split_off(rest)
}

/// Messages to everybody, let out.
async fn let_all_out(world: &World) -> Vec<MessageKey> {
    world.add_contacts(PEOPLE).await;
    let worker = Worker::start(world.db.db(), world.without_sends()).await;
    world.campaign("Hello {{ first_name }}").await;
    eventually("everybody has a message", || async {
        world.number("SELECT count(*) FROM messages").await == i64::from(PEOPLE)
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    world.db.execute("UPDATE cell.messages SET phase = 1").await;
    let rows = world.rows("SELECT id FROM messages").await;
    rows.iter()
        .map(|row| MessageKey {
            tenant_id: world.tenant_id,
            id: MessageId(row.get(0)),
        })
        .collect()
}

/// Opts people out one by one; says when each opt-out was committed.
async fn opt_out(world: &World, people: &Shared<MessageKey>) -> Vec<(MessageKey, Instant)> {
    let mut session = world.session().await;
    let mut left = Vec::new();
    while let Some(key) = take(people, 1).pop() {
        let sql = format!(
            "INSERT INTO suppressions (tenant_id, channel, dest_mac, reason)
             SELECT tenant_id, channel, dest_mac, 'opt_out' FROM messages WHERE id = '{}'",
            key.id
        );
        session.execute(AssertSqlSafe(sql)).await.unwrap();
        left.push((key, Instant::now()));
    }
    left
}

/// Begins messages; says of each when it was asked for and what was said.
async fn begin(
    world: &World,
    messages: &Shared<MessageKey>,
) -> Vec<(MessageKey, Instant, Verdict)> {
    let mut said = Vec::new();
    loop {
        let keys = take(messages, BATCH);
        if keys.is_empty() {
            return said;
        }
        let asked_at = Instant::now();
        let judged = world.begin(&keys).await;
        said.extend(judged.iter().map(|one| (one.key, asked_at, one.verdict)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_begins_for_anybody_after_any_of_a_thousand_opt_outs() {
    let world = World::start().await;
    let keys = let_all_out(&world).await;
    let (people, messages) = (shuffled(&keys), shuffled(&keys));
    let leavers = join_all((0..LEAVERS).map(|_| opt_out(&world, &people)));
    let beginners = join_all((0..BEGINNERS).map(|_| begin(&world, &messages)));
    let (left, said) = tokio::join!(leavers, beginners);

    let left: HashMap<MessageKey, Instant> = left.into_iter().flatten().collect();
    let (mut begun, mut opted_out) = (0, 0);
    for (key, asked_at, verdict) in said.into_iter().flatten() {
        let is_after = asked_at > left[&key];
        match verdict {
            Verdict::Begun => {
                assert!(!is_after, "{} began after its opt-out", key.id);
                begun += 1;
            }
            Verdict::OptedOut => opted_out += 1,
            other => panic!("{} is {other:?}", key.id),
        }
    }
    assert_eq!(begun + opted_out, PEOPLE);
    // Else they did not meet.
    assert!(
        begun > 20 && opted_out > 20,
        "{begun} begun, {opted_out} not"
    );
    let attempts = world.number("SELECT count(*) FROM send_attempts").await;
    assert_eq!(attempts, i64::from(begun));
    assert_eq!(world.deadlocks().await, 0);
}
