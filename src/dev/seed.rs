//! What a demo tenant begins with: people, templates and a campaign about to go out.
//!
//! Nobody of it can be reached: the numbers are those set aside for fiction, the domain is an example.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::campaign::{Audience, Campaign};
use crate::domain::channel::Channel;
use crate::domain::contact::ContactDraft;
use crate::domain::content::{Content, ContentRefusal, Source};
use crate::domain::email::EmailAddress;
use crate::domain::ids::{CampaignId, ContactId, TemplateId, TemplateVersionId, TenantId};
use crate::domain::phone::{Country, E164};
use crate::store::consents::{Attested, AttestedHow};
use crate::store::contacts::NewContact;
use crate::store::templates::NewVersion;
use crate::store::{StoreError, StoreResult, TenantTx, campaigns, consents, contacts, templates};

/// People of a demo tenant.
pub const CONTACTS: usize = 500;

/// The campaign of a demo tenant.
pub const CAMPAIGN: &str = "Spring sale";

const FIRST_NAMES: [&str; 20] = [
    "Ada", "Ben", "Chloé", "Dmitri", "Emma", "Farid", "Grace", "Hiro", "Inés", "Jonas", "Kwame",
    "Lena", "Mateo", "Nadia", "Omar", "Priya", "Quinn", "Rosa", "Søren", "Thea",
];
const LAST_NAMES: [&str; 25] = [
    "Adams", "Brown", "Castro", "Dubois", "Evans", "Fischer", "García", "Haddad", "Ito", "Jensen",
    "Kovács", "Lopez", "Müller", "Nguyen", "Okafor", "Patel", "Quist", "Rossi", "Smith", "Tanaka",
    "Usman", "Varga", "Walker", "Young", "Zhang",
];
const TIERS: [&str; 3] = ["gold", "silver", "bronze"];

/// An area code and its zone. 555-0100 to 555-0199 of each are set aside for fiction.
///
/// Source: ATIS-0300115, North American Numbering Plan, reserved line numbers.
const AREAS: [(&str, &str); 5] = [
    ("205", "America/Chicago"),
    ("212", "America/New_York"),
    ("303", "America/Denver"),
    ("415", "America/Los_Angeles"),
    ("602", "America/Phoenix"),
];

struct Text {
    name: &'static str,
    channel: Channel,
    subject: Option<&'static str>,
    body: &'static str,
}

const TEXTS: [Text; 3] = [
    Text {
        name: CAMPAIGN,
        channel: Channel::Sms,
        subject: None,
        body: "Dojo Coffee: hi {{ first_name }}, 20% off all beans this week for {{ tier }} members. \
               Reply STOP to opt out.",
    },
    Text {
        name: "Order ready",
        channel: Channel::Whatsapp,
        subject: None,
        body: "Hi {{ first_name }}, your order is ready at the counter.",
    },
    Text {
        name: "Newsletter",
        channel: Channel::Email,
        subject: Some("Spring at Dojo Coffee"),
        body: "Hello {{ first_name }},\n\nour spring roast is here. Come and try it.\n\nDojo Coffee, 1 Market Street, \
               Springfield",
    },
];

/// Fills an empty demo tenant, all or nothing, and answers its campaign, a draft to everybody. `mac` makes
/// the MAC of an address.
pub async fn fill(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    now: DateTime<Utc>,
    mac: impl Fn(&str) -> Vec<u8>,
) -> StoreResult<CampaignId> {
    let people = people(&mac)?;
    contacts::insert_contacts(tx, tenant_id, &people).await?;
    attest(tx, tenant_id, now, &people).await?;
    let mut content_id = None;
    for text in &TEXTS {
        let version_id = insert_template(tx, tenant_id, text).await?;
        content_id = content_id.or(Some(version_id));
    }
    let ids = (tenant_id, CampaignId(Uuid::now_v7()));
    let campaign = Campaign::draft(
        ids,
        CAMPAIGN,
        Channel::Sms,
        content_id,
        Audience::Everybody,
        now,
    );
    campaigns::insert_campaign(tx, &campaign, None).await?;
    Ok(campaign.id)
}

fn people(mac: &impl Fn(&str) -> Vec<u8>) -> StoreResult<Vec<NewContact>> {
    let country: Country = "US".parse().map_err(|_| unfit("country"))?;
    (0..CONTACTS)
        .map(|n| {
            let (area, timezone) = AREAS[n % AREAS.len()];
            let first_name = FIRST_NAMES[n % FIRST_NAMES.len()];
            let last_name = LAST_NAMES[n / FIRST_NAMES.len()];
            let number = format!("+1{area}55501{:02}", n / AREAS.len());
            let phone = E164::read(&number, country).map_err(|_| unfit("number"))?;
            let email = EmailAddress::read(&format!("person{n}@dojo-coffee.example"))
                .map_err(|_| unfit("address"))?;
            Ok(NewContact {
                id: ContactId(Uuid::now_v7()),
                phone_mac: Some(mac(phone.as_str())),
                email_mac: Some(mac(email.normalized())),
                draft: ContactDraft {
                    first_name: Some(first_name.into()),
                    last_name: Some(last_name.into()),
                    phone: Some(phone),
                    email: Some(email),
                    country: Some("US".into()),
                    zip: None,
                    timezone: Some(timezone.into()),
                    attributes: [("tier".to_owned(), TIERS[n % TIERS.len()].to_owned())].into(),
                },
            })
        })
        .collect()
}

async fn attest(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    now: DateTime<Utc>,
    people: &[NewContact],
) -> StoreResult<()> {
    let attested: Vec<Attested<'_>> = people
        .iter()
        .flat_map(|person| {
            Channel::ALL.iter().filter_map(|channel| {
                let mac = match channel {
                    Channel::Sms | Channel::Whatsapp => &person.phone_mac,
                    Channel::Email => &person.email_mac,
                };
                Some(Attested {
                    contact_id: person.id,
                    channel: *channel,
                    dest_mac: mac.as_deref()?,
                })
            })
        })
        .collect();
    let how = AttestedHow {
        source: "Sign-up card at the counter",
        wording: "I agree to receive news and offers from Dojo Coffee.",
        evidence: &serde_json::json!({ "demo": true }),
        actor: None,
        occurred_at: now,
    };
    consents::insert_attested(tx, tenant_id, &attested, &how).await
}

async fn insert_template(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    text: &Text,
) -> StoreResult<TemplateVersionId> {
    let content = compile(text).map_err(|_| unfit("template"))?;
    let template_id = TemplateId(Uuid::now_v7());
    let version = NewVersion {
        id: TemplateVersionId(Uuid::now_v7()),
        subject: text.subject.map(Into::into),
        body: text.body.into(),
        html: None,
        variables: content.variables(),
        created_by: None,
    };
    templates::insert_template(tx, tenant_id, template_id, text.name, text.channel).await?;
    templates::insert_version(tx, tenant_id, template_id, &version).await?;
    Ok(version.id)
}

fn compile(text: &Text) -> Result<Content, ContentRefusal> {
    let source = Source {
        subject: text.subject,
        body: text.body,
        html: None,
    };
    Content::compile(text.channel, source)
}

/// Cannot be: a test reads every one of them.
fn unfit(what: &str) -> StoreError {
    StoreError::Unreadable(format!("a {what} of the demo"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everybody_of_the_demo_is_somebody_else() {
        let people = people(&|address| address.as_bytes().to_vec()).unwrap();
        let numbers: HashSet<_> = people.iter().map(|one| one.phone_mac.clone()).collect();
        let names: HashSet<_> = people
            .iter()
            .map(|one| (one.draft.first_name.clone(), one.draft.last_name.clone()))
            .collect();
        assert_eq!(
            (people.len(), numbers.len(), names.len()),
            (CONTACTS, CONTACTS, CONTACTS)
        );
    }

    #[test]
    fn every_text_of_the_demo_compiles() {
        for text in &TEXTS {
            compile(text).unwrap();
        }
    }
}
