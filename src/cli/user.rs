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
use crate::crypto::password::{PASSWORD_CHARS_MIN, hash_password, random_token};
use crate::domain::actor::Role;
use crate::domain::audit::AuditEntry;
use crate::domain::email::EmailAddress;
use crate::domain::ids::{TenantId, UserId};
use crate::store::audit::Origin;
use crate::store::control::audit::insert_entry;
use crate::store::control::{memberships, sessions, users};
use crate::store::{ControlTx, Db};

/// Characters of a password that is made here: 120 bits.
const PASSWORD_CHARS: usize = 20;

/// People who sign in.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Adds somebody to a tenant; who is new gets a password.
    Add(Add),
    /// Gives somebody another password and ends their sessions.
    Password(Password),
}

/// Adds somebody to a tenant.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Their email.
    email: String,
    /// The tenant's slug or id; who only runs the platform needs none.
    #[arg(long, required_unless_present = "platform_admin")]
    tenant: Option<String>,
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
pub(super) struct Password {
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
            Self::Password(password) => password.run(&installation, json).await,
        }
    }
}

impl Add {
    async fn run(self, installation: &Installation, json: bool) -> anyhow::Result<()> {
        let email = EmailAddress::read(&self.email)?;
        let membership = match &self.tenant {
            Some(tenant) => Some((find_tenant(installation, tenant).await?, self.role)),
            None => None,
        };
        let given = password(self.password_stdin)?;
        let is_given = given.is_some();
        let name = if self.name.is_empty() {
            &self.email
        } else {
            &self.name
        };
        let db = &installation.db;
        let person = NewPerson {
            email: email.as_str(),
            name,
            password: given,
        };
        let made = add_user(db, membership, person).await?;
        if self.platform_admin {
            make_platform_admin(db, email.as_str()).await?;
        }
        let Some(made) = made else {
            let value = json!({ "email": self.email });
            return print(json, &value, || {
                format!("{} is in; the password is as it was", self.email)
            });
        };
        told(json, &self.email, (!is_given).then_some(&made))
    }
}

impl Password {
    async fn run(self, installation: &Installation, json: bool) -> anyhow::Result<()> {
        let given = password(self.password_stdin)?;
        let is_given = given.is_some();
        let made = set_password(&installation.db, &self.email, given).await?;
        told(json, &self.email, (!is_given).then_some(&made))
    }
}

/// Somebody to let in.
#[derive(Debug)]
pub(super) struct NewPerson<'a> {
    pub(super) email: &'a str,
    pub(super) name: &'a str,
    /// One is made here when it is absent.
    pub(super) password: Option<SecretString>,
}

/// Lets somebody sign in, to a tenant where one is named, with the password given or one made here, and returns it.
/// Whoever is known already joins the tenant and keeps the password: then there is none to tell.
pub(super) async fn add_user(
    db: &Db,
    membership: Option<(TenantId, Role)>,
    person: NewPerson<'_>,
) -> anyhow::Result<Option<SecretString>> {
    let email = person.email;
    let mut tx = db.control_system().begin().await?;
    let known = users::find_credentials(&mut tx, email).await?;
    let (id, password) = if let Some(known) = known {
        anyhow::ensure!(
            person.password.is_none(),
            "{email} has an account already; `engageninja user password` changes the password"
        );
        (known.id, None)
    } else {
        let (password, hash) = hashed(person.password).await?;
        let id = UserId(Uuid::now_v7());
        let user = users::NewUser {
            id,
            email,
            name: person.name,
            password_hash: &hash,
        };
        users::insert_user(&mut tx, &user).await?;
        (id, Some(password))
    };
    let mut entry = AuditEntry::new("add_user", "user", &id);
    if let Some((tenant_id, role)) = membership {
        memberships::save_membership(&mut tx, tenant_id, id, role).await?;
        entry = entry.after(json!({ "role": role }));
    }
    let tenant_id = membership.map(|(tenant_id, _)| tenant_id);
    insert_entry(&mut tx, tenant_id, &Origin::COMMAND_LINE, &entry).await?;
    tx.commit().await?;
    Ok(password)
}

/// Lets somebody who is known run the platform.
pub(super) async fn make_platform_admin(db: &Db, email: &str) -> anyhow::Result<()> {
    let mut tx = db.control_system().begin().await?;
    let id = known_user(&mut tx, email).await?;
    users::mark_platform_admin(&mut tx, id, true).await?;
    let entry = AuditEntry::new("make_platform_admin", "user", &id);
    insert_entry(&mut tx, None, &Origin::COMMAND_LINE, &entry).await?;
    Ok(tx.commit().await?)
}

/// Gives somebody the password given, or one made here, and ends all their sessions.
pub(super) async fn set_password(
    db: &Db,
    email: &str,
    given: Option<SecretString>,
) -> anyhow::Result<SecretString> {
    let (password, hash) = hashed(given).await?;
    let mut tx = db.control_system().begin().await?;
    let id = known_user(&mut tx, email).await?;
    users::save_password(&mut tx, id, &hash).await?;
    sessions::delete_others(&mut tx, id, None).await?;
    let entry = AuditEntry::new("set_password", "user", &id);
    insert_entry(&mut tx, None, &Origin::COMMAND_LINE, &entry).await?;
    tx.commit().await?;
    Ok(password)
}

async fn known_user(tx: &mut ControlTx, email: &str) -> anyhow::Result<UserId> {
    let known = users::find_credentials(tx, email).await?;
    let known = known.with_context(|| format!("nobody signs in as {email}"))?;
    Ok(known.id)
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
