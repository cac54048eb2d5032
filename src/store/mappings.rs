//! Provider id to message: whose callback it is.

use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::{StoreResult, SystemTx};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::MessageKey;

/// What a provider called one attempt.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Which message.
    pub key: MessageKey,
    /// Which of its attempts.
    pub attempt_no: i16,
    /// How it reaches the person.
    pub channel: Channel,
    /// Who took it.
    pub provider: Provider,
    /// With which account.
    pub account_ref: String,
    /// The provider's id.
    pub provider_message_id: String,
    /// The provider's first word.
    pub provider_status: &'static str,
}

/// Adds mappings; one that is there already stays.
pub async fn insert_mappings(tx: &mut SystemTx, mappings: &[Mapping]) -> StoreResult<()> {
    if mappings.is_empty() {
        return Ok(());
    }
    let tenant_ids: Vec<Uuid> = mappings.iter().map(|m| m.key.tenant_id.0).collect();
    let message_ids: Vec<Uuid> = mappings.iter().map(|m| m.key.id.0).collect();
    let attempt_nos: Vec<i16> = mappings.iter().map(|m| m.attempt_no).collect();
    let channels: Vec<&str> = mappings.iter().map(|m| m.channel.as_str()).collect();
    let providers: Vec<&str> = mappings.iter().map(|m| m.provider.as_str()).collect();
    let accounts: Vec<&str> = mappings.iter().map(|m| m.account_ref.as_str()).collect();
    let provider_ids: Vec<&str> = mappings
        .iter()
        .map(|m| m.provider_message_id.as_str())
        .collect();
    let statuses: Vec<&str> = mappings.iter().map(|m| m.provider_status).collect();
    query!(
        r#"
        INSERT INTO message_provider_mappings (tenant_id, message_id, attempt_no, channel, provider, provider_account,
                                               provider_message_id, provider_status, created_at, updated_at)
        SELECT u.tenant_id, u.message_id, u.attempt_no, u.channel, u.provider, u.account, u.provider_message_id,
               u.status, clock.at, clock.at
        FROM (SELECT app_now() AS at OFFSET 0) AS clock,
             unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
             AS u (tenant_id, message_id, attempt_no, channel, provider, account, provider_message_id, status)
        ORDER BY u.tenant_id, u.message_id
        ON CONFLICT DO NOTHING
        "#,
        &tenant_ids,
        &message_ids,
        &attempt_nos,
        &channels as &[&str],
        &providers as &[&str],
        &accounts as &[&str],
        &provider_ids as &[&str],
        &statuses as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Which of the provider's ids are known to be some attempt's.
pub async fn list_claimed(
    tx: &mut SystemTx,
    provider: Provider,
    account_ref: &str,
    provider_message_ids: &[String],
) -> StoreResult<Vec<String>> {
    let claimed = query_scalar!(
        r#"
        SELECT p.provider_message_id
        FROM unnest($3::text[]) AS u (id)
        JOIN message_provider_mappings p
          ON p.provider = $1 AND p.provider_account = $2 AND p.provider_message_id = u.id
        "#,
        provider.as_str(),
        account_ref,
        provider_message_ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(claimed)
}
