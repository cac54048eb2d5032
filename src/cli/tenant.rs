//! `tenant`: makes tenants, real ones and demo ones.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use super::installation::Installation;
use super::output::print;
use crate::config::Config;
use crate::delivery::tenants::follow_directory;
use crate::dev::demo::ensure_demo_tenant;
use crate::domain::audit::AuditEntry;
use crate::domain::ids::TenantId;
use crate::domain::phone::Country;
use crate::domain::tenant::is_slug;
use crate::store::Db;
use crate::store::audit::Origin;
use crate::store::control::audit::insert_entry;
use crate::store::control::directory::{self, Beginning};

/// Tenants.
#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Makes a tenant that will send real messages, once its channels are set up.
    Create(Create),
    /// Makes a demo tenant: its messages are simulated.
    Demo(Named),
}

/// What people and addresses call a tenant.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// What people call it.
    name: String,
    /// Its word in addresses: small letters, digits and hyphens [default: from the name].
    #[arg(long, value_parser = slug)]
    slug: Option<String>,
}

/// Makes a tenant.
#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    named: Named,
    /// Two letters; national numbers in imports are read as this country's.
    #[arg(long, default_value = "US")]
    country: Country,
    /// Bulk rests on the tenant's own attestation of consent.
    #[arg(long)]
    attests_consent: bool,
}

fn slug(text: &str) -> Result<String, String> {
    if is_slug(text) {
        Ok(text.to_owned())
    } else {
        Err("a slug has small letters, digits and hyphens, at most 63".into())
    }
}

impl Named {
    /// The word that was chosen, or one made of the name, which nobody has yet.
    async fn free_slug(&self, installation: &Installation) -> anyhow::Result<String> {
        let made = || {
            let words = self.name.to_lowercase();
            let words = words.split(|c: char| !c.is_ascii_alphanumeric());
            let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
            slug(&words.join("-"))
        };
        let slug = match &self.slug {
            Some(slug) => slug.clone(),
            None => made()
                .map_err(|_| anyhow!("{:?} gives no slug; choose one with --slug", self.name))?,
        };
        let mut tx = installation.db.control_system().begin().await?;
        let known = directory::find_by_slug(&mut tx, &slug).await?;
        anyhow::ensure!(
            known.is_none(),
            "the slug {slug:?} is taken; choose another with --slug"
        );
        Ok(slug)
    }
}

impl TenantCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        let (named, id, slug) = match self {
            Self::Demo(named) => {
                let slug = named.free_slug(&installation).await?;
                let id = ensure_demo_tenant(&installation.db, &named.name, &slug).await?;
                let entry = AuditEntry::new("create_demo_tenant", "tenant", &id)
                    .after(json!({ "name": named.name, "slug": slug, "is_demo": true }));
                let mut tx = installation.db.control_system().begin().await?;
                insert_entry(&mut tx, None, &Origin::COMMAND_LINE, &entry).await?;
                tx.commit().await?;
                (named, id, slug)
            }
            Self::Create(create) => {
                let slug = create.named.free_slug(&installation).await?;
                let id = create.run(&installation.db, &slug).await?;
                (create.named, id, slug)
            }
        };
        let name = named.name;
        print(
            json,
            &json!({ "tenant_id": id, "name": name, "slug": slug }),
            || {
                format!(
                    "{name:?} made: {id}\nnext: engageninja user add you@example.com --tenant {slug}"
                )
            },
        )
    }
}

impl Create {
    /// `control` first, then the cell.
    async fn run(&self, db: &Db, slug: &str) -> anyhow::Result<TenantId> {
        let (id, name) = (TenantId(Uuid::now_v7()), self.named.name.as_str());
        let tenant = directory::NewTenant {
            id,
            name,
            slug,
            is_demo: false,
            beginning: Beginning {
                default_country: self.country.to_string(),
                is_consent_attested: self.attests_consent,
                ..Beginning::default()
            },
        };
        let mut tx = db.control_system().begin().await?;
        directory::insert_tenant(&mut tx, &tenant).await?;
        let entry = AuditEntry::new("create_tenant", "tenant", &id)
            .after(json!({ "name": name, "slug": slug, "is_demo": false }));
        insert_entry(&mut tx, None, &Origin::COMMAND_LINE, &entry).await?;
        tx.commit().await?;
        follow_directory(db, id).await?;
        Ok(id)
    }
}

/// The tenant that a command is for, by slug or id.
pub(super) async fn find_tenant(
    installation: &Installation,
    word: &str,
) -> anyhow::Result<TenantId> {
    let mut tx = installation.db.control_system().begin().await?;
    if let Ok(id) = word.parse() {
        directory::load_tenant(&mut tx, id).await?;
        return Ok(id);
    }
    let found = directory::find_by_slug(&mut tx, word).await?;
    found.ok_or_else(|| anyhow!("there is no tenant {word:?}; name its slug or its id"))
}
