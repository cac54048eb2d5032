//! Look-ups: whom to ask about attempts whose outcome nobody told, and what the answers show.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::Look;
use crate::clock::answer::answered;
use crate::delivery::Inner;
use crate::domain::channel::Provider as ProviderName;
use crate::domain::doubt::{SKEW_AFTER, SKEW_BEFORE, Seen};
use crate::domain::ids::MessageKey;
use crate::providers::{AccountError, Candidate, LookUp, LookUpAnswer, Provider};
use crate::store::messages::CallContent;
use crate::store::{Db, StoreResult, doubts, mappings};

/// Look-ups of one account at once.
const LOOK_UPS_AT_ONCE: usize = 8;
/// How long one account's look-ups may take in a round; the rest of its attempts wait for their next look, so that an
/// account that hangs holds up nobody else.
const ACCOUNT_MAX: Duration = Duration::from_secs(15);

/// A look at an attempt that somebody can be asked about.
#[derive(Debug)]
struct Askable<'a> {
    look: &'a mut Look,
    carrier: Box<dyn Provider>,
    question: LookUp,
}

impl Inner {
    /// Asks one account about its attempts, some at once, until its time is up or it gives no answer.
    pub(super) async fn look_at_account(
        &self,
        provider: ProviderName,
        account_ref: String,
        looks: Vec<&mut Look>,
        contents: &HashMap<MessageKey, CallContent>,
    ) -> StoreResult<()> {
        if provider == ProviderName::AwsSes {
            return listen_for_account(&self.db, provider, &account_ref, looks).await;
        }
        let give_up_at = Instant::now() + ACCOUNT_MAX;
        // Those of whom nobody can be asked say nothing of the account, which other tenants use too.
        let mut askable: Vec<Askable<'_>> = looks
            .into_iter()
            .filter_map(|look| self.askable(look, contents))
            .collect();
        for some in askable.chunks_mut(LOOK_UPS_AT_ONCE) {
            let asked = some
                .iter()
                .map(|one| self.ask(&*one.carrier, &one.question));
            let answers = join_all(asked).await;
            // Whoever refuses one tenant's credentials is there, and may take another's.
            let is_away = answers
                .iter()
                .all(|answer| matches!(answer, Err(AccountError::Unreachable(_))));
            read(&self.db, provider, &account_ref, some, answers).await?;
            if is_away || Instant::now() >= give_up_at {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whom to ask about an attempt, and what; none when its address was erased, or the tenant's account is switched off.
    fn askable<'a>(
        &self,
        look: &'a mut Look,
        contents: &HashMap<MessageKey, CallContent>,
    ) -> Option<Askable<'a>> {
        let doubtful = &look.doubtful;
        let content = contents.get(&doubtful.key)?;
        let question = LookUp {
            key: doubtful.key,
            attempt_id: doubtful.attempt_id,
            channel: doubtful.channel,
            from: content.from.clone(),
            to: content.to.clone()?,
            body: content.body.clone(),
            since: doubtful.started_at - SKEW_BEFORE,
            until: doubtful.deadline + SKEW_AFTER,
        };
        let carrier = self
            .carriers
            .provider_for(
                doubtful.provider,
                doubtful.channel,
                content.credentials.as_deref(),
            )
            .ok()?;
        Some(Askable {
            look,
            carrier,
            question,
        })
    }

    /// One look-up.
    async fn ask(
        &self,
        carrier: &dyn Provider,
        question: &LookUp,
    ) -> Result<LookUpAnswer, AccountError> {
        let answer = timeout(self.holds.call, carrier.look_up(question))
            .await
            .unwrap_or_else(|_| Err(AccountError::Unreachable("no answer in time".into())));
        if let Err(error) = &answer {
            tracing::warn!(%error, message.id = %question.key.id, "look-up failed");
        }
        answer
    }
}

/// What the answers show, once those messages are left out that are known to be other attempts'.
async fn read(
    db: &Db,
    provider: ProviderName,
    account_ref: &str,
    asked: &mut [Askable<'_>],
    answers: Vec<Result<LookUpAnswer, AccountError>>,
) -> StoreResult<()> {
    let shown: Vec<String> = answers
        .iter()
        .flatten()
        .flat_map(|answer| &answer.candidates)
        .map(|candidate| candidate.provider_message_id.clone())
        .collect();
    let mut claimed = HashSet::new();
    if !shown.is_empty() {
        let list = async {
            let mut tx = db.batch().begin().await?;
            mappings::list_claimed(&mut tx, provider, account_ref, &shown).await
        };
        claimed.extend(answered(list).await?);
    }
    for (one, answer) in asked.iter_mut().zip(answers) {
        let Ok(answer) = answer else { continue };
        let (seen, found) = judge(answer, &claimed);
        one.look.seen = seen;
        one.look.found = found;
    }
    Ok(())
}

fn judge(answer: LookUpAnswer, claimed: &HashSet<String>) -> (Seen, Option<Candidate>) {
    let LookUpAnswer {
        candidates,
        is_complete,
    } = answer;
    let (mut alike, others): (Vec<Candidate>, Vec<Candidate>) = candidates
        .into_iter()
        .filter(|candidate| !claimed.contains(&candidate.provider_message_id))
        .partition(|candidate| candidate.has_same_text);
    match (alike.pop(), alike.is_empty()) {
        (Some(_), false) => (Seen::Several, None),
        (Some(it), true) => (Seen::It, Some(it)),
        // A message to the same person with other words is perhaps ours, rewritten on the way.
        (None, _) if is_complete && others.is_empty() => (Seen::Nothing, None),
        (None, _) => (Seen::Unsure, None),
    }
}

/// A provider that lists nothing reports by itself, or keeps silent.
async fn listen_for_account(
    db: &Db,
    provider: ProviderName,
    account_ref: &str,
    looks: Vec<&mut Look>,
) -> StoreResult<()> {
    let mut tx = answered(db.batch().begin()).await?;
    for look in looks {
        let since = look.doubtful.started_at;
        // One by one: all of them together may take their time.
        let question = doubts::is_event_path_alive(&mut tx, provider, account_ref, since);
        let is_path_alive = answered(question).await?;
        look.seen = Seen::Silence { is_path_alive };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::channel::Channel;
    use crate::domain::status::Status;

    fn candidate(id: &str, has_same_text: bool) -> Candidate {
        Candidate {
            provider_message_id: id.into(),
            has_same_text,
            created_at: DateTime::UNIX_EPOCH,
            status: Status::parse(Channel::Sms, "queued").unwrap(),
            error_code: None,
        }
    }

    fn seen(candidates: Vec<Candidate>, is_complete: bool) -> Seen {
        let claimed = HashSet::from(["SM-other".to_owned()]);
        let answer = LookUpAnswer {
            candidates,
            is_complete,
        };
        judge(answer, &claimed).0
    }

    #[test]
    fn only_all_and_nothing_is_nothing() {
        assert_eq!(seen(vec![], true), Seen::Nothing);
        assert_eq!(seen(vec![], false), Seen::Unsure);
        assert_eq!(seen(vec![candidate("SM-other", true)], true), Seen::Nothing);
        assert_eq!(seen(vec![candidate("SM-1", false)], true), Seen::Unsure);
    }

    #[test]
    fn one_alike_that_is_nobody_elses_is_it() {
        let other = candidate("SM-other", true);
        assert_eq!(
            seen(vec![other.clone(), candidate("SM-1", true)], false),
            Seen::It
        );
        let two = vec![candidate("SM-1", true), candidate("SM-2", true)];
        assert_eq!(seen(two, true), Seen::Several);
    }
}
