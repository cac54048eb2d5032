use uuid::Uuid;

use super::*;

fn draft() -> Campaign {
    let ids = (TenantId(Uuid::from_u128(1)), CampaignId(Uuid::from_u128(2)));
    let content_id = Some(TemplateVersionId(Uuid::from_u128(3)));
    Campaign::draft(
        ids,
        "Spring sale",
        Channel::Sms,
        content_id,
        Audience::Everybody,
        now(),
    )
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_764_000_000_123_456).unwrap()
}

fn facts() -> StartFacts {
    StartFacts {
        sender_id: Some(SenderId(Uuid::from_u128(4))),
        is_sender_retired: false,
        unfinished_import: None,
        is_list_gone: false,
        has_recipients: true,
        unknown_variables: Vec::new(),
    }
}

#[test]
fn a_started_campaign_knows_its_sender_and_a_whole_millisecond() {
    let started = draft().start(facts(), now()).unwrap();

    assert_eq!(started.status, CampaignStatus::Sending);
    assert_eq!(started.sender_id, facts().sender_id);
    assert_eq!(
        started.started_at.unwrap().timestamp_subsec_micros(),
        123_000
    );
}

#[test]
fn what_is_missing_is_named() {
    let refusal = |campaign: Campaign, facts| campaign.start(facts, now()).unwrap_err();

    assert_eq!(
        refusal(
            Campaign {
                content_id: None,
                ..draft()
            },
            facts()
        ),
        StartRefusal::NoContent
    );
    assert_eq!(
        refusal(
            draft(),
            StartFacts {
                sender_id: None,
                ..facts()
            }
        ),
        StartRefusal::NoSender {
            channel: Channel::Sms
        }
    );
    assert_eq!(
        refusal(
            draft(),
            StartFacts {
                has_recipients: false,
                ..facts()
            }
        ),
        StartRefusal::EmptyAudience {
            channel: Channel::Sms
        }
    );
    let retired = StartFacts {
        sender_id: None,
        is_sender_retired: true,
        ..facts()
    };
    assert_eq!(
        draft().start(retired, now()),
        Err(StartRefusal::SenderRetired)
    );
    let running = StartFacts {
        unfinished_import: Some(ImportStatus::Running),
        has_recipients: false,
        ..facts()
    };
    assert!(
        refusal(draft(), running)
            .to_string()
            .contains("import is running")
    );
    let gone = StartFacts {
        is_list_gone: true,
        ..facts()
    };
    assert_eq!(refusal(draft(), gone), StartRefusal::ListGone);
    let unknown = StartFacts {
        unknown_variables: vec!["tear".into()],
        ..facts()
    };
    assert!(refusal(draft(), unknown).to_string().contains("{{ tear }}"));
}

#[test]
fn a_list_that_is_named_twice_is_one_list() {
    let id = |n| ListId(Uuid::from_u128(n));
    let audience = Audience::lists(vec![id(2), id(1), id(2)]);
    assert_eq!(audience.list_ids(), [id(1), id(2)]);
    let stored = serde_json::to_string(&audience).unwrap();
    assert!(stored.contains(r#""kind":"lists""#), "{stored}");
    assert_eq!(serde_json::from_str::<Audience>(&stored).unwrap(), audience);
}

#[test]
fn what_was_sent_before_does_not_start_again_and_what_was_not_does() {
    for status in CampaignStatus::ALL {
        let campaign = Campaign {
            status: *status,
            failure_reason: Some("no sender".into()),
            ..draft()
        };
        match campaign.start(facts(), now()) {
            Ok(started) => {
                assert!(status.is_startable(), "{status}");
                assert_eq!(started.status, CampaignStatus::Sending);
                assert_eq!(started.failure_reason, None);
            }
            Err(refusal) => {
                assert!(!status.is_startable(), "{status}");
                assert_eq!(refusal, StartRefusal::AlreadySent { status: *status });
            }
        }
    }
}

type Step = fn(Campaign) -> Result<Campaign, SwitchRefusal>;

/// Each step from each status: where it leads, or that it is refused.
#[test]
fn every_step_is_taken_from_its_statuses_alone() {
    use CampaignStatus::{Cancelled, Draft, Failed, Paused, Scheduled, Sending};
    let at = now() + Duration::from_hours(1);
    let steps: [(Step, &[CampaignStatus], CampaignStatus); 6] = [
        (|c| c.edit(CampaignEdit::default()), &[Draft, Failed], Draft),
        (
            |c| c.schedule(now()),
            &[Draft, Failed, Scheduled],
            Scheduled,
        ),
        (Campaign::unschedule, &[Scheduled], Draft),
        (|c| c.pause(now()), &[Sending], Paused),
        (Campaign::resume, &[Paused], Sending),
        (
            |c| c.cancel(now()),
            &[Draft, Failed, Scheduled, Sending, Paused],
            Cancelled,
        ),
    ];
    for (step, taken_from, leads_to) in steps {
        for status in CampaignStatus::ALL {
            let campaign = Campaign {
                status: *status,
                send_at: Some(at),
                ..draft()
            };
            match step(campaign) {
                Ok(after) => {
                    assert!(taken_from.contains(status), "{status} to {leads_to}");
                    assert_eq!(after.status, leads_to);
                    assert_eq!(
                        after.send_at.is_some(),
                        leads_to == Scheduled || leads_to == Sending || leads_to == Paused
                    );
                }
                Err(refusal) => {
                    assert!(!taken_from.contains(status), "{status} to {leads_to}");
                    assert!(
                        refusal
                            .to_string()
                            .ends_with(&format!("this one is {status}"))
                    );
                }
            }
        }
    }
}

#[test]
fn a_scheduled_campaign_is_due_from_its_time_on_and_fails_with_a_reason() {
    let at = now() + Duration::from_secs(5);
    let scheduled = draft().schedule(at).unwrap();
    assert!(!scheduled.is_due(now()));
    assert!(scheduled.is_due(at));
    assert!(!draft().is_due(at));

    let failed = scheduled.clone().fail("no sender".into(), at);
    assert_eq!(failed.status, CampaignStatus::Failed);
    assert!(!failed.is_due(at));
    let mended = failed.edit(CampaignEdit::default()).unwrap();
    assert_eq!((mended.failure_reason, mended.send_at), (None, None));

    // Sent by hand before its time, the time is forgotten; at its time it is kept.
    let early = scheduled.clone().start(facts(), now()).unwrap();
    assert_eq!(early.send_at, None);
    assert_eq!(scheduled.start(facts(), at).unwrap().send_at, Some(at));
}

#[test]
fn a_draft_that_goes_to_another_channel_leaves_its_sender_behind() {
    let draft = Campaign {
        sender_id: Some(SenderId(Uuid::from_u128(4))),
        ..draft()
    };
    let version = TemplateVersionId(Uuid::from_u128(9));
    let by_email = CampaignEdit {
        content: Some((version, Channel::Email)),
        ..CampaignEdit::default()
    };
    let after = draft.clone().edit(by_email).unwrap();
    assert_eq!((after.channel, after.sender_id), (Channel::Email, None));
    assert_eq!(after.content_id, Some(version));

    let renamed = CampaignEdit {
        name: Some("Summer sale".into()),
        ..CampaignEdit::default()
    };
    let after = draft.clone().edit(renamed).unwrap();
    assert_eq!(after.name, "Summer sale");
    assert_eq!(
        (after.channel, after.sender_id),
        (draft.channel, draft.sender_id)
    );
}
