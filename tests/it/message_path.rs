//! The path of a message: from a campaign to the provider's ledger, once.

use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::counts::CountWord;

use crate::harness::within;
use crate::harness::world::World;

#[tokio::test]
async fn a_campaign_reaches_everybody_once_and_completes() {
    let world = World::start().await;
    world.add_contacts(200).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    within(60, "the campaign completes", world.completed(campaign)).await;
    worker.drain(std::time::Duration::from_secs(5)).await;

    let counts = world.counts(campaign).await;
    let handed_over = counts.get(CountWord::HandedOver);
    assert!(counts.is_balanced(), "{counts:?}");
    assert_eq!(handed_over + counts.get(CountWord::DroppedRefused), 200);
    assert_eq!(
        world.number("SELECT count(*) FROM demo_ledger").await,
        handed_over
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM messages WHERE phase = 4")
            .await,
        handed_over
    );
    assert_eq!(world.doubled().await, 0);
    assert_eq!(world.number("SELECT count(*) FROM live_calls").await, 0);
    assert_eq!(
        world
            .number("SELECT count(*) FROM jobs WHERE queue = 'send'")
            .await,
        0
    );
}

#[tokio::test]
async fn two_contacts_with_one_number_get_one_message() {
    let world = World::start().await;
    world.add_contact("Ann", "+12055550001").await;
    world.add_contact("Bob", "+12055550001").await;
    let campaign = world.campaign("Hello {{ first_name }}").await;

    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    within(60, "the campaign completes", world.completed(campaign)).await;
    worker.drain(std::time::Duration::from_secs(5)).await;

    let counts = world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Audience), 2);
    assert_eq!(counts.get(CountWord::SkippedDuplicateAddress), 1);
    assert_eq!(world.number("SELECT count(*) FROM messages").await, 1);
    assert!(counts.is_balanced());
}

#[tokio::test]
async fn a_paused_campaign_begins_nothing_more() {
    let world = World::start().await;
    world.add_contacts(50).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let (paused, in_flight) = world.pause(campaign).await.unwrap();
    assert_eq!((paused.status, in_flight), (CampaignStatus::Paused, 0));

    let worker = world.worker().await;
    crate::harness::eventually("the campaign is expanded", || async {
        world.counts(campaign).await.get(CountWord::Queued) == 50
    })
    .await;
    worker.drain(std::time::Duration::from_secs(5)).await;

    assert_eq!(world.number("SELECT count(*) FROM send_attempts").await, 0);
    assert_eq!(
        world
            .number("SELECT count(*) FROM lanes WHERE active")
            .await,
        0
    );
}
