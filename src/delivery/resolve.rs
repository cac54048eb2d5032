//! Attempts whose outcome nobody told: looked at until there is a proof, and left to a person when there is none.
//!
//! A look tests whether the owner may still call, then asks the provider what it has, then concludes
//! ([`doubt`](crate::domain::doubt)). Two runs at once do no harm: a look is repeated, and a verdict is stored only over an
//! attempt that is still live.

pub mod decide;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::begin::retry_deadlocks;
use super::outcomes::{self, DEADLINE, Known, LOOK_UP};
use super::{Delivery, Inner};
use crate::domain::attempt::{Afterwards, CallOutcome};
use crate::domain::channel::{Channel, Provider as ProviderName};
use crate::domain::doubt::{
    Conclusion, OnNotSent, OnUnresolved, Owner, SKEW_AFTER, SKEW_BEFORE, Seen, Suspect,
};
use crate::domain::ids::{Incarnation, MessageKey};
use crate::providers::{Candidate, LookUp, LookUpAnswer};
use crate::store::doubts::{self, Doubtful, Looked, OwnerFacts};
use crate::store::messages::locked::lock_messages;
use crate::store::messages::{self, CallContent};
use crate::store::{Db, StoreResult, mappings};
use crate::telemetry;

/// Attempts looked at by one round; an account has a fifth of it.
const ROUND_MAX: i64 = 500;
/// Rounds of one run; what is left comes with the next.
const ROUNDS_MAX: usize = 20;
/// Look-ups of one account at once.
const LOOK_UPS_AT_ONCE: usize = 8;
/// How long one account's look-ups may take in a round; the rest of its attempts wait for their next look, so that an
/// account that hangs holds up nobody else.
const ACCOUNT_MAX: Duration = Duration::from_secs(15);

/// What one look found out, before it is written down.
#[derive(Debug)]
struct Look {
    doubtful: Doubtful,
    owner: Owner,
    seen: Seen,
    found: Option<Candidate>,
}

impl Delivery {
    /// Looks at every attempt that is due. Answers how many looks that took.
    pub async fn resolve_doubt(&self) -> StoreResult<usize> {
        let mut looks = 0;
        for _ in 0..ROUNDS_MAX {
            let looked = self.inner.look_at_due().await?;
            looks += looked;
            if looked == 0 {
                break;
            }
        }
        let mut tx = self.inner.db.batch().begin().await?;
        let (attempts, age_secs) = doubts::sum_doubts(&mut tx).await?;
        metrics::gauge!(telemetry::ATTEMPTS_IN_DOUBT).set(attempts as f64);
        metrics::gauge!(telemetry::DOUBT_AGE_SECONDS).set(age_secs);
        Ok(looks)
    }
}

impl Inner {
    async fn look_at_due(&self) -> StoreResult<usize> {
        let (now, mut looks, contents) = load(&self.db).await?;
        if looks.is_empty() {
            return Ok(0);
        }
        let mut by_account: HashMap<(ProviderName, String), Vec<&mut Look>> = HashMap::new();
        for look in &mut looks {
            let account = (look.doubtful.provider, look.doubtful.account_ref.clone());
            by_account.entry(account).or_default().push(look);
        }
        let accounts = by_account
            .into_iter()
            .map(|((provider, account_ref), looks)| {
                self.look_at_account(provider, account_ref, looks, &contents)
            });
        for looked in join_all(accounts).await {
            looked?;
        }
        retry_deadlocks(|| self.save(now, &looks)).await?;
        Ok(looks.len())
    }

    /// Asks one account about its attempts, some at once, until its time is up.
    async fn look_at_account(
        &self,
        provider: ProviderName,
        account_ref: String,
        mut looks: Vec<&mut Look>,
        contents: &HashMap<MessageKey, CallContent>,
    ) -> StoreResult<()> {
        if provider == ProviderName::AwsSes {
            return listen_for_account(&self.db, provider, &account_ref, looks).await;
        }
        let give_up_at = Instant::now() + ACCOUNT_MAX;
        for some in looks.chunks_mut(LOOK_UPS_AT_ONCE) {
            let asked = some.iter().map(|look| self.ask(&look.doubtful, contents));
            let answers = join_all(asked).await;
            let is_away = answers.iter().all(Option::is_none);
            read(&self.db, provider, &account_ref, some, answers).await?;
            if is_away || Instant::now() >= give_up_at {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One look-up; none when it told nothing.
    async fn ask(
        &self,
        doubtful: &Doubtful,
        contents: &HashMap<MessageKey, CallContent>,
    ) -> Option<LookUpAnswer> {
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
        let provider = self
            .carriers
            .provider_for(
                doubtful.provider,
                doubtful.channel,
                content.credentials.as_deref(),
            )
            .ok()?;
        match timeout(self.holds.call, provider.look_up(&question)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::warn!(%error, message.id = %doubtful.key.id, "look-up failed");
                None
            }
            Err(_) => {
                tracing::warn!(message.id = %doubtful.key.id, "look-up took too long");
                None
            }
        }
    }

    /// Concludes and writes down, over what is still live.
    async fn save(&self, now: DateTime<Utc>, looks: &[Look]) -> StoreResult<()> {
        let mut known = Vec::new();
        let mut again = Vec::new();
        for look in looks {
            match look.suspect().conclude(&look.seen, now, &self.holds) {
                Conclusion::LookAgain {
                    at,
                    first_empty_look_at,
                } => again.push(Looked {
                    key: look.doubtful.key,
                    attempt_no: look.doubtful.attempt_no,
                    next_look_at: at,
                    first_empty_look_at,
                }),
                verdict => known.extend(look.known(verdict, now)),
            }
        }
        let mut tx = self.db.batch().begin().await?;
        // One lock for all, in one order, before anything is written.
        let keys: Vec<MessageKey> = looks.iter().map(|look| look.doubtful.key).collect();
        lock_messages(&mut tx, &keys).await?;
        outcomes::record(&mut tx, &known).await?;
        doubts::save_looks(&mut tx, &again).await?;
        tx.commit().await
    }
}

impl Look {
    fn suspect(&self) -> Suspect {
        Suspect {
            started_at: self.doubtful.started_at,
            deadline: self.doubtful.deadline,
            signed_at: self.doubtful.signed_at,
            first_empty_look_at: self.doubtful.first_empty_look_at,
            owner: self.owner,
            is_email: self.doubtful.channel == Channel::Email,
        }
    }

    fn known(&self, verdict: Conclusion, now: DateTime<Utc>) -> Option<Known> {
        let doubtful = &self.doubtful;
        let (outcome, resolved_by) = match verdict {
            Conclusion::Sent => {
                let found = self.found.as_ref()?;
                if let Ok(lag) = (now - found.created_at).to_std() {
                    metrics::histogram!(telemetry::LOOK_UP_LAG_SECONDS).record(lag.as_secs_f64());
                }
                let taken = CallOutcome::Taken {
                    provider_message_id: found.provider_message_id.clone(),
                    status: found.status,
                };
                (taken, LOOK_UP)
            }
            Conclusion::NotSent => {
                let then = match doubtful.on_not_sent {
                    OnNotSent::Resend => Afterwards::SendAgain,
                    OnNotSent::Park => Afterwards::Park,
                };
                (CallOutcome::NotSent { then }, LOOK_UP)
            }
            Conclusion::Unresolved { reason } => {
                let then = match doubtful.on_unresolved {
                    OnUnresolved::Park => Afterwards::Park,
                    OnUnresolved::Resend => Afterwards::SendAgain,
                };
                let reason = reason.into();
                (CallOutcome::Unresolved { reason, then }, DEADLINE)
            }
            Conclusion::LookAgain { .. } => return None,
        };
        Some(Known {
            key: doubtful.key,
            attempt_no: doubtful.attempt_no,
            channel: doubtful.channel,
            provider: doubtful.provider,
            account_ref: doubtful.account_ref.clone(),
            outcome,
            resolved_by,
        })
    }
}

/// What is due, whether its owners may still call, and what was to be said.
async fn load(
    db: &Db,
) -> StoreResult<(DateTime<Utc>, Vec<Look>, HashMap<MessageKey, CallContent>)> {
    let mut tx = db.batch().begin().await?;
    let (now, due) = doubts::list_due(&mut tx, ROUND_MAX).await?;
    let keys: Vec<MessageKey> = due.iter().map(|one| one.key).collect();
    let contents = messages::list_call_contents(tx.conn(), &keys)
        .await?
        .into_iter()
        .map(|content| (content.key, content))
        .collect();
    let mut incarnations: Vec<Incarnation> = due.iter().map(|one| one.incarnation).collect();
    incarnations.sort_unstable();
    incarnations.dedup();
    // Last, and before anybody is asked: an empty answer proves something only when it comes after this.
    let facts: HashMap<Incarnation, OwnerFacts> = doubts::list_owner_facts(&mut tx, &incarnations)
        .await?
        .into_iter()
        .map(|facts| (facts.incarnation, facts))
        .collect();
    let looks = due
        .into_iter()
        .map(|doubtful| {
            let facts = facts.get(&doubtful.incarnation);
            let owner = facts.map_or(Owner::Alive, |facts| {
                facts.owner(doubtful.state, doubtful.started_at)
            });
            Look {
                doubtful,
                owner,
                seen: Seen::Unsure,
                found: None,
            }
        })
        .collect();
    Ok((now, looks, contents))
}

/// What the answers show, once those messages are left out that are known to be other attempts'.
async fn read(
    db: &Db,
    provider: ProviderName,
    account_ref: &str,
    looks: &mut [&mut Look],
    answers: Vec<Option<LookUpAnswer>>,
) -> StoreResult<()> {
    let shown: Vec<String> = answers
        .iter()
        .flatten()
        .flat_map(|answer| &answer.candidates)
        .map(|candidate| candidate.provider_message_id.clone())
        .collect();
    let mut claimed = HashSet::new();
    if !shown.is_empty() {
        let mut tx = db.batch().begin().await?;
        claimed.extend(mappings::list_claimed(&mut tx, provider, account_ref, &shown).await?);
    }
    for (look, answer) in looks.iter_mut().zip(answers) {
        let Some(answer) = answer else { continue };
        let (seen, found) = judge(answer, &claimed);
        look.seen = seen;
        look.found = found;
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
    let mut tx = db.batch().begin().await?;
    for look in looks {
        let since = look.doubtful.started_at;
        let is_path_alive =
            doubts::is_event_path_alive(&mut tx, provider, account_ref, since).await?;
        look.seen = Seen::Silence { is_path_alive };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
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
