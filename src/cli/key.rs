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
use crate::domain::audit::AuditEntry;
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::store::audit::Origin;
use crate::store::control::api_keys::{NewApiKey, insert_key, mark_revoked};
use crate::store::control::audit::insert_entry;
use crate::store::{Db, StoreError};

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
    /// Ends a key.
    Revoke {
        /// The key's id.
        id: ApiKeyId,
        /// The tenant's slug or id.
        #[arg(long)]
        tenant: String,
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
        match self {
            Self::Create { name, tenant, role } => {
                let tenant_id = find_tenant(&installation, &tenant).await?;
                let (id, secret) = create_key(&installation.db, tenant_id, &name, role).await?;
                let value =
                    json!({ "tenant_id": tenant_id, "key_id": id, "name": name, "secret": secret });
                print(json, &value, || {
                    format!("{secret}\n(shown once; `Authorization: Bearer …`; its id is {id})")
                })
            }
            Self::Revoke { id, tenant } => {
                let tenant_id = find_tenant(&installation, &tenant).await?;
                let mut tx = installation.db.control(tenant_id).begin().await?;
                mark_revoked(&mut tx, tenant_id, id)
                    .await
                    .map_err(|error| match error {
                        StoreError::NotFound { .. } => anyhow::anyhow!("{tenant} has no key {id}"),
                        error => error.into(),
                    })?;
                let entry = AuditEntry::new("revoke_key", "key", &id);
                insert_entry(&mut tx, Some(tenant_id), &Origin::COMMAND_LINE, &entry).await?;
                tx.commit().await?;
                print(json, &json!({ "key_id": id, "is_revoked": true }), || {
                    format!("key {id} counts no more")
                })
            }
        }
    }
}

/// Makes a key of a tenant; its secret is told this once.
pub(super) async fn create_key(
    db: &Db,
    tenant_id: TenantId,
    name: &str,
    role: Role,
) -> anyhow::Result<(ApiKeyId, String)> {
    let id = ApiKeyId(Uuid::now_v7());
    let secret = NewSecret::api_key();
    let mut tx = db.control(tenant_id).begin().await?;
    let key = NewApiKey {
        tenant_id,
        id,
        name,
        prefix: secret.prefix(),
        key_hash: &secret.hash(),
        role,
        created_by: None,
        expires_at: None,
    };
    insert_key(&mut tx, &key).await?;
    let entry =
        AuditEntry::new("create_key", "key", &id).after(json!({ "name": name, "role": role }));
    insert_entry(&mut tx, Some(tenant_id), &Origin::COMMAND_LINE, &entry).await?;
    tx.commit().await?;
    Ok((id, secret.text))
}
