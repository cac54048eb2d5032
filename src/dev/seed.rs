//! What `up` fills an empty installation with: a demo tenant that looks used, and a campaign going out.
//!
//! Every step may run again, so that a start that was killed in the middle is made whole by the next.

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::demo::ensure_demo_tenant;
use crate::crypto::mac::MacKey;
use crate::delivery::campaigns::start_campaign;
use crate::domain::actor::Role;
use crate::domain::campaign::{Audience, Campaign, CampaignStatus};
use crate::domain::channel::{Channel, Class};
use crate::domain::contact::ContactDraft;
use crate::domain::email::EmailAddress;
use crate::domain::ids::{CampaignId, ContactId, TemplateId, TemplateVersionId, TenantId, UserId};
use crate::domain::phone::{Country, E164};
use crate::domain::template::{Markup, Template};
use crate::store::consents::{Attested, AttestedHow, insert_attested};
use crate::store::contacts::{NewContact, insert_contacts};
use crate::store::control::{memberships, users};
use crate::store::templates::{NewVersion, insert_template, insert_version, list_templates};
use crate::store::{Db, TenantTx, campaigns};

/// Who signs in to the demo tenant.
pub const DEMO_EMAIL: &str = "demo@example.test";
const SLUG: &str = "dojo-coffee";

const FIRST_NAMES: [&str; 10] = [
    "Amara", "Ben", "Chloé", "Dmitri", "Grace", "Kwame", "Mei", "Rosa", "Søren", "Zoë",
];
const LAST_NAMES: [&str; 10] = [
    "Brown", "D'Souza", "García", "Haddad", "Li", "Müller", "Nguyen", "Okafor", "Smith", "Tanaka",
];
/// Birmingham, New York, Los Angeles, Chicago, Denver; 555-0100 to 555-0199 is kept for fiction in each.
const AREAS: [(&str, &str); 5] = [
    ("205", "America/Chicago"),
    ("212", "America/New_York"),
    ("213", "America/Los_Angeles"),
    ("312", "America/Chicago"),
    ("303", "America/Denver"),
];

struct Text {
    name: &'static str,
    channel: Channel,
    subject: Option<&'static str>,
    body: &'static str,
}

const TEXTS: [Text; 3] = [
    Text {
        name: "Order ready",
        channel: Channel::Whatsapp,
        subject: None,
        body: "Hi {{ first_name }}, your beans are roasted and wait for you.",
    },
    Text {
        name: "Welcome",
        channel: Channel::Email,
        subject: Some("Welcome to Dojo Coffee, {{ first_name }}"),
        body: "Hello {{ first_name }},\n\nyour first {{ favourite }} is on us.\n\nDojo Coffee",
    },
    Text {
        name: "Spring sale",
        channel: Channel::Sms,
        subject: None,
        body: "Dojo Coffee: {{ first_name }}, spring is here! 20% off every {{ favourite }} this week. Reply STOP to opt out.",
    },
];

/// Fills the installation and says which tenant it was; its user signs in with what `password_hash` was made of.
pub async fn seed_demo(db: &Db, mac_key: &MacKey, password_hash: &str) -> anyhow::Result<TenantId> {
    let tenant_id = ensure_demo_tenant(db, "Dojo Coffee", SLUG).await?;
    seed_user(db, tenant_id, password_hash).await?;
    seed_contacts(db, tenant_id, mac_key).await?;
    let mut tx = db.cell(tenant_id).begin().await?;
    if list_templates(&mut tx, tenant_id, None, 1)
        .await?
        .is_empty()
    {
        let mut content_id = None;
        for text in &TEXTS {
            let version_id = seed_template(&mut tx, tenant_id, text).await?;
            content_id = (text.channel == Channel::Sms)
                .then_some(version_id)
                .or(content_id);
        }
        let id = CampaignId(Uuid::now_v7());
        let campaign = spring_sale(db, tenant_id, id, content_id);
        campaigns::insert_campaign(&mut tx, &campaign, None).await?;
        start_campaign(&mut tx, tenant_id, id, db.clock()).await?;
    }
    tx.commit().await?;
    Ok(tenant_id)
}

async fn seed_user(db: &Db, tenant_id: TenantId, password_hash: &str) -> anyhow::Result<()> {
    let mut tx = db.control_system().begin().await?;
    let known = users::find_credentials(&mut tx, DEMO_EMAIL).await?;
    let id = if let Some(known) = known {
        users::save_password(&mut tx, DEMO_EMAIL, password_hash).await?;
        known.id
    } else {
        let id = UserId(Uuid::now_v7());
        let user = users::NewUser {
            id,
            email: DEMO_EMAIL,
            name: "Demo",
            password_hash,
        };
        users::insert_user(&mut tx, &user).await?;
        id
    };
    memberships::save_membership(&mut tx, tenant_id, id, Role::Owner).await?;
    tx.commit().await?;
    Ok(())
}

async fn seed_contacts(db: &Db, tenant_id: TenantId, mac_key: &MacKey) -> anyhow::Result<()> {
    let mut contacts = Vec::with_capacity(500);
    for (place, (area, timezone)) in AREAS.iter().enumerate() {
        for n in 0..100 {
            contacts.push(contact(area, timezone, place * 100 + n, mac_key)?);
        }
    }
    let mut tx = db.cell(tenant_id).begin().await?;
    let created = insert_contacts(&mut tx, tenant_id, &contacts).await?;
    let mut attested = Vec::with_capacity(created.len() * Channel::ALL.len());
    for contact in contacts
        .iter()
        .filter(|contact| created.contains(&contact.id))
    {
        for channel in Channel::ALL.iter().copied() {
            let mac = if channel == Channel::Email {
                &contact.email_mac
            } else {
                &contact.phone_mac
            };
            let Some(dest_mac) = mac.as_deref() else {
                continue;
            };
            attested.push(Attested {
                contact_id: contact.id,
                channel,
                dest_mac,
            });
        }
    }
    let how = AttestedHow {
        source: "demo",
        wording: "I want news from Dojo Coffee.",
        evidence: &json!({ "made_by": "up" }),
        actor: None,
        occurred_at: db.clock().now() - TimeDelta::days(30),
    };
    insert_attested(&mut tx, tenant_id, &attested, &how).await?;
    tx.commit().await?;
    Ok(())
}

fn contact(area: &str, timezone: &str, n: usize, mac_key: &MacKey) -> anyhow::Result<NewContact> {
    let first = FIRST_NAMES[n % 10];
    let last = LAST_NAMES[n / 10 % 10];
    let phone = E164::read(
        &format!("+1{area}55501{:02}", n % 100),
        "US".parse::<Country>()?,
    )?;
    let email = EmailAddress::read(&format!("person{n}@example.com"))?;
    let favourite = ["espresso", "pour-over", "cold brew"][n % 3];
    Ok(NewContact {
        id: ContactId(Uuid::now_v7()),
        phone_mac: Some(mac_key.address(phone.as_str())),
        email_mac: Some(mac_key.address(email.normalized())),
        draft: ContactDraft {
            first_name: Some(first.into()),
            last_name: Some(last.into()),
            phone: Some(phone),
            email: Some(email),
            country: Some("US".into()),
            zip: None,
            timezone: Some(timezone.into()),
            attributes: [("favourite".to_owned(), favourite.to_owned())].into(),
        },
    })
}

async fn seed_template(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    text: &Text,
) -> anyhow::Result<TemplateVersionId> {
    let id = TemplateId(Uuid::now_v7());
    insert_template(tx, tenant_id, id, text.name, text.channel).await?;
    let version = NewVersion {
        id: TemplateVersionId(Uuid::now_v7()),
        subject: text.subject.map(Into::into),
        body: text.body.into(),
        html: None,
        variables: Template::parse(text.body, Markup::Text)?
            .variables()
            .to_vec(),
        created_by: None,
    };
    insert_version(tx, tenant_id, id, &version).await?;
    Ok(version.id)
}

fn spring_sale(
    db: &Db,
    tenant_id: TenantId,
    id: CampaignId,
    content_id: Option<TemplateVersionId>,
) -> Campaign {
    Campaign {
        tenant_id,
        id,
        name: "Spring sale".into(),
        channel: Channel::Sms,
        class: Class::Bulk,
        status: CampaignStatus::Draft,
        sender_id: None,
        content_id,
        audience: Audience::Everybody,
        expires_after: Campaign::EXPIRES_AFTER,
        started_at: None,
        paused_at: None,
        finished_at: None,
        failure_reason: None,
        created_at: db.clock().now(),
    }
}
