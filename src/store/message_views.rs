//! Messages as people look at them: lists, one with its text, and its attempts.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_as};
use uuid::Uuid;

use super::{StoreError, StoreResult, TenantTx};
use crate::domain::attempt::AttemptState;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, ContactId, MessageId, MessageKey, TenantId};
use crate::domain::message::{DropReason, Phase};

/// A message as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub id: MessageId,
    /// The campaign it belongs to.
    pub campaign_id: Option<CampaignId>,
    /// Whom it is for.
    pub contact_id: Option<ContactId>,
    /// How it reaches them.
    pub channel: Channel,
    /// Number or address; none after it was erased.
    pub address: Option<String>,
    /// What it is billed as, 1 for emails.
    pub segments: i16,
    /// Where it is with us.
    pub phase: Phase,
    /// Since when.
    pub phase_at: DateTime<Utc>,
    /// Why it will not be sent.
    pub drop_reason: Option<DropReason>,
    /// It is dropped when it waits longer.
    pub expires_at: DateTime<Utc>,
    /// How many calls were permitted for it.
    pub attempts: i16,
    /// The provider's word.
    pub status: Option<String>,
    /// When the provider said it.
    pub status_at: Option<DateTime<Utc>>,
    /// The provider's code for what went wrong.
    pub error_code: Option<String>,
    /// The failed message that it takes the place of.
    pub retry_of: Option<MessageId>,
    /// The message that took its place.
    pub retried_by: Option<MessageId>,
}

struct Row {
    tenant_id: Uuid,
    id: Uuid,
    campaign_id: Option<Uuid>,
    contact_id: Option<Uuid>,
    channel: String,
    address: Option<String>,
    cost: i16,
    phase: i16,
    phase_at: DateTime<Utc>,
    drop_reason: Option<String>,
    expires_at: DateTime<Utc>,
    attempt_no: i16,
    status: Option<String>,
    status_at: Option<DateTime<Utc>>,
    error_code: Option<String>,
    retry_of: Option<Uuid>,
    retried_by: Option<Uuid>,
}

impl TryFrom<Row> for MessageRow {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            id: MessageId(row.id),
            campaign_id: row.campaign_id.map(CampaignId),
            contact_id: row.contact_id.map(ContactId),
            channel: row.channel.parse()?,
            address: row.address,
            segments: row.cost,
            phase: row.phase.try_into()?,
            phase_at: row.phase_at,
            drop_reason: row.drop_reason.map(|word| word.parse()).transpose()?,
            expires_at: row.expires_at,
            attempts: row.attempt_no,
            status: row.status,
            status_at: row.status_at,
            error_code: row.error_code,
            retry_of: row.retry_of.map(MessageId),
            retried_by: row.retried_by.map(MessageId),
        })
    }
}

/// Messages of one campaign, in the order of its audience, after `after`.
pub async fn list_of_campaign(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    campaign_id: CampaignId,
    after: Option<MessageId>,
    limit: i64,
) -> StoreResult<Vec<MessageRow>> {
    let rows = query_as!(
        Row,
        r#"
        SELECT tenant_id, id, campaign_id, contact_id, channel, COALESCE(phone_number, email_address) AS address, cost,
               phase, phase_at, drop_reason, expires_at, attempt_no, status, status_at, error_code, retry_of, retried_by
        FROM messages
        WHERE tenant_id = $1 AND campaign_id = $2
          -- Not `IS NULL OR`: bounds keep it a range of the index in any plan.
          AND id > GREATEST($3, campaign_ids_from($1, $2)) AND id < campaign_ids_to($1, $2)
        ORDER BY id
        LIMIT $4
        "#,
        tenant_id.0,
        campaign_id.0,
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(MessageRow::try_from).collect()
}

/// Messages to one contact, the newest first, below `before`.
pub async fn list_of_contact(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contact_id: ContactId,
    before: Option<MessageId>,
    limit: i64,
) -> StoreResult<Vec<MessageRow>> {
    let rows = query_as!(
        Row,
        r#"
        SELECT tenant_id, id, campaign_id, contact_id, channel, COALESCE(phone_number, email_address) AS address, cost,
               phase, phase_at, drop_reason, expires_at, attempt_no, status, status_at, error_code, retry_of, retried_by
        FROM messages
        WHERE tenant_id = $1 AND contact_id = $2
          AND id < COALESCE($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
        ORDER BY id DESC
        LIMIT $4
        "#,
        tenant_id.0,
        contact_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(MessageRow::try_from).collect()
}

/// One message.
pub async fn load_message(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: MessageId,
) -> StoreResult<MessageRow> {
    let mut found = list_by_key(tx.conn(), &[MessageKey { tenant_id, id }]).await?;
    found.pop().ok_or(StoreError::NotFound { what: "message" })
}

/// Messages of any tenants. One that is not there is missing in the answer.
pub async fn list_by_key(
    conn: &mut PgConnection,
    keys: &[MessageKey],
) -> StoreResult<Vec<MessageRow>> {
    let (tenant_ids, ids) = MessageKey::columns(keys);
    let rows = query_as!(
        Row,
        r#"
        SELECT m.tenant_id, m.id, campaign_id, contact_id, channel, COALESCE(phone_number, email_address) AS address, cost,
               phase, phase_at, drop_reason, expires_at, attempt_no, status, status_at, error_code, retry_of, retried_by
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
        JOIN messages m ON m.tenant_id = u.tenant_id AND m.id = u.id
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(MessageRow::try_from).collect()
}

/// The text of a message as it was rendered.
#[derive(Debug, Clone, Default)]
pub struct BodyRow {
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text.
    pub body: Option<String>,
    /// The HTML, of emails.
    pub html: Option<String>,
}

/// The text of a message; none when it was dropped after its time.
pub async fn find_body(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: MessageId,
) -> StoreResult<Option<BodyRow>> {
    let body = query_as!(
        BodyRow,
        "SELECT subject, body, html FROM message_bodies WHERE tenant_id = $1 AND message_id = $2",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(body)
}

/// One permitted call and what came of it.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Counted from 1.
    pub attempt_no: i16,
    /// Where it is.
    pub state: AttemptState,
    /// Who was called.
    pub provider: String,
    /// When it was permitted.
    pub started_at: DateTime<Utc>,
    /// The provider's HTTP status.
    pub http_status: Option<i16>,
    /// The provider's code for what went wrong.
    pub error_code: Option<String>,
    /// The provider's id of the message.
    pub provider_message_id: Option<String>,
    /// When its outcome became known.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// The attempts of one message, in order.
pub async fn list_attempts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: MessageId,
) -> StoreResult<Vec<AttemptRow>> {
    let rows = query!(
        r#"
        SELECT attempt_no, state, provider, started_at, http_status, error_code, provider_message_id, resolved_at
        FROM send_attempts
        WHERE tenant_id = $1 AND message_id = $2
        ORDER BY attempt_no
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AttemptRow {
                attempt_no: row.attempt_no,
                state: row.state.try_into()?,
                provider: row.provider,
                started_at: row.started_at,
                http_status: row.http_status,
                error_code: row.error_code,
                provider_message_id: row.provider_message_id,
                resolved_at: row.resolved_at,
            })
        })
        .collect()
}

/// One thing a provider said of a message.
#[derive(Debug, Clone)]
pub struct ReportRow {
    /// When it happened, as far as the provider says; else when we heard of it.
    pub at: DateTime<Utc>,
    /// The provider's own word.
    pub status: String,
}

/// What a provider said of one message, in order; at most `limit`.
pub async fn list_reports(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: MessageId,
    limit: i64,
) -> StoreResult<Vec<ReportRow>> {
    let rows = query_as!(
        ReportRow,
        r#"
        SELECT COALESCE(occurred_at, received_at) AS "at!", status
        FROM provider_events
        WHERE tenant_id = $1 AND message_id = $2
        ORDER BY received_at
        LIMIT $3
        "#,
        tenant_id.0,
        id.0,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}
