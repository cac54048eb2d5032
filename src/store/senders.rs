//! Where messages come from, and the provider accounts behind. What their tenants change is in [`changes`].

pub mod changes;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::halts::Halt;
use super::{StoreError, StoreResult, SystemTx, TenantTx};
use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{CampaignId, SenderId, TenantId};
use crate::domain::rate::sender_per_sec;
use crate::domain::senders::{SenderKind, SenderState};

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

/// Adds the sender that its channel uses by default, unless the channel has one or its address is somebody's.
pub async fn insert_default_sender(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    sender: &Sender,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO senders (tenant_id, id, channel, provider, account_ref, address, is_default)
        VALUES ($1, $2, $3, $4, $5, $6, true)
        ON CONFLICT DO NOTHING
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

/// A sender as its tenant sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct SenderRow {
    /// The sender.
    pub sender: Sender,
    /// The provider's pool that chooses one, where it has one.
    pub messaging_service_sid: Option<String>,
    /// Whether its channel uses it when nobody says otherwise.
    pub is_default: bool,
    /// Where it is.
    pub state: SenderState,
    /// The rate its tenant stated, in segments a second.
    pub stated_per_sec: Option<f64>,
    /// Why it must not send, while it must not.
    pub halt: Option<Halt>,
    /// Until when it goes at half its rate: a carrier said that it was exceeded.
    pub slowed_until: Option<DateTime<Utc>>,
    /// Until when nothing goes: a carrier takes no more before.
    pub closed_until: Option<DateTime<Utc>>,
    /// Campaigns that are sending from it, or paused.
    pub running_campaigns: i64,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

struct ShownRow {
    id: Uuid,
    channel: String,
    provider: String,
    account_ref: String,
    address: String,
    messaging_service_sid: Option<String>,
    is_default: bool,
    status: String,
    stated_per_sec: Option<f64>,
    halt_reason: Option<String>,
    halt_code: Option<String>,
    halted_at: Option<DateTime<Utc>>,
    halted_until: Option<DateTime<Utc>>,
    slowed_until: Option<DateTime<Utc>>,
    closed_until: Option<DateTime<Utc>>,
    running_campaigns: i64,
    created_at: DateTime<Utc>,
}

impl TryFrom<ShownRow> for SenderRow {
    type Error = StoreError;

    fn try_from(row: ShownRow) -> StoreResult<Self> {
        let halt = match (row.halt_reason, row.halted_at) {
            (Some(reason), Some(since)) => Some(Halt {
                reason,
                code: row.halt_code,
                since,
                until: row.halted_until,
            }),
            _ => None,
        };
        let state = match row.status.as_str() {
            "released" => SenderState::Retired,
            "provisioning" => SenderState::Provisioning,
            _ if halt.is_some() => SenderState::Halted,
            _ => SenderState::Active,
        };
        Ok(Self {
            sender: Sender {
                id: SenderId(row.id),
                channel: row.channel.parse()?,
                provider: row.provider.parse()?,
                account_ref: row.account_ref,
                address: row.address,
            },
            messaging_service_sid: row.messaging_service_sid,
            is_default: row.is_default,
            state,
            stated_per_sec: row.stated_per_sec,
            halt,
            slowed_until: row.slowed_until,
            closed_until: row.closed_until,
            running_campaigns: row.running_campaigns,
            created_at: row.created_at,
        })
    }
}

/// Senders of a tenant, the newest first: one, those of a channel, or all; from before `before` on.
pub async fn list_senders(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    wanted: (Option<SenderId>, Option<Channel>),
    before: Option<SenderId>,
    limit: i64,
) -> StoreResult<Vec<SenderRow>> {
    query_as!(
        ShownRow,
        r#"
        SELECT s.id, s.channel, s.provider, s.account_ref, s.address, s.messaging_service_sid, s.is_default, s.status,
               s.segments_per_sec_override::float8 AS stated_per_sec, h.reason AS "halt_reason?", h.code AS "halt_code?",
               h.set_at AS "halted_at?", NULLIF(h.until, 'infinity') AS "halted_until?",
               CASE WHEN b.slowed_until > app_now() THEN b.slowed_until END AS slowed_until,
               CASE WHEN b.closed_until > app_now() THEN b.closed_until END AS closed_until,
               (SELECT count(*) FROM campaigns c
                WHERE c.tenant_id = s.tenant_id AND c.sender_id = s.id AND c.status IN ('sending', 'paused'))
                   AS "running_campaigns!",
               s.created_at
        FROM senders s
        LEFT JOIN halts h ON h.tenant_id = s.tenant_id AND h.sender_id = s.id AND h.until > app_now()
        LEFT JOIN buckets b ON b.name = 'sender:' || s.provider || ':' || s.address
        WHERE s.tenant_id = $1 AND ($2::uuid IS NULL OR s.id = $2) AND ($3::text IS NULL OR s.channel = $3)
          AND ($4::uuid IS NULL OR s.id < $4)
        ORDER BY s.id DESC
        LIMIT $5
        "#,
        tenant_id.0,
        wanted.0.map(|id| id.0),
        wanted.1.map(Channel::as_str),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(SenderRow::try_from)
    .collect()
}

/// One sender as its tenant sees it, retired or not.
pub async fn load_row(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: SenderId,
) -> StoreResult<SenderRow> {
    let rows = list_senders(tx, tenant_id, (Some(id), None), None, 1).await?;
    rows.into_iter()
        .next()
        .ok_or(StoreError::NotFound { what: "sender" })
}

/// The same, held until the transaction ends: nobody starts a campaign with it meanwhile.
pub async fn load_for_update(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: SenderId,
) -> StoreResult<SenderRow> {
    query!(
        "SELECT id FROM senders WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "sender" })?;
    load_row(tx, tenant_id, id).await
}

/// Whether what a campaign was started with may still be sent with; it cannot be retired before this transaction ends. True of
/// a campaign that has no sender yet.
///
/// Asked before the campaign's row is taken: a retirement takes the sender first, too.
pub async fn hold_of_campaign(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    campaign_id: CampaignId,
) -> StoreResult<bool> {
    let is_retired = query_scalar!(
        r#"
        SELECT s.status = 'released' AS "is_retired!"
        FROM campaigns c
        JOIN senders s ON s.tenant_id = c.tenant_id AND s.id = c.sender_id
        WHERE c.tenant_id = $1 AND c.id = $2
        FOR SHARE OF s
        "#,
        tenant_id.0,
        campaign_id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(is_retired != Some(true))
}

/// Whether a sender may still be sent with; it cannot be retired before this transaction ends.
pub async fn hold_unretired(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    id: SenderId,
) -> StoreResult<bool> {
    let row = query!(
        "SELECT id FROM senders WHERE tenant_id = $1 AND id = $2 AND status <> 'released' FOR SHARE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

impl SenderRow {
    /// What kind of sender it is.
    pub fn kind(&self) -> SenderKind {
        SenderKind::of(&self.sender.address)
    }

    /// How fast it may go by itself, in segments a second; none when only its account and its tenant's plan limit it.
    pub fn per_sec(&self) -> Option<f64> {
        sender_per_sec(
            self.stated_per_sec,
            self.sender.provider,
            &self.sender.address,
        )
    }
}
