//! The simulated provider of demo tenants: same path, no network.
//!
//! Outcomes follow from the message id (`domain::demo`). Each call it accepts stands in the ledger, committed, before
//! its answer is given: the ledger is the judge of double sends.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use super::{
    AccountError, Candidate, Listing, LookUp, LookUpAnswer, Provider, SendError, SendReceipt,
    SendRequest,
};
use crate::domain::demo::{self, Fate};
use crate::domain::ids::{AttemptId, MessageKey};
use crate::domain::status::Status;

/// One accepted call, for the ledger.
#[derive(Debug, Clone)]
pub struct LedgerEntry {
    /// Which message.
    pub key: MessageKey,
    /// Which attempt.
    pub attempt_id: AttemptId,
    /// What the demo provider calls it.
    pub provider_message_id: String,
    /// What it will say next, and when.
    pub next: Option<(&'static str, Duration)>,
}

/// One accepted call, as the ledger remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownEntry {
    /// What the demo provider calls it.
    pub provider_message_id: String,
    /// When it was accepted.
    pub accepted_at: DateTime<Utc>,
}

/// Where accepted calls are written down. Handed in, since providers name no store.
pub trait Ledger: Send + Sync + std::fmt::Debug {
    /// Returns once the entry is durable.
    ///
    /// # Errors
    /// A text when that is not certain: the entry may be there or not.
    fn record(&self, entry: LedgerEntry) -> BoxFuture<'_, Result<(), String>>;

    /// What it holds of one attempt.
    ///
    /// # Errors
    /// A text when it cannot be asked.
    fn list(
        &self,
        key: MessageKey,
        attempt_id: AttemptId,
    ) -> BoxFuture<'_, Result<Vec<KnownEntry>, String>>;
}

/// The demo provider.
#[derive(Debug, Clone)]
pub struct DemoProvider {
    ledger: Arc<dyn Ledger>,
}

impl DemoProvider {
    /// A provider that writes what it accepts to `ledger`.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger }
    }
}

impl Provider for DemoProvider {
    fn send<'a>(
        &'a self,
        request: &'a SendRequest,
    ) -> BoxFuture<'a, Result<SendReceipt, SendError>> {
        Box::pin(async move {
            let id = request.key.id;
            if let Fate::Refused { code } = Fate::of(id, request.channel) {
                return Err(SendError::Rejected { code: code.into() });
            }
            let word = demo::first_word(request.channel);
            let status =
                Status::parse(request.channel, word).map_err(|error| SendError::Unavailable {
                    reason: error.to_string(),
                })?;
            let receipt = SendReceipt {
                provider_message_id: format!("DM{}", request.attempt_id.0.simple()),
                status,
            };
            let entry = LedgerEntry {
                key: request.key,
                attempt_id: request.attempt_id,
                provider_message_id: receipt.provider_message_id.clone(),
                next: demo::next_word(id, request.channel, word),
            };
            match self.ledger.record(entry).await {
                Ok(()) => Ok(receipt),
                Err(reason) => Err(SendError::Uncertain { reason }),
            }
        })
    }

    fn look_up<'a>(
        &'a self,
        question: &'a LookUp,
    ) -> BoxFuture<'a, Result<LookUpAnswer, AccountError>> {
        Box::pin(async move {
            let word = demo::first_word(question.channel);
            let status = Status::parse(question.channel, word)
                .map_err(|error| AccountError::Unreachable(error.to_string()))?;
            let known = self.ledger.list(question.key, question.attempt_id).await;
            let candidates = known
                .map_err(AccountError::Unreachable)?
                .into_iter()
                .map(|entry| Candidate {
                    provider_message_id: entry.provider_message_id,
                    has_same_text: true,
                    created_at: entry.accepted_at,
                    status,
                    error_code: None,
                })
                .collect();
            Ok(LookUpAnswer {
                candidates,
                is_complete: true,
            })
        })
    }

    /// What it took stands in our own database: a server that has forgotten a call has forgotten that, too.
    fn list_sent(&self, _since: DateTime<Utc>) -> BoxFuture<'_, Result<Listing, AccountError>> {
        Box::pin(async {
            Ok(Listing {
                messages: Vec::new(),
                is_complete: true,
            })
        })
    }

    fn verify<'a>(&'a self, _account_ref: &'a str) -> BoxFuture<'a, Result<(), AccountError>> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use uuid::Uuid;

    use super::*;
    use crate::domain::channel::Channel;
    use crate::domain::ids::{MessageId, TenantId};

    #[derive(Debug, Default)]
    struct Memory {
        entries: Mutex<Vec<LedgerEntry>>,
        is_broken: bool,
    }

    impl Ledger for Memory {
        fn record(&self, entry: LedgerEntry) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async move {
                self.entries.lock().unwrap().push(entry);
                if self.is_broken {
                    Err("no answer".into())
                } else {
                    Ok(())
                }
            })
        }

        fn list(
            &self,
            key: MessageKey,
            attempt_id: AttemptId,
        ) -> BoxFuture<'_, Result<Vec<KnownEntry>, String>> {
            let entries = self.entries.lock().unwrap();
            let known = entries
                .iter()
                .filter(|entry| entry.key == key && entry.attempt_id == attempt_id)
                .map(|entry| KnownEntry {
                    provider_message_id: entry.provider_message_id.clone(),
                    accepted_at: DateTime::UNIX_EPOCH,
                })
                .collect();
            Box::pin(async { Ok(known) })
        }
    }

    fn request(message: u128) -> SendRequest {
        SendRequest {
            key: MessageKey {
                tenant_id: TenantId(Uuid::from_u128(1)),
                id: MessageId(Uuid::from_u128(message)),
            },
            attempt_id: AttemptId(Uuid::from_u128(message + 1)),
            channel: Channel::Sms,
            attempt_no: 1,
            from: "+12055550100".into(),
            messaging_service_sid: None,
            validity: Duration::from_hours(1),
            to: "+12055550101".into(),
            subject: None,
            body: "Hello".into(),
            html: None,
        }
    }

    fn find(wanted: impl Fn(Fate) -> bool) -> SendRequest {
        let id = (1..10_000u128)
            .map(|n| n << 64 | n)
            .find(|id| wanted(Fate::of(MessageId(Uuid::from_u128(*id)), Channel::Sms)))
            .unwrap();
        request(id)
    }

    #[tokio::test]
    async fn what_it_takes_stands_in_the_ledger_and_what_it_refuses_does_not() {
        let ledger = Arc::new(Memory::default());
        let provider = DemoProvider::new(ledger.clone());
        let taken = find(|fate| matches!(fate, Fate::Taken { .. }));
        let refused = find(|fate| matches!(fate, Fate::Refused { .. }));

        let receipt = provider.send(&taken).await.unwrap();
        let refusal = provider.send(&refused).await.unwrap_err();

        assert_eq!(receipt.status.as_str(), "queued");
        assert_eq!(
            refusal,
            SendError::Rejected {
                code: "21211".into()
            }
        );
        assert_eq!(ledger.entries.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_entry_that_may_be_there_or_not_leaves_the_outcome_open() {
        let provider = DemoProvider::new(Arc::new(Memory {
            is_broken: true,
            ..Memory::default()
        }));
        let taken = find(|fate| matches!(fate, Fate::Taken { .. }));

        assert!(matches!(
            provider.send(&taken).await,
            Err(SendError::Uncertain { .. })
        ));
    }

    #[tokio::test]
    async fn it_knows_what_it_took_even_when_nobody_heard_the_answer() {
        let provider = DemoProvider::new(Arc::new(Memory {
            is_broken: true,
            ..Memory::default()
        }));
        let taken = find(|fate| matches!(fate, Fate::Taken { .. }));
        let question = LookUp {
            key: taken.key,
            attempt_id: taken.attempt_id,
            channel: taken.channel,
            from: taken.from.clone(),
            to: taken.to.clone(),
            body: taken.body.clone(),
            since: DateTime::UNIX_EPOCH,
            until: DateTime::UNIX_EPOCH,
        };

        let before = provider.look_up(&question).await.unwrap();
        provider.send(&taken).await.unwrap_err();
        let after = provider.look_up(&question).await.unwrap();

        assert!(before.candidates.is_empty() && before.is_complete);
        assert_eq!(after.candidates.len(), 1);
        assert!(after.candidates[0].has_same_text);
    }
}
