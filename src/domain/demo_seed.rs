//! What a demo tenant begins with: people, templates and a campaign about to go out.
//!
//! Nobody of it can be reached: the numbers are those set aside for fiction, the domain is an example.

use super::channel::Channel;
use super::contact::ContactDraft;
use super::content::Source;
use super::email::EmailAddress;
use super::phone::{Country, E164};

/// People of a demo tenant.
pub const CONTACTS: usize = 500;

/// The campaign of a demo tenant.
pub const CAMPAIGN: &str = "Spring sale";

/// What its people agreed to, as they saw it.
pub const CONSENT_WORDING: &str = "I agree to receive news and offers from Dojo Coffee.";
/// Where they did.
pub const CONSENT_SOURCE: &str = "Sign-up card at the counter";

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

/// A template.
#[derive(Debug)]
pub struct Text {
    /// What people call it.
    pub name: &'static str,
    /// The channel it is written for.
    pub channel: Channel,
    /// The subject, of emails.
    pub subject: Option<&'static str>,
    /// The text.
    pub body: &'static str,
}

/// Its templates; the first one is what its campaign says.
pub const TEXTS: [Text; 3] = [
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

/// Something of the demo is not what it has to be. Cannot be: a test reads all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {0} of the demo cannot be used")]
pub struct Unfit(pub &'static str);

impl Text {
    /// Its texts, to be compiled.
    pub fn source(&self) -> Source<'_> {
        Source {
            subject: self.subject,
            body: self.body,
            html: None,
        }
    }
}

/// Everybody, each with a number and an address of their own.
pub fn people() -> Result<Vec<ContactDraft>, Unfit> {
    let country: Country = "US".parse().map_err(|_| Unfit("country"))?;
    (0..CONTACTS).map(|n| person(n, country)).collect()
}

fn person(n: usize, country: Country) -> Result<ContactDraft, Unfit> {
    let (area, timezone) = AREAS[n % AREAS.len()];
    let number = format!("+1{area}55501{:02}", n / AREAS.len());
    let email = format!("person{n}@dojo-coffee.example");
    Ok(ContactDraft {
        first_name: Some(FIRST_NAMES[n % FIRST_NAMES.len()].into()),
        last_name: Some(LAST_NAMES[n / FIRST_NAMES.len()].into()),
        phone: Some(E164::read(&number, country).map_err(|_| Unfit("number"))?),
        email: Some(EmailAddress::read(&email).map_err(|_| Unfit("address"))?),
        country: Some("US".into()),
        zip: None,
        timezone: Some(timezone.into()),
        attributes: [("tier".to_owned(), TIERS[n % TIERS.len()].to_owned())].into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::content::Content;

    #[test]
    fn everybody_of_the_demo_is_somebody_else() {
        let people = people().unwrap();
        let numbers: HashSet<_> = people.iter().map(|one| one.phone.clone()).collect();
        let names: HashSet<_> = people
            .iter()
            .map(|one| (one.first_name.clone(), one.last_name.clone()))
            .collect();
        assert_eq!(
            (people.len(), numbers.len(), names.len()),
            (CONTACTS, CONTACTS, CONTACTS)
        );
    }

    #[test]
    fn every_text_of_the_demo_compiles() {
        for text in &TEXTS {
            Content::compile(text.channel, text.source()).unwrap();
        }
    }
}
