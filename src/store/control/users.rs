//! People who sign in.

use sqlx::{query, query_as};

use crate::domain::actor::normalized_login;
use crate::domain::ids::UserId;
use crate::store::{ControlTx, StoreError, StoreResult, affected};

/// Somebody who shall be able to sign in.
#[derive(Debug, Clone)]
pub struct NewUser<'a> {
    /// Their id.
    pub id: UserId,
    /// Their email; unique however it is capitalised.
    pub email: &'a str,
    /// Their name.
    pub name: &'a str,
    /// What `crypto::password::hash_password` made.
    pub password_hash: &'a str,
}

/// What signing in compares with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who it would be.
    pub id: UserId,
    /// Absent until an invitation is accepted.
    pub password_hash: Option<String>,
}

/// A person as pages show them.
#[derive(Debug, Clone)]
pub struct User {
    /// Their email.
    pub email: String,
    /// Their name.
    pub name: String,
    /// Whether they run the platform.
    pub is_platform_admin: bool,
}

/// Makes somebody a platform admin, or takes it back.
pub async fn mark_platform_admin(
    tx: &mut ControlTx,
    id: UserId,
    is_platform_admin: bool,
) -> StoreResult<()> {
    let done = query!(
        "UPDATE users SET is_platform_admin = $2, updated_at = app_now() WHERE id = $1",
        id.0,
        is_platform_admin,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "user")
}

/// Adds a person.
///
/// # Errors
/// A constraint error on `users_email_normalized_key` when the email is taken.
pub async fn insert_user(tx: &mut ControlTx, user: &NewUser<'_>) -> StoreResult<()> {
    query!(
        r#"
        INSERT INTO users (id, email, email_normalized, name, password_hash)
        VALUES ($1, $2, $3, $4, $5)
        "#,
        user.id.0,
        user.email,
        normalized_login(user.email),
        user.name,
        user.password_hash,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Who signs in with this email; somebody disabled does not.
pub async fn find_credentials(tx: &mut ControlTx, email: &str) -> StoreResult<Option<Credentials>> {
    let found = query_as!(
        Credentials,
        r#"
        SELECT id AS "id: UserId", password_hash
        FROM users
        WHERE email_normalized = $1 AND NOT is_disabled
        "#,
        normalized_login(email),
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found)
}

/// An account, as an invitation needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Whose.
    pub id: UserId,
    /// Whether somebody can sign in with it, or could if it were not disabled.
    pub has_password: bool,
}

/// The account of an email, disabled ones too.
pub async fn find_account(tx: &mut ControlTx, email: &str) -> StoreResult<Option<Account>> {
    let found = query_as!(
        Account,
        r#"
        SELECT id AS "id: UserId", (password_hash IS NOT NULL OR is_disabled) AS "has_password!"
        FROM users
        WHERE email_normalized = $1
        "#,
        normalized_login(email),
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found)
}

/// Somebody, by id.
pub async fn load_user(tx: &mut ControlTx, id: UserId) -> StoreResult<User> {
    query_as!(
        User,
        "SELECT email, name, is_platform_admin FROM users WHERE id = $1",
        id.0
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: "user" })
}

/// Notes that somebody signed in.
pub async fn mark_login(tx: &mut ControlTx, id: UserId) -> StoreResult<()> {
    query!(
        "UPDATE users SET last_login_at = app_now() WHERE id = $1",
        id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Gives somebody a new password. Their sessions go on; whoever calls this ends them.
pub async fn save_password(tx: &mut ControlTx, id: UserId, password_hash: &str) -> StoreResult<()> {
    let done = query!(
        "UPDATE users SET password_hash = $2, updated_at = app_now() WHERE id = $1",
        id.0,
        password_hash,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, "user")
}
