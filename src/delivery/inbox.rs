//! What providers say of messages they took: merged by rank, in any order and any number of repeats.
//!
//! A report that names its attempt is also the proof that the attempt was accepted, should nobody know that yet: the answer
//! was lost, or the report overtook it.

pub mod events;
pub mod fold;

use std::collections::{BTreeSet, HashMap};

use super::feedback::FeedbackHeard;
use super::moves::Moves;
use super::outcomes::{self, CALLBACK, Known};
use super::retries::{LateFailure, order_retries};
use crate::domain::attempt::CallOutcome;
use crate::domain::channel::Channel;
use crate::domain::counts::{CountWord, CountedIn};
use crate::domain::ids::{AttemptId, MessageKey};
use crate::domain::message::Phase;
use crate::domain::status::{End, Status};
use crate::providers::twilio::codes::is_opt_out;
use crate::store::statuses::{Believed, Heard, lock_heard, save_believed};
use crate::store::suppressions::suppress_recipients;
use crate::store::{StoreResult, SystemTx, attempts};

/// One thing a provider said of one message.
#[derive(Debug, Clone)]
pub struct StatusReport {
    /// Which message.
    pub key: MessageKey,
    /// The attempt it speaks of, where it says so.
    pub attempt: Option<Named>,
    /// What it said.
    pub status: Status,
    /// Its error code, where it gave one.
    pub error_code: Option<String>,
}

/// One attempt, as a report names it.
#[derive(Debug, Clone)]
pub struct Named {
    /// Our token.
    pub attempt_id: AttemptId,
    /// What the provider calls the message.
    pub provider_message_id: String,
}

/// Merges reports into their messages, with the counts of their campaigns.
pub async fn merge(tx: &mut SystemTx, reports: &[StatusReport]) -> StoreResult<()> {
    if reports.is_empty() {
        return Ok(());
    }
    let heard = lock(tx, reports.iter().map(|report| report.key)).await?;
    merge_locked(tx, heard, reports).await
}

/// Locks messages, each once, and reads what was heard of them.
async fn lock(
    tx: &mut SystemTx,
    keys: impl Iterator<Item = MessageKey>,
) -> StoreResult<Vec<Heard>> {
    let keys: BTreeSet<MessageKey> = keys.collect();
    lock_heard(tx, &keys.into_iter().collect::<Vec<_>>()).await
}

/// As [`merge`], of messages that are locked.
async fn merge_locked(
    tx: &mut SystemTx,
    heard: Vec<Heard>,
    reports: &[StatusReport],
) -> StoreResult<()> {
    let mut by_message: HashMap<MessageKey, Vec<&StatusReport>> = HashMap::new();
    for report in reports {
        by_message.entry(report.key).or_default().push(report);
    }
    let mut moves = Moves::default();
    let mut believed = Vec::new();
    let mut feedback = FeedbackHeard::default();
    let mut late = Vec::new();
    let mut opted_out = Vec::new();
    note_taken(tx, &heard, &by_message).await?;
    for heard in heard {
        let Some(reports) = by_message.get(&heard.key) else {
            continue;
        };
        let Some(now) = advance(&heard, reports) else {
            continue;
        };
        let counted_in = CountedIn::of(heard.campaign_id, heard.channel);
        if !heard.is_replaced {
            for (word, messages) in counted(heard.status, now.status) {
                moves.add_word(heard.key.tenant_id, counted_in, word, messages);
            }
        }
        if let (Some(End::Failed), Some(code)) = (now.status.end(), &now.error_code) {
            feedback.failure(heard.key, heard.channel, code);
            late.extend(LateFailure::of(&heard, code));
            if heard.status != Some(now.status) && is_opt_out(heard.channel, code) {
                opted_out.push((heard.key, code.clone()));
            }
        }
        believed.push(now);
    }
    save_believed(tx, &believed).await?;
    feedback.save(tx).await?;
    suppress_recipients(tx, &opted_out).await?;
    order_retries(tx, &late).await?;
    moves.save(tx).await
}

/// Closes attempts that reports prove accepted. A message that is with the provider by its only attempt needs no proof.
async fn note_taken(
    tx: &mut SystemTx,
    heard: &[Heard],
    by_message: &HashMap<MessageKey, Vec<&StatusReport>>,
) -> StoreResult<()> {
    let mut proofs: HashMap<(MessageKey, AttemptId), (&str, Status, Channel)> = HashMap::new();
    for message in heard {
        if message.phase == Phase::HandedOver && message.attempt_no <= 1 {
            continue;
        }
        for report in by_message.get(&message.key).into_iter().flatten() {
            if let Some(named) = &report.attempt {
                let proof = (
                    named.provider_message_id.as_str(),
                    report.status,
                    message.channel,
                );
                proofs.insert((message.key, named.attempt_id), proof);
            }
        }
    }
    if proofs.is_empty() {
        return Ok(());
    }
    let named: Vec<(MessageKey, AttemptId)> = proofs.keys().copied().collect();
    let known: Vec<Known> = attempts::list_untold(tx, &named)
        .await?
        .into_iter()
        .filter_map(|untold| {
            let (provider_message_id, status, channel) =
                *proofs.get(&(untold.key, untold.attempt_id))?;
            Some(Known {
                key: untold.key,
                attempt_no: untold.attempt_no,
                attempt_id: Some(untold.attempt_id),
                channel,
                provider: untold.provider,
                account_ref: untold.account_ref,
                outcome: CallOutcome::Taken {
                    provider_message_id: provider_message_id.into(),
                    status,
                },
                resolved_by: CALLBACK,
            })
        })
        .collect();
    outcomes::record(tx, &known).await?;
    Ok(())
}

/// What is believed after these reports; none when they say nothing new.
fn advance(heard: &Heard, reports: &[&StatusReport]) -> Option<Believed> {
    let mut status = heard.status;
    let mut has_conflict = heard.has_conflict;
    let mut error_code = None;
    for report in reports {
        has_conflict |= status.is_some_and(|known| known.conflicts_with(report.status));
        let advanced = status.map_or(report.status, |known| known.advance(report.status));
        let is_repeat_with_code = advanced == report.status && error_code.is_none();
        if status != Some(advanced) || is_repeat_with_code {
            error_code.clone_from(&report.error_code);
        }
        status = Some(advanced);
    }
    let status = status?;
    let is_new = heard.status != Some(status) || heard.has_conflict != has_conflict;
    is_new.then_some(Believed {
        key: heard.key,
        status,
        has_conflict,
        error_code,
    })
}

/// How the counts change when a message's status does.
fn counted(before: Option<Status>, after: Status) -> Vec<(CountWord, i64)> {
    let words = |status: Status| {
        let end = match status.end() {
            Some(End::Delivered) => Some(CountWord::Delivered),
            Some(End::Failed) => Some(CountWord::Failed),
            None => None,
        };
        end.into_iter()
            .chain((status.as_str() == "read").then_some(CountWord::Read))
    };
    let gone = before.into_iter().flat_map(words).map(|word| (word, -1));
    gone.chain(words(after).map(|word| (word, 1))).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{MessageId, TenantId};

    fn key() -> MessageKey {
        MessageKey {
            tenant_id: TenantId(Uuid::nil()),
            id: MessageId(Uuid::nil()),
        }
    }

    fn sms(word: &str) -> Status {
        Status::parse(Channel::Sms, word).unwrap()
    }

    fn after(known: Option<&str>, words: &[&str]) -> Option<Believed> {
        let heard = Heard {
            key: key(),
            channel: Channel::Sms,
            campaign_id: None,
            phase: Phase::HandedOver,
            attempt_no: 1,
            attempts: Vec::new(),
            status: known.map(sms),
            has_conflict: false,
            step: 0,
            is_replaced: false,
        };
        let reports: Vec<StatusReport> = words
            .iter()
            .map(|word| StatusReport {
                key: key(),
                attempt: None,
                status: sms(word),
                error_code: None,
            })
            .collect();
        advance(&heard, &reports.iter().collect::<Vec<_>>())
    }

    #[test]
    fn what_is_known_already_changes_nothing() {
        assert!(after(Some("delivered"), &["sent", "delivered"]).is_none());
        assert_eq!(
            after(Some("queued"), &["delivered", "sent"])
                .unwrap()
                .status,
            sms("delivered")
        );
    }

    #[test]
    fn two_different_ends_are_marked() {
        let believed = after(Some("undelivered"), &["delivered"]).unwrap();
        assert!(believed.has_conflict);
        assert_eq!(
            counted(Some(sms("undelivered")), believed.status),
            [(CountWord::Failed, -1), (CountWord::Delivered, 1)]
        );
    }
}
