//! What answers and reports say of senders, accounts and rates, and what follows.

use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::America::Los_Angeles;
use engageninja::delivery::inbox::fold::fold_events;
use engageninja::dev::fake_twilio::{ACCOUNT_SID, AUTH_TOKEN, Act, Reply, Weather};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{CampaignId, SenderId};
use engageninja::store::senders::load_row;
use uuid::Uuid;

use crate::harness::eventually;
use crate::harness::twilio::{NUMBER, TwilioWorld, silent};

const DRAIN: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_mins(1);

impl TwilioWorld {
    /// Another number of the same account, and of the same brand if they have one.
    pub async fn second_sender(&self, number: &str) -> SenderId {
        let id = SenderId(Uuid::now_v7());
        let tenant_id = self.world.tenant_id;
        let sql = format!(
            "INSERT INTO cell.senders (tenant_id, id, channel, provider, account_ref, address, brand_id)
             SELECT tenant_id, '{id}', 'sms', 'twilio', '{ACCOUNT_SID}', '{number}', brand_id
             FROM cell.senders WHERE tenant_id = '{tenant_id}' AND address = '{NUMBER}'"
        );
        self.world.db.execute(&sql).await;
        id
    }

    pub async fn sender(&self) -> SenderId {
        let sql = format!("SELECT id FROM senders WHERE address = '{NUMBER}'");
        SenderId(self.world.db.value(&sql).await)
    }

    /// A campaign to everybody that has gone out.
    pub async fn sent(&self, body: &str) -> CampaignId {
        let campaign = self.world.campaign(body).await;
        eventually("it is through", || async {
            let counts = self.world.counts(campaign).await;
            counts.get(CountWord::HandedOver) > 0 && counts.is_settled()
        })
        .await;
        campaign
    }

    /// The provider reports that every message of a campaign has failed.
    pub async fn fail(&self, campaign: CampaignId, code: &str) {
        let sql = format!(
            "INSERT INTO cell.provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
                 provider_message_id, status, body)
             SELECT 'tw:{code}:' || a.message_id, a.provider, a.account_ref, a.tenant_id, a.message_id, a.id,
                    a.provider_message_id, 'undelivered', '{{\"ErrorCode\": \"{code}\"}}'
             FROM cell.send_attempts a
             JOIN cell.messages m ON m.tenant_id = a.tenant_id AND m.id = a.message_id
             WHERE a.state = 1 AND m.campaign_id = '{campaign}'"
        );
        self.world.db.execute(&sql).await;
        while fold_events(&self.world.db.db()).await.unwrap() > 0 {}
        assert!(self.world.counts(campaign).await.get(CountWord::Failed) > 0);
    }

    /// Senders that are halted now, each as seconds to go (-1: until somebody lifts it) and code.
    pub async fn halts(&self) -> Vec<(i64, String)> {
        let sql = "SELECT CASE WHEN until = 'infinity' THEN -1 ELSE extract(epoch FROM until - app_now())::bigint END, code
                   FROM halts WHERE until > app_now() ORDER BY sender_id";
        let sql = format!("SET search_path = cell, public; {sql}");
        let mut conn = self.world.session().await;
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut conn)
            .await
            .unwrap();
        rows.iter()
            .map(|row| (sqlx::Row::get(row, 0), sqlx::Row::get(row, 1)))
            .collect()
    }

    /// The bucket of the number, once its leader has learned something.
    async fn learned(&self, column: &str) -> DateTime<Utc> {
        let has = format!(
            "SELECT count(*) FROM buckets WHERE name = 'sender:twilio:{NUMBER}' AND {column} IS NOT NULL"
        );
        eventually("the leader hears it", || async {
            self.world.number(&has).await == 1
        })
        .await;
        let sql = format!("SELECT {column} FROM buckets WHERE name = 'sender:twilio:{NUMBER}'");
        self.world.db.value(&sql).await
    }

    async fn calls_limit(&self) -> f64 {
        let sql = format!(
            "SELECT COALESCE(min(calls_limit), 99)::float8 FROM buckets WHERE name = 'account:{ACCOUNT_SID}'"
        );
        self.world.db.value(&sql).await
    }
}

/// A code, how many senders it halts, and whether a halt of so many seconds is right.
type Case = (&'static str, usize, fn(i64) -> bool);

/// Each kind of failure halts whom it condemns, for as long as it says, and nothing begins behind them meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn late_failures_halt_their_sender_or_all_of_their_account() {
    let ten_minutes = |secs: i64| (595..=600).contains(&secs);
    let until_lifted = |secs: i64| secs == -1;
    let hour = |secs: i64| (3595..=3600).contains(&secs);
    let cases: [Case; 6] = [
        ("30001", 1, ten_minutes),
        ("30034", 1, until_lifted),
        ("30032", 1, until_lifted),
        ("30024", 1, hour),
        ("30002", 2, until_lifted),
        ("30003", 0, until_lifted),
    ];
    for (code, halted, is_long) in cases {
        let it = TwilioWorld::start().await;
        it.second_sender("+12025550177").await;
        it.world.add_contacts(2).await;
        let worker = it.world.worker().await;
        let first = it.sent("Hello").await;
        it.fail(first, code).await;

        let halts = it.halts().await;
        assert_eq!(halts.len(), halted, "{code}");
        assert!(
            halts
                .iter()
                .all(|(secs, why)| is_long(*secs) && why == code),
            "{halts:?}"
        );
        let next = it.world.campaign("Hello again").await;
        if halted == 0 {
            eventually("it goes out", || async {
                it.world.through(next).await == 2
            })
            .await;
        } else {
            eventually("it waits", || async {
                it.world.counts(next).await.get(CountWord::Queued) == 2
            })
            .await;
            it.world.db.advance(9 * MINUTE).await;
            assert_eq!(it.fake.ledger().requested().len(), 2, "{code}");
        }
        if code == "30001" {
            it.world.db.advance(MINUTE).await;
            eventually("it goes on by itself", || async {
                it.world.through(next).await == 2
            })
            .await;
        }
        worker.drain(DRAIN).await;
    }
}

/// At create, the provider says of a full queue what it says later of one: the sender rests, the message waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_at_the_provider_halts_the_sender_and_drops_nothing() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(1).await;
    it.fake.script([Act::untaken(Reply::Error {
        status: 400,
        code: 21611,
    })]);
    let worker = it.world.worker().await;
    let campaign = it.world.campaign("Hello").await;
    eventually("the sender is halted", || async {
        it.halts().await.len() == 1
    })
    .await;
    let (secs, code) = it.halts().await.remove(0);
    assert!(
        (590..=600).contains(&secs) && code == "21611",
        "{secs} {code}"
    );

    it.world.db.advance(10 * MINUTE).await;
    eventually("it goes out", || async {
        it.world.through(campaign).await == 1
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(it.fake.ledger().requested().len(), 2);
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::HandedOver), 1);
}

/// Forty messages at twenty a second take two seconds, at half of that four.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_was_exceeded_is_halved_for_a_minute_for_all_of_the_brand() {
    let it = TwilioWorld::start().await;
    let (tenant_id, brand) = (it.world.tenant_id, Uuid::now_v7());
    it.world
        .db
        .execute(&format!(
            "INSERT INTO cell.tenant_10dlc_brands (id, tenant_id, legal_business_name, country, business_address, business_city,
                 business_state, business_zip, owner_name, owner_email, owner_phone)
             VALUES ('{brand}', '{tenant_id}', 'Dojo', 'US', 'a', 'b', 'c', 'd', 'e', 'f', 'g');
             UPDATE cell.senders SET segments_per_sec_override = 20, brand_id = '{brand}' WHERE address = '{NUMBER}'"
        ))
        .await;
    it.second_sender("+12025550177").await;
    it.world
        .db
        .execute("INSERT INTO cell.buckets (name, kind, source) VALUES ('sender:twilio:+12025550177', 'sender', 'rule')")
        .await;
    it.world.add_contacts(40).await;
    let worker = it.world.worker().await;
    let first = it.sent("Hello").await;
    let heard_at = it.world.db.clock().now();
    it.fail(first, "30022").await;

    let until = it.learned("slowed_until").await;
    let secs = (until - heard_at).num_seconds();
    assert!((55..=65).contains(&secs), "{secs}");
    let (db, tenant_id) = (it.world.db.db(), it.world.tenant_id);
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    let shown = load_row(&mut tx, tenant_id, it.sender().await)
        .await
        .unwrap();
    assert_eq!(shown.slowed_until, Some(until), "its tenant is told");
    drop(tx);
    let mates = "SELECT count(*) FROM buckets WHERE kind = 'sender' AND slowed_until IS NOT NULL";
    assert_eq!(it.world.number(mates).await, 2);
    assert_eq!(it.halts().await, []);

    it.sent("Hello again").await;
    let times: Vec<_> = it.fake.ledger().accepted()[40..]
        .iter()
        .map(|one| one.accepted_at)
        .collect();
    let took = (times[39] - times[0]).num_milliseconds();
    assert!(took >= 3_500, "{took} ms");
    worker.drain(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daily_cap_closes_the_rate_until_midnight_on_the_pacific_coast() {
    let it = TwilioWorld::start().await;
    it.world.db.step_past_hours_end().await;
    it.world.add_contacts(3).await;
    let worker = it.world.worker().await;
    let first = it.sent("Hello").await;
    it.fail(first, "30023").await;
    let until = it.learned("closed_until").await;
    let today = it.world.db.clock().now().with_timezone(&Los_Angeles);
    let midnight = today
        .date_naive()
        .succ_opt()
        .unwrap()
        .and_time(NaiveTime::MIN);
    let midnight = Los_Angeles.from_local_datetime(&midnight).unwrap();
    assert_eq!(until, midnight.with_timezone(&Utc));

    let next = it.world.campaign("Hello again").await;
    let waits = format!(
        "SELECT count(*) FROM lanes WHERE campaign_id = '{next}' AND active AND next_at = '{until}'"
    );
    eventually("its lane waits for midnight", || async {
        it.world.number(&waits).await == 1
    })
    .await;
    assert_eq!(it.fake.ledger().requested().len(), 3);
    let wait = until - it.world.db.clock().now();
    it.world.db.advance(wait.to_std().unwrap()).await;
    eventually("it goes out", || async {
        it.world.through(next).await == 3
    })
    .await;
    worker.drain(DRAIN).await;
}

/// Half as many calls at once with each second of the storm, and nobody is dropped for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_for_speed_slows_the_account_and_gives_nobody_up() {
    let it = TwilioWorld::start().await;
    it.fake.set_weather(Weather {
        throttled: 1000,
        retry_after: Some("0".into()),
        ..silent()
    });
    it.world.add_contacts(30).await;
    let worker = it.world.worker().await;
    let campaign = it.world.campaign("Hello").await;
    // One more with each second, half with each refusal: it comes to rest near one.
    eventually("one call at once is left", || async {
        it.calls_limit().await < 2.0
    })
    .await;
    let often = "SELECT count(*) FROM send_attempts WHERE attempt_no > 14";
    eventually("some have been asked for again and again", || async {
        it.world.number(often).await > 0
    })
    .await;
    it.fake.set_weather(silent());
    eventually("all are through", || async {
        it.world.through(campaign).await == 30
    })
    .await;
    worker.drain(DRAIN).await;

    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::HandedOver), 30, "{counts:?}");
    assert_eq!(it.fake.ledger().doubled("m"), Vec::<String>::new());
    assert_eq!(it.halts().await, []);
}

/// The message waits as long as it was told, which its own time may not allow; the account asks again after a quarter of an
/// hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_of_a_week_is_the_messages_end_and_not_the_accounts() {
    let it = TwilioWorld::start().await;
    it.world.add_contacts(1).await;
    it.fake.script([Act::untaken(Reply::Throttled {
        retry_after: Some("604800".into()),
    })]);
    let worker = it.world.worker().await;
    let refused = it.world.campaign("Hello").await;
    eventually("it is deferred", || async {
        it.world.counts(refused).await.get(CountWord::Deferred) == 1
    })
    .await;
    let own_time =
        "SELECT count(*) FROM messages WHERE abs(extract(epoch FROM ready_at - expires_at)) < 5";
    assert_eq!(it.world.number(own_time).await, 1);

    let next = it.world.campaign("Hello again").await;
    it.world.db.advance(14 * MINUTE).await;
    eventually("the account rests", || async {
        it.world.counts(next).await.get(CountWord::Queued) == 1
    })
    .await;
    assert_eq!(it.fake.ledger().requested().len(), 1);
    it.world.db.advance(MINUTE).await;
    eventually("the next one goes out", || async {
        it.world.through(next).await == 1
    })
    .await;
    it.world.db.advance(Duration::from_hours(72)).await;
    eventually("the first one is past its time", || async {
        it.world
            .counts(refused)
            .await
            .get(CountWord::DroppedExpired)
            == 1
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(it.fake.ledger().requested().len(), 2);
}

/// One refusal of the credentials lets the sender rest; the fifth in a row, all that sends with the account.
#[tokio::test(flavor = "multi_thread")]
async fn five_refusals_of_an_account_in_a_row_halt_all_its_senders() {
    let it = TwilioWorld::start().await;
    it.second_sender("+12025550177").await;
    it.world.add_contacts(1).await;
    it.save_account(it.world.tenant_id, "wrong").await;
    let worker = it.world.worker().await;
    let campaign = it.world.campaign("Hello").await;
    let refusals = "SELECT COALESCE(max(refusals), 0)::bigint FROM account_refusals";
    for count in 1..=5 {
        eventually("it is refused", || async {
            it.world.number(refusals).await == count
        })
        .await;
        let halted = if count < 5 { 1 } else { 2 };
        assert_eq!(it.halts().await.len(), halted, "after {count}");
        if count < 5 {
            it.world.db.advance(it.world.holds.halt).await;
        }
    }
    it.save_account(it.world.tenant_id, AUTH_TOKEN).await;
    it.world.db.advance(it.world.holds.halt).await;
    eventually("it goes out", || async {
        it.world.through(campaign).await == 1
    })
    .await;
    worker.drain(DRAIN).await;
    assert_eq!(it.world.number(refusals).await, 0);
}
