//! What streams watch beside what is listed anyway. Each statement reads for every tenant that anybody watches.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, query, query_scalar};

use super::StoreResult;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, TenantId};

/// A campaign that runs, as much as tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningHead {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub id: CampaignId,
    /// What people call it.
    pub name: String,
    /// How it reaches people.
    pub channel: Channel,
}

/// The campaigns of these tenants that send or are paused, the newest first; of each tenant at most `limit`.
pub async fn list_running(
    conn: &mut PgConnection,
    tenant_ids: &[TenantId],
    limit: i64,
) -> StoreResult<Vec<RunningHead>> {
    let rows = query!(
        r#"
        SELECT c.tenant_id AS "tenant_id: TenantId", c.id AS "id: CampaignId", c.name, c.channel
        FROM unnest($1::uuid[]) AS u (tenant_id)
        CROSS JOIN LATERAL (
            SELECT c.tenant_id, c.id, c.name, c.channel
            FROM campaigns c
            WHERE c.tenant_id = u.tenant_id AND c.status IN ('sending', 'paused')
            ORDER BY c.id DESC
            LIMIT $2
        ) c
        ORDER BY c.tenant_id, c.id DESC
        "#,
        &TenantId::column(tenant_ids),
        limit,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(RunningHead {
                tenant_id: row.tenant_id,
                id: row.id,
                name: row.name,
                channel: row.channel.parse()?,
            })
        })
        .collect()
}

/// The time by the clock that all processes share.
pub async fn load_now(conn: &mut PgConnection) -> StoreResult<DateTime<Utc>> {
    let now = query_scalar!(r#"SELECT app_now() AS "now!""#)
        .fetch_one(conn)
        .await?;
    Ok(now)
}
