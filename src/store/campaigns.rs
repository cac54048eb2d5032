//! Campaigns.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::brands::grant_of;
use super::{StoreError, StoreResult, SystemTx, TenantTx, affected, interval};
use crate::domain::campaign::{Audience, Campaign, CampaignStatus};
use crate::domain::contact::normalize_name;
use crate::domain::counts::Counts;
use crate::domain::ids::{CampaignId, SenderId, TemplateVersionId, TenantId, UserId};
use crate::domain::rate::LanePace;

const CAMPAIGN: &str = "campaign";
/// What [`load_pace`] does not find when there is nothing yet that a campaign could be sent from.
pub const SENDER: &str = "sender";

struct Row {
    tenant_id: Uuid,
    id: Uuid,
    name: String,
    channel: String,
    class: String,
    status: String,
    sender_id: Option<Uuid>,
    content_id: Option<Uuid>,
    audience: Json<Audience>,
    send_at: Option<DateTime<Utc>>,
    expires_after_secs: i64,
    started_at: Option<DateTime<Utc>>,
    paused_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    failure_reason: Option<String>,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for Campaign {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            id: CampaignId(row.id),
            name: row.name,
            channel: row.channel.parse()?,
            class: row.class.parse()?,
            status: row.status.parse()?,
            sender_id: row.sender_id.map(SenderId),
            content_id: row.content_id.map(TemplateVersionId),
            audience: row.audience.0,
            send_at: row.send_at,
            expires_after: Duration::from_secs(row.expires_after_secs.unsigned_abs()),
            started_at: row.started_at,
            paused_at: row.paused_at,
            finished_at: row.finished_at,
            failure_reason: row.failure_reason,
            created_at: row.created_at,
        })
    }
}

/// Adds a campaign.
pub async fn insert_campaign(
    tx: &mut TenantTx,
    campaign: &Campaign,
    created_by: Option<UserId>,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO campaigns (tenant_id, id, name, name_normalized, channel, class, status, sender_id, content_id,
                               audience, expires_after, created_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        "#,
        campaign.tenant_id.0,
        campaign.id.0,
        campaign.name,
        normalize_name(Some(&campaign.name), None),
        campaign.channel.as_str(),
        campaign.class.as_str(),
        campaign.status.as_str(),
        campaign.sender_id.map(|id| id.0),
        campaign.content_id.map(|id| id.0),
        Json(&campaign.audience) as _,
        interval(campaign.expires_after),
        created_by.map(|id| id.0),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What decides how fast a campaign goes: its own brake, its tenant's plan, and the sender it has or would get.
pub async fn load_pace(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    id: CampaignId,
) -> StoreResult<LanePace> {
    let row = query!(
        r#"
        SELECT c.pace_per_sec::float8 AS campaign_per_sec, n.plan_segments_per_sec::float8 AS plan_per_sec,
               s.provider AS "provider?", s.account_ref AS "account_ref?", s.address AS "address?",
               s.segments_per_sec_override::float8 AS sender_per_sec,
               (p.quota->>'per_sec')::float8 AS account_per_sec, g.brand_id AS "brand_id?",
               g.messages_per_sec::float8 AS brand_per_sec, g.att_class AS "att_class?",
               g.daily_segment_cap AS "day_segments_max?", g.trust_score AS "trust_score?"
        FROM campaigns c
        JOIN tenants n ON n.id = c.tenant_id
        LEFT JOIN LATERAL (
            SELECT s.tenant_id, s.brand_id, s.provider, s.account_ref, s.address, s.segments_per_sec_override
            FROM senders s
            WHERE s.tenant_id = c.tenant_id AND s.channel = c.channel AND (s.id = c.sender_id OR c.sender_id IS NULL AND s.status <> 'released')
            ORDER BY s.is_default DESC, s.id
            LIMIT 1
        ) s ON true
        LEFT JOIN provider_accounts p ON p.account_ref = s.account_ref
        LEFT JOIN brand_grants g ON g.tenant_id = s.tenant_id AND g.brand_id = s.brand_id
        WHERE c.tenant_id = $1 AND c.id = $2
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound { what: "campaign" })?;
    let brand = grant_of!(row)?;
    let (Some(provider), Some(account_ref), Some(address)) =
        (row.provider, row.account_ref, row.address)
    else {
        return Err(StoreError::NotFound { what: SENDER });
    };
    Ok(LanePace {
        tenant_id,
        campaign: Some((id, row.campaign_per_sec)),
        provider: provider.parse()?,
        account_ref,
        address,
        sender_per_sec: row.sender_per_sec,
        account_per_sec: row.account_per_sec,
        brand,
        plan_per_sec: row.plan_per_sec,
    })
}

/// Sets a campaign's own brake, or takes it off. The release leader reads it with each tick.
pub async fn save_pace(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: CampaignId,
    per_sec: Option<f64>,
) -> StoreResult<()> {
    let done = query!(
        "UPDATE campaigns SET pace_per_sec = $3::float8::numeric, updated_at = app_now() WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        id.0,
        per_sec,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "campaign")
}

/// The campaign, as it is now.
pub async fn load_campaign(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    id: CampaignId,
) -> StoreResult<Campaign> {
    query_as!(
        Row,
        r#"
        SELECT tenant_id, id, name, channel, class, status, sender_id, content_id,
               audience AS "audience: Json<Audience>", send_at,
               extract(epoch FROM expires_after)::bigint AS "expires_after_secs!",
               started_at, paused_at, finished_at, failure_reason, created_at
        FROM campaigns
        WHERE tenant_id = $1 AND id = $2
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound { what: CAMPAIGN })?
    .try_into()
}

/// The campaign, held until the transaction ends.
pub async fn load_for_update(
    conn: &mut PgConnection,
    tenant_id: TenantId,
    id: CampaignId,
) -> StoreResult<Campaign> {
    query_scalar!(
        "SELECT id FROM campaigns WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(StoreError::NotFound { what: CAMPAIGN })?;
    load_campaign(conn, tenant_id, id).await
}

/// Campaigns of a tenant, newest first, before `before`.
pub async fn list_campaigns(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    before: Option<CampaignId>,
    limit: i64,
) -> StoreResult<Vec<Campaign>> {
    query_as!(
        Row,
        r#"
        SELECT tenant_id, id, name, channel, class, status, sender_id, content_id,
               audience AS "audience: Json<Audience>", send_at,
               extract(epoch FROM expires_after)::bigint AS "expires_after_secs!",
               started_at, paused_at, finished_at, failure_reason, created_at
        FROM campaigns
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        tenant_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Campaign::try_from)
    .collect()
}

/// Stores what a decision changed.
pub async fn save_campaign(tx: &mut TenantTx, campaign: &Campaign) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE campaigns
        SET name = $3, channel = $4, status = $5, sender_id = $6, content_id = $7, audience = $8, send_at = $9,
            started_at = $10, paused_at = $11, finished_at = $12, failure_reason = $13, name_normalized = $14,
            updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2
        "#,
        campaign.tenant_id.0,
        campaign.id.0,
        campaign.name,
        campaign.channel.as_str(),
        campaign.status.as_str(),
        campaign.sender_id.map(|id| id.0),
        campaign.content_id.map(|id| id.0),
        Json(&campaign.audience) as _,
        campaign.send_at,
        campaign.started_at,
        campaign.paused_at,
        campaign.finished_at,
        campaign.failure_reason,
        normalize_name(Some(&campaign.name), None),
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, CAMPAIGN)
}

/// Scheduled campaigns whose time has come, at most `limit`, those that have waited longest first.
pub async fn list_due(tx: &mut SystemTx, limit: i64) -> StoreResult<Vec<(TenantId, CampaignId)>> {
    let rows = query!(
        r#"
        SELECT tenant_id, id
        FROM campaigns
        WHERE status = 'scheduled' AND send_at <= app_now()
        ORDER BY send_at
        LIMIT $1
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), CampaignId(row.id)))
        .collect())
}

/// Waits until every begin of the campaign that is under way has committed, and lets no other start before this
/// transaction ends.
pub async fn lock_out_begins(tx: &mut TenantTx, id: CampaignId) -> StoreResult<()> {
    query!("SELECT pg_advisory_xact_lock(campaign_lock_key($1))", id.0)
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Campaigns that are sending although everything is folded, expanded and settled, as far as totals say; at most
/// `limit`.
pub async fn list_settled(
    tx: &mut SystemTx,
    limit: i64,
) -> StoreResult<Vec<(TenantId, CampaignId)>> {
    let rows = query!(
        r#"
        SELECT c.tenant_id, c.id
        FROM campaigns c
        JOIN campaign_expansion e ON e.tenant_id = c.tenant_id AND e.campaign_id = c.id AND e.is_done
        JOIN campaign_totals t ON t.tenant_id = c.tenant_id AND t.campaign_id = c.id
        WHERE c.status = 'sending'
          AND NOT EXISTS (
              SELECT FROM unnest(ARRAY['unexpanded', 'deferred', 'queued', 'released', 'sending', 'in_doubt']) AS w (word)
              WHERE COALESCE((t.counts ->> w.word)::bigint, 0) <> 0
          )
        ORDER BY c.tenant_id, c.id
        LIMIT $1
        "#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TenantId(row.tenant_id), CampaignId(row.id)))
        .collect())
}

/// Ends a campaign with the counts it came to, and forgets its frozen audience.
///
/// Returns whether it was still sending.
pub async fn mark_completed(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    id: CampaignId,
    counts: &Counts,
) -> StoreResult<bool> {
    let done = query!(
        r#"
        UPDATE campaigns
        SET status = $3, final_counts = $4, finished_at = app_now(), updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2 AND status = $5
        "#,
        tenant_id.0,
        id.0,
        CampaignStatus::Completed.as_str(),
        Json(counts) as _,
        CampaignStatus::Sending.as_str(),
    )
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    delete_audience(tx, tenant_id, id).await?;
    Ok(true)
}

pub(super) async fn delete_audience(
    tx: &mut SystemTx,
    tenant_id: TenantId,
    id: CampaignId,
) -> StoreResult<()> {
    query!(
        "DELETE FROM campaign_audience WHERE tenant_id = $1 AND campaign_id = $2",
        tenant_id.0,
        id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
