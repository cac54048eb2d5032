//! `send`: one message from the command line.

use clap::Args;
use serde_json::json;

use super::installation::Installation;
use super::output::print;
use super::tenant::find_tenant;
use crate::config::Config;
use crate::delivery::single::{Saying, Single, To, send_message};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::campaign::Campaign;
use crate::domain::channel::{Channel, Class};
use crate::store::audit::{self, Origin};

/// Sends one message to one address.
#[derive(Debug, Args)]
pub(super) struct Send {
    /// The tenant's slug or id.
    #[arg(long)]
    tenant: String,
    /// Number or email address; a number without a country code is read in the tenant's country.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The text.
    #[arg(long, value_name = "TEXT")]
    text: String,
    /// The subject, of emails.
    #[arg(long, value_name = "TEXT", required_if_eq("channel", "email"))]
    subject: Option<String>,
    /// How it reaches the person: sms, whatsapp or email.
    #[arg(long, default_value = "sms", value_parser = channel)]
    channel: Channel,
    /// txn when somebody waits for it; bulk, which needs consent, when it is one of many.
    #[arg(long, default_value = "txn", value_parser = class)]
    class: Class,
}

fn channel(text: &str) -> Result<Channel, String> {
    text.parse()
        .map_err(|_| "a channel is sms, whatsapp or email".into())
}

fn class(text: &str) -> Result<Class, String> {
    text.parse().map_err(|_| "a class is txn or bulk".into())
}

impl Send {
    pub(super) async fn run(self, config: &Config, json: bool) -> anyhow::Result<()> {
        let installation = Installation::open(config).await?;
        let tenant_id = find_tenant(&installation, &self.tenant).await?;
        let single = Single {
            tenant_id,
            channel: self.channel,
            class: self.class,
            to: To::Address(self.to),
            saying: Saying::Text {
                subject: self.subject,
                body: self.text,
                html: None,
            },
            values: std::collections::BTreeMap::new(),
            sender_id: None,
            expires_after: Campaign::EXPIRES_AFTER,
        };
        let db = &installation.db;
        let mut tx = db.cell(tenant_id).begin().await?;
        let id = send_message(&mut tx, &installation.mac_key, db.clock(), &single).await?;
        let origin = Origin {
            author: Author::Operator,
            request_id: None,
            ip: None,
        };
        let entry = AuditEntry::new("send_message", "message", &id);
        audit::insert_entry(&mut tx, tenant_id, &origin, &entry).await?;
        tx.commit().await?;
        print(json, &json!({ "message_id": id }), || {
            format!("message {id} is on its way")
        })
    }
}
