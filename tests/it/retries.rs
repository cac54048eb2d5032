//! What failed is sent anew: once for each person, never for one who was reached, and counted by the newest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engageninja::delivery::inbox::fold::fold_events;
use engageninja::domain::actor::Role;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;
use engageninja::jobs::worker::Worker;
use engageninja::store::StoreError;
use engageninja::store::checkup::recount;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, answer};
use crate::harness::eventually;
use crate::harness::twilio::TwilioWorld;

const DRAIN: Duration = Duration::from_secs(5);

/// A tenant whose campaign has gone out, and nothing more happens by itself.
struct Shop {
    it: TwilioWorld,
    app: App,
    key: String,
    campaign: CampaignId,
}

impl Shop {
    async fn open(people: u32) -> Self {
        let it = TwilioWorld::start().await;
        let (app, tenant) = App::beside(&it.world).await;
        let key = app.key(&tenant, Role::Admin).await;
        it.world.add_contacts(people).await;
        let campaign = it.world.campaign("Hello {{ first_name }}").await;
        let shop = Self {
            it,
            app,
            key,
            campaign,
        };
        shop.send_all().await;
        shop
    }

    /// Whatever waits goes out.
    async fn send_all(&self) {
        let worker = self.it.world.worker().await;
        eventually("nothing waits", || async {
            let counts = self.it.world.counts(self.campaign).await;
            counts.get(CountWord::Audience) > 0 && counts.is_settled()
        })
        .await;
        worker.drain(DRAIN).await;
    }

    /// The provider says of messages what became of them: those whose number ends in these digits.
    async fn tell(&self, digits: &str, status: &str, code: &str) {
        self.report(digits, status, code).await;
        self.fold().await;
    }

    async fn report(&self, digits: &str, status: &str, code: &str) {
        let sql = format!(
            "INSERT INTO cell.provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
                 provider_message_id, status, body)
             SELECT 'tw:{status}:{code}:' || a.message_id, a.provider, a.account_ref, a.tenant_id, a.message_id, a.id,
                    a.provider_message_id, '{status}', '{{\"ErrorCode\": \"{code}\"}}'
             FROM cell.send_attempts a
             JOIN cell.messages m ON m.tenant_id = a.tenant_id AND m.id = a.message_id
             WHERE a.state = 1 AND m.phone_number LIKE '%{digits}'
             ON CONFLICT DO NOTHING"
        );
        self.it.world.db.execute(&sql).await;
    }

    /// Folds all there is. Who waited for a row until its patience was over comes again.
    async fn fold(&self) {
        loop {
            match fold_events(&self.it.world.db.db()).await {
                Ok(0) => return,
                Ok(_) | Err(StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn switch_late_retries(&self, times: i32) {
        let sql = format!("UPDATE cell.tenants SET late_retries = {times}");
        self.it.world.db.execute(&sql).await;
    }

    async fn retry(&self) -> Answer {
        let path = format!("/api/campaigns/{}/retry-failed", self.campaign);
        self.app.post(&self.key, &path, &json!({})).await
    }

    /// Presses and folds at the same time. Says how many were retried.
    async fn race(&self, first: First) -> i64 {
        let world = &self.it.world;
        if first != First::Anybody {
            // Both count what they have changed when they have changed it.
            world.build_gate("campaign_deltas").await;
            world.shut_gate().await;
        }
        let press_once = async || loop {
            let answer = self.retry().await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer.ok(202)["retried"].as_i64().unwrap();
            }
        };
        let press = async {
            if first == First::Success {
                world.somebody_is_at_gate().await;
            }
            // Twice where the order is nobody's.
            let again = async {
                if first == First::Anybody {
                    press_once().await
                } else {
                    0
                }
            };
            let (one, other) = tokio::join!(press_once(), again);
            one + other
        };
        let fold = async {
            if first == First::Press {
                world.somebody_is_at_gate().await;
            }
            self.fold().await;
        };
        let let_go = async {
            if first != First::Anybody {
                eventually("the second one waits for the first one's rows", || async {
                    world.number(WAITS_FOR_A_ROW).await > 0
                })
                .await;
                world.open_gate().await;
            }
        };
        let race = async { tokio::join!(press, fold, let_go).0 };
        let is_over = AtomicBool::new(false);
        let watch = async {
            while !is_over.load(Ordering::Relaxed) {
                self.assert_sums().await;
            }
        };
        let race = async {
            let retried = Box::pin(race).await;
            is_over.store(true, Ordering::Relaxed);
            retried
        };
        tokio::join!(race, watch).0
    }

    /// Messages by step: how many there are of each.
    async fn steps(&self) -> Vec<i64> {
        let mut steps = Vec::new();
        for step in 0.. {
            let sql = format!("SELECT count(*) FROM messages WHERE step = {step}");
            match self.it.world.number(&sql).await {
                0 => return steps,
                count => steps.push(count),
            }
        }
        steps
    }

    /// What is counted sums up and is what stands in the rows, also while something changes.
    async fn assert_sums(&self) {
        let counts = self.it.world.counts(self.campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        let mut tx = self.it.world.db.db().system().begin().await.unwrap();
        let wrong = recount(&mut tx, self.it.world.tenant_id, self.campaign).await;
        assert_eq!(wrong.unwrap(), []);
    }

    /// The numbers people are shown, whose sum is checked against the rows.
    async fn shown(&self) -> Value {
        self.assert_sums().await;
        let path = format!("/api/campaigns/{}/status", self.campaign);
        self.app.get(&self.key, &path).await.ok(200)["counts"].clone()
    }
}

/// Who of two has the rows when the other comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// The success.
    Success,
    /// Who presses.
    Press,
    /// Whoever is faster.
    Anybody,
}

const WAITS_FOR_A_ROW: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')";

fn left_out(people: &[(&str, i64)]) -> Value {
    people
        .iter()
        .map(|(reason, people)| ((*reason).to_owned(), Value::from(*people)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Of ten people: 1 and 2 failed, 3 cannot be reached, 4 opted out since, 5 took consent back, the others arrived.
#[tokio::test(flavor = "multi_thread")]
async fn who_failed_gets_one_new_message_and_is_counted_by_it() {
    let shop = Shop::open(10).await;
    shop.tell("1", "undelivered", "30003").await;
    shop.tell("2", "failed", "30008").await;
    shop.tell("3", "undelivered", "30006").await;
    shop.tell("4", "undelivered", "30003").await;
    shop.tell("5", "undelivered", "30003").await;
    for digit in ["0", "6", "7", "8", "9"] {
        shop.tell(digit, "delivered", "").await;
    }
    let suppress = json!({"channel": "sms", "address": "+12055550004"});
    shop.app
        .post(&shop.key, "/api/suppressions", &suppress)
        .await
        .ok(201);
    shop.it
        .world
        .db
        .execute(
            "UPDATE cell.contact_consents k SET state = 'revoked' FROM cell.contacts c
             WHERE c.tenant_id = k.tenant_id AND c.id = k.contact_id AND c.phone_e164 LIKE '%5'",
        )
        .await;
    let before = shop.shown().await;
    assert_eq!(
        (&before["failed"], &before["delivered"]),
        (&json!(5), &json!(5))
    );

    let retried = shop.retry().await.ok(202);
    assert_eq!(retried["retried"], 2);
    assert_eq!(
        retried["left_out"],
        left_out(&[("permanent", 1), ("suppressed", 1), ("no_consent", 1)])
    );
    assert_eq!(
        (&retried["is_complete"], &retried["status"]),
        (&json!(true), &json!("sending"))
    );
    let waiting = shop.shown().await;
    assert_eq!(
        (&waiting["failed"], &waiting["waiting"]),
        (&json!(3), &json!(2))
    );
    let linked = "SELECT count(*) FROM messages n JOIN messages o ON o.tenant_id = n.tenant_id AND o.id = n.retry_of
        WHERE o.retried_by = n.id AND n.contact_id = o.contact_id AND n.step = 1
          AND n.id = campaign_message_id((SELECT started_at FROM campaigns), n.campaign_id, 1,
                                         right(n.phone_number, 1)::bigint)
          AND (SELECT b.body FROM message_bodies b WHERE b.message_id = n.id)
            = (SELECT b.body FROM message_bodies b WHERE b.message_id = o.id)";
    assert_eq!(shop.it.world.number(linked).await, 2);

    shop.send_all().await;
    shop.tell("1", "delivered", "").await;
    let after = shop.shown().await;
    assert_eq!(
        (&after["failed"], &after["delivered"], &after["sent"]),
        (&json!(3), &json!(6), &json!(1))
    );
    assert_eq!(shop.steps().await, [10, 2]);
    let requests = shop.it.fake.ledger().requested().len();
    assert_eq!(requests, 12);
    let id: String = shop
        .it
        .world
        .db
        .value("SELECT id::text FROM messages WHERE step = 1 LIMIT 1")
        .await;
    let shown = shop
        .app
        .get(&shop.key, &format!("/api/messages/{id}"))
        .await
        .ok(200);
    assert!(shown["message"]["retry_of"].is_string(), "{shown}");

    // Who fails once more is sent to once more.
    shop.tell("2", "undelivered", "30003").await;
    assert_eq!(shop.retry().await.ok(202)["retried"], 1);
    assert_eq!(shop.steps().await, [10, 2, 1]);
    shop.shown().await;
}

/// Ten presses at once, with a key each: each failed person gets one new message.
#[tokio::test(flavor = "multi_thread")]
async fn pressed_often_it_is_done_once() {
    let shop = Shop::open(30).await;
    shop.tell("", "undelivered", "30003").await;
    let presses = join_all((0..10).map(|_| shop.retry())).await;
    let retried: Vec<i64> = presses
        .iter()
        .map(|answer| answer.ok(202)["retried"].as_i64().unwrap())
        .collect();
    assert_eq!(retried.iter().sum::<i64>(), 30, "{retried:?}");
    assert_eq!(shop.steps().await, [30, 30]);
    shop.send_all().await;
    assert_eq!(shop.it.fake.ledger().requested().len(), 60);
    shop.shown().await;
}

/// Late successes and presses at the same time, in either order and again and again: whose success was told first gets nothing
/// more, whoever is sent to anew is counted by that alone, and the sum holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_is_told_first_leaves_nothing_to_retry() {
    use First::{Anybody, Press, Success};
    for first in [Success, Press, Anybody, Anybody, Anybody, Anybody] {
        let shop = Shop::open(40).await;
        shop.tell("", "undelivered", "30003").await;
        // Those that end in an even digit arrived after all.
        for digit in [0, 2, 4, 6, 8] {
            shop.report(&digit.to_string(), "delivered", "").await;
        }
        let retried = Box::pin(shop.race(first)).await;
        match first {
            Success => assert_eq!(retried, 20),
            Press => assert_eq!(retried, 40),
            Anybody => assert!((20..=40).contains(&retried), "{retried}"),
        }
        assert_eq!(shop.steps().await, [40, retried]);
        let both = "SELECT count(*) FROM messages o JOIN messages n ON n.retry_of = o.id AND n.tenant_id = o.tenant_id
            WHERE o.status = 'delivered'";
        assert_eq!(shop.it.world.number(both).await, retried - 20, "{first:?}");
        let shown = shop.shown().await;
        assert_eq!(shown["waiting"], retried);
        // Late words for those whose place was taken are kept with them, and count no more.
        assert_eq!(shown["delivered"], 40 - retried, "{first:?}");
        let arrived = "SELECT count(*) FROM messages WHERE status = 'delivered'";
        assert_eq!(shop.it.world.number(arrived).await, 20);
    }
}

/// More than one transaction takes: the job does the rest, once, however often it runs.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_are_retried_by_a_job() {
    let shop = Shop::open(2_300).await;
    shop.tell("", "undelivered", "30003").await;
    let retried = shop.retry().await.ok(202);
    assert_eq!(
        (&retried["retried"], &retried["is_complete"]),
        (&json!(2_000), &json!(false))
    );
    let worker = Worker::start(shop.it.world.db.db(), shop.it.world.without_sends()).await;
    eventually("the job has done the rest", || async {
        shop.steps().await == [2_300, 2_300]
    })
    .await;
    worker.drain(DRAIN).await;
    let shown = shop.shown().await;
    assert_eq!(
        (&shown["waiting"], &shown["failed"]),
        (&json!(2_300), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_has_ended_or_whose_sender_is_gone_is_not_retried() {
    let shop = Shop::open(3).await;
    shop.tell("", "undelivered", "30003").await;
    let draft = shop.it.world.draft("Hello").await;
    let of_draft = format!("/api/campaigns/{draft}/retry-failed");
    shop.app
        .post(&shop.key, &of_draft, &json!({}))
        .await
        .problem(409, "campaign-not-sent");

    let senders = shop
        .app
        .get(&shop.key, "/api/senders?channel=sms")
        .await
        .ok(200);
    let id = senders["items"][0]["id"].as_str().unwrap().to_owned();
    let retire = format!("/api/senders/{id}/retire");
    shop.app.post(&shop.key, &retire, &json!({})).await.ok(200);
    shop.retry().await.problem(409, "sender-retired");
    let cancel = format!("/api/campaigns/{}/cancel", shop.campaign);
    shop.app.post(&shop.key, &cancel, &json!({})).await.ok(200);
    shop.retry().await.problem(409, "campaign-ended");
    assert_eq!(shop.steps().await, [3]);
}

/// A campaign that had completed goes on, and completes anew with the newer counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_completed_campaign_goes_on_and_completes_anew() {
    let shop = Shop::open(5).await;
    shop.tell("", "undelivered", "30003").await;
    let worker = shop.it.world.worker().await;
    let _scheduler = shop.it.world.scheduler();
    shop.it.world.completed(shop.campaign).await;
    shop.retry().await.ok(202);
    shop.it.world.completed(shop.campaign).await;
    eventually("all are sent anew", || async {
        shop.it.fake.ledger().requested().len() == 10
    })
    .await;
    shop.it.world.completed(shop.campaign).await;
    worker.drain(DRAIN).await;
    let frozen = "SELECT (final_counts ->> 'handed_over')::bigint FROM campaigns";
    assert_eq!(shop.it.world.number(frozen).await, 5);
    assert_eq!(
        shop.it.world.load(shop.campaign).await.status,
        CampaignStatus::Completed
    );
}

/// Off by itself; switched on, a message that failed for a reason that may pass is sent once more, hours later, and once only.
#[tokio::test(flavor = "multi_thread")]
async fn late_retries_are_off_by_themselves_and_come_once() {
    let shop = Shop::open(2).await;
    let ordered = "SELECT count(*) FROM jobs WHERE kind = 'retry-message'";
    shop.tell("0", "undelivered", "30003").await;
    assert_eq!(shop.it.world.number(ordered).await, 0);

    let request = shop.app.with_key(&shop.key, Method::PATCH, "/api/tenant");
    let tenant = answer(request.json(&json!({"late_retries": true})))
        .await
        .ok(200);
    assert_eq!(tenant["late_retries"], true);
    shop.tell("1", "failed", "30003").await;
    assert_eq!(shop.it.world.number(ordered).await, 1);

    let worker = shop.it.world.worker().await;
    shop.it.world.db.advance(Duration::from_mins(239)).await;
    assert_eq!(shop.steps().await, [2]);
    shop.it.world.db.advance(Duration::from_mins(2)).await;
    eventually("it goes out once more", || async {
        shop.it.fake.ledger().requested().len() == 3
    })
    .await;
    eventually("it is with the provider", || async {
        shop.it.world.counts(shop.campaign).await.is_settled()
    })
    .await;
    shop.shown().await;
    shop.tell("1", "undelivered", "30003").await;
    assert_eq!(shop.it.world.number(ordered).await, 0);
    worker.drain(DRAIN).await;
    assert_eq!(shop.steps().await, [2, 1]);
    let shown = shop.shown().await;
    assert_eq!(shown["failed"], 2);
}

/// Who was reached meanwhile, whose message is past its time by then, and whose tenant has switched it off since, gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_retry_looks_again_before_it_sends() {
    let ordered = "SELECT count(*) FROM jobs WHERE kind = 'retry-message'";
    for is_still_on in [true, false] {
        let shop = Shop::open(3).await;
        shop.switch_late_retries(1).await;
        shop.tell("", "undelivered", "30003").await;
        assert_eq!(shop.it.world.number(ordered).await, 3);
        shop.tell("0", "delivered", "").await;
        let soon = "UPDATE cell.messages SET expires_at = public.app_now() + interval '1 hour' WHERE phone_number LIKE '%1'";
        shop.it.world.db.execute(soon).await;
        if !is_still_on {
            shop.switch_late_retries(0).await;
        }
        let worker = shop.it.world.worker().await;
        shop.it.world.db.advance(Duration::from_mins(241)).await;
        eventually("the jobs have looked", || async {
            shop.it.world.number(ordered).await == 0
        })
        .await;
        worker.drain(DRAIN).await;
        let steps: &[i64] = if is_still_on { &[3, 1] } else { &[3] };
        assert_eq!(shop.steps().await, steps);
        shop.shown().await;
    }
}
