//! Two tenants that hold the same: whatever one of them sees of the other is a leak.

use std::collections::BTreeMap;

use engageninja::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use super::app::{App, Tenant, answer};

const CONTACTS: &str =
    "first_name,phone,email\nAnn,+12057481542,ann@example.com\nBob,+12054461486,bob@example.com\n";

/// One tenant with one thing of each kind.
#[derive(Debug)]
pub struct Twin {
    /// The tenant.
    pub tenant: Tenant,
    /// An admin's key.
    pub key: String,
    /// What it has, by the name that variables of paths have.
    pub ids: BTreeMap<&'static str, String>,
    fillings: u32,
}

impl Twin {
    /// Makes the tenant and everything of it; the same for each slug.
    pub async fn make(app: &App, slug: &str) -> Self {
        let tenant = app.tenant(slug).await;
        let key = app.key(&tenant, Role::Admin).await;
        let mut twin = Self {
            tenant,
            key,
            ids: BTreeMap::new(),
            fillings: 0,
        };
        twin.refill(app).await;
        twin
    }

    /// Makes one more thing of each kind, for one that was deleted.
    pub async fn refill(&mut self, app: &App) {
        self.fillings += 1;
        let name = format!("Sale {}", self.fillings);
        self.add(
            app,
            "key_id",
            "/api/keys",
            json!({"name": "shop", "role": "viewer"}),
            "/key/id",
        )
        .await;
        let invited =
            json!({"email": format!("guest{}@example.com", self.fillings), "role": "viewer"});
        self.add(
            app,
            "invitation_id",
            "/api/invitations",
            invited,
            "/invitation/id",
        )
        .await;
        let member = app.member(&self.tenant, self.fillings).await;
        self.ids.insert("member_id", member.to_string());
        let template = json!({"name": name, "channel": "sms", "body": "Hello {{ first_name }}"});
        self.add(app, "template_id", "/api/templates", template, "/id")
            .await;
        let upload = app
            .with_key(&self.key, Method::POST, "/api/contacts/imports")
            .header("content-type", "text/csv")
            .body(CONTACTS);
        let import = answer(upload).await.ok(201);
        self.ids.insert("import_id", text(&import["id"]));
        let campaign = json!({
            "name": "Spring sale", "template_id": self.ids["template_id"], "audience": {"kind": "everybody"},
        });
        self.add(app, "campaign_id", "/api/campaigns", campaign, "/id")
            .await;
        let list = json!({"name": name});
        self.add(app, "list_id", "/api/lists", list, "/id").await;
        let address = format!("sender{}@{}.example", self.fillings, self.tenant.slug);
        let sender = json!({"channel": "email", "address": address});
        self.add(app, "sender_id", "/api/senders", sender, "/id")
            .await;
        let number = format!("+1205748{:04}", self.fillings);
        let contact = json!({"phone": number});
        self.add(app, "contact_id", "/api/contacts", contact, "/contact/id")
            .await;
        let message = json!({"channel": "email", "to": "ann@example.com", "subject": "Hello", "body": "Hello", "class": "txn"});
        let sent = app.post(&self.key, "/api/messages", &message).await.ok(202);
        self.ids.insert("message_id", text(&sent["id"]));
    }

    async fn add(&mut self, app: &App, name: &'static str, path: &str, body: Value, id_at: &str) {
        let made = app.post(&self.key, path, &body).await.ok(201);
        let id = made
            .pointer(id_at)
            .unwrap_or_else(|| panic!("no {id_at} in {made}"));
        self.ids.insert(name, text(id));
    }

    /// A path with this tenant's ids for its variables; none when a variable names nothing of a tenant.
    pub fn path(&self, template: &str) -> Option<String> {
        let parts = template.split('/').map(|part| {
            match part
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'))
            {
                // Versions are counted within a template, not named by an id.
                Some("version") => Some("1"),
                Some(name) => self.ids.get(name).map(String::as_str),
                None => Some(part),
            }
        });
        let parts: Option<Vec<_>> = parts.collect();
        Some(format!("/api{}", parts?.join("/")))
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}
