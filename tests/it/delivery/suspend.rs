//! A suspension is a strict bound for single messages too: what has not begun when it answers does not begin.

use std::collections::BTreeMap;
use std::time::Duration;

use engageninja::delivery::single::{Saying, Single, To, send_message};
use engageninja::delivery::tenants::follow_directory;
use engageninja::domain::attempt::Verdict;
use engageninja::domain::channel::{Channel, Class};
use engageninja::domain::ids::{MessageId, MessageKey};
use engageninja::store::StoreError;
use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use crate::harness::app::{App, answer};
use crate::harness::world::World;
use crate::harness::{eventually, within};

const DRAIN: Duration = Duration::from_secs(5);
const SUSPENSIONS: usize = 12;
const MESSAGES: i64 = 900;

/// Accepts single messages to as many people.
async fn queue_singles(world: &World, count: i64) -> Vec<MessageKey> {
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    let mut keys = Vec::new();
    for n in 0..count {
        let single = Single {
            tenant_id,
            channel: Channel::Sms,
            class: Class::Txn,
            to: To::Address(format!("+1205555{n:04}")),
            saying: Saying::Text {
                subject: None,
                body: "Your code".into(),
                html: None,
            },
            values: BTreeMap::new(),
            sender_id: None,
            expires_after: Duration::from_hours(1),
        };
        let id = send_message(&mut tx, &world.mac_key, db.clock(), &single).await;
        keys.push(MessageKey {
            tenant_id,
            id: id.unwrap(),
        });
    }
    tx.commit().await.unwrap();
    keys
}

async fn begun(session: &mut PgConnection) -> i64 {
    let row = session
        .fetch_one("SELECT count(*) FROM send_attempts")
        .await;
    row.unwrap().get(0)
}

/// Messages that are with the provider, or refused by it.
async fn through(world: &World) -> i64 {
    let sql = "SELECT count(*) FROM messages WHERE phase IN (4, 6)";
    world.number(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_of_a_single_message_begins_after_any_of_a_dozen_suspensions_under_load() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let operator = app.operator(&app.tenant("office").await).await;
    let turn = async |step: &str| {
        let path = format!("/api/admin/tenants/{}/{step}", tenant.id);
        let answered = answer(app.with_cookie(&operator, Method::POST, &path));
        let view = within(10, "the switch answers", answered).await.ok(200);
        assert_eq!(view["is_applied"], true, "{view}");
    };
    queue_singles(&world, MESSAGES).await;
    let workers = [world.slow_worker().await, world.slow_worker().await];
    // Open already, so that nothing lies between an answer and the look.
    let mut session = world.session().await;

    let mut before = 0;
    for round in 0..SUSPENSIONS {
        eventually("messages go out", || async {
            through(&world).await > before + 20
        })
        .await;
        turn("suspend").await;
        let begun_at_answer = begun(&mut session).await;

        let moving = "SELECT count(*) FROM messages WHERE phase IN (1, 2)";
        eventually("all that was let out is settled or back", || async {
            world.number(moving).await == 0
        })
        .await;
        assert_eq!(begun(&mut session).await, begun_at_answer, "round {round}");
        let waiting = "SELECT count(*) FROM messages WHERE phase = 0";
        assert!(world.number(waiting).await > 0, "no load in round {round}");
        before = through(&world).await;
        turn("resume").await;
    }
    eventually("the rest goes out", || async {
        through(&world).await == MESSAGES
    })
    .await;
    for worker in workers {
        worker.drain(DRAIN).await;
    }

    assert_eq!(begun(&mut session).await, MESSAGES, "each is called once");
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}

/// The barrier: a begin that has looked and not committed yet comes before the suspension, which waits for it.
#[tokio::test]
async fn a_suspension_waits_for_a_begin_of_single_messages_that_is_under_way() {
    let world = World::start().await;
    let keys = queue_singles(&world, 3).await;
    world.db.execute("UPDATE cell.messages SET phase = 1").await;
    let [first, second, third] = [keys[0].id, keys[1].id, keys[2].id];
    let waiting = |what: &str| {
        format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = '{what}'"
        )
    };

    let mut session = world.session().await;
    let mut row_lock = session.begin().await.unwrap();
    let held = format!("SELECT FROM messages WHERE id = '{first}' FOR UPDATE");
    row_lock.execute(AssertSqlSafe(held)).await.unwrap();
    let tenant_id = world.tenant_id;
    let begin = format!(
        "SELECT result FROM begin_attempts_2(1, ARRAY['{tenant_id}', '{tenant_id}']::uuid[],
             ARRAY['{first}', '{second}']::uuid[], ARRAY[gen_random_uuid(), gen_random_uuid()])"
    );
    let mut other = world.session().await;
    let begin = tokio::spawn(async move { other.fetch_all(AssertSqlSafe(begin)).await });
    eventually("the begin waits for a row", async || {
        world.number(&waiting("transactionid")).await == 1
    })
    .await;

    let stopped = "UPDATE control.tenant_directory SET status = 'suspended', version = version + 1";
    world.db.execute(stopped).await;
    let db = world.db.db();
    let suspension = tokio::spawn(async move {
        loop {
            match follow_directory(&db, tenant_id).await {
                // Its patience is over before a busy machine lets us go on.
                Err(StoreError::Unavailable(_)) => {}
                answer => return answer.unwrap(),
            }
        }
    });
    eventually("the suspension waits for the begin", async || {
        assert!(
            !suspension.is_finished(),
            "it answered while a begin was under way"
        );
        world.number(&waiting("advisory")).await == 1
    })
    .await;
    row_lock.rollback().await.unwrap();

    let results = begin.await.unwrap().unwrap();
    assert!(results.iter().all(|row| row.get::<&str, _>(0) == "begun"));
    suspension.await.unwrap();
    assert_eq!(judged(&world, third).await, Verdict::Held);
}

async fn judged(world: &World, id: MessageId) -> Verdict {
    let key = MessageKey {
        tenant_id: world.tenant_id,
        id,
    };
    world.begin(&[key]).await[0].verdict
}
