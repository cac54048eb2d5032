//! Counts are exact in every snapshot, whoever moves messages and whoever folds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engageninja::domain::counts::{CountDelta, CountWord};
use engageninja::domain::ids::{CampaignId, TenantId};
use engageninja::store::Db;
use engageninja::store::campaign_counts::{
    CountSnapshot, append_deltas, fold_deltas, list_snapshots,
};
use uuid::Uuid;

use crate::harness::world::World;

async fn append(db: &Db, tenant_id: TenantId, campaign_id: CampaignId, delta: CountDelta) {
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    append_deltas(tx.conn(), &[(tenant_id, campaign_id, delta)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn snapshot(db: &Db, tenant_id: TenantId, campaign_id: CampaignId) -> CountSnapshot {
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    list_snapshots(tx.conn(), &[(tenant_id, campaign_id)])
        .await
        .unwrap()
        .pop()
        .unwrap()
}

fn delta(changes: &[(CountWord, i64)]) -> CountDelta {
    let mut delta = CountDelta::default();
    for (word, people) in changes {
        delta.add(*word, *people);
    }
    delta
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_sum_to_the_audience_while_messages_move_and_deltas_are_folded() {
    const MOVERS: usize = 4;
    const MOVES: i64 = 40;
    let world = World::start().await;
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    let campaign_id = world.draft("Hello").await;
    let audience = MOVERS as i64 * MOVES;
    let start = delta(&[
        (CountWord::Audience, audience),
        (CountWord::Unexpanded, audience),
    ]);
    append(&db, tenant_id, campaign_id, start).await;

    let moving = Arc::new(AtomicUsize::new(MOVERS));
    for _ in 0..MOVERS {
        let (db, moving) = (db.clone(), moving.clone());
        tokio::spawn(async move {
            for _ in 0..MOVES {
                let step = delta(&[(CountWord::Unexpanded, -1), (CountWord::Queued, 1)]);
                append(&db, tenant_id, campaign_id, step).await;
            }
            moving.fetch_sub(1, Ordering::SeqCst);
        });
    }
    // Two folders at once, as two workers of one queue may be.
    for _ in 0..2 {
        let (db, moving) = (db.clone(), moving.clone());
        tokio::spawn(async move {
            while moving.load(Ordering::SeqCst) > 0 {
                let mut tx = db.system().begin().await.unwrap();
                fold_deltas(&mut tx, 10).await.unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    let mut version = 0;
    while moving.load(Ordering::SeqCst) > 0 {
        let snapshot = snapshot(&db, tenant_id, campaign_id).await;
        assert!(snapshot.counts.is_balanced(), "{snapshot:?}");
        assert!(snapshot.version >= version, "{snapshot:?} after {version}");
        version = snapshot.version;
    }

    let mut tx = db.system().begin().await.unwrap();
    fold_deltas(&mut tx, 10).await.unwrap();
    tx.commit().await.unwrap();
    let last = snapshot(&db, tenant_id, campaign_id).await;
    assert_eq!(last.counts.get(CountWord::Queued), audience);
    assert_eq!(last.counts.get(CountWord::Unexpanded), 0);
    assert_eq!(last.version, 1 + audience);
}

#[tokio::test]
async fn folding_again_changes_nothing() {
    let world = World::start().await;
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    let campaign_id = world.draft("Hello").await;
    let start = delta(&[(CountWord::Audience, 3), (CountWord::Queued, 3)]);
    append(&db, tenant_id, campaign_id, start).await;
    let before = snapshot(&db, tenant_id, campaign_id).await;
    for folded in [1, 0] {
        let mut tx = db.system().begin().await.unwrap();
        assert_eq!(fold_deltas(&mut tx, 10).await.unwrap().len(), folded);
        tx.commit().await.unwrap();
        assert_eq!(snapshot(&db, tenant_id, campaign_id).await, before);
    }
    assert_eq!(
        world.number("SELECT count(*) FROM campaign_deltas").await,
        0
    );
}

#[tokio::test]
async fn a_campaign_that_another_fold_holds_is_left_to_it() {
    let world = World::start().await;
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    let campaign_id = world.draft("Hello").await;
    let start = delta(&[(CountWord::Audience, 1), (CountWord::Queued, 1)]);
    append(&db, tenant_id, campaign_id, start.clone()).await;
    let mut tx = db.system().begin().await.unwrap();
    fold_deltas(&mut tx, 10).await.unwrap();
    tx.commit().await.unwrap();
    append(&db, tenant_id, campaign_id, start).await;

    let mut first = db.system().begin().await.unwrap();
    let mut second = db.system().begin().await.unwrap();
    assert_eq!(fold_deltas(&mut first, 10).await.unwrap().len(), 1);
    assert_eq!(fold_deltas(&mut second, 10).await.unwrap().len(), 0);
    second.commit().await.unwrap();
    first.commit().await.unwrap();
    let counts = snapshot(&db, tenant_id, campaign_id).await.counts;
    assert_eq!(counts.get(CountWord::Queued), 2);
}

#[tokio::test]
async fn a_change_that_comes_to_nothing_writes_no_row_and_one_campaign_writes_one() {
    let world = World::start().await;
    let (db, tenant_id) = (world.db.db(), world.tenant_id);
    let campaign_id = world.draft("Hello").await;
    let other = CampaignId(Uuid::now_v7());
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    let up = delta(&[(CountWord::Queued, 1)]);
    let down = delta(&[(CountWord::Queued, -1)]);
    let changes = [
        (tenant_id, campaign_id, up.clone()),
        (tenant_id, campaign_id, up.clone()),
        (tenant_id, other, up),
        (tenant_id, other, down),
    ];
    append_deltas(tx.conn(), &changes).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        world.number("SELECT count(*) FROM campaign_deltas").await,
        1
    );
    let counts = snapshot(&db, tenant_id, campaign_id).await.counts;
    assert_eq!(counts.get(CountWord::Queued), 2);
}
