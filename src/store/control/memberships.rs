//! Who is what in which tenant.

use sqlx::query;

use crate::domain::actor::Role;
use crate::domain::ids::{TenantId, UserId};
use crate::store::{ControlTx, StoreResult};

/// A tenant somebody belongs to.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Which tenant.
    pub tenant_id: TenantId,
    /// Its word in addresses.
    pub slug: String,
    /// What they are there.
    pub role: Role,
}

/// Makes somebody a member, or gives a member another role.
pub async fn save_membership(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    user_id: UserId,
    role: Role,
) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO memberships (tenant_id, user_id, role)
        VALUES ($1, $2, $3)
        ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = EXCLUDED.role, updated_at = app_now()
        "#,
        tenant_id.0,
        user_id.0,
        role.as_str(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The tenants of one person, the one joined first in front.
pub async fn list_of_user(tx: &mut ControlTx, user_id: UserId) -> StoreResult<Vec<Membership>> {
    let rows = query!(
        r#"
        SELECT m.tenant_id AS "tenant_id: TenantId", d.slug, m.role
        FROM memberships m
        JOIN tenant_directory d ON d.tenant_id = m.tenant_id
        WHERE m.user_id = $1
        ORDER BY m.created_at, m.tenant_id
        "#,
        user_id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Membership {
                tenant_id: row.tenant_id,
                slug: row.slug,
                role: row.role.parse()?,
            })
        })
        .collect()
}
