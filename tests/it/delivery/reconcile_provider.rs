//! Workers that died together with the old server: the lists of the accounts say what they called, and the new server is
//! released when nothing is left to be found. The provider's ledger judges.

use std::time::Duration;

use engageninja::delivery::inbox::fold::fold_events;
use engageninja::dev::fake_twilio::{AUTH_TOKEN, Weather};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::CampaignId;
use engageninja::jobs::worker::Worker;
use engageninja::store::timelines::find_current;

use super::failover::{current, taken};
use crate::harness::db::Cluster;
use crate::harness::eventually;
use crate::harness::killable::Killable;
use crate::harness::program::{on, run};
use crate::harness::twilio::{TwilioWorld, silent};
use crate::harness::world::World;
use crate::quarantine::OTHER_TIMELINE;

const PEOPLE: u32 = 500;
const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_workers_died_too_are_found_in_the_list_and_nobody_gets_two() {
    let mut cluster = Cluster::dedicated(true).await;
    let mut world = World::on(cluster.db().await).await;
    world.scale_holds(0.05).await;
    let it = TwilioWorld::on(world).await;
    // One in twenty answers is lost: in doubt when its worker dies.
    it.fake.set_weather(Weather {
        before_ms: (5, 20),
        reset: 50,
        ..silent()
    });
    it.world.add_contacts(PEOPLE).await;
    let campaign = it.filled_campaign("Hello {{ first_name }}").await;
    let mut standby = cluster.keep_copy().await;
    let copied_at = it.world.db.clock().now();

    let worker = Killable::start(&it.world, it.world.worker_options()).await;
    eventually("the first are called", || async {
        it.fake.ledger().accepted_count() > 10
    })
    .await;
    // The standby follows for a moment, so that it says by itself how old it is.
    cluster.ship_log(&mut standby).await;
    let shipped_at = it.world.db.clock().now();
    let known = it.fake.ledger().accepted_count();
    eventually("more are called, of which it does not hear", || async {
        it.fake.ledger().accepted_count() > known + 180
    })
    .await;
    worker.kill();
    cluster.fail_over(standby).await;
    assert!(it.fake.ledger().accepted_count() < PEOPLE as usize);

    let worker = it.world.worker().await;
    let _scheduler = it.world.scheduler();
    eventually("it is released", || async {
        let server = current(&it.world).await;
        server.is_some_and(|server| server.released_at.is_some())
    })
    .await;
    let server = current(&it.world).await.unwrap();
    assert_eq!(server.released_by.as_deref(), Some("reconciliation"));
    assert_eq!((server.replays, server.calls_restored), (0, 0));
    let recovered_to = server.recovered_to.unwrap();
    assert!(
        copied_at < recovered_to && recovered_to <= shipped_at,
        "{copied_at} {recovered_to} {shipped_at}"
    );
    // Who got two is seen at once.
    let doubled = || it.fake.ledger().doubled("m").len();
    eventually("everybody is reached", || async {
        it.world.through(campaign).await == i64::from(PEOPLE) || doubled() > 0
    })
    .await;
    worker.drain(DRAIN).await;

    assert_eq!(doubled(), 0);
    assert_eq!(taken(&it).len(), PEOPLE as usize);
    let released_at = server.released_at.unwrap();
    let begun = it.fake.ledger().requested();
    let mut begun = begun.iter();
    assert!(
        begun.all(|one| one.at < server.seen_at || one.at >= released_at),
        "it began in quarantine"
    );
    let claimed = it.number("SELECT sum(claimed)::bigint FROM timeline_listings");
    let claimed = claimed.await;
    assert!(claimed > 100, "{claimed}");
    let resolved =
        "SELECT count(*) FROM send_attempts WHERE resolved_by = 'reconciliation' AND state = 1";
    assert_eq!(it.number(resolved).await, claimed);
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::HandedOver), i64::from(PEOPLE));
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(it.number("SELECT count(*) FROM live_calls").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_be_listed_keeps_the_server_in_quarantine_and_says_why() {
    let it = TwilioWorld::start().await;
    it.put_in_quarantine().await;
    it.save_account(it.world.tenant_id, "wrong").await;
    let office = it.world.resolver().await;
    office.reconcile().await;
    assert!(it.held().await.contains("processes that live on"));
    assert_eq!(it.number("SELECT count(*) FROM timeline_listings").await, 0);

    it.world.db.advance(it.world.holds.not_sent).await;
    for _ in 0..3 {
        office.reconcile().await;
        it.world.db.advance(it.world.holds.look_apart).await;
    }
    let held = it.held().await;
    assert!(held.contains("20003"), "{held}");
    let listed = run(on(&it.world.db, &["timeline", "list", "--json"]));
    let listed = listed.await.json();
    let shown = listed.as_array().unwrap();
    let shown = shown.iter().find(|one| one["is_current"] == true).unwrap();
    assert_eq!(shown["held_because"], held);
    let error = shown["accounts"][0]["error"].as_str().unwrap();
    assert!(error.contains("20003"), "{error}");
    let table = run(on(&it.world.db, &["timeline", "list"])).await;
    assert!(table.out.contains("20003"), "{}", table.out);

    it.save_account(it.world.tenant_id, AUTH_TOKEN).await;
    office.reconcile().await;
    assert!(it.held().await.contains("listed again"));
    // A list that fails proves nothing, and takes nothing back.
    it.world.db.advance(it.world.holds.look_apart).await;
    it.fake.refuse_lists([503]);
    office.reconcile().await;
    assert!(it.held().await.contains("503"));
    it.world.db.advance(it.world.holds.look_apart).await;
    office.reconcile().await;
    assert_eq!(it.released_by().await, "reconciliation");
    office.end().await;
}

/// Two campaigns say the same to the same people, the second list shows more than the first, and others use the account.
#[tokio::test(flavor = "multi_thread")]
async fn of_messages_that_are_alike_as_many_are_sent_as_were_not() {
    let it = TwilioWorld::start().await;
    it.put_in_quarantine().await;
    it.world.add_contact("Ann", "+12055550001").await;
    it.world.add_contact("Bob", "+12055550002").await;
    let campaigns = [
        it.filled_campaign("Hello").await,
        it.filled_campaign("Hello").await,
    ];
    it.send("+12055550001", "Hello").await;
    it.send("+12055550003", "Hello").await;
    let office = it.world.resolver().await;
    it.world.db.advance(it.world.holds.not_sent).await;
    office.reconcile().await;
    assert_eq!(it.handed_over(&campaigns).await, 1);
    let unknown = "SELECT unknown::bigint FROM timeline_listings";
    assert_eq!(it.number(unknown).await, 1);

    it.send("+12055550001", "Hello").await;
    it.send("+12055550002", "Hello").await;
    for expected in ["quarantined", "reconciliation"] {
        it.world.db.advance(it.world.holds.look_apart).await;
        office.reconcile().await;
        assert_eq!(it.handed_over(&campaigns).await, 3);
        assert_eq!(it.released_by().await, expected);
    }
    office.end().await;
    let worker = it.world.worker().await;
    eventually("the last one goes out", || async {
        it.handed_over(&campaigns).await == 4
    })
    .await;
    worker.drain(DRAIN).await;
    let to_bob = it.fake.ledger().accepted().into_iter();
    assert_eq!(to_bob.filter(|one| one.to == "+12055550002").count(), 2);
    assert_eq!(it.fake.ledger().accepted_count(), 5);

    // A forgotten attempt has lost its token: reports go by what the provider calls it. Nobody else's do.
    it.world.db.execute(REPORTS_WITH_OTHER_TOKENS).await;
    while fold_events(&it.world.db.db()).await.unwrap() > 0 {}
    let unheard = "SELECT count(*) FROM provider_events WHERE folded_at IS NULL";
    assert_eq!(it.number(unheard).await, 1);
    let delivered = "SELECT count(*) FROM messages WHERE status = 'delivered'";
    assert_eq!(it.number(delivered).await, 3);
}

const REPORTS_WITH_OTHER_TOKENS: &str = "
    INSERT INTO cell.provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
        provider_message_id, status, body)
    SELECT 'tw:' || provider_message_id, provider, provider_account, tenant_id, message_id, gen_random_uuid(),
           provider_message_id, 'delivered', '{}'
    FROM cell.message_provider_mappings";

#[tokio::test(flavor = "multi_thread")]
async fn what_lists_cannot_tell_is_left_to_an_operator() {
    let it = TwilioWorld::start().await;
    it.put_in_quarantine().await;
    it.world.add_contact("Ann", "+12055550001").await;
    let campaign = it
        .filled_campaign("Hello https://example.com/a/long/way")
        .await;
    let office = it.world.resolver().await;
    it.world.db.advance(it.world.holds.not_sent).await;
    office.reconcile().await;
    it.world.db.advance(it.world.holds.look_apart).await;
    let tenant_id = it.world.tenant_id;
    let email = format!(
        "INSERT INTO cell.tenant_channel_credentials_v2 (id, tenant_id, channel, provider, account_ref, is_enabled, is_verified)
         VALUES (gen_random_uuid(), '{tenant_id}', 'email', 'aws_ses', 'ses-1', true, true)"
    );
    let no_email = "DELETE FROM cell.tenant_channel_credentials_v2 WHERE provider = 'aws_ses';
        DELETE FROM cell.timeline_listings WHERE provider = 'aws_ses'";
    let recovered_to = |value: &str| {
        format!(
            "UPDATE cell.database_timelines SET recovered_to = {value} WHERE released_at IS NULL"
        )
    };
    let before = |identifier: &str| {
        format!(
            "UPDATE cell.database_timelines SET system_identifier = {identifier} WHERE released_at IS NOT NULL"
        )
    };
    let own = "(SELECT system_identifier::text FROM pg_control_system())";
    let cases = [
        (
            recovered_to("seen_at - interval '1 hour'"),
            "restored backup",
        ),
        (recovered_to("NULL"), "how much it has forgotten"),
        (
            recovered_to("seen_at") + ";" + &before("'1'"),
            "another cluster",
        ),
        (before(own) + ";" + &email, "emails"),
    ];
    for (case, reason) in cases {
        it.world.db.execute(&case).await;
        office.reconcile().await;
        let held = it.held().await;
        assert!(held.contains(reason), "{reason}: {held}");
    }
    it.world.db.execute(no_email).await;

    // Perhaps it is the campaign's, with a link made short.
    it.send("+12055550001", "Hello https://twil.io/x").await;
    for _ in 0..3 {
        it.world.db.advance(it.world.holds.look_apart).await;
        office.reconcile().await;
    }
    let held = it.held().await;
    assert!(held.contains("in other words"), "{held}");
    assert_eq!(it.handed_over(&[campaign]).await, 0);
    assert_eq!(it.released_by().await, "quarantined");
    office.end().await;
}

impl TwilioWorld {
    /// The server looks like a standby that was promoted, up to date.
    pub async fn put_in_quarantine(&self) {
        self.world.db.execute(OTHER_TIMELINE).await;
        let mut tx = self.world.db.db().system().begin().await.unwrap();
        find_current(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let fresh =
            "UPDATE cell.database_timelines SET recovered_to = seen_at WHERE released_at IS NULL";
        self.world.db.execute(fresh).await;
    }

    /// A campaign whose messages wait, all of them.
    async fn filled_campaign(&self, body: &str) -> CampaignId {
        let filler = Worker::start(self.world.db.db(), self.world.without_sends()).await;
        let campaign = self.world.campaign(body).await;
        let unfilled = format!(
            "SELECT count(*) FROM contacts c WHERE NOT EXISTS (
                SELECT FROM messages m WHERE m.contact_id = c.id AND m.campaign_id = '{campaign}')"
        );
        eventually("everybody has a message", || async {
            self.world.number(&unfilled).await == 0
        })
        .await;
        filler.drain(DRAIN).await;
        campaign
    }

    /// A message with the account that this installation knows nothing of.
    async fn send(&self, to: &str, body: &str) {
        let provider = self.provider(AUTH_TOKEN);
        provider.send(&self.request(to, body)).await.unwrap();
    }

    async fn number(&self, sql: &str) -> i64 {
        self.world.number(sql).await
    }

    async fn handed_over(&self, campaigns: &[CampaignId]) -> i64 {
        let mut handed_over = 0;
        for id in campaigns {
            let counts = self.world.counts(*id).await;
            assert!(counts.is_balanced(), "{counts:?}");
            handed_over += counts.get(CountWord::HandedOver);
        }
        handed_over
    }

    /// Why the server that answers stays in quarantine.
    async fn held(&self) -> String {
        current(&self.world).await.unwrap().held_because.unwrap()
    }

    async fn released_by(&self) -> String {
        let by = current(&self.world).await.unwrap().released_by;
        by.unwrap_or_else(|| "quarantined".into())
    }
}
