//! Halts that a person lifted, and what of before that still comes in.

use std::time::Duration;

use engageninja::delivery::senders::lift_halt;
use engageninja::dev::fake_twilio::{ACCOUNT_SID, Act, Reply, Weather};
use engageninja::domain::feedback::REFUSALS_MAX;
use engageninja::store::senders::load_row;

use crate::harness::eventually;
use crate::harness::twilio::{TwilioWorld, silent};

const DRAIN: Duration = Duration::from_secs(5);

impl TwilioWorld {
    /// Lifts the halt of the first sender.
    async fn lift_halt(&self) {
        let (db, tenant_id) = (self.world.db.db(), self.world.tenant_id);
        let id = self.sender().await;
        let mut tx = db.cell(tenant_id).begin().await.unwrap();
        let sender = load_row(&mut tx, tenant_id, id).await.unwrap();
        assert!(lift_halt(&mut tx, tenant_id, &sender).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// Makes the first sender rest, as the last refusal but one that its account may meet in a row does.
    async fn refuse_all_but_once(&self) {
        let (tenant_id, sender) = (self.world.tenant_id, self.sender().await);
        let refusals = REFUSALS_MAX - 1;
        let sql = format!(
            "INSERT INTO cell.halts (tenant_id, sender_id, until, reason, code)
             VALUES ('{tenant_id}', '{sender}', public.app_now() + interval '5 min', 'refused', '20005');
             INSERT INTO cell.account_refusals (tenant_id, account_ref, refusals)
             VALUES ('{tenant_id}', '{ACCOUNT_SID}', {refusals})"
        );
        self.world.db.execute(&sql).await;
    }
}

/// What was sent before somebody lifted a halt says nothing new when it fails late; what was sent after does.
#[tokio::test(flavor = "multi_thread")]
async fn a_halt_that_was_lifted_comes_back_for_what_was_sent_since_alone() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(2).await;
    let worker = it.world.worker().await;
    let (first, late) = (it.sent("Hello").await, it.sent("Hello again").await);
    it.fail(first, "30034").await;
    assert_eq!(it.halts().await.len(), 1);

    it.lift_halt().await;
    it.fail(late, "30034").await;
    assert_eq!(it.halts().await, []);

    let since = it.sent("Once more").await;
    it.fail(since, "30034").await;
    assert_eq!(it.halts().await, [(-1, "30034".to_owned())]);
    worker.drain(DRAIN).await;
}

/// The refusal of a call that was under way neither halts the sender nor counts; that of the next call does both, and is the
/// first again: the account's other sender goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_halt_that_was_lifted_comes_back_for_calls_that_begin_since_alone() {
    let it = TwilioWorld::start().await;
    it.second_sender("+12025550177").await;
    it.world.add_contacts(1).await;
    // Whoever lifts the halt is faster.
    it.fake.set_weather(Weather {
        before_ms: (3_000, 3_000),
        ..silent()
    });
    let refused = Act::untaken(Reply::Error {
        status: 403,
        code: 20005,
    });
    it.fake.script([refused.clone(), refused]);
    let worker = it.world.worker().await;
    it.world.campaign("Hello").await;
    eventually("a call is under way", || async {
        it.fake.ledger().requested().len() == 1
    })
    .await;
    it.refuse_all_but_once().await;
    it.lift_halt().await;

    // Halted, it would wait for five minutes.
    eventually("the next call begins", || async {
        it.fake.ledger().requested().len() == 2
    })
    .await;
    let refused = "SELECT count(*) FROM send_attempts WHERE state = 3";
    eventually("it is refused too", || async {
        it.world.number(refused).await == 2
    })
    .await;
    worker.drain(DRAIN).await;

    let halts = it.halts().await;
    assert_eq!(halts.len(), 1, "{halts:?}");
    let refusals = "SELECT max(refusals)::bigint FROM account_refusals";
    assert_eq!(it.world.number(refusals).await, 1);
    assert_eq!(it.fake.ledger().requested().len(), 2);
}
