//! Who is what in which tenant.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{query, query_as, query_scalar};

use crate::domain::actor::Role;
use crate::domain::ids::{TenantId, UserId};
use crate::domain::members::Standing;
use crate::domain::tenant::TenantStatus;
use crate::store::{ControlTx, StoreError, StoreResult, affected};

/// A tenant somebody belongs to.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Which tenant.
    pub tenant_id: TenantId,
    /// What people call it.
    pub name: String,
    /// Its word in addresses.
    pub slug: String,
    /// Whether it is active.
    pub status: TenantStatus,
    /// Whether its messages are simulated.
    pub is_demo: bool,
    /// What they are there.
    pub role: Role,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// What a person's tenants are ordered by.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Joined {
    /// When they joined.
    pub at: DateTime<Utc>,
    /// Which tenant.
    pub tenant_id: TenantId,
}

impl Membership {
    /// Its place in the order.
    pub fn joined(&self) -> Joined {
        Joined {
            at: self.created_at,
            tenant_id: self.tenant_id,
        }
    }
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

/// The tenants of one person, the one joined first in front, from behind `after`.
pub async fn list_of_user(
    tx: &mut ControlTx,
    user_id: UserId,
    after: Option<Joined>,
    limit: i64,
) -> StoreResult<Vec<Membership>> {
    let rows = query!(
        r#"
        SELECT m.tenant_id AS "tenant_id: TenantId", d.name, d.slug, d.status, d.is_demo, m.role, m.created_at
        FROM memberships m
        JOIN tenant_directory d ON d.tenant_id = m.tenant_id
        WHERE m.user_id = $1 AND ($2::timestamptz IS NULL OR (m.created_at, m.tenant_id) > ($2, $3::uuid))
        ORDER BY m.created_at, m.tenant_id
        LIMIT $4
        "#,
        user_id.0,
        after.map(|joined| joined.at),
        after.map(|joined| joined.tenant_id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Membership {
                tenant_id: row.tenant_id,
                name: row.name,
                slug: row.slug,
                status: row.status.parse()?,
                is_demo: row.is_demo,
                role: row.role.parse()?,
                created_at: row.created_at,
            })
        })
        .collect()
}

/// A member as lists show them.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// Their email.
    pub email: String,
    /// Their name.
    pub name: String,
    /// What they are.
    pub role: Role,
    /// Since when they belong to the tenant.
    pub created_at: DateTime<Utc>,
    /// When they last signed in, to whichever tenant.
    pub last_login_at: Option<DateTime<Utc>>,
}

struct MemberRow {
    user_id: UserId,
    email: String,
    name: String,
    role: String,
    created_at: DateTime<Utc>,
    last_login_at: Option<DateTime<Utc>>,
}

impl TryFrom<MemberRow> for Member {
    type Error = StoreError;

    fn try_from(row: MemberRow) -> StoreResult<Self> {
        Ok(Self {
            user_id: row.user_id,
            email: row.email,
            name: row.name,
            role: row.role.parse()?,
            created_at: row.created_at,
            last_login_at: row.last_login_at,
        })
    }
}

/// A tenant's members in the order of their ids, from behind `after`; only one of them when `only` names them.
pub async fn list_members(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    only: Option<UserId>,
    after: Option<UserId>,
    limit: i64,
) -> StoreResult<Vec<Member>> {
    let rows = query_as!(
        MemberRow,
        r#"
        SELECT m.user_id AS "user_id: UserId", u.email, u.name, m.role, m.created_at, u.last_login_at
        FROM memberships m
        JOIN users u ON u.id = m.user_id
        WHERE m.tenant_id = $1
          AND ($2::uuid IS NULL OR m.user_id = $2)
          AND ($3::uuid IS NULL OR m.user_id > $3)
        ORDER BY m.user_id
        LIMIT $4
        "#,
        tenant_id.0,
        only.map(|id| id.0),
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(Member::try_from).collect()
}

/// One member.
pub async fn load_member(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    user_id: UserId,
) -> StoreResult<Member> {
    let found = list_members(tx, tenant_id, Some(user_id), None, 1).await?;
    found
        .into_iter()
        .next()
        .ok_or(StoreError::NotFound { what: "member" })
}

/// A member's standing, held until the transaction ends, together with every owner: two owners who demote each other
/// wait for one another, and the second one finds the first one gone.
pub async fn load_standing_for_update(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    user_id: UserId,
) -> StoreResult<Standing> {
    let rows = query!(
        r#"
        SELECT user_id AS "user_id: UserId", role
        FROM memberships
        WHERE tenant_id = $1 AND (role = 'owner' OR user_id = $2)
        -- One order for all, so that two of them never deadlock.
        ORDER BY user_id
        FOR UPDATE
        "#,
        tenant_id.0,
        user_id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut owners = 0;
    let mut found = None;
    for row in rows {
        let role: Role = row.role.parse()?;
        owners += i64::from(role == Role::Owner);
        if row.user_id == user_id {
            found = Some(role);
        }
    }
    let role = found.ok_or(StoreError::NotFound { what: "member" })?;
    Ok(Standing { role, owners })
}

/// Ends a membership, and with it the member's sessions of the tenant.
pub async fn delete_membership(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    user_id: UserId,
) -> StoreResult<()> {
    let done = query!(
        "DELETE FROM memberships WHERE tenant_id = $1 AND user_id = $2",
        tenant_id.0,
        user_id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "member")
}

/// Whether somebody with this email is a member.
pub async fn is_member(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    email_normalized: &str,
) -> StoreResult<bool> {
    let is_member = query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT
            FROM memberships m
            JOIN users u ON u.id = m.user_id
            WHERE m.tenant_id = $1 AND u.email_normalized = $2
        ) AS "is_member!"
        "#,
        tenant_id.0,
        email_normalized,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(is_member)
}

/// Makes somebody a member.
///
/// # Errors
/// A constraint error on `memberships_pkey` when they are one.
pub async fn insert_membership(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    user_id: UserId,
    role: Role,
) -> StoreResult<()> {
    query!(
        "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)",
        tenant_id.0,
        user_id.0,
        role.as_str(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
