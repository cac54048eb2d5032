//! `user`: people who sign in.

use std::io::Read;

use anyhow::Context;
use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use uuid::Uuid;

use super::installation::Installation;
use super::output::print;
use super::tenant::find_tenant;
use crate::config::Config;
use crate::crypto::password::{hash_password, random_token};
use crate::domain::actor::Role;
use crate::domain::email::EmailAddress;
use crate::domain::ids::{TenantId, UserId};
use crate::store::control::{memberships, users};
use crate::store::{Db, StoreError};

/// Characters of a password that is made here: 120 bits.
const PASSWORD_CHARS: usize = 20;
/// Characters of a password that is handed in.
const PASSWORD_CHARS_MIN: usize = 12;

/// People who sign in.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Adds somebody to a tenant; who is new gets a password.
    Add(Add),
    /// Gives somebody another password.
    ResetPassword(ResetPassword),
}

/// Adds somebody to a tenant.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Their email.
    email: String,
    /// The tenant's slug or id.
    #[arg(long)]
    tenant: String,
    /// What they may do there: viewer, sender, admin or owner.
    #[arg(long, default_value = "admin", value_parser = role)]
    role: Role,
    /// Their name.
    #[arg(long, default_value = "")]
    name: String,
    /// Read the password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
    /// Let them run the platform too: tenants, queues, workers.
    #[arg(long)]
    platform_admin: bool,
}

/// Gives somebody another password.
#[derive(Debug, Args)]
pub(super) struct ResetPassword {
    /// Their email.
    email: String,
    /// Read the password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

fn role(text: &str) -> Result<Role, String> {
    text.parse()
        .map_err(|_| "a role is viewer, sender, admin or owner".into())
}

impl UserCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        match self {
            Self::Add(add) => add.run(&installation, json).await,
            Self::ResetPassword(reset) => reset.run(&installation, json).await,
        }
    }
}

impl Add {
    async fn run(self, installation: &Installation, json: bool) -> anyhow::Result<()> {
        let email = EmailAddress::read(&self.email)?;
        let tenant_id = find_tenant(installation, &self.tenant).await?;
        let given = password(self.password_stdin)?;
        let is_given = given.is_some();
        let name = if self.name.is_empty() {
            &self.email
        } else {
            &self.name
        };
        let db = &installation.db;
        let made = add_user(db, tenant_id, email.as_str(), name, self.role, given).await?;
        if self.platform_admin {
            make_platform_admin(db, email.as_str()).await?;
        }
        let Some(made) = made else {
            let value = json!({ "email": self.email });
            return print(json, &value, || {
                format!(
                    "{} joined the tenant; the password is as it was",
                    self.email
                )
            });
        };
        told(json, &self.email, (!is_given).then_some(&made))
    }
}

impl ResetPassword {
    async fn run(self, installation: &Installation, json: bool) -> anyhow::Result<()> {
        let given = password(self.password_stdin)?;
        let is_given = given.is_some();
        let made = reset_password(&installation.db, &self.email, given).await?;
        told(json, &self.email, (!is_given).then_some(&made))
    }
}

/// Lets somebody sign in to a tenant, with the password given or one made here, and returns it. Whoever is known
/// already joins the tenant and keeps the password: then there is none to tell.
pub(super) async fn add_user(
    db: &Db,
    tenant_id: TenantId,
    email: &str,
    name: &str,
    role: Role,
    given: Option<SecretString>,
) -> anyhow::Result<Option<SecretString>> {
    let mut tx = db.control_system().begin().await?;
    let known = users::find_credentials(&mut tx, email).await?;
    let (id, password) = if let Some(known) = known {
        anyhow::ensure!(
            given.is_none(),
            "{email} has an account already; `engageninja user reset-password` changes the password"
        );
        (known.id, None)
    } else {
        let (password, hash) = hashed(given).await?;
        let id = UserId(Uuid::now_v7());
        let user = users::NewUser {
            id,
            email,
            name,
            password_hash: &hash,
        };
        users::insert_user(&mut tx, &user).await?;
        (id, Some(password))
    };
    memberships::save_membership(&mut tx, tenant_id, id, role).await?;
    tx.commit().await?;
    Ok(password)
}

/// Lets somebody who is known run the platform.
pub(super) async fn make_platform_admin(db: &Db, email: &str) -> anyhow::Result<()> {
    let mut tx = db.control_system().begin().await?;
    let known = users::find_credentials(&mut tx, email).await?;
    let known = known.with_context(|| format!("nobody signs in as {email}"))?;
    users::mark_platform_admin(&mut tx, known.id, true).await?;
    Ok(tx.commit().await?)
}

/// Gives somebody the password given, or one made here, and ends all their sessions.
pub(super) async fn reset_password(
    db: &Db,
    email: &str,
    given: Option<SecretString>,
) -> anyhow::Result<SecretString> {
    let (password, hash) = hashed(given).await?;
    let mut tx = db.control_system().begin().await?;
    users::save_password(&mut tx, email, &hash)
        .await
        .map_err(|error| match error {
            StoreError::NotFound { .. } => anyhow::anyhow!("nobody signs in as {email}"),
            error => error.into(),
        })?;
    tx.commit().await?;
    Ok(password)
}

/// The password that is handed in, if one is.
fn password(from_stdin: bool) -> anyhow::Result<Option<SecretString>> {
    if !from_stdin {
        return Ok(None);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\r', '\n']);
    anyhow::ensure!(
        text.chars().count() >= PASSWORD_CHARS_MIN,
        "a password has at least {PASSWORD_CHARS_MIN} characters"
    );
    Ok(Some(text.into()))
}

/// The password given, or one that nobody has to invent, and what is stored of it.
async fn hashed(given: Option<SecretString>) -> anyhow::Result<(SecretString, String)> {
    let password = given.unwrap_or_else(|| random_token()[..PASSWORD_CHARS].into());
    let hashed = password.clone();
    let hash = tokio::task::spawn_blocking(move || hash_password(&hashed)).await??;
    Ok((password, hash))
}

fn told(json: bool, email: &str, password: Option<&SecretString>) -> anyhow::Result<()> {
    let password = password.map(ExposeSecret::expose_secret);
    let value = match password {
        Some(password) => json!({ "email": email, "password": password }),
        None => json!({ "email": email }),
    };
    print(json, &value, || match password {
        Some(password) => format!("{email} signs in with {password} (shown once)"),
        None => format!("{email} signs in with the password given"),
    })
}
