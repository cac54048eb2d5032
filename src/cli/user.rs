//! `user`: people who sign in.

use std::io::Read;

use clap::{Args, Subcommand};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use super::installation::Installation;
use super::output::print;
use super::tenant::find_tenant;
use crate::config::Config;
use crate::crypto::password::{hash_password, random_token};
use crate::domain::actor::Role;
use crate::domain::email::EmailAddress;
use crate::domain::ids::UserId;
use crate::store::StoreError;
use crate::store::control::{memberships, users};

/// People who sign in.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Adds somebody to a tenant.
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
        let (password, is_ours) = password(self.password_stdin)?;
        let hash = hash(password.clone()).await?;
        let id = UserId(Uuid::now_v7());
        let mut tx = installation.db.control_system().begin().await?;
        let user = users::NewUser {
            id,
            email: email.as_str(),
            name: &self.name,
            password_hash: &hash,
        };
        users::insert_user(&mut tx, &user)
            .await
            .map_err(|error| match error {
                StoreError::Constraint { .. } => {
                    anyhow::anyhow!("{} has an account already", self.email)
                }
                error => error.into(),
            })?;
        memberships::save_membership(&mut tx, tenant_id, id, self.role).await?;
        tx.commit().await?;
        told(json, &self.email, is_ours.then_some(&*password))
    }
}

impl ResetPassword {
    async fn run(self, installation: &Installation, json: bool) -> anyhow::Result<()> {
        let (password, is_ours) = password(self.password_stdin)?;
        let hash = hash(password.clone()).await?;
        let mut tx = installation.db.control_system().begin().await?;
        users::save_password(&mut tx, &self.email, &hash).await?;
        tx.commit().await?;
        told(json, &self.email, is_ours.then_some(&*password))
    }
}

/// A password that nobody has to invent, or the one that is handed in.
fn password(from_stdin: bool) -> anyhow::Result<(String, bool)> {
    if !from_stdin {
        return Ok((random_token(), true));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    anyhow::ensure!(
        text.chars().count() >= 12,
        "a password has at least 12 characters"
    );
    Ok((text, false))
}

async fn hash(password: String) -> anyhow::Result<String> {
    let password = SecretString::from(password);
    Ok(tokio::task::spawn_blocking(move || hash_password(&password)).await??)
}

fn told(json: bool, email: &str, password: Option<&str>) -> anyhow::Result<()> {
    let value = match password {
        Some(password) => json!({ "email": email, "password": password }),
        None => json!({ "email": email }),
    };
    print(json, &value, || match password {
        Some(password) => format!("{email} signs in with {password} (shown once)"),
        None => format!("{email} signs in with the password given"),
    })
}
