//! Whom a round asks about attempts whose outcome nobody told: neither a tenant nor an account keeps another from it.

use std::time::Duration;

use engageninja::dev::fake_twilio::{Act, Reply};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{CampaignId, TenantId};
use engageninja::store::doubts::list_due;

use crate::harness::eventually;
use crate::harness::twilio::TwilioWorld;
use crate::harness::world::World;

const DRAIN: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
/// Look-ups of one account at once.
const AT_ONCE: usize = 8;

/// Sends to all people of one of the tenants; the provider takes each message and answers nothing.
async fn lose_answers(it: &TwilioWorld, world: &World, people: usize) -> CampaignId {
    it.fake
        .script((0..people).map(|_| Act::taken(Reply::Reset)));
    let campaign = world.campaign("Hello {{ first_name }}").await;
    eventually("all are in doubt", || async {
        world.counts(campaign).await.get(CountWord::InDoubt) == people as i64
    })
    .await;
    campaign
}

/// Its older attempts fill more than what is asked about at once. That they cannot be asked about, or are refused, says nothing
/// of the account.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_credentials_fail_keeps_no_other_of_its_account_from_being_looked_up() {
    const PEOPLE: usize = AT_ONCE + 2;
    for is_switched_off in [true, false] {
        let it = TwilioWorld::start().await;
        let other = it.another("cafe", "+12025550188").await;
        it.world.add_contacts(PEOPLE as u32).await;
        other.add_contact("Zoe", "+12055559999").await;
        let worker = it.world.worker().await;
        let older = lose_answers(&it, &it.world, PEOPLE).await;
        let younger = lose_answers(&it, &other, 1).await;
        worker.drain(DRAIN).await;
        let tenant_id = it.world.tenant_id;
        if is_switched_off {
            let off = format!(
                "UPDATE cell.tenant_channel_credentials_v2 SET is_enabled = false WHERE tenant_id = '{tenant_id}'"
            );
            it.world.db.execute(&off).await;
        } else {
            it.save_account(tenant_id, "wrong").await;
        }

        it.world
            .db
            .advance(it.world.holds.first_look + SECOND)
            .await;
        let resolver = it.world.resolver().await;
        resolver.look().await;

        let found = other.counts(younger).await;
        assert_eq!(found.get(CountWord::HandedOver), 1, "{is_switched_off}");
        let unknown = it.world.counts(older).await;
        assert_eq!(unknown.get(CountWord::InDoubt), PEOPLE as i64);
        let by_look_up = "SELECT count(*) FROM send_attempts WHERE resolved_by = 'look_up'";
        assert_eq!(it.world.number(by_look_up).await, 1);
        resolver.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_gives_no_answer_is_left_alone_until_the_next_look() {
    const PEOPLE: usize = AT_ONCE + 4;
    let it = TwilioWorld::start().await;
    it.world.add_contacts(PEOPLE as u32).await;
    let worker = it.world.worker().await;
    let campaign = lose_answers(&it, &it.world, PEOPLE).await;
    worker.drain(DRAIN).await;
    let resolver = it.world.resolver().await;
    it.fake.refuse_lists([503; AT_ONCE]);

    it.world
        .db
        .advance(it.world.holds.first_look + SECOND)
        .await;
    resolver.look().await;
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::InDoubt), PEOPLE as i64, "{counts:?}");

    it.world.db.advance(it.world.holds.look_again).await;
    resolver.look().await;
    let counts = it.world.counts(campaign).await;
    assert_eq!(
        counts.get(CountWord::HandedOver),
        PEOPLE as i64,
        "{counts:?}"
    );
    resolver.end().await;
}

/// Nobody answers the look that would have been the proof. The ladder's next one is ten minutes after the deadline, by when the
/// message shall long be on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_when_a_proof_is_due_is_made_again_a_minute_later() {
    let it = TwilioWorld::start().await;
    it.fake.script([Act::untaken(Reply::Reset)]);
    it.world.add_contacts(1).await;
    let worker = it.world.worker().await;
    let campaign = it.world.campaign("Hello {{ first_name }}").await;
    eventually("it is in doubt", || async {
        it.world.counts(campaign).await.get(CountWord::InDoubt) == 1
    })
    .await;
    worker.drain(DRAIN).await;
    let (holds, resolver) = (it.world.holds, it.world.resolver().await);
    let until_due =
        "SELECT max(ceil(extract(epoch FROM next_look_at - app_now())))::bigint FROM send_attempts";
    let look_when_due = async || {
        let secs = it.world.number(until_due).await.max(0);
        it.world.db.advance(Duration::from_secs(secs as u64)).await;
        resolver.look().await;
    };

    // Two that find nothing; at the third it would be certain.
    look_when_due().await;
    look_when_due().await;
    it.fake.refuse_lists([503]);
    look_when_due().await;
    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::InDoubt), 1, "{counts:?}");
    let look_ups = "SELECT max(look_ups)::bigint FROM send_attempts";
    assert_eq!(it.world.number(look_ups).await, 3);
    it.world.db.advance(holds.look_again).await;
    resolver.look().await;

    let counts = it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Queued), 1, "{counts:?}");
    let in_time = "SELECT count(*) FROM send_attempts WHERE state = 5 AND resolved_at <= started_at + interval '4 minutes'";
    assert_eq!(it.world.number(in_time).await, 1);
    resolver.end().await;
}

/// More than ten times as many as one round takes, all of them due for longer.
#[tokio::test]
async fn an_account_with_many_that_are_due_leaves_room_for_another() {
    const ROUND: i64 = 5;
    const PEOPLE: u32 = 60;
    let world = World::start().await;
    let other = world.another("Cafe", "cafe").await;
    for (world, people) in [(&world, PEOPLE), (&other, 1)] {
        world.add_contacts(people).await;
        let campaign = world.campaign("Hello {{ first_name }}").await;
        let released = world.let_out(campaign, people as usize).await;
        world.begin(&released).await;
    }
    world.db.advance(world.holds.first_look).await;

    let mut tx = world.db.db().batch().begin().await.unwrap();
    let (_, due) = list_due(&mut tx, ROUND).await.unwrap();

    let whose: Vec<TenantId> = due.iter().map(|one| one.key.tenant_id).collect();
    assert_eq!(whose, [world.tenant_id, other.tenant_id]);
}
