//! One event that cannot be stored, or not be merged, fails no other: not of its batch, and not of another tenant.

use std::time::Duration;

use engageninja::delivery::inbox::fold::fold_events;
use engageninja::dev::fake_twilio::{ACCOUNT_SID, AUTH_TOKEN, Accepted, Act, Callback, Reply};
use engageninja::domain::channel::Provider;
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};
use engageninja::store::provider_events::NewEvent;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{Office, form, held, with_field, with_mark};

/// Text that nothing makes shorter.
fn noise(chars: usize) -> String {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    (0..chars)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}

/// Fields that no column or no key takes, or that Twilio would never send, each with a word of its refusal.
fn impossible() -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("Body", "a\0b".into(), "NUL"),
        ("a\0b", "x".into(), "NUL"),
        ("MessageSid", "SM\0".into(), "NUL"),
        ("MessageSid", "SM1".into(), "MessageSid"),
        ("MessageSid", format!("SM{}", noise(2_660)), "MessageSid"),
        ("MessageSid", format!("SM{}", noise(5_000)), "MessageSid"),
        ("MessageStatus", "deli vered".into(), "MessageStatus"),
        (
            "MessageStatus",
            "delivered\u{1f4a9}".into(),
            "MessageStatus",
        ),
        ("MessageStatus", noise(5_000), "MessageStatus"),
        ("ErrorCode", "30003;".into(), "ErrorCode"),
        ("ErrorCode", noise(5_000), "ErrorCode"),
    ]
}

/// A tenant has its account's token, so that it can sign anything; other tenants' callbacks come at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_whoever_signed_it_and_fails_no_other() {
    let office = Office::open(held()).await;
    let other = office.it.another("second", "+12025550107").await;
    let campaign = office.send(40).await;
    let right = office.it.fake.take_held();
    let message = &office.it.fake.ledger().accepted()[0];
    let address = message.status_callback.clone().unwrap();
    let address = with_mark(&address, "t", &other.tenant_id.to_string());
    let bad: Vec<(&str, Callback)> = impossible()
        .into_iter()
        .map(|(name, value, word)| {
            let fields = with_field(form(message, "delivered", ACCOUNT_SID), name, &value);
            (word, Callback::new(&address, fields, AUTH_TOKEN))
        })
        .collect();

    let burst: Vec<(Option<&str>, &Callback)> = right
        .iter()
        .zip(bad.iter().cycle())
        .flat_map(|(right, (word, bad))| [(None, right), (Some(*word), bad)])
        .collect();
    let answers = join_all(burst.iter().map(|(_, callback)| office.post(callback))).await;
    for ((word, _), (status, text)) in burst.iter().zip(answers) {
        let Some(word) = word else {
            assert_eq!(status, 204, "{text}");
            continue;
        };
        assert_eq!(status, 422, "{word}: {text}");
        assert!(
            text.contains("urn:engageninja:problem:invalid-body") && text.contains(*word),
            "{word}: {text}"
        );
    }

    office.folded().await;
    let stored = office.number("SELECT count(*) FROM provider_events").await;
    assert_eq!(stored, right.len() as i64);
    let unfolded = "SELECT count(*) FROM provider_events WHERE folded_at IS NULL";
    assert_eq!(office.number(unfolded).await, 0);
    let counts = office.it.world.counts(campaign).await;
    let told = counts.get(CountWord::Delivered) + counts.get(CountWord::Failed);
    assert_eq!(told, 40, "{counts:?}");
}

/// The event that Twilio delivered a message, as the door makes it, but for the mark of its address.
fn delivered(message: &Accepted) -> NewEvent {
    let mark = |name: &str| -> Uuid { message.mark(name).unwrap().parse().unwrap() };
    NewEvent {
        dedup_key: format!("tw:{}:delivered:", message.sid),
        provider: Provider::Twilio,
        account_ref: message.account_sid.clone(),
        key: MessageKey {
            tenant_id: TenantId(mark("t")),
            id: MessageId(mark("m")),
        },
        attempt_id: AttemptId(mark("a")),
        provider_message_id: message.sid.clone(),
        status: "delivered".into(),
        body: serde_json::json!({}),
    }
}

/// Should the door ever let one in.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_stored_is_refused_alone() {
    let office = Office::open(held()).await;
    let campaign = office.send(30).await;
    let accepted = office.it.fake.ledger().accepted();
    let mut events: Vec<NewEvent> = accepted.iter().map(delivered).collect();
    events[0].body = serde_json::json!({"Body": "\0"});
    events[7].dedup_key = noise(9_000);
    events[20].status = "\0".into();

    let inbox = &office.app.state.events;
    let answers = join_all(events.into_iter().map(|event| inbox.accept(event))).await;

    let refused: Vec<usize> = answers
        .iter()
        .enumerate()
        .filter(|(_, is_stored)| !**is_stored)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(refused, [0, 7, 20]);
    office.folded().await;
    let folded = "SELECT count(*) FROM provider_events WHERE folded_at IS NOT NULL";
    assert_eq!(office.number(folded).await, 27);
    let counts = office.it.world.counts(campaign).await;
    assert_eq!(counts.get(CountWord::Delivered), 27, "{counts:?}");
}

/// What the provider calls a message is longer than a key may be, and it becomes one when an attempt in doubt is proven by it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_merged_is_put_off_and_keeps_no_other_waiting() {
    let office = Office::open(held()).await;
    office.it.fake.script([Act::taken(Reply::Error {
        status: 500,
        code: 20500,
    })]);
    let campaign = office.send(20).await;
    let world = &office.it.world;
    let delivered = async || world.counts(campaign).await.get(CountWord::Delivered);
    let too_long = noise(3_000);
    let told = format!(
        "INSERT INTO cell.provider_events (dedup_key, provider, account_ref, tenant_id, message_id, attempt_id,
             provider_message_id, status, body)
         SELECT 'tw:' || a.message_id, a.provider, a.account_ref, a.tenant_id, a.message_id, a.id,
                COALESCE(a.provider_message_id, '{too_long}'), 'delivered', '{{}}'
         FROM cell.send_attempts a"
    );
    world.db.execute(&told).await;

    // On a slow machine it is due again before the others are through.
    assert!(fold_events(&world.db.db()).await.unwrap() >= 20);
    assert_eq!(delivered().await, 19);
    let waiting = "SELECT COALESCE(max(tries), 0)::bigint FROM provider_events
        WHERE folded_at IS NULL AND next_try_at >= received_at + interval '1 s'";
    let tries = office.number(waiting).await;
    assert!(tries > 0, "{tries}");
    let folded = "SELECT count(*) FROM provider_events WHERE folded_at IS NOT NULL";
    assert_eq!(office.number(folded).await, 19);
    let in_doubt = "SELECT count(*) FROM send_attempts WHERE state = 2";
    assert_eq!(office.number(in_doubt).await, 1);

    world.db.advance(Duration::from_mins(1)).await;
    assert!(fold_events(&world.db.db()).await.unwrap() > 0);
    assert!(office.number(waiting).await > tries);

    let mend = "UPDATE cell.provider_events SET provider_message_id = 'SM' || md5('') WHERE folded_at IS NULL";
    world.db.execute(mend).await;
    world.db.advance(Duration::from_mins(1)).await;
    assert_eq!(fold_events(&world.db.db()).await.unwrap(), 1);
    assert_eq!(delivered().await, 20);
}
