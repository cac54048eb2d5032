//! What answers and reports say of senders, accounts and rates: halts and signals, in the transaction that stores what they
//! say of the message.
//!
//! Halts are read by begin and by the release leader, signals by the leader alone. Neither is lost with a process, since both
//! are rows of the same commit; a repeat changes nothing, since an outcome closes its attempt once and a status is new once.

use std::time::Duration;

use super::outcomes::Known;
use crate::domain::attempt::CallOutcome;
use crate::domain::channel::{Channel, Provider};
use crate::domain::feedback::{Feedback, Halting, Meaning, REFUSALS_MAX};
use crate::domain::ids::{MessageKey, TenantId};
use crate::domain::rate::BucketKind;
use crate::domain::rate::learned::Signal;
use crate::providers::twilio::codes;
use crate::store::attempts::Closed;
use crate::store::buckets::signals::{NewSignal, append_signals};
use crate::store::halts::{self, NewHalt, save_halts};
use crate::store::{StoreResult, SystemTx};
use crate::telemetry;

/// What one transaction heard.
#[derive(Debug, Default)]
pub(super) struct FeedbackHeard {
    halts: Vec<NewHalt>,
    signals: Vec<NewSignal>,
    /// Messages whose account was refused, and which account.
    refused: Vec<(MessageKey, String)>,
    /// Accounts that took something.
    taken: Vec<(TenantId, String)>,
}

/// What a code of a channel's provider means. The demo provider speaks as the real ones do.
pub(super) fn meaning(channel: Channel, code: &str) -> Meaning {
    match channel {
        Channel::Sms | Channel::Whatsapp => codes::meaning(code),
        Channel::Email => Meaning::UNKNOWN,
    }
}

impl FeedbackHeard {
    /// What follows from attempts of which no answer to a call is known, and that are over all the same.
    pub(super) fn of_closed(known: &[Known], closed: &[Closed]) -> Self {
        let mut heard = Self::default();
        for one in known.iter().filter(|one| one.is_among(closed)) {
            heard.give_back(one);
        }
        heard
    }

    /// An attempt is over, whoever says so: what was surely not sent is given back.
    fn give_back(&mut self, known: &Known) {
        if known.outcome.is_surely_unsent() && known.provider != Provider::Demo {
            // The day's quota was charged when the message was let out; carriers have seen nothing of it.
            self.signals.push(NewSignal {
                key: known.key,
                whose: BucketKind::Brand,
                signal: Signal::GivenBack,
                retry_after: None,
            });
        }
    }

    /// The answer to a call.
    pub(super) fn answer(&mut self, known: &Known, rest: Duration) {
        self.give_back(known);
        match &known.outcome {
            CallOutcome::Taken { .. } if known.provider != Provider::Demo => {
                self.taken
                    .push((known.key.tenant_id, known.account_ref.clone()));
            }
            CallOutcome::Halted { code } => {
                self.halts.push(NewHalt {
                    key: known.key,
                    is_account: false,
                    rest: Some(rest),
                    reason: "the provider refuses the account or the sender; mend it there or change the credentials",
                    code: code.clone(),
                });
                if codes::refuses_account(code) {
                    self.refused.push((known.key, known.account_ref.clone()));
                }
            }
            CallOutcome::Later { code, asked, .. } => {
                let meant = meaning(known.channel, code).feedback;
                // Whatever puts us off goes too fast.
                let feedback = meant.unwrap_or(Feedback::Slow {
                    whose: BucketKind::Account,
                    signal: Signal::Throttled,
                });
                self.note(known.key, feedback, code, *asked);
            }
            CallOutcome::Refused { code } => self.failure(known.key, known.channel, code),
            _ => {}
        }
    }

    /// A message that the provider had taken has failed.
    pub(super) fn failure(&mut self, key: MessageKey, channel: Channel, code: &str) {
        if let Some(feedback) = meaning(channel, code).feedback {
            self.note(key, feedback, code, None);
        }
    }

    fn note(
        &mut self,
        key: MessageKey,
        feedback: Feedback,
        code: &str,
        retry_after: Option<Duration>,
    ) {
        match feedback {
            Feedback::Halt(Halting {
                is_account,
                rest,
                reason,
            }) => self.halts.push(NewHalt {
                key,
                is_account,
                rest,
                reason,
                code: code.to_owned(),
            }),
            Feedback::Slow { whose, signal } => self.signals.push(NewSignal {
                key,
                whose,
                signal,
                retry_after,
            }),
        }
    }

    /// Writes it down. The caller holds the messages' locks.
    pub(super) async fn save(mut self, tx: &mut SystemTx) -> StoreResult<()> {
        self.judge_accounts(tx).await?;
        for halt in save_halts(tx, &self.halts).await? {
            metrics::counter!(telemetry::HALTS_TOTAL, "code" => halt.code.clone()).increment(1);
            tracing::warn!(sender.id = %halt.sender_id, code = halt.code, reason = halt.reason, "a sender is halted");
        }
        for signal in &self.signals {
            let signal = signal.signal.as_str();
            metrics::counter!(telemetry::BUCKET_SIGNALS_TOTAL, "signal" => signal).increment(1);
        }
        append_signals(tx, &self.signals).await
    }

    /// Counts refusals of credentials in a row; the fifth halts all that sends with the account.
    async fn judge_accounts(&mut self, tx: &mut SystemTx) -> StoreResult<()> {
        let counted: Vec<(MessageKey, &str)> = self
            .refused
            .iter()
            .map(|(key, account_ref)| (*key, account_ref.as_str()))
            .collect();
        if !self.taken.is_empty() {
            halts::forget_refusals(tx, &self.taken, &counted).await?;
        }
        if counted.is_empty() {
            return Ok(());
        }
        let given_up = halts::count_refusals(tx, &counted, REFUSALS_MAX).await?;
        for halt in &mut self.halts {
            let refused = self.refused.iter().find(|(key, _)| *key == halt.key);
            halt.is_account |= refused.is_some_and(|(key, account_ref)| {
                given_up.contains(&(key.tenant_id, account_ref.clone()))
            });
        }
        Ok(())
    }
}
