//! Credentials of provider accounts, sealed. Nothing here opens them.

use sqlx::{PgConnection, query, query_as};
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx, TenantTx};
use crate::crypto::sealed::Sealed;
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::TenantId;

/// A tenant's Twilio account on one channel.
#[derive(Debug, Clone)]
pub struct TwilioCredentials {
    /// Whose they are.
    pub tenant_id: TenantId,
    /// Their row; part of the place that the token is bound to.
    pub id: Uuid,
    /// The channel they are for.
    pub channel: Channel,
    /// The provider account, as messages and lanes name it.
    pub account_ref: String,
    /// `AC…`.
    pub account_sid: String,
    /// The token.
    pub auth_token: Sealed,
}

/// The enabled credentials of tenants for channels; one that has none is missing.
pub async fn list_twilio(
    conn: &mut PgConnection,
    wanted: &[(TenantId, Channel)],
) -> StoreResult<Vec<TwilioCredentials>> {
    let tenant_ids: Vec<Uuid> = wanted.iter().map(|(tenant_id, _)| tenant_id.0).collect();
    let channels: Vec<&str> = wanted.iter().map(|(_, channel)| channel.as_str()).collect();
    query_as!(
        TwilioRow,
        r#"
        SELECT c.tenant_id, c.id, c.channel, c.twilio_account_sid AS "account_sid!",
               c.twilio_auth_token_encrypted AS "auth_token!", c.account_ref AS "account_ref!"
        FROM unnest($1::uuid[], $2::text[]) AS u (tenant_id, channel)
        JOIN tenant_channel_credentials_v2 c ON c.tenant_id = u.tenant_id AND c.channel = u.channel
        WHERE c.provider = 'twilio' AND c.is_enabled
          AND c.twilio_account_sid IS NOT NULL AND c.twilio_auth_token_encrypted IS NOT NULL
          AND c.account_ref IS NOT NULL
        "#,
        &tenant_ids,
        &channels as &[&str],
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(TwilioCredentials::try_from)
    .collect()
}

/// Everybody's enabled credentials of these accounts, the newest first.
pub async fn list_twilio_of(
    tx: &mut SystemTx,
    account_refs: &[String],
) -> StoreResult<Vec<TwilioCredentials>> {
    query_as!(
        TwilioRow,
        r#"
        SELECT c.tenant_id, c.id, c.channel, c.twilio_account_sid AS "account_sid!",
               c.twilio_auth_token_encrypted AS "auth_token!", c.account_ref AS "account_ref!"
        FROM tenant_channel_credentials_v2 c
        WHERE c.account_ref = ANY($1) AND c.provider = 'twilio' AND c.is_enabled
          AND c.twilio_account_sid IS NOT NULL AND c.twilio_auth_token_encrypted IS NOT NULL
        ORDER BY c.verified_at DESC NULLS LAST, c.id
        "#,
        account_refs,
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(TwilioCredentials::try_from)
    .collect()
}

struct TwilioRow {
    tenant_id: Uuid,
    id: Uuid,
    channel: String,
    account_sid: String,
    auth_token: String,
    account_ref: String,
}

impl TryFrom<TwilioRow> for TwilioCredentials {
    type Error = StoreError;

    fn try_from(row: TwilioRow) -> StoreResult<Self> {
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            id: row.id,
            channel: row.channel.parse()?,
            account_ref: row.account_ref,
            account_sid: row.account_sid,
            auth_token: row.auth_token.into(),
        })
    }
}

/// The provider account that a tenant uses for a channel, enabled or not; none when it has connected none.
pub async fn find_account(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
) -> StoreResult<Option<(Provider, String)>> {
    let row = query!(
        r#"
        SELECT provider, account_ref AS "account_ref!"
        FROM tenant_channel_credentials_v2
        WHERE tenant_id = $1 AND channel = $2 AND account_ref IS NOT NULL
        "#,
        tenant_id.0,
        channel.as_str(),
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| Ok((row.provider.parse()?, row.account_ref)))
        .transpose()
}

/// The credentials that a callback of a tenant has to be signed with: also of an account that is disabled by now, since what
/// it sent still comes to its end.
pub async fn find_of_callback(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    channel: Channel,
    account_sid: &str,
) -> StoreResult<Option<TwilioCredentials>> {
    let row = query!(
        r#"
        SELECT id, twilio_auth_token_encrypted AS "auth_token!", account_ref AS "account_ref!"
        FROM tenant_channel_credentials_v2
        WHERE tenant_id = $1 AND channel = $2 AND provider = 'twilio' AND twilio_account_sid = $3
          AND twilio_auth_token_encrypted IS NOT NULL AND account_ref IS NOT NULL
        "#,
        tenant_id.0,
        channel.as_str(),
        account_sid,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| TwilioCredentials {
        tenant_id,
        id: row.id,
        channel,
        account_ref: row.account_ref,
        account_sid: account_sid.to_owned(),
        auth_token: row.auth_token.into(),
    }))
}

/// Stores a tenant's verified Twilio account for a channel, in place of the one it had. The row takes the new id, which the
/// token is bound to.
pub async fn save_twilio(tx: &mut SystemTx, credentials: &TwilioCredentials) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO tenant_channel_credentials_v2 (id, tenant_id, channel, provider, twilio_account_sid,
            twilio_auth_token_encrypted, account_ref, is_enabled, is_verified, verified_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, true, true, app_now())
        ON CONFLICT (tenant_id, channel) DO UPDATE
        SET id = EXCLUDED.id, provider = EXCLUDED.provider, twilio_account_sid = EXCLUDED.twilio_account_sid,
            twilio_auth_token_encrypted = EXCLUDED.twilio_auth_token_encrypted, account_ref = EXCLUDED.account_ref,
            is_enabled = true, is_verified = true, verified_at = app_now(), verification_error = NULL,
            updated_at = app_now()
        "#,
        credentials.id,
        credentials.tenant_id.0,
        credentials.channel.as_str(),
        Provider::Twilio.as_str(),
        credentials.account_sid,
        credentials.auth_token.as_str(),
        credentials.account_ref,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Counts a callback that was refused, with the reason, for whoever looks at the channel; at most one a second, so that a
/// stranger cannot keep the row busy.
pub async fn mark_callback_refused(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    channel: Channel,
    reason: &str,
) -> StoreResult<()> {
    query!(
        r#"
        UPDATE tenant_channel_credentials_v2
        SET callbacks_refused_at = app_now(), callbacks_refused_reason = $3,
            callbacks_refused_count = callbacks_refused_count + 1
        WHERE tenant_id = $1 AND channel = $2
          AND (callbacks_refused_at IS NULL OR callbacks_refused_at <= app_now() - interval '1 s')
        "#,
        tenant_id.0,
        channel.as_str(),
        reason,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
