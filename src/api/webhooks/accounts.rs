//! Whether a call was signed by the account that it names, and whether that account is the tenant's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::form::{TwilioSignature, refused};
use crate::api::problem::{ApiError, ApiResult};
use crate::api::state::ApiState;
use crate::domain::channel::Channel;
use crate::domain::ids::TenantId;
use crate::providers::twilio::verify::{Account, StatusCallback, is_signed_by};
use crate::store::credentials::{find_of_callback, mark_callback_refused};
use crate::telemetry;

/// How long a sealed token is used again without asking. A wrong signature asks at once.
const FRESH: Duration = Duration::from_secs(10);
/// Accounts remembered; with more, all are forgotten.
const KNOWN_MAX: usize = 10_000;

type Name = (TenantId, String);

/// The accounts of tenants, remembered for some seconds.
#[derive(Debug)]
pub(super) struct Accounts {
    state: ApiState,
    known: Mutex<HashMap<Name, (Instant, Arc<Account>)>>,
}

impl Accounts {
    pub(super) fn new(state: ApiState) -> Self {
        Self {
            state,
            known: Mutex::default(),
        }
    }

    /// Refuses a call that the tenant's account did not sign.
    pub(super) async fn check(
        &self,
        tenant_id: TenantId,
        channel: Channel,
        callback: &StatusCallback,
        form: &[(String, String)],
        signature: &TwilioSignature,
    ) -> ApiResult<()> {
        let public_url = self.state.front.public_url.as_ref().ok_or_else(|| {
            refused("This installation cannot check signatures: ENGAGENINJA_PUBLIC_URL is not set.")
        })?;
        // As it was given to the provider: what a proxy makes of the host is not what was signed.
        let url = format!("{}{}", public_url.origin(), signature.path_and_query);
        let is_signed = |account: &Account| {
            let keys = &self.state.keys;
            is_signed_by(account, keys, &url, form, &signature.signature)
                .map_err(ApiError::internal)
        };
        let name = (tenant_id, callback.account_sid.clone());
        if let Some(account) = self.remembered(&name)
            && is_signed(&account)?
        {
            return Ok(());
        }
        let Some(account) = self.ask(&name, channel).await? else {
            return self
                .refuse(
                    tenant_id,
                    channel,
                    "foreign_account",
                    "The account is none of this tenant's.",
                )
                .await;
        };
        if is_signed(&account)? {
            return Ok(());
        }
        let detail = "The signature does not fit. Check the Auth Token, and that ENGAGENINJA_PUBLIC_URL is the address \
                      that Twilio calls.";
        self.refuse(tenant_id, channel, "wrong_signature", detail)
            .await
    }

    async fn refuse(
        &self,
        tenant_id: TenantId,
        channel: Channel,
        reason: &'static str,
        detail: &str,
    ) -> ApiResult<()> {
        metrics::counter!(telemetry::CALLBACKS_REFUSED_TOTAL, "channel" => channel.as_str(), "reason" => reason)
            .increment(1);
        let mut tx = self.state.db.system().begin().await?;
        mark_callback_refused(&mut tx, tenant_id, channel, reason).await?;
        tx.commit().await?;
        Err(refused(detail))
    }

    fn remembered(&self, name: &Name) -> Option<Arc<Account>> {
        let known = self.known();
        let (asked_at, account) = known.get(name)?;
        (asked_at.elapsed() < FRESH).then(|| account.clone())
    }

    async fn ask(&self, name: &Name, channel: Channel) -> ApiResult<Option<Arc<Account>>> {
        let (tenant_id, account_sid) = name;
        let mut tx = self.state.db.cell(*tenant_id).begin().await?;
        let found = find_of_callback(&mut tx, *tenant_id, channel, account_sid).await?;
        tx.commit().await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let account = Arc::new(Account {
            tenant_id: *tenant_id,
            credentials_id: found.id,
            account_sid: found.account_sid,
            auth_token: found.auth_token,
        });
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(name.clone(), (Instant::now(), account.clone()));
        Ok(Some(account))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, (Instant, Arc<Account>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
