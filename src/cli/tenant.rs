//! `tenant`: demo tenants, made with a sender per channel.

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::output::print;
use crate::config::Config;
use crate::dev::demo::ensure_demo_tenant;
use crate::domain::ids::TenantId;
use crate::store::control::directory;

/// Tenants.
#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Makes a demo tenant: its messages are simulated.
    Demo {
        /// What people call it.
        name: String,
        /// Its word in addresses: small letters, digits and hyphens.
        #[arg(long, value_parser = slug)]
        slug: String,
    },
}

fn slug(text: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts_well && text.len() <= 63 && text.chars().all(is_word) {
        Ok(text.to_owned())
    } else {
        Err("a slug has small letters, digits and hyphens, at most 63".into())
    }
}

impl TenantCommand {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        let Self::Demo { name, slug } = self;
        let mut tx = installation.db.control_system().begin().await?;
        let known = directory::find_by_slug(&mut tx, &slug).await?;
        drop(tx);
        anyhow::ensure!(
            known.is_none(),
            "the slug {slug:?} is taken; choose another"
        );
        let id = ensure_demo_tenant(&installation.db, &name, &slug).await?;
        print(
            json,
            &json!({ "tenant_id": id, "name": name, "slug": slug }),
            || format!("demo tenant {name:?} made: {id}"),
        )
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
    found.ok_or_else(|| anyhow::anyhow!("there is no tenant {word:?}; name its slug or its id"))
}
