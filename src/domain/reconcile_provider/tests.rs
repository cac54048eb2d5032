use uuid::Uuid;

use super::*;
use crate::domain::channel::Channel;
use crate::domain::ids::{MessageId, TenantId};

/// Half past one, a second or so after messages with the number 0 were made.
fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_764_000_000 + secs, 0).unwrap()
}

fn waiting(number: u64, to: &str, body: &str) -> Waiting {
    let millis = at(0).timestamp_millis() as u64;
    Waiting {
        key: MessageKey {
            tenant_id: TenantId(Uuid::from_u128(1)),
            id: MessageId(Uuid::from_u64_pair(millis << 16 | 0x7000, number)),
        },
        attempt_no: 0,
        live: None,
        from: Some("+1".into()),
        to: to.into(),
        body: body.into(),
    }
}

fn listed(sid: &str, to: &str, body: &str, secs: i64) -> Listed {
    Listed {
        provider_message_id: sid.into(),
        from: "+1".into(),
        to: to.into(),
        body: body.into(),
        created_at: at(secs),
        status: Status::parse(Channel::Sms, "sent").unwrap(),
        error_code: None,
    }
}

/// The number of each message that was found, its attempt, and what the provider calls it.
fn claims(matched: &Matched) -> Vec<(u64, i16, &str)> {
    let claims = matched.claims.iter();
    claims
        .map(|claim| {
            let number = claim.key.id.0.as_u64_pair().1;
            (
                number,
                claim.attempt_no,
                claim.listed.provider_message_id.as_str(),
            )
        })
        .collect()
}

#[test]
fn what_goes_to_the_same_person_in_the_same_words_is_it() {
    let matched = match_listed(
        vec![
            listed("a", "ann", "Hello", 9),
            listed("b", "bob", "Hello", 8),
        ],
        vec![waiting(1, "ann", "Hello"), waiting(2, "cid", "Hello")],
    );
    assert_eq!(claims(&matched), [(1, 1, "a")]);
    assert_eq!((matched.unknown, matched.unsure), (1, 0));
}

#[test]
fn of_messages_that_are_alike_as_many_are_left_as_were_not_sent() {
    let alike = || {
        (1..=3)
            .map(|number| waiting(number, "ann", "Hello"))
            .collect()
    };
    let first = listed("a", "ann", "Hello", 1);
    let second = listed("b", "ann", "Hello", 2);
    let matched = match_listed(vec![second.clone(), first.clone()], alike());
    assert_eq!(claims(&matched), [(1, 1, "a"), (2, 1, "b")]);
    let four = (0..4).map(|_| first.clone()).collect();
    let matched = match_listed(four, alike());
    assert_eq!((matched.claims.len(), matched.unknown), (3, 1));
}

#[test]
fn an_open_attempt_comes_first_where_its_time_fits() {
    let tried = Waiting {
        attempt_no: 2,
        live: Some((at(600), at(620))),
        ..waiting(9, "ann", "Hello")
    };
    let both = || vec![waiting(1, "ann", "Hello"), tried.clone()];
    let matched = match_listed(vec![listed("a", "ann", "Hello", 601)], both());
    assert_eq!(claims(&matched), [(9, 2, "a")]);
    assert!(matched.claims[0].is_live);
    for secs in [299, 921] {
        let matched = match_listed(vec![listed("a", "ann", "Hello", secs)], both());
        assert_eq!(claims(&matched), [(1, 1, "a")], "{secs}");
    }
}

#[test]
fn no_message_was_sent_before_it_was_made() {
    let one = || vec![waiting(1, "ann", "Hello")];
    let found = |secs| match_listed(vec![listed("a", "ann", "Hello", secs)], one());
    assert_eq!(found(-300).claims.len(), 1);
    let before = found(-301);
    assert_eq!((before.claims.len(), before.unsure), (0, 1));
}

/// Twilio may shorten links, and others may use the account.
#[test]
fn other_words_to_a_person_who_waits_are_perhaps_ours_and_to_others_not() {
    let unsure = |listed: Listed, waiting: Vec<Waiting>| match_listed(vec![listed], waiting).unsure;
    let other_words = listed("a", "ann", "Hello!", 1);
    let other_sender = Listed {
        from: "+2".into(),
        ..other_words.clone()
    };
    let pooled = Waiting {
        from: None,
        ..waiting(1, "ann", "Hello")
    };
    assert_eq!(
        unsure(other_words.clone(), vec![waiting(1, "ann", "Hello")]),
        1
    );
    assert_eq!(
        unsure(other_words.clone(), vec![waiting(1, "bob", "Hello")]),
        0
    );
    assert_eq!(
        unsure(other_sender.clone(), vec![waiting(1, "ann", "Hello")]),
        0
    );
    assert_eq!(unsure(other_sender, vec![pooled]), 1);
    // Hers was found: what else went to her is somebody else's.
    let hers = listed("b", "ann", "Hello", 2);
    let matched = match_listed(vec![other_words, hers], vec![waiting(1, "ann", "Hello")]);
    assert_eq!((matched.unknown, matched.unsure), (1, 0));
}

fn holds() -> Holds {
    Holds::REAL
}

/// Lists of an account: when, and how many of ours each showed.
fn lists(seen: &[(i64, usize)]) -> Progress {
    seen.iter()
        .fold(Progress::default(), |progress, (secs, found)| {
            progress.after(at(*secs), *found, 0)
        })
}

#[test]
fn an_account_is_through_when_two_lists_a_minute_apart_show_nothing_more() {
    let cases: &[(&[(i64, usize)], bool)] = &[
        (&[], false),
        (&[(0, 0)], false),
        (&[(0, 0), (59, 0)], false),
        (&[(0, 0), (60, 0)], true),
        (&[(0, 7), (60, 0)], true),
        (&[(0, 7), (60, 1)], false),
        (&[(0, 7), (60, 1), (119, 0)], false),
        (&[(0, 7), (60, 1), (120, 0)], true),
        (&[(0, 0), (60, 0), (120, 1)], false),
    ];
    for (seen, is_through) in cases {
        assert_eq!(lists(seen).is_complete(&holds()), *is_through, "{seen:?}");
    }
    let failed = lists(&[(0, 0), (60, 0)]).failed(at(120), "20003".into());
    assert!(!failed.is_complete(&holds()));
    assert!(!failed.is_due(at(179), &holds()));
    assert!(failed.after(at(180), 0, 0).is_complete(&holds()));
    assert!(lists(&[]).is_due(at(0), &holds()));
    assert!(!lists(&[(0, 0)]).is_due(at(59), &holds()));
    assert!(lists(&[(0, 0)]).is_due(at(60), &holds()));
}

#[test]
fn a_server_is_held_until_everything_it_may_have_forgotten_was_found() {
    let server = Server {
        seen_at: at(0),
        recovered_to: Some(at(-600)),
        is_of_known_cluster: true,
    };
    let through = lists(&[(120, 3), (180, 0)]);
    let held = |server: Server, secs, accounts: Vec<Progress>| {
        let accounts: Vec<_> = accounts.into_iter().map(|one| ("AC".into(), one)).collect();
        server.why_held(at(secs), &accounts, &holds())
    };
    assert_eq!(held(server, 180, vec![through.clone()]), None);
    assert_eq!(held(server, 120, vec![]), None);
    assert_eq!(held(server, 119, vec![]), Some(Held::Journals));

    let other = Server {
        is_of_known_cluster: false,
        ..server
    };
    assert_eq!(held(other, 180, vec![]), Some(Held::OtherCluster));
    let unknown = Server {
        recovered_to: None,
        ..server
    };
    assert_eq!(held(unknown, 180, vec![]), Some(Held::UnknownAge));
    let old = Server {
        recovered_to: Some(at(-660)),
        ..server
    };
    assert_eq!(held(old, 180, vec![]), Some(Held::OldCopy { minutes: 11 }));

    let account_ref = || "AC".to_owned();
    let once = lists(&[(120, 0)]);
    let lists_again = Held::Lists {
        account_ref: account_ref(),
    };
    assert_eq!(
        held(server, 180, vec![through.clone(), once.clone()]),
        Some(lists_again)
    );
    let refused = Progress::default().failed(at(120), "20003".into());
    let unlisted = Held::Unlisted {
        account_ref: account_ref(),
        reason: "20003".into(),
    };
    assert_eq!(held(server, 180, vec![once, refused]), Some(unlisted));
    let unsure = through.after(at(240), 0, 2);
    let asks = Held::Unsure {
        account_ref: account_ref(),
        messages: 2,
    };
    assert_eq!(held(server, 240, vec![unsure]), Some(asks));
}
