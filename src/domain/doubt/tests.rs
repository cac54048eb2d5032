//! Looks at attempts, and what they come to.

use std::time::Duration;

use super::*;

const HOLDS: Holds = Holds::REAL;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_764_000_000 + secs, 0).unwrap()
}

/// Permitted at 0 s, so with its deadline at 20 s and its first look at 25 s.
fn suspect(owner: Owner) -> Suspect {
    Suspect {
        started_at: at(0),
        deadline: at(20),
        signed_at: None,
        first_empty_look_at: None,
        owner,
        is_email: false,
    }
}

/// Looks as the ladder says, with the same answer each time, until there is a verdict; says when it came.
fn end(suspect: Suspect, seen: &Seen) -> (i64, Conclusion) {
    end_of(suspect, |_| seen.clone())
}

/// The same with answers that hang on the second.
fn end_of(mut suspect: Suspect, seen: impl Fn(i64) -> Seen) -> (i64, Conclusion) {
    let mut now = at(25);
    for _ in 0..100 {
        let secs = (now - at(0)).num_seconds();
        match suspect.conclude(&seen(secs), now, &HOLDS) {
            Conclusion::LookAgain {
                at,
                first_empty_look_at,
            } => {
                assert!(at > now, "{at} is not after {now}");
                suspect.first_empty_look_at = first_empty_look_at;
                now = at;
            }
            verdict => return (secs, verdict),
        }
    }
    panic!("no end to looking");
}

#[test]
fn a_yes_counts_at_once_and_whoever_owns_it() {
    for owner in [
        Owner::Alive,
        Owner::Gone,
        Owner::GoneOrCutOff,
        Owner::Finished,
    ] {
        assert_eq!(end(suspect(owner), &Seen::It), (25, Conclusion::Sent));
    }
}

#[test]
fn what_was_never_sent_is_known_after_two_minutes_and_twelve_after_a_restart() {
    assert_eq!(
        end(suspect(Owner::Gone), &Seen::Nothing),
        (140, Conclusion::NotSent)
    );
    assert_eq!(
        end(suspect(Owner::Finished), &Seen::Nothing),
        (140, Conclusion::NotSent)
    );
    assert_eq!(
        end(suspect(Owner::GoneOrCutOff), &Seen::Nothing),
        (620, Conclusion::NotSent)
    );
}

#[test]
fn an_owner_that_lives_is_never_judged_and_a_person_decides_at_last() {
    let (secs, verdict) = end(suspect(Owner::Alive), &Seen::Nothing);
    assert_eq!(secs, 1800);
    assert!(matches!(verdict, Conclusion::Unresolved { .. }));
}

#[test]
fn empty_look_ups_before_the_owner_was_gone_do_not_count() {
    let stopped = suspect(Owner::Alive);
    let Conclusion::LookAgain {
        first_empty_look_at,
        ..
    } = stopped.conclude(&Seen::Nothing, at(1000), &HOLDS)
    else {
        panic!("a verdict over one that lives");
    };
    assert_eq!(first_empty_look_at, None);

    let killed = Suspect {
        first_empty_look_at,
        ..suspect(Owner::Gone)
    };
    let Conclusion::LookAgain {
        at: next,
        first_empty_look_at,
    } = killed.conclude(&Seen::Nothing, at(1010), &HOLDS)
    else {
        panic!("one empty look-up is no proof");
    };
    assert_eq!((next, first_empty_look_at), (at(1070), Some(at(1010))));
    let twice = Suspect {
        first_empty_look_at,
        ..killed
    };
    assert!(matches!(
        twice.conclude(&Seen::Nothing, at(1069), &HOLDS),
        Conclusion::LookAgain { .. }
    ));
    assert_eq!(
        twice.conclude(&Seen::Nothing, at(1070), &HOLDS),
        Conclusion::NotSent
    );
}

#[test]
fn less_than_a_proof_is_no_proof_however_often() {
    let (secs, verdict) = end(suspect(Owner::Gone), &Seen::Unsure);
    assert_eq!(secs, 1800);
    assert!(matches!(verdict, Conclusion::Unresolved { .. }));
    assert_eq!(
        end(suspect(Owner::Gone), &Seen::Several).1,
        Conclusion::Ambiguous
    );
}

/// Nobody answers just when a proof would be complete: the ladder's next step is minutes away, or there is none.
#[test]
fn a_proof_that_failed_looks_have_missed_is_complete_a_minute_after_them() {
    for (owner, due) in [
        (Owner::Finished, 140),
        (Owner::Gone, 140),
        (Owner::GoneOrCutOff, 620),
    ] {
        for failed in [0, 1, 2] {
            let end = end_of(suspect(owner), |secs| {
                if (due..due + 60 * failed).contains(&secs) {
                    Seen::Unsure
                } else {
                    Seen::Nothing
                }
            });
            assert_eq!(end, (due + 60 * failed, Conclusion::NotSent), "{owner:?}");
        }
    }
}

#[test]
fn silence_proves_something_once_the_signature_is_old_and_others_are_heard_of() {
    let email = Suspect {
        signed_at: Some(at(1)),
        is_email: true,
        ..suspect(Owner::Alive)
    };
    let heard = Seen::Silence {
        is_path_alive: true,
    };
    let deaf = Seen::Silence {
        is_path_alive: false,
    };

    assert!(matches!(
        email.conclude(&heard, at(960), &HOLDS),
        Conclusion::LookAgain { .. }
    ));
    assert_eq!(email.conclude(&heard, at(961), &HOLDS), Conclusion::NotSent);
    let (secs, verdict) = end(email, &deaf);
    assert_eq!(secs, 3600);
    assert!(matches!(verdict, Conclusion::Unresolved { .. }));
}

#[test]
fn a_faster_scale_keeps_the_order_of_things() {
    let holds = HOLDS.scaled(0.05);
    let fast = Suspect {
        deadline: at(1),
        ..suspect(Owner::Gone)
    };
    let soon = at(1) + Duration::from_millis(250);
    let Conclusion::LookAgain { at: next, .. } = fast.conclude(&Seen::Nothing, soon, &holds) else {
        panic!("one look is no proof");
    };
    assert_eq!(next, at(1) + Duration::from_millis(1500));
}
