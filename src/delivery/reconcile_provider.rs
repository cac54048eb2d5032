//! A server in quarantine hears from the lists of the provider accounts which calls it has forgotten, and is released when they
//! have said all there is to say.
//!
//! Running twice, or beside itself, does no harm: an account is locked while its messages are claimed, what has an owner is
//! claimed by nobody else, and what was released stays so.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use uuid::Uuid;

use super::begin::retry_deadlocks;
use super::forgotten::restore;
use super::inbox::{StatusReport, merge};
use super::outcomes::{self, Known, RECONCILIATION};
use super::{Delivery, Inner};
use crate::clock::answer::answered;
use crate::domain::attempt::CallOutcome;
use crate::domain::channel::Provider as ProviderName;
use crate::domain::holds::Holds;
use crate::domain::ids::{AttemptId, Incarnation, MessageKey};
use crate::domain::message::Phase;
use crate::domain::reconcile_provider::{Claim, Listed, Waiting, listed_since, match_listed};
use crate::domain::status::Status;
use crate::providers::{AccountError, Listing};
use crate::store::attempts::Remembered;
use crate::store::credentials::{TwilioCredentials, list_twilio_of};
use crate::store::mappings::list_claimed;
use crate::store::messages::locked::{Locked, lock_messages};
use crate::store::reconcile_provider::waiting::list_waiting;
use crate::store::reconcile_provider::{
    AccountListing, Quarantine, add_accounts, add_claimed, find_quarantine, list_accounts,
    lock_account, save_hold, save_progress,
};
use crate::store::timelines::release_timeline;
use crate::store::{Db, StoreResult, SystemTx};
use crate::telemetry;

/// Accounts of one run; the others come with the next.
const ACCOUNTS_MAX: usize = 32;
/// Accounts listed at once.
const ACCOUNTS_AT_ONCE: usize = 8;
/// How long one account's list may take.
const LIST_MAX: Duration = Duration::from_mins(3);
/// Provider's ids asked for by one statement.
const IDS_MAX: usize = 5_000;
/// Messages of one transaction.
const CHUNK: usize = 64;
/// Who releases.
const RELEASED_BY: &str = "reconciliation";

/// An account that is to be listed, and what opens it.
#[derive(Debug)]
struct Due {
    account: AccountListing,
    credentials: Vec<TwilioCredentials>,
}

/// What an account showed, without the messages that have an owner; or why it showed nothing.
type Shown = (AccountListing, Result<Listing, String>);

impl Delivery {
    /// Lists every account that is due, while the server is in quarantine. Claims what nobody has; releases the server once
    /// nothing is left to be found, or says what keeps it.
    pub async fn reconcile_provider(&self) -> StoreResult<()> {
        let inner = &self.inner;
        let Some((quarantine, due)) = answered(load(&inner.db, &inner.holds)).await? else {
            return Ok(());
        };
        let Some(incarnation) = inner.myself.current() else {
            return Ok(());
        };
        let shown = inner.list_all(&quarantine, due).await?;
        let mut waiting = find_waiting(&inner.db, &shown).await?;
        for (account, listing) in shown {
            let its = waiting.remove(&account.account_ref).unwrap_or_default();
            inner
                .compare(&quarantine, incarnation, &account, listing, its)
                .await?;
        }
        answered(inner.conclude(&quarantine)).await
    }
}

impl Inner {
    async fn list_all(&self, quarantine: &Quarantine, due: Vec<Due>) -> StoreResult<Vec<Shown>> {
        let since = listed_since(quarantine.server.seen_at);
        let lists: Vec<Shown> = stream::iter(due)
            .map(|due| async move {
                let listing = self.list(&due, since).await;
                (due.account, listing)
            })
            .buffer_unordered(ACCOUNTS_AT_ONCE)
            .collect()
            .await;
        let mut shown = Vec::with_capacity(lists.len());
        for (account, listing) in lists {
            let listing = match listing {
                Ok(listing) => Ok(without_owned(&self.db, &account, listing).await?),
                Err(reason) => Err(reason),
            };
            shown.push((account, listing));
        }
        Ok(shown)
    }

    /// Lists one account, with the credentials of the first tenant whose are not refused.
    async fn list(&self, due: &Due, since: DateTime<Utc>) -> Result<Listing, String> {
        if due.account.provider == ProviderName::AwsSes {
            return Err("the provider of emails lists nothing".into());
        }
        let mut refusal = "no credentials are in use".to_owned();
        for credentials in &due.credentials {
            let provider = self
                .carriers
                .lister_for(due.account.provider, credentials)?;
            match timeout(LIST_MAX, provider.list_sent(since)).await {
                Ok(Ok(listing)) => return Ok(listing),
                Ok(Err(error @ AccountError::Refused(_))) => refusal = error.to_string(),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("its list took too long".into()),
            }
        }
        Err(refusal)
    }

    /// Claims what is ours of an account's list, and writes down how far it was compared.
    async fn compare(
        &self,
        quarantine: &Quarantine,
        incarnation: Incarnation,
        account: &AccountListing,
        listing: Result<Listing, String>,
        waiting: Vec<Waiting>,
    ) -> StoreResult<()> {
        let (found, claimed, unsure, unknown, error) = match listing {
            Ok(listing) => {
                let matched = match_listed(listing.messages, waiting);
                let mut claimed = 0;
                for claims in matched.claims.chunks(CHUNK) {
                    let claim = || answered(self.claim(quarantine, incarnation, account, claims));
                    claimed += retry_deadlocks(claim).await?;
                }
                metrics::counter!(telemetry::RECONCILED_TOTAL).increment(claimed as u64);
                let error =
                    (!listing.is_complete).then(|| "its list is longer than is read".to_owned());
                let found = matched.claims.len();
                (found, claimed, matched.unsure, Some(matched.unknown), error)
            }
            Err(error) => (0, 0, 0, None, Some(error)),
        };
        if claimed > 0 || unsure > 0 || error.is_some() {
            tracing::warn!(
                account.ref = account.account_ref, claimed, unsure, unknown, error,
                "an account's list was compared with a server in quarantine"
            );
        }
        let save = async {
            let mut tx = self.db.batch().begin().await?;
            if let Some(progress) = lock_account(&mut tx, quarantine, &account.account_ref).await? {
                let progress = match error {
                    None => progress.after(quarantine.now, found, unsure),
                    Some(error) => progress.failed(quarantine.now, error),
                };
                let account_ref = &account.account_ref;
                save_progress(&mut tx, quarantine, account_ref, &progress, unknown).await?;
            }
            tx.commit().await
        };
        answered(save).await
    }

    /// Writes down that messages are with the provider. Answers how many; the others were settled meanwhile.
    async fn claim(
        &self,
        quarantine: &Quarantine,
        incarnation: Incarnation,
        account: &AccountListing,
        claims: &[Claim],
    ) -> StoreResult<usize> {
        let mut tx = self.db.batch().begin().await?;
        lock_account(&mut tx, quarantine, &account.account_ref).await?;
        let owned = list_owned(&mut tx, account, claims.iter().map(|claim| &claim.listed)).await?;
        let claims: Vec<&Claim> = claims
            .iter()
            .filter(|claim| !owned.contains(&claim.listed.provider_message_id))
            .collect();
        // One lock for all, in one order, before anything is written.
        let keys: Vec<MessageKey> = claims.iter().map(|claim| claim.key).collect();
        let locked: HashMap<MessageKey, Locked> = lock_messages(&mut tx, &keys)
            .await?
            .into_iter()
            .map(|message| (message.key, message))
            .collect();
        let forgotten: Vec<Remembered> = claims
            .iter()
            .filter(|claim| !claim.is_live)
            .map(|claim| remembered(claim, incarnation))
            .collect();
        let restored = restore(&mut tx, &forgotten, &self.holds).await?;
        let mut known = Vec::new();
        let mut reports = Vec::new();
        for claim in claims {
            let Some(message) = locked.get(&claim.key) else {
                continue;
            };
            let is_open = claim.is_live && is_calling(message, claim.attempt_no);
            if is_open || restored.contains(&claim.key) {
                known.push(taken(claim, account, message));
                reports.push(report(claim));
            }
        }
        outcomes::record(&mut tx, &known).await?;
        merge(&mut tx, &reports).await?;
        if !known.is_empty() {
            add_claimed(&mut tx, quarantine, &account.account_ref, known.len()).await?;
        }
        tx.commit().await?;
        Ok(known.len())
    }

    /// Releases the server when everything that it may have forgotten was found; says what keeps it otherwise.
    async fn conclude(&self, quarantine: &Quarantine) -> StoreResult<()> {
        let Quarantine {
            timeline, server, ..
        } = quarantine;
        let mut tx = self.db.batch().begin().await?;
        let is_same = find_quarantine(&mut tx)
            .await?
            .is_some_and(|found| found.timeline == *timeline && found.server == *server);
        if !is_same {
            return Ok(());
        }
        let accounts: Vec<_> = list_accounts(&mut tx, timeline, server.seen_at)
            .await?
            .into_iter()
            .map(|one| (one.account_ref, one.progress))
            .collect();
        // By the instant of this run's beginning: what it has not asked for yet is not through.
        let Some(held) = server.why_held(quarantine.now, &accounts, &self.holds) else {
            release_timeline(&mut tx, timeline, RELEASED_BY).await?;
            tx.commit().await?;
            metrics::counter!(telemetry::TIMELINES_RELEASED_TOTAL).increment(1);
            tracing::warn!(
                timeline,
                "the lists of all accounts were compared: calls begin again"
            );
            return Ok(());
        };
        if save_hold(&mut tx, timeline, &held.to_string()).await? {
            tracing::warn!(timeline, reason = %held, "the server stays in quarantine");
        }
        tx.commit().await
    }
}

/// The quarantine and the accounts that are due; none when calls may begin.
async fn load(db: &Db, holds: &Holds) -> StoreResult<Option<(Quarantine, Vec<Due>)>> {
    let mut tx = db.batch().begin().await?;
    let Some(quarantine) = find_quarantine(&mut tx).await? else {
        return Ok(None);
    };
    if !quarantine.server.has_heard_journals(quarantine.now, holds) {
        return Ok(Some((quarantine, Vec::new())));
    }
    add_accounts(&mut tx, &quarantine).await?;
    let known = list_accounts(&mut tx, &quarantine.timeline, quarantine.server.seen_at).await?;
    let due: Vec<AccountListing> = known
        .into_iter()
        .filter(|one| one.progress.is_due(quarantine.now, holds))
        .take(ACCOUNTS_MAX)
        .collect();
    let account_refs: Vec<String> = due.iter().map(|one| one.account_ref.clone()).collect();
    let mut credentials: HashMap<String, Vec<TwilioCredentials>> = HashMap::new();
    for one in list_twilio_of(&mut tx, &account_refs).await? {
        let its = credentials.entry(one.account_ref.clone()).or_default();
        its.push(one);
    }
    tx.commit().await?;
    let due = due
        .into_iter()
        .map(|account| Due {
            credentials: credentials.remove(&account.account_ref).unwrap_or_default(),
            account,
        })
        .collect();
    Ok(Some((quarantine, due)))
}

/// Leaves out the messages that are known to be some attempt's. A list that grows while it is read shows some twice.
async fn without_owned(
    db: &Db,
    account: &AccountListing,
    mut listing: Listing,
) -> StoreResult<Listing> {
    let mut seen = HashSet::new();
    for some in listing.messages.chunks(IDS_MAX) {
        let owned = answered(async {
            let mut tx = db.batch().begin().await?;
            list_owned(&mut tx, account, some).await
        });
        seen.extend(owned.await?);
    }
    listing
        .messages
        .retain(|one| seen.insert(one.provider_message_id.clone()));
    Ok(listing)
}

async fn list_owned<'a>(
    tx: &mut SystemTx,
    account: &AccountListing,
    listed: impl IntoIterator<Item = &'a Listed>,
) -> StoreResult<HashSet<String>> {
    let ids: Vec<String> = listed
        .into_iter()
        .map(|one| one.provider_message_id.clone())
        .collect();
    let owned = list_claimed(tx, account.provider, &account.account_ref, &ids).await?;
    Ok(owned.into_iter().collect())
}

/// What waits for the people to whom accounts have sent something that nobody has, by account.
async fn find_waiting(db: &Db, shown: &[Shown]) -> StoreResult<HashMap<String, Vec<Waiting>>> {
    let mut wanted = HashSet::new();
    for (account, listing) in shown {
        for one in listing.iter().flat_map(|listing| &listing.messages) {
            wanted.insert((account.account_ref.clone(), one.to.clone()));
        }
    }
    let mut by_account: HashMap<String, Vec<Waiting>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(by_account);
    }
    let wanted: Vec<(String, String)> = wanted.into_iter().collect();
    let rows = answered(async {
        // System: an account may be several tenants'.
        let mut tx = db.system().begin().await?;
        list_waiting(&mut tx, &wanted).await
    });
    for row in rows.await? {
        let its = by_account.entry(row.account_ref).or_default();
        its.push(row.waiting);
    }
    Ok(by_account)
}

fn is_calling(message: &Locked, attempt_no: i16) -> bool {
    message.attempt_no == attempt_no && matches!(message.phase, Phase::Sending | Phase::InDoubt)
}

/// The attempt that was forgotten. Its token is, too: reports that bear it are known by the provider's id.
fn remembered(claim: &Claim, incarnation: Incarnation) -> Remembered {
    Remembered {
        key: claim.key,
        attempt_no: claim.attempt_no,
        attempt_id: AttemptId(Uuid::new_v4()),
        incarnation,
        started_at: claim.listed.created_at,
    }
}

fn taken(claim: &Claim, account: &AccountListing, message: &Locked) -> Known {
    Known {
        key: claim.key,
        attempt_no: claim.attempt_no,
        // No list shows it. Whoever claims holds the message's lock, and has looked at the number under it.
        attempt_id: None,
        channel: message.channel,
        provider: account.provider,
        account_ref: account.account_ref.clone(),
        outcome: CallOutcome::Taken {
            provider_message_id: claim.listed.provider_message_id.clone(),
            // What became of it since is merged as any report is, and counted.
            status: Status::ACCEPTED,
        },
        resolved_by: RECONCILIATION,
    }
}

fn report(claim: &Claim) -> StatusReport {
    StatusReport {
        key: claim.key,
        attempt: None,
        status: claim.listed.status,
        error_code: claim.listed.error_code.clone(),
    }
}
