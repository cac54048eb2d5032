//! `tenant`: makes tenants, real ones and demo ones.

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::installation::Installation;
use super::output::print;
use super::parts::front;
use crate::api::front::Front;
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::demo_seed::fill_tenant;
use crate::delivery::invitations::{Guest, invite, invited_entry};
use crate::delivery::tenants::follow_directory;
use crate::dev::demo::ensure_demo_tenant;
use crate::domain::actor::Role;
use crate::domain::audit::AuditEntry;
use crate::domain::email::EmailAddress;
use crate::domain::ids::TenantId;
use crate::domain::phone::Country;
use crate::domain::tenant::is_slug;
use crate::store::audit::Origin;
use crate::store::control::audit::insert_entry;
use crate::store::control::directory::{self, Beginning, FIRST_VERSION};
use crate::store::{ControlTx, Db};

/// Tenants.
#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Makes a tenant that will send real messages, once its channels are set up.
    Create(Create),
    /// Makes a demo tenant: its messages are simulated, and it has people and templates to begin with.
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
    /// Invite this email as the owner; the link is shown once.
    #[arg(long, value_parser = email)]
    owner_email: Option<EmailAddress>,
}

/// The way in for a tenant's owner.
#[derive(Debug, Serialize)]
struct OwnerInvitation {
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    expires_at: DateTime<Utc>,
}

fn slug(text: &str) -> Result<String, String> {
    if is_slug(text) {
        Ok(text.to_owned())
    } else {
        Err("a slug has small letters, digits and hyphens, at most 63".into())
    }
}

fn email(text: &str) -> Result<EmailAddress, String> {
    EmailAddress::read(text).map_err(|refusal| refusal.to_string())
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
        let (named, id, slug, invitation) = match self {
            Self::Demo(named) => {
                let slug = named.free_slug(&installation).await?;
                let (db, mac_key) = (&installation.db, &installation.mac_key);
                let id = ensure_demo_tenant(db, &named.name, &slug).await?;
                fill_tenant(db, id, FIRST_VERSION, mac_key).await?;
                let entry = AuditEntry::new("create_demo_tenant", "tenant", &id)
                    .after(json!({ "name": named.name, "slug": slug, "is_demo": true }));
                let mut tx = installation.db.control_system().begin().await?;
                insert_entry(&mut tx, None, &Origin::COMMAND_LINE, &entry).await?;
                tx.commit().await?;
                (named, id, slug, None)
            }
            Self::Create(create) => {
                let slug = create.named.free_slug(&installation).await?;
                let (id, invitation) = create.run(&installation.db, &front(config), &slug).await?;
                (create.named, id, slug, invitation)
            }
        };
        let name = named.name;
        let mut value = json!({ "tenant_id": id, "name": name, "slug": slug });
        if let Some(invitation) = &invitation {
            value["owner_invitation"] = json!(invitation);
        }
        print(json, &value, || {
            let next = match &invitation {
                Some(invitation) => invitation.told(),
                None => format!("next: engageninja user add you@example.com --tenant {slug}"),
            };
            format!("{name:?} made: {id}\n{next}")
        })
    }
}

impl OwnerInvitation {
    fn told(&self) -> String {
        let opens = match &self.link {
            Some(link) => format!("the link {link}"),
            None => format!("the token {} (POST /api/invitations/accept)", self.token),
        };
        format!(
            "hand {opens} to its owner; it is shown once and works once, until {}",
            self.expires_at.format("%Y-%m-%d %H:%M UTC")
        )
    }
}

impl Create {
    /// `control` first, then the cell.
    async fn run(
        &self,
        db: &Db,
        front: &Front,
        slug: &str,
    ) -> anyhow::Result<(TenantId, Option<OwnerInvitation>)> {
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
        let invitation = match &self.owner_email {
            Some(email) => Some(invite_owner(&mut tx, front, db.clock(), id, email).await?),
            None => None,
        };
        tx.commit().await?;
        follow_directory(db, id).await?;
        Ok((id, invitation))
    }
}

async fn invite_owner(
    tx: &mut ControlTx,
    front: &Front,
    clock: &Clock,
    tenant_id: TenantId,
    email: &EmailAddress,
) -> anyhow::Result<OwnerInvitation> {
    let asked = Guest {
        tenant_id,
        email,
        role: Role::Owner,
        invited_by: None,
    };
    let invited = invite(tx, &asked, clock).await?;
    let entry = invited_entry(&invited.invitation);
    insert_entry(tx, None, &Origin::COMMAND_LINE, &entry).await?;
    let token = invited.token.expose_secret();
    Ok(OwnerInvitation {
        link: front.invitation_link(token),
        token: token.to_owned(),
        expires_at: invited.invitation.expires_at,
    })
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
