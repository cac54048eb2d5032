//! `key`: keys of a tenant's programs.

use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::installation::Installation;
use super::output::print;
use super::tenant::find_tenant;
use crate::config::Config;
use crate::crypto::password::NewSecret;
use crate::domain::actor::Role;
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::store::Db;
use crate::store::control::api_keys::{NewApiKey, insert_key};

/// Keys of a tenant's programs.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Makes a key and shows it once.
    Create {
        /// What people call it.
        name: String,
        /// The tenant's slug or id.
        #[arg(long)]
        tenant: String,
        /// What it may do: viewer, sender or admin.
        #[arg(long, default_value = "sender", value_parser = role)]
        role: Role,
    },
}

fn role(text: &str) -> Result<Role, String> {
    match text.parse() {
        Ok(Role::Owner) | Err(_) => Err("a key's role is viewer, sender or admin".into()),
        Ok(role) => Ok(role),
    }
}

impl KeyCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        let Self::Create { name, tenant, role } = self;
        let tenant_id = find_tenant(&installation, &tenant).await?;
        let secret = create_key(&installation.db, tenant_id, &name, role).await?;
        print(
            json,
            &json!({ "tenant_id": tenant_id, "name": name, "secret": secret }),
            || format!("{secret}\n(shown once; `Authorization: Bearer …`)"),
        )
    }
}

/// Makes a key of a tenant and returns its secret.
pub(super) async fn create_key(
    db: &Db,
    tenant_id: TenantId,
    name: &str,
    role: Role,
) -> anyhow::Result<String> {
    let secret = NewSecret::api_key();
    let mut tx = db.control(tenant_id).begin().await?;
    let key = NewApiKey {
        tenant_id,
        id: ApiKeyId(Uuid::now_v7()),
        name,
        prefix: secret.prefix(),
        key_hash: &secret.hash(),
        role,
        created_by: None,
        expires_at: None,
    };
    insert_key(&mut tx, &key).await?;
    tx.commit().await?;
    Ok(secret.text)
}
