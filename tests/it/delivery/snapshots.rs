//! The counts of a campaign are its rows, at any instant of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use engageninja::domain::channel::Channel;
use engageninja::domain::counts::{CountWord, Counts};
use engageninja::domain::ids::CampaignId;
use engageninja::domain::message::Phase;
use engageninja::domain::status::{End, Status};
use engageninja::store::campaign_counts::list_snapshots;
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::harness::world::World;
use crate::harness::{eventually, within};

const SNAPSHOTS: usize = 100;
const CONTACTS: i64 = 1_000;

/// What the counts say, and what the rows say, in one snapshot of the database.
async fn both(world: &World, id: CampaignId) -> (i64, Counts, Counts) {
    let mut tx = world.db.db().system().begin().await.unwrap();
    tx.conn()
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    let campaigns = [(world.tenant_id, id)];
    let counted = list_snapshots(tx.conn(), &campaigns)
        .await
        .unwrap()
        .pop()
        .unwrap();
    let sql = format!(
        "SELECT phase, drop_reason, status, count(*) FROM messages WHERE tenant_id = '{}' AND campaign_id = '{id}'
         GROUP BY phase, drop_reason, status",
        world.tenant_id
    );
    let mut words: BTreeMap<String, i64> = BTreeMap::new();
    let mut add =
        |word: CountWord, people| *words.entry(word.as_str().into()).or_default() += people;
    for row in tx.conn().fetch_all(AssertSqlSafe(sql)).await.unwrap() {
        let people: i64 = row.get(3);
        let phase = Phase::try_from(row.get::<i16, _>(0)).unwrap();
        let reason: Option<String> = row.get(1);
        add(
            CountWord::of(phase, reason.map(|word| word.parse().unwrap())),
            people,
        );
        let status: Option<String> = row.get(2);
        let end = status.and_then(|word| Status::parse(Channel::Sms, &word).unwrap().end());
        match end {
            Some(End::Delivered) => add(CountWord::Delivered, people),
            Some(End::Failed) => add(CountWord::Failed, people),
            None => {}
        }
    }
    let frozen = format!(
        "SELECT coalesce(sum(total - next_pos), 0)::bigint, coalesce(sum(total), 0)::bigint FROM campaign_expansion WHERE campaign_id = '{id}'"
    );
    let row = tx.conn().fetch_one(AssertSqlSafe(frozen)).await.unwrap();
    add(CountWord::Unexpanded, row.get(0));
    add(CountWord::Audience, row.get(1));
    words.retain(|_, people| *people != 0);
    (counted.version, counted.counts, Counts::from_stored(words))
}

fn words(counts: &Counts) -> Vec<(&'static str, i64)> {
    let words = CountWord::ALL
        .iter()
        .map(|word| (word.as_str(), counts.get(*word)));
    words.filter(|(_, people)| *people != 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_snapshots_of_a_run_equal_the_rows() {
    let world = World::start().await;
    world.add_contacts(CONTACTS as u32).await;
    let workers = [world.slow_worker().await, world.slow_worker().await];
    let _scheduler = world.scheduler();
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let mut newest = 0;
    let mut seen = 0;
    within(60, "a hundred snapshots that differ", async {
        while seen < SNAPSHOTS {
            let (version, counted, found) = both(&world, campaign).await;
            assert_eq!(words(&counted), words(&found));
            assert!(counted.is_balanced(), "{counted:?}");
            assert!(version >= newest, "version {version} after {newest}");
            seen += usize::from(version > newest);
            newest = version;
        }
    })
    .await;

    eventually("all are through", || async {
        world.through(campaign).await == CONTACTS
    })
    .await;
    // The provider's last word comes within a dozen seconds of its clock.
    world.db.advance(Duration::from_secs(15)).await;
    eventually("some have arrived", || async {
        world.counts(campaign).await.get(CountWord::Delivered) > 0
    })
    .await;
    let (_, counted, found) = both(&world, campaign).await;
    assert_eq!(words(&counted), words(&found));
    for worker in workers {
        worker.drain(Duration::from_secs(5)).await;
    }
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.deadlocks().await, 0);
}
