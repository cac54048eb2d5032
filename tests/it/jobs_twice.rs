//! Every job may run twice: two runs at once and a third afterwards have the effect of one.
//!
//! A job of the registry without its test here fails.

use std::time::Duration;

use engageninja::delivery::inbox::fold::fold_events;
use engageninja::dev::fake_twilio::AUTH_TOKEN;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{CampaignId, MessageId, TenantId};
use engageninja::domain::orders::{
    CancelCampaign, CheckOrphans, ClearTenant, DemoAdvanceStatus, ExpandCampaign,
    FoldCampaignDeltas, FoldProviderEvents, ImportContacts, MaintainPartitions, NAMES,
    PruneHistory, ReconcileProvider, ResolveDoubt, RetryFailed, RetryMessage, SendMessage,
    StartDueCampaigns, SyncTenants,
};
use engageninja::jobs::queue::{NewJob, Payload, enqueue};
use engageninja::jobs::worker::Worker;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use uuid::Uuid;

use crate::harness::db::TestDb;
use crate::harness::twilio::TwilioWorld;
use crate::harness::world::World;
use crate::harness::{eventually, within};
use crate::imports::office::{Office, counts, expected_of_long_sample, long_sample};

const DRAIN: Duration = Duration::from_secs(5);

/// Twenty messages that the provider took and then failed, for a reason that may pass.
async fn failed_world() -> (World, CampaignId) {
    let world = World::start().await;
    world.add_contacts(20).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let keys = world.let_out(campaign, 20).await;
    world.begin(&keys).await;
    world.db.execute(
        "INSERT INTO cell.provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
             provider_message_id, status, body)
         SELECT 'tw:' || message_id, provider, account_ref, tenant_id, message_id, id, 'SM' || message_id, 'undelivered',
                '{\"ErrorCode\": \"30003\"}'
         FROM cell.send_attempts",
    ).await;
    while fold_events(&world.db.db()).await.unwrap() > 0 {}
    assert_eq!(world.counts(campaign).await.get(CountWord::Failed), 20);
    (world, campaign)
}

async fn sent_anew_once(world: &World, campaign: CampaignId) {
    let anew = "SELECT count(*) FROM messages n JOIN messages o ON o.tenant_id = n.tenant_id AND o.retried_by = n.id
        WHERE n.step = 1 AND n.retry_of = o.id";
    assert_eq!(world.number(anew).await, 20);
    assert_eq!(world.number("SELECT count(*) FROM messages").await, 40);
    let counts = world.counts(campaign).await;
    assert!(counts.is_balanced(), "{counts:?}");
    let waiting = counts.get(CountWord::Queued) + counts.get(CountWord::Released);
    assert_eq!((waiting, counts.get(CountWord::Failed)), (20, 0));
}

/// One test per job, and the list of the jobs that have one.
macro_rules! twice {
    ($($order:ident: $name:ident $body:block)+) => {
        const TESTED: &[&str] = &[$($order::NAME),+];

        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() $body)+
    };
}

#[test]
fn every_job_has_its_test() {
    let missing: Vec<_> = NAMES.iter().filter(|name| !TESTED.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} may run twice: show it");
}

/// Has a running worker do the same orders twice at once, and then once more.
///
/// Both runs of the first pair wait for `gate`, a table that the job reads, until both are there: so they meet.
async fn order_thrice<P: Payload + Clone>(test: &TestDb, gate: Option<&str>, orders: &[P]) {
    let mut session = test.options().cell.connect().await.unwrap();
    let mut closed = None;
    if let Some(table) = gate {
        let mut tx = session.begin().await.unwrap();
        let lock = format!("LOCK TABLE cell.{table}");
        tx.execute(AssertSqlSafe(lock)).await.unwrap();
        closed = Some(tx);
    }
    order(test, orders, 2).await;
    if let Some(tx) = closed {
        eventually("both runs are at the gate", async || {
            test.number(AT_GATE).await >= 2
        })
        .await;
        tx.rollback().await.unwrap();
    }
    done::<P>(test).await;
    order(test, orders, 1).await;
    done::<P>(test).await;
}

const AT_GATE: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'relation'";

async fn order<P: Payload + Clone>(test: &TestDb, orders: &[P], copies: usize) {
    let jobs: Vec<NewJob> = orders
        .iter()
        .flat_map(|order| vec![order.clone(); copies])
        // Without its key, which would keep the second from being stored.
        .map(|order| NewJob {
            unique_key: None,
            ..NewJob::from(order)
        })
        .collect();
    let mut tx = test.db().system().begin().await.unwrap();
    let ids = enqueue(&mut tx, jobs).await.unwrap();
    assert_eq!(ids.len(), orders.len() * copies);
    tx.commit().await.unwrap();
}

async fn done<P: Payload>(test: &TestDb) {
    let live = format!("SELECT count(*) FROM cell.jobs WHERE kind = '{}'", P::KIND);
    eventually(P::KIND, async || test.number(&live).await == 0).await;
    // But those that a test laid there.
    let dead = "SELECT count(*) FROM cell.dead_jobs WHERE queue <> 'past'";
    assert_eq!(test.number(dead).await, 0);
}

impl World {
    async fn do_thrice<P: Payload + Clone>(&self, gate: Option<&str>, orders: &[P]) {
        order_thrice(&self.db, gate, orders).await;
    }
}

/// Tables that are pruned, and a column that tells whose row it is.
const PILES: [(&str, &str); 7] = [
    (
        "imports",
        "CASE WHEN status = 'uploading' THEN file_name END",
    ),
    ("idempotency_keys", "key"),
    ("control.platform_idempotency_keys", "key"),
    ("control.sessions", "user_agent"),
    ("schedule_runs", "schedule_id"),
    ("dead_jobs", "CASE WHEN unique_key = kind THEN kind END"),
    ("demo_ledger", "provider_message_id"),
];

/// Rows of every table that is pruned, made now.
fn history(tenant_id: TenantId, name: &str) -> String {
    format!(
        "INSERT INTO cell.idempotency_keys (tenant_id, key, request_hash) VALUES ('{tenant_id}', '{name}', '');
         INSERT INTO control.platform_idempotency_keys (actor, key, request_hash) VALUES ('x', '{name}', '');
         INSERT INTO control.users (id, email, email_normalized, name)
             VALUES (gen_random_uuid(), '{name}', '{name}', '{name}');
         INSERT INTO control.sessions (token_hash, user_id, csrf_secret, user_agent, expires_at)
             SELECT convert_to('{name}', 'UTF8'), id, '', '{name}', public.app_now() + interval '1 hour'
             FROM control.users WHERE email = '{name}';
         INSERT INTO cell.schedules (id, cron, queue, kind) VALUES ('{name}', '', '', '');
         INSERT INTO cell.schedule_runs (schedule_id, fire_at) VALUES ('{name}', public.app_now());
         INSERT INTO cell.dead_jobs (id, queue, kind, priority, unique_key, payload, attempt, starts, reason, created_at)
             SELECT nextval(pg_get_serial_sequence('cell.jobs', 'id')), 'past', '{name}', 0, unique_key, '{{}}', 3, 0, '',
                    public.app_now()
             FROM unnest(ARRAY['{name}', 'campaign:{name}', NULL]) AS unique_key;
         INSERT INTO cell.demo_ledger (tenant_id, message_id, attempt_id, provider_message_id)
             VALUES ('{tenant_id}', gen_random_uuid(), gen_random_uuid(), '{name}');
         WITH made AS (
             INSERT INTO cell.imports (tenant_id, id, file_name, status)
             VALUES ('{tenant_id}', gen_random_uuid(), '{name}', 'failed'),
                    ('{tenant_id}', gen_random_uuid(), '{name}', 'uploading'),
                    ('{tenant_id}', gen_random_uuid(), '{name}', 'running')
             RETURNING tenant_id, id)
         INSERT INTO cell.import_chunks (tenant_id, import_id, chunk_no, bytes) SELECT tenant_id, id, 0, 'x' FROM made"
    )
}

twice! {
    SendMessage: a_message_that_is_looked_at_thrice_is_sent_once {
        let world = World::start().await;
        world.add_contacts(20).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let released = world.let_out(campaign, 20).await;
        let orders: Vec<SendMessage> = released
            .iter()
            .map(|key| SendMessage { tenant_id: key.tenant_id, message_ids: vec![key.id] })
            .collect();

        // The release has ordered each once already. No gate: they meet in one batch.
        let worker = world.worker().await;
        world.do_thrice(None, &orders).await;
        worker.drain(DRAIN).await;

        let counts = world.counts(campaign).await;
        assert_eq!(world.through(campaign).await, 20);
        assert!(counts.is_balanced(), "{counts:?}");
        let lines = world.number("SELECT count(*) FROM demo_ledger").await;
        assert_eq!(lines, counts.get(CountWord::HandedOver));
        assert_eq!(world.doubled().await, 0);
        assert_eq!(world.number("SELECT count(*) FROM send_attempts").await, 20);
    }

    ExpandCampaign: a_campaign_that_is_expanded_thrice_has_one_message_per_person {
        const PEOPLE: i64 = 4_500;
        let world = World::start().await;
        world.add_contacts(PEOPLE as u32).await;
        world.add_contact("Twin", "+12055550000").await;
        let campaign_id = world.campaign("Hello {{ first_name }}").await;
        let order = ExpandCampaign { tenant_id: world.tenant_id, campaign_id };

        // The pair is to be the first; the start has ordered it, too.
        world.db.execute("DELETE FROM cell.jobs").await;
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("campaigns"), &[order]).await;
        worker.drain(DRAIN).await;

        let counts = world.counts(campaign_id).await;
        assert_eq!(counts.get(CountWord::Audience), PEOPLE + 1);
        assert_eq!(counts.get(CountWord::SkippedDuplicateAddress), 1);
        assert_eq!(counts.get(CountWord::Queued) + counts.get(CountWord::Released), PEOPLE);
        assert!(counts.is_balanced(), "{counts:?}");
        for table in ["messages", "message_bodies"] {
            assert_eq!(world.number(&format!("SELECT count(*) FROM {table}")).await, PEOPLE);
        }
        let addresses = "SELECT count(DISTINCT dest_mac) FROM messages";
        assert_eq!(world.number(addresses).await, PEOPLE);
    }

    CancelCampaign: what_waits_of_a_cancelled_campaign_is_dropped_once {
        let world = World::start().await;
        world.add_contacts(300).await;
        let campaign_id = world.campaign("Hello {{ first_name }}").await;
        let released = world.let_out(campaign_id, 1).await.len() as i64;
        assert!(released < 300);
        world.cancel(campaign_id).await.unwrap();
        let order = CancelCampaign { tenant_id: world.tenant_id, campaign_id };

        world.db.execute("DELETE FROM cell.jobs").await;
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("campaigns"), &[order]).await;
        worker.drain(DRAIN).await;

        let counts = world.counts(campaign_id).await;
        assert_eq!(counts.get(CountWord::DroppedCancelled), 300);
        assert!(counts.is_balanced() && counts.is_settled(), "{counts:?}");
        let dropped = "SELECT count(*) FROM messages WHERE phase = 6 AND drop_reason = 'cancelled'";
        assert_eq!(world.number(dropped).await, 300);
        let frozen = "SELECT (final_counts ->> 'dropped_cancelled')::bigint FROM campaigns";
        assert_eq!(world.number(frozen).await, 300);
    }

    RetryFailed: what_failed_is_sent_anew_once {
        let (world, campaign_id) = failed_world().await;
        let order = RetryFailed {
            tenant_id: world.tenant_id,
            campaign_id,
            after: MessageId(Uuid::nil()),
            asked_at: world.db.clock().now() + Duration::from_secs(1),
        };
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("campaigns"), &[order]).await;
        worker.drain(DRAIN).await;
        sent_anew_once(&world, campaign_id).await;
    }

    RetryMessage: a_message_that_failed_late_is_sent_anew_once {
        let (world, campaign_id) = failed_world().await;
        world.db.execute("UPDATE cell.tenants SET late_retries = 1").await;
        let rows = world.rows("SELECT id FROM messages").await;
        let orders: Vec<RetryMessage> = rows
            .iter()
            .map(|row| RetryMessage { tenant_id: world.tenant_id, message_id: MessageId(row.get(0)) })
            .collect();
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("messages"), &orders).await;
        worker.drain(DRAIN).await;
        sent_anew_once(&world, campaign_id).await;
    }

    CheckOrphans: a_look_for_orphans_changes_nothing {
        let (world, campaign_id) = failed_world().await;
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("campaign_totals"), &[CheckOrphans {}]).await;
        worker.drain(DRAIN).await;
        let counts = world.counts(campaign_id).await;
        assert_eq!(counts.get(CountWord::Failed), 20);
        assert_eq!(world.number("SELECT count(*) FROM messages").await, 20);
        assert_eq!(world.number("SELECT count(*) FROM dead_jobs").await, 0);
    }

    StartDueCampaigns: a_campaign_whose_time_has_come_starts_once {
        let world = World::start().await;
        world.add_contacts(5).await;
        let due = world.scheduled("Hello {{ first_name }}", Duration::from_mins(1)).await;
        let refused = world.scheduled("Hello {{ nobody_has_this }}", Duration::from_mins(1)).await;
        let later = world.scheduled("Hello", Duration::from_hours(2)).await;
        world.db.advance(Duration::from_secs(61)).await;
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("campaigns"), &[StartDueCampaigns {}]).await;
        eventually("it is expanded", || async { world.counts(due).await.get(CountWord::Audience) == 5 }).await;
        worker.drain(DRAIN).await;

        assert_eq!(world.load(due).await.status.as_str(), "sending");
        assert_eq!(world.load(later).await.status.as_str(), "scheduled");
        let failed = world.load(refused).await;
        assert_eq!(failed.status.as_str(), "failed");
        let reason = failed.failure_reason.unwrap();
        assert!(reason.contains("{{ nobody_has_this }}") && reason.contains("mend the template"), "{reason}");
        assert_eq!(world.number("SELECT count(*) FROM messages").await, 5);
        for id in [due, refused] {
            let records = format!("SELECT count(*) FROM audit_log WHERE target_id = '{id}' AND actor_kind = 'system'");
            assert_eq!(world.number(&records).await, 1);
        }
    }

    ImportContacts: a_file_that_is_read_thrice_makes_each_contact_once {
        let office = Office::open().await;
        let id = office.started(long_sample(), &serde_json::json!({})).await;

        office.app.db().execute("DELETE FROM cell.jobs").await;
        let worker = office.worker().await;
        order_thrice(office.app.db(), Some("imports"), &[office.order(id)]).await;
        let import = office.completed(id).await;
        worker.drain(DRAIN).await;

        assert_eq!(counts(&import), expected_of_long_sample());
        let created = import["counts"]["created"].as_i64().unwrap();
        for table in ["contacts", "contact_list_members"] {
            assert_eq!(office.number(&format!("SELECT count(*) FROM {table}")).await, created);
        }
    }

    FoldCampaignDeltas: counts_that_are_folded_thrice_stay_what_they_are {
        let world = World::start().await;
        world.add_contacts(50).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let worker = world.worker().await;
        eventually("all are through", || async { world.through(campaign).await == 50 }).await;
        let numbers = async || {
            let counts = world.counts(campaign).await;
            CountWord::ALL.iter().map(|word| counts.get(*word)).collect::<Vec<_>>()
        };
        let before = numbers().await;

        world.do_thrice(Some("campaign_deltas"), &[FoldCampaignDeltas {}]).await;
        let ended = world.load(campaign).await;
        assert_eq!(ended.status.as_str(), "completed");
        world.do_thrice(Some("campaign_deltas"), &[FoldCampaignDeltas {}]).await;
        worker.drain(DRAIN).await;

        assert_eq!(numbers().await, before);
        assert_eq!(world.load(campaign).await.finished_at, ended.finished_at);
        assert_eq!(world.number("SELECT count(*) FROM campaign_deltas").await, 0);
        let frozen = "SELECT (final_counts ->> 'audience')::bigint FROM campaigns";
        assert_eq!(world.number(frozen).await, 50);
    }

    MaintainPartitions: partitions_are_made_once {
        let world = World::on(TestDb::with_all_partitions().await).await;
        let pieces = "SELECT count(*) FROM pg_inherits";
        let before = world.number(pieces).await;
        let worker = world.worker().await;

        world.db.advance(Duration::from_hours(24 * 21)).await;
        world.do_thrice(Some("partition_rules"), &[MaintainPartitions {}]).await;
        worker.drain(DRAIN).await;

        // Three weeks and 21 days of each table, and their indexes.
        let after = world.number(pieces).await;
        assert!(after > before, "{before} pieces before, {after} after");
        assert_eq!(world.number("SELECT count(*) FROM schema_faults()").await, 0);
        assert_eq!(world.number("SELECT count(*) FROM maintain_partitions()").await, 0);
    }

    ResolveDoubt: what_nobody_told_is_settled_once {
        let world = World::start().await;
        world.add_contacts(20).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let released = world.let_out(campaign, 20).await;
        world.begin(&released).await;
        let worker = Worker::start(world.db.db(), world.without_sends()).await;

        for secs in [26, 64, 60] {
            world.db.advance(Duration::from_secs(secs)).await;
            world.do_thrice(Some("send_attempts"), &[ResolveDoubt {}]).await;
        }
        worker.drain(DRAIN).await;

        let counts = world.counts(campaign).await;
        assert!(counts.is_balanced(), "{counts:?}");
        assert_eq!(counts.get(CountWord::Queued) + counts.get(CountWord::Released), 20);
        assert_eq!(world.number("SELECT count(*) FROM send_attempts WHERE state = 5").await, 20);
        assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    }

    ReconcileProvider: a_server_that_is_told_thrice_is_told_once {
        let it = TwilioWorld::start().await;
        it.put_in_quarantine().await;
        it.world.add_contacts(20).await;
        let campaign = it.world.campaign("Hello").await;
        let worker = Worker::start(it.world.db.db(), it.world.without_sends()).await;
        eventually("everybody has a message", || async {
            it.world.counts(campaign).await.get(CountWord::Audience) == 20
        }).await;
        let provider = it.provider(AUTH_TOKEN);
        for n in 0..15 {
            provider.send(&it.request(&format!("+1205555{n:04}"), "Hello")).await.unwrap();
        }

        it.world.db.advance(it.world.holds.not_sent).await;
        it.world.do_thrice(Some("timeline_listings"), &[ReconcileProvider {}]).await;
        assert_eq!(it.world.number("SELECT claimed::bigint FROM timeline_listings").await, 15);
        it.world.db.advance(it.world.holds.look_apart).await;
        it.world.do_thrice(Some("timeline_listings"), &[ReconcileProvider {}]).await;
        worker.drain(DRAIN).await;

        let counts = it.world.counts(campaign).await;
        assert_eq!(counts.get(CountWord::HandedOver), 15);
        assert!(counts.is_balanced(), "{counts:?}");
        assert_eq!(it.world.number("SELECT count(*) FROM message_provider_mappings").await, 15);
        assert_eq!(it.world.number("SELECT count(*) FROM send_attempts WHERE state = 1").await, 15);
        let released = "SELECT count(*) FROM database_timelines WHERE released_by = 'reconciliation'";
        assert_eq!(it.world.number(released).await, 1);
    }

    PruneHistory: what_is_past_its_time_is_forgotten_and_nothing_younger {
        let world = World::start().await;
        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        // One of each now, and one of each 40 days later.
        for name in ["old", "young"] {
            if name == "young" {
                world.db.advance(Duration::from_hours(24 * 40)).await;
            }
            world.db.execute(&history(world.tenant_id, name)).await;
        }
        let left = async |condition: &str| {
            let mut left = Vec::new();
            for (table, name) in PILES {
                let sql = format!("SELECT count(*) FROM {table} WHERE {name} {condition}");
                left.push(world.number(&sql).await);
            }
            left
        };
        world.do_thrice(Some("idempotency_keys"), &[PruneHistory {}]).await;
        assert_eq!(left("LIKE '%old%'").await, [0; PILES.len()]);
        // A running import's pieces stay, however old it is, and those that come in now.
        let chunks = "SELECT count(*) FROM import_chunks";
        assert_eq!(world.number(chunks).await, 3);
        assert_eq!(left("LIKE '%young%'").await, [1; PILES.len()]);
        // What no tick orders again waits for a person.
        let waiting = "SELECT count(*) FROM dead_jobs WHERE unique_key IS DISTINCT FROM kind";
        assert_eq!(world.number(waiting).await, 4);

        // Each to the hour: a day before its time, and a day after.
        for (day, kept) in [(1, 5), (3, 4), (6, 4), (8, 2), (13, 2), (15, 1), (29, 1), (31, 0)] {
            world.db.execute("DELETE FROM cell.idempotency_keys; DELETE FROM cell.schedule_runs; DELETE FROM cell.demo_ledger;
                 DELETE FROM control.platform_idempotency_keys").await;
            world.db.execute(&history(world.tenant_id, &format!("day{day}"))).await;
            world.db.advance(Duration::from_hours(24 * day)).await;
            world.do_thrice(None, &[PruneHistory {}]).await;
            let mut left = 0;
            for (table, name) in PILES.iter().filter(|(table, _)| *table != "control.sessions") {
                let sql = format!("SELECT count(*) FROM {table} WHERE {name} LIKE '%day{day}%'");
                left += world.number(&sql).await;
            }
            assert_eq!(left, kept, "after {day} days");
        }
        worker.drain(DRAIN).await;
    }

    FoldProviderEvents: an_event_that_is_folded_thrice_is_folded_once {
        let world = World::start().await;
        world.add_contacts(20).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let keys = world.let_out(campaign, 20).await;
        world.begin(&keys).await;
        // What a callback brings while nobody has told yet that the message was taken.
        world.db.execute(
            "INSERT INTO cell.provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
                 provider_message_id, status, body)
             SELECT 'tw:' || message_id, provider, account_ref, tenant_id, message_id, id, 'SM' || message_id, 'delivered', '{}'
             FROM cell.send_attempts",
        ).await;

        let worker = Worker::start(world.db.db(), world.without_sends()).await;
        world.do_thrice(Some("provider_events"), &[FoldProviderEvents {}]).await;
        worker.drain(DRAIN).await;

        let counts = world.counts(campaign).await;
        assert_eq!(counts.get(CountWord::HandedOver), 20);
        assert_eq!(counts.get(CountWord::Delivered), 20);
        assert!(counts.is_balanced(), "{counts:?}");
        let folded = "SELECT count(*) FROM provider_events WHERE folded_at IS NOT NULL AND tries = 0";
        assert_eq!(world.number(folded).await, 20);
        assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    }

    DemoAdvanceStatus: what_the_demo_provider_reports_thrice_counts_once {
        let world = World::start().await;
        world.add_contacts(60).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let worker = world.worker().await;
        eventually("all are through", || async { world.through(campaign).await == 60 }).await;
        let handed_over = world.counts(campaign).await.get(CountWord::HandedOver);

        let open = "SELECT count(*) FROM demo_ledger WHERE next_at IS NOT NULL";
        within(60, "the provider says its last word", async {
            while world.number(open).await > 0 {
                // Nothing takes it longer than a dozen seconds.
                world.db.advance(Duration::from_secs(15)).await;
                world.do_thrice(Some("demo_ledger"), &[DemoAdvanceStatus {}]).await;
            }
        })
        .await;
        let told = |row: &sqlx::postgres::PgRow| (row.get::<String, _>(0), row.get::<i16, _>(1));
        let rows = || world.rows("SELECT status, status_rank FROM messages WHERE phase = 4 ORDER BY id");
        let before: Vec<_> = rows().await.iter().map(told).collect();
        world.db.advance(Duration::from_secs(15)).await;
        world.do_thrice(Some("demo_ledger"), &[DemoAdvanceStatus {}]).await;
        worker.drain(DRAIN).await;

        let counts = world.counts(campaign).await;
        let ended = counts.get(CountWord::Delivered) + counts.get(CountWord::Failed);
        assert_eq!(ended, handed_over);
        assert!(counts.is_balanced(), "{counts:?}");
        assert_eq!(rows().await.iter().map(told).collect::<Vec<_>>(), before);
        let conflicts = "SELECT count(*) FROM messages WHERE status_conflict";
        assert_eq!(world.number(conflicts).await, 0);
    }

    SyncTenants: a_name_that_is_followed_thrice_is_followed_once {
        let world = World::start().await;
        world.db.execute("UPDATE control.tenant_directory SET name = 'Renamed', version = version + 1").await;
        let worker = world.worker().await;

        world.do_thrice(Some("tenants"), &[SyncTenants {}]).await;
        worker.drain(DRAIN).await;

        assert_eq!(world.db.text("SELECT name FROM cell.tenants").await, "Renamed");
        assert_eq!(world.number("SELECT count(*) FROM tenants WHERE directory_version = 2").await, 1);
        assert_eq!(world.number("SELECT count(*) FROM senders").await, 3);
    }

    ClearTenant: a_demo_tenant_that_is_reset_thrice_begins_anew_once {
        let world = World::start().await;
        world.add_contacts(50).await;
        let clearing = "UPDATE control.tenant_directory
            SET status = 'suspended', clearing = 'reset', version = version + 1";
        world.db.execute(clearing).await;
        let worker = world.worker().await;

        let order = ClearTenant { tenant_id: world.tenant_id };
        world.do_thrice(Some("tenants"), &[order]).await;
        worker.drain(DRAIN).await;

        let mine = "SELECT count(*) FROM contacts WHERE last_name IS NULL";
        assert_eq!(world.number(mine).await, 0);
        let new = "SELECT (SELECT count(*) FROM contacts) * 100 + (SELECT count(*) FROM templates) * 10
                 + (SELECT count(*) FROM campaigns WHERE status = 'draft')";
        assert_eq!(world.number(new).await, 50_031);
        assert_eq!(world.number("SELECT count(*) FROM senders").await, 3);
        assert_eq!(world.db.text("SELECT status FROM cell.tenants").await, "active");
        // Reset once: the second run found it done.
        assert_eq!(world.db.number("SELECT version FROM control.tenant_directory").await, 3);
    }
}
