//! One message, one call: from the backlog to the provider, exactly once in effect.
//!
//! The story in code: [`intake`] accepts messages; [`release`] lets them out in turns, a job for a few; [`Delivery::deliver`] is
//! what such a job does, for each of them: *begin* commits an attempt as open and says whether the call may be made, *call*
//! makes it, *finish* stores what came of it, with the last message of a job together with the job's completion. Killed in
//! between, the attempt stays open and is never sent again; [`resolve`] settles it. What the provider says afterwards is merged
//! by [`inbox`].

mod batch;
mod begin;
mod call;
pub mod campaigns;
mod carriers;
pub mod contacts;
mod deal;
pub mod demo_seed;
mod errand;
mod feedback;
mod finish;
mod forgotten;
mod gates;
pub mod imports;
pub mod inbox;
pub mod incarnation;
pub mod intake;
pub mod invitations;
mod journal;
mod ledger;
mod moves;
pub mod outcomes;
mod reconcile_provider;
pub mod release;
pub mod resolve;
pub mod retries;
pub mod senders;
pub mod single;
pub mod tenants;
mod unanswered;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::begin::{Answer, Begin, Permission};
use self::carriers::Carriers;
use self::errand::Errand;
use self::finish::{Finish, Finished};
use self::gates::{Gates, Pass};
use self::incarnation::Myself;
use self::journal::Journal;
use self::ledger::DatabaseLedger;
use self::moves::Moves;
use self::outcomes::{Known, OWNER};
use crate::clock::Clock;
use crate::clock::answer::answered;
use crate::domain::attempt::{CallOutcome, Verdict};
use crate::domain::channel;
use crate::domain::holds::Holds;
use crate::domain::ids::{AttemptId, MessageId, MessageKey, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::jobs::queue::Fence;
use crate::providers::demo::DemoProvider;
use crate::providers::{Provider, ProviderSettings, SendRequest};
use crate::store::attempts::Remembered;
use crate::store::messages::CallContent;
use crate::store::messages::locked::{Step, lock_messages, save_steps};
use crate::store::{Db, StoreResult};

/// What became of a job that looked at messages, or of one of them; what comes last decides over the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivered {
    /// There was nothing to do, or it is done.
    Done,
    /// An outcome is stored, and the job was completed with it.
    Settled,
    /// The database gave no answer: look again later.
    NoAnswer,
}

/// Sends messages. Clones share the batchers.
#[derive(Debug, Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    myself: Myself,
    holds: Holds,
    begin: Begin,
    finish: Finish,
    carriers: Carriers,
    gates: Arc<Gates>,
    journal: Arc<Journal>,
    /// Messages that may be under way; a claim of jobs with several guesses, and may bring in more.
    at_once: usize,
    /// Those of them that are not.
    places: Arc<Semaphore>,
    stop_now: CancellationToken,
}

impl Delivery {
    /// Starts the batchers, for up to `at_once` messages under way. After `stop_now` no call is made any more; permissions are
    /// given back.
    pub fn start(
        db: Db,
        myself: Myself,
        holds: Holds,
        providers: ProviderSettings,
        at_once: usize,
        stop_now: CancellationToken,
    ) -> Self {
        let demo = DemoProvider::new(Arc::new(DatabaseLedger::spawn(db.clone())));
        let inner = Inner {
            begin: Begin::spawn(db.clone(), myself.clone(), &holds),
            finish: Finish::spawn(db.clone(), &holds),
            carriers: Carriers::new(demo, providers, &holds),
            gates: Gates::spawn(db.clone(), myself.clone()),
            journal: Journal::spawn(db.clone(), myself.clone(), Arc::new(holds)),
            at_once,
            places: Arc::new(Semaphore::new(at_once)),
            db,
            myself,
            holds,
            stop_now,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Looks at messages and sends those that may be sent. `fence` is the job that says so; `one_is_done` is called after each.
    pub async fn deliver(
        &self,
        tenant_id: TenantId,
        ids: &[MessageId],
        fence: Fence,
        one_is_done: impl Fn() + Sync,
    ) -> Delivered {
        let errand = Arc::new(Errand::new(fence, ids.len()));
        let each = ids.iter().map(async |id| {
            let key = MessageKey { tenant_id, id: *id };
            let delivered = self.deliver_one(key, &errand).await;
            one_is_done();
            delivered
        });
        Delivered::of_all(join_all(each).await)
    }

    /// Makes no call any more and waits until what is under way has come to its end and is stored, or cannot be a call any more:
    /// whoever says then that this process has ended says so truly.
    pub async fn end(&self) {
        let Inner { holds, places, .. } = &*self.inner;
        self.inner.stop_now.cancel();
        let all = u32::try_from(self.inner.at_once).unwrap_or(u32::MAX);
        let patience = holds.begin_to_call + holds.call;
        if tokio::time::timeout(patience, places.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!("what was under way is not stored; evidence will tell");
        }
        let outcomes = self.inner.finish.spoiled();
        if outcomes > 0 {
            tracing::warn!(
                outcomes,
                "what the database refused is not stored; evidence will tell"
            );
        }
    }

    /// Waits for a place. From then on it goes on when nobody waits for it any more: a handler is stopped when its lease is lost,
    /// and would leave a permission behind of which nobody says whether it was used.
    async fn deliver_one(&self, key: MessageKey, errand: &Arc<Errand<Fence>>) -> Delivered {
        // Never closed.
        let place = Arc::clone(&self.inner.places).acquire_owned().await;
        let (inner, errand) = (Arc::clone(&self.inner), Arc::clone(errand));
        let delivering = tokio::spawn(async move {
            let _place = place;
            inner.deliver(key, &errand).await
        });
        delivering.await.unwrap_or(Delivered::NoAnswer)
    }
}

impl Delivered {
    /// What became of a job, from what became of each of its messages.
    fn of_all(each: Vec<Self>) -> Self {
        // The job is there still, to come again, or one of them has completed it.
        each.into_iter().max().unwrap_or(Self::Done)
    }
}

impl Inner {
    async fn deliver(&self, key: MessageKey, errand: &Errand<Fence>) -> Delivered {
        let asked_at = Clock::boottime();
        match self.begin.ask(key).await {
            Answer::Granted(permission) => {
                let known = self.call(key, *permission, asked_at).await;
                let fence = errand.is_over();
                let is_last = fence.is_some();
                match self.finish.record(Finished { known, fence }).await {
                    // Whoever was the last says what becomes of the job.
                    _ if !is_last => Delivered::Done,
                    true => Delivered::Settled,
                    false => Delivered::NoAnswer,
                }
            }
            Answer::Denied(verdict) => match answered(self.put_away(key, verdict)).await {
                Ok(()) => {
                    // Whoever has nothing to store leaves the job to its queue.
                    let _ = errand.is_over();
                    Delivered::Done
                }
                Err(error) => {
                    tracing::warn!(%error, message.id = %key.id, "message not put away");
                    errand.has_no_answer();
                    Delivered::NoAnswer
                }
            },
            Answer::Unknown => {
                errand.has_no_answer();
                Delivered::NoAnswer
            }
        }
    }

    async fn call(&self, key: MessageKey, permission: Permission, asked_at: Duration) -> Known {
        let Permission {
            attempt_no,
            attempt_id,
            incarnation,
            content,
        } = permission;
        let known = |content: Option<&CallContent>, outcome| Known {
            key,
            attempt_no,
            attempt_id: Some(attempt_id),
            channel: content.map_or(channel::Channel::Sms, |c| c.channel),
            provider: content.map_or(channel::Provider::Demo, |c| c.provider),
            account_ref: content.map(|c| c.account_ref.clone()).unwrap_or_default(),
            outcome,
            resolved_by: OWNER,
        };
        let aborted = |reason: &str| CallOutcome::Aborted {
            reason: reason.into(),
        };
        let Some(content) = content else {
            return known(None, aborted("the content could not be read"));
        };
        let request = match self.request(&content, attempt_no, attempt_id) {
            Ok(request) => request,
            Err(outcome) => return known(Some(&content), outcome),
        };
        let provider = self.carriers.provider_for(
            content.provider,
            content.channel,
            content.credentials.as_deref(),
        );
        let outcome = match provider {
            Ok(provider) => {
                let _pass = self.wait_for_turn(&content, asked_at).await;
                let stopping = self.stop_now.is_cancelled();
                let reason = call::reason_to_abort(
                    asked_at,
                    incarnation,
                    &self.myself,
                    stopping,
                    &self.holds,
                );
                if let Some(reason) = reason {
                    aborted(reason)
                } else {
                    let attempt = Remembered {
                        key,
                        attempt_no,
                        attempt_id,
                        incarnation,
                        started_at: self.db.clock().now(),
                    };
                    let known = known(Some(&content), aborted(""));
                    self.make(&*provider, &request, attempt, known).await
                }
            }
            Err(code) => CallOutcome::Halted { code: code.into() },
        };
        known(Some(&content), outcome)
    }

    /// Makes a call that the journal remembers. What the simulated provider took is in the same database and forgotten with it.
    async fn make(
        &self,
        provider: &dyn Provider,
        request: &SendRequest,
        attempt: Remembered,
        known: Known,
    ) -> CallOutcome {
        let is_journaled = known.provider != channel::Provider::Demo;
        let call = is_journaled.then(|| self.journal.begins(attempt, known));
        let outcome = call::make(provider, request, attempt.attempt_no, &self.holds).await;
        if let Some(call) = call {
            call.ends(&outcome);
        }
        outcome
    }

    /// Waits until the account may make one more call; in vain when the permission grew old or the process stops, which
    /// whoever asks for the reason to abort will see.
    async fn wait_for_turn(&self, content: &CallContent, asked_at: Duration) -> Option<Pass> {
        if content.provider == channel::Provider::Demo {
            return None;
        }
        let age = Clock::boottime().saturating_sub(asked_at);
        // A little longer than it is good for, so that nobody is let through unseen.
        let patience = self.holds.begin_to_call.saturating_sub(age) + Duration::from_millis(1);
        tokio::select! {
            pass = self.gates.pass(&content.account_ref) => Some(pass),
            () = tokio::time::sleep(patience) => None,
            () = self.stop_now.cancelled() => None,
        }
    }

    fn request(
        &self,
        content: &CallContent,
        attempt_no: i16,
        attempt_id: AttemptId,
    ) -> Result<SendRequest, CallOutcome> {
        let Some(to) = content.to.clone() else {
            return Err(CallOutcome::Refused {
                code: "address_erased".into(),
            });
        };
        let left = content.expires_at - self.db.clock().now();
        Ok(SendRequest {
            key: content.key,
            attempt_id,
            attempt_no,
            channel: content.channel,
            from: content.from.clone(),
            messaging_service_sid: content.messaging_service_sid.clone(),
            validity: left.to_std().unwrap_or_default(),
            to,
            subject: content.subject.clone(),
            body: content.body.clone(),
            html: content.html.clone(),
        })
    }

    /// What a verdict asks for besides not calling.
    async fn put_away(&self, key: MessageKey, verdict: Verdict) -> StoreResult<()> {
        let step = match verdict {
            Verdict::OptedOut => dropped(DropReason::OptedOut),
            Verdict::Expired => dropped(DropReason::Expired),
            Verdict::Cancelled => dropped(DropReason::Cancelled),
            Verdict::WindowClosed => Step {
                ready_at: Some(self.db.clock().now() + self.holds.busy),
                ..Step::to(Phase::Deferred)
            },
            // Begin has put it where it belongs, or somebody else has it.
            Verdict::Begun | Verdict::Busy | Verdict::Held | Verdict::Gone => return Ok(()),
        };
        let mut tx = self.db.batch().begin().await?;
        let mut moves = Moves::default();
        for message in lock_messages(&mut tx, &[key]).await? {
            if message.phase == Phase::Released {
                moves.add(&message, step.phase, step.drop_reason);
                save_steps(&mut tx, &[(key, step.clone())]).await?;
            }
        }
        moves.save(&mut tx).await?;
        tx.commit().await
    }
}

fn dropped(reason: DropReason) -> Step {
    Step {
        drop_reason: Some(reason),
        ..Step::to(Phase::Dropped)
    }
}
