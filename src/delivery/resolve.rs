//! Attempts whose outcome nobody told: looked at until there is a proof, and left to a person when there is none.
//!
//! A look tests whether the owner may still call, then asks the provider what it has, then concludes
//! ([`doubt`](crate::domain::doubt)). Two runs at once do no harm: a look is repeated, and a verdict is stored only over an
//! attempt that is still live.

mod ask;
pub mod decide;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::batch::log_left;
use super::begin::retry_deadlocks;
use super::feedback::FeedbackHeard;
use super::inbox::{StatusReport, merge};
use super::outcomes::{self, DEADLINE, Known, LOOK_UP};
use super::{Delivery, Inner};
use crate::clock::answer::answered;
use crate::domain::attempt::{Afterwards, CallOutcome};
use crate::domain::channel::{Channel, Provider as ProviderName};
use crate::domain::doubt::{Conclusion, OnNotSent, OnUnresolved, Owner, Seen, Suspect};
use crate::domain::ids::{Incarnation, MessageKey};
use crate::providers::Candidate;
use crate::store::doubts::{self, Doubtful, Looked, OwnerFacts};
use crate::store::messages::locked::lock_messages;
use crate::store::messages::{self, CallContent};
use crate::store::{Db, StoreResult};
use crate::telemetry;

/// Attempts looked at by one round; an account has a fifth of it.
const ROUND_MAX: i64 = 500;
/// Rounds of one run; what is left comes with the next.
const ROUNDS_MAX: usize = 20;

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
        let sum = async {
            let mut tx = self.inner.db.batch().begin().await?;
            doubts::sum_doubts(&mut tx).await
        };
        let (attempts, age_secs) = answered(sum).await?;
        metrics::gauge!(telemetry::ATTEMPTS_IN_DOUBT).set(attempts as f64);
        metrics::gauge!(telemetry::DOUBT_AGE_SECONDS).set(age_secs);
        Ok(looks)
    }
}

impl Inner {
    async fn look_at_due(&self) -> StoreResult<usize> {
        let (now, mut looks, contents) = answered(load(&self.db)).await?;
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
        match retry_deadlocks(|| answered(self.save(now, &looks))).await {
            Ok(()) => Ok(looks.len()),
            Err(error) if error.may_be_of_one_row() => {
                tracing::warn!(%error, looks = looks.len(), "looks are written down one by one");
                self.save_each(now, &looks).await
            }
            Err(error) => Err(error),
        }
    }

    /// Writes down each by itself: one that the database refuses comes again and keeps no other back. Answers how many are.
    async fn save_each(&self, now: DateTime<Utc>, looks: &[Look]) -> StoreResult<usize> {
        let mut saved = 0;
        for look in looks {
            let one = std::slice::from_ref(look);
            match retry_deadlocks(|| answered(self.save(now, one))).await {
                Ok(()) => saved += 1,
                Err(error) if error.may_be_of_one_row() => {
                    log_left(look.doubtful.key.id, &error, "a look comes to nothing");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(saved)
    }

    /// Concludes and writes down, over what is still live.
    async fn save(&self, now: DateTime<Utc>, looks: &[Look]) -> StoreResult<()> {
        let mut known = Vec::new();
        let mut reports = Vec::new();
        let mut again = Vec::new();
        for look in looks {
            let verdict = look.suspect().conclude(&look.seen, now, &self.holds);
            if verdict == Conclusion::Sent {
                reports.extend(look.report());
            }
            match verdict {
                Conclusion::LookAgain {
                    at,
                    first_empty_look_at,
                } => again.push(Looked {
                    key: look.doubtful.key,
                    attempt_no: look.doubtful.attempt_no,
                    attempt_id: look.doubtful.attempt_id,
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
        let closed = outcomes::record(&mut tx, &known).await?;
        FeedbackHeard::of_closed(&known, &closed)
            .save(&mut tx)
            .await?;
        merge(&mut tx, &reports).await?;
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

    /// What became of the message that was found.
    fn report(&self) -> Option<StatusReport> {
        let found = self.found.as_ref()?;
        Some(StatusReport {
            key: self.doubtful.key,
            attempt: None,
            status: found.status,
            error_code: found.error_code.clone(),
        })
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
            Conclusion::Ambiguous => {
                let reason = "the provider has several like it".into();
                let then = Afterwards::Park;
                (CallOutcome::Unresolved { reason, then }, LOOK_UP)
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
            attempt_id: Some(doubtful.attempt_id),
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::attempt::AttemptState;
    use crate::domain::ids::{AttemptId, MessageId, TenantId};

    /// One more would be sent each time, and each time the provider has one more.
    #[test]
    fn what_the_provider_has_several_of_is_left_to_a_person_whatever_the_tenant_wants() {
        let at = DateTime::UNIX_EPOCH;
        let doubtful = Doubtful {
            key: MessageKey {
                tenant_id: TenantId(Uuid::nil()),
                id: MessageId(Uuid::nil()),
            },
            attempt_no: 2,
            attempt_id: AttemptId(Uuid::nil()),
            incarnation: Incarnation(1),
            state: AttemptState::Doubt,
            channel: Channel::Sms,
            provider: ProviderName::Twilio,
            account_ref: String::new(),
            started_at: at,
            deadline: at,
            signed_at: None,
            first_empty_look_at: None,
            on_not_sent: OnNotSent::Resend,
            on_unresolved: OnUnresolved::Resend,
        };
        let look = Look {
            doubtful,
            owner: Owner::Finished,
            seen: Seen::Several,
            found: None,
        };
        let then = |verdict| match look.known(verdict, at).unwrap().outcome {
            CallOutcome::Unresolved { then, .. } => then,
            other => panic!("{other:?}"),
        };
        assert_eq!(then(Conclusion::Ambiguous), Afterwards::Park);
        let reason = "the provider never showed whether it has it";
        assert_eq!(
            then(Conclusion::Unresolved { reason }),
            Afterwards::SendAgain
        );
    }
}
