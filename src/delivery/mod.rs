//! One message, one call: from the backlog to the provider, exactly once in effect.
//!
//! The story in code: [`intake`] accepts messages; [`release`] lets them out in turns, a job each; [`Delivery::deliver`] is
//! what such a job does: *begin* commits an attempt as open and says whether the call may be made, *call* makes it, *finish*
//! stores what came of it together with the job's completion. Killed in between, the attempt stays open and is never sent
//! again; [`resolve`] settles it. What the provider says afterwards is merged by [`inbox`].

mod batch;
mod begin;
mod call;
pub mod campaigns;
mod carriers;
pub mod contacts;
mod deal;
pub mod demo_seed;
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

use tokio_util::sync::CancellationToken;

use self::begin::{Answer, Begin, Permission};
use self::carriers::Carriers;
use self::finish::{Finish, Finished};
use self::gates::{Gates, Pass};
use self::incarnation::Myself;
use self::journal::Journal;
use self::ledger::DatabaseLedger;
use self::moves::Moves;
use self::outcomes::{Known, OWNER};
use crate::clock::Clock;
use crate::domain::attempt::{CallOutcome, Verdict};
use crate::domain::channel;
use crate::domain::holds::Holds;
use crate::domain::ids::{AttemptId, MessageKey};
use crate::domain::message::{DropReason, Phase};
use crate::jobs::queue::Fence;
use crate::providers::demo::DemoProvider;
use crate::providers::{Provider, ProviderSettings, SendRequest};
use crate::store::attempts::Remembered;
use crate::store::messages::CallContent;
use crate::store::messages::locked::{Step, lock_messages, save_steps};
use crate::store::{Db, StoreResult};

/// What became of one job that looked at a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// An outcome is stored, and the job was completed with it.
    Settled,
    /// There was nothing to do, or it is done.
    Done,
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
    stop_now: CancellationToken,
}

impl Delivery {
    /// Starts the batchers. After `stop_now` no call is made any more; permissions are given back.
    pub fn start(
        db: Db,
        myself: Myself,
        holds: Holds,
        providers: ProviderSettings,
        stop_now: CancellationToken,
    ) -> Self {
        let demo = DemoProvider::new(Arc::new(DatabaseLedger::spawn(db.clone())));
        let inner = Inner {
            begin: Begin::spawn(db.clone(), myself.clone(), &holds),
            finish: Finish::spawn(db.clone(), &holds),
            carriers: Carriers::new(demo, providers, &holds),
            gates: Gates::spawn(db.clone(), myself.clone()),
            journal: Journal::spawn(db.clone(), myself.clone(), Arc::new(holds)),
            db,
            myself,
            holds,
            stop_now,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Looks at one message and sends it if it may be sent. `fence` is the job that says so.
    ///
    /// It goes on when nobody waits for it any more: a handler is stopped when its lease is lost, and would leave a permission
    /// behind of which nobody says whether it was used.
    pub async fn deliver(&self, key: MessageKey, fence: Fence) -> Delivered {
        let inner = Arc::clone(&self.inner);
        let delivering = tokio::spawn(async move { inner.deliver(key, fence).await });
        delivering.await.unwrap_or(Delivered::NoAnswer)
    }
}

impl Inner {
    async fn deliver(&self, key: MessageKey, fence: Fence) -> Delivered {
        let asked_at = Clock::boottime();
        match self.begin.ask(key).await {
            Answer::Granted(permission) => {
                let finished = self.call(key, *permission, fence, asked_at).await;
                if self.finish.record(finished).await {
                    Delivered::Settled
                } else {
                    Delivered::NoAnswer
                }
            }
            Answer::Denied(verdict) => match self.put_away(key, verdict).await {
                Ok(()) => Delivered::Done,
                Err(error) => {
                    tracing::warn!(%error, message.id = %key.id, "message not put away");
                    Delivered::NoAnswer
                }
            },
            Answer::Unknown => Delivered::NoAnswer,
        }
    }

    async fn call(
        &self,
        key: MessageKey,
        permission: Permission,
        fence: Fence,
        asked_at: Duration,
    ) -> Finished {
        let Permission {
            attempt_no,
            attempt_id,
            incarnation,
            content,
        } = permission;
        let finished = |content: Option<&CallContent>, outcome| Finished {
            known: Known {
                key,
                attempt_no,
                attempt_id: Some(attempt_id),
                channel: content.map_or(channel::Channel::Sms, |c| c.channel),
                provider: content.map_or(channel::Provider::Demo, |c| c.provider),
                account_ref: content.map(|c| c.account_ref.clone()).unwrap_or_default(),
                outcome,
                resolved_by: OWNER,
            },
            fence,
        };
        let aborted = |reason: &str| CallOutcome::Aborted {
            reason: reason.into(),
        };
        let Some(content) = content else {
            return finished(None, aborted("the content could not be read"));
        };
        let request = match self.request(&content, attempt_no, attempt_id) {
            Ok(request) => request,
            Err(outcome) => return finished(Some(&content), outcome),
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
                    let known = finished(Some(&content), aborted("")).known;
                    self.make(&*provider, &request, attempt, known).await
                }
            }
            Err(code) => CallOutcome::Halted { code: code.into() },
        };
        finished(Some(&content), outcome)
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
