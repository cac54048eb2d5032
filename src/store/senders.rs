//! Where messages come from, and the provider accounts behind.

use sqlx::{PgConnection, query, query_as};
use uuid::Uuid;

use super::{StoreError, StoreResult, SystemTx};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{SenderId, TenantId};

/// A number, a WhatsApp sender or a mail identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Which one.
    pub id: SenderId,
    /// What it carries.
    pub channel: Channel,
    /// Who carries it out.
    pub provider: Provider,
    /// The provider account it belongs to.
    pub account_ref: String,
    /// E.164, `whatsapp:+…`, or an email address.
    pub address: String,
}

struct Row {
    id: Uuid,
    channel: String,
    provider: String,
    account_ref: String,
    address: String,
}

impl TryFrom<Row> for Sender {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        Ok(Self {
            id: SenderId(row.id),
            channel: row.channel.parse()?,
            provider: row.provider.parse()?,
            account_ref: row.account_ref,
            address: row.address,
        })
    }
}

/// A sender, whatever its state.
pub async fn load_sender(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    id: SenderId,
) -> StoreResult<Sender> {
    query_as!(
        Row,
        "SELECT id, channel, provider, account_ref, address FROM senders WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound { what: "sender" })?
    .try_into()
}

/// The active sender a campaign uses: the one asked for, else the channel's default.
pub async fn find_active(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    channel: Channel,
    wanted: Option<SenderId>,
) -> StoreResult<Option<Sender>> {
    query_as!(
        Row,
        r#"
        SELECT id, channel, provider, account_ref, address
        FROM senders
        WHERE tenant_id = $1 AND channel = $2 AND status = 'active'
          AND CASE WHEN $3::uuid IS NULL THEN is_default ELSE id = $3 END
        "#,
        tenant_id.0,
        channel.as_str(),
        wanted.map(|id| id.0),
    )
    .fetch_optional(conn)
    .await?
    .map(Sender::try_from)
    .transpose()
}

/// Adds a provider account, unless it is known: several tenants may use one.
pub async fn insert_account(
    tx: &mut SystemTx,
    account_ref: &str,
    provider: Provider,
) -> StoreResult<()> {
    query!(
        "INSERT INTO provider_accounts (account_ref, provider) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        account_ref,
        provider.as_str(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Adds the sender that its channel uses by default, unless the channel has one.
pub async fn insert_default_sender(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    sender: &Sender,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO senders (tenant_id, id, channel, provider, account_ref, address, is_default)
        VALUES ($1, $2, $3, $4, $5, $6, true)
        ON CONFLICT (tenant_id, channel) WHERE is_default DO NOTHING
        "#,
        tenant_id.0,
        sender.id.0,
        sender.channel.as_str(),
        sender.provider.as_str(),
        sender.account_ref,
        sender.address,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
