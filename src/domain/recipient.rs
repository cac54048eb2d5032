//! A contact as a template sees it: the same for a preview and for a campaign.

use std::sync::Arc;

use super::channel::Channel;
use super::template::Facts;

/// The names a template may use for every contact, besides its attributes.
pub const FIELDS: [&str; 7] = [
    "first_name",
    "last_name",
    "phone",
    "email",
    "country",
    "zip",
    "timezone",
];

/// What is known of one contact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recipient {
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Number, E.164.
    pub phone_e164: Option<String>,
    /// Address as written.
    pub email: Option<String>,
    /// Country, two letters.
    pub country: Option<String>,
    /// Postal code.
    pub zip: Option<String>,
    /// IANA name.
    pub timezone: Option<String>,
    /// Further columns of the import.
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

impl Recipient {
    /// Where a message on `channel` goes.
    pub fn address(&self, channel: Channel) -> Option<&str> {
        match channel {
            Channel::Sms | Channel::Whatsapp => self.phone_e164.as_deref(),
            Channel::Email => self.email.as_deref(),
        }
    }

    /// Another value for one name, field or attribute.
    pub fn set(&mut self, name: &str, value: &str) {
        let field = match name {
            "first_name" => &mut self.first_name,
            "last_name" => &mut self.last_name,
            "phone" => &mut self.phone_e164,
            "email" => &mut self.email,
            "country" => &mut self.country,
            "zip" => &mut self.zip,
            "timezone" => &mut self.timezone,
            _ => {
                self.attributes.insert(name.to_owned(), value.into());
                return;
            }
        };
        *field = Some(value.to_owned());
    }

    /// What a template may ask for. A field of ours wins over an attribute of the same name.
    pub fn facts(&self) -> Arc<Facts> {
        let mut facts = Facts::new();
        let fields = [
            &self.first_name,
            &self.last_name,
            &self.phone_e164,
            &self.email,
            &self.country,
            &self.zip,
            &self.timezone,
        ];
        for (name, value) in FIELDS.iter().zip(fields) {
            if let Some(value) = value {
                facts.add(name, value);
            }
        }
        for (name, value) in &self.attributes {
            facts.add_json(name, value);
        }
        Arc::new(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::template::{Markup, Template};

    #[test]
    fn a_template_sees_fields_and_attributes() {
        let recipient = Recipient {
            first_name: Some("Zoë".into()),
            phone_e164: Some("+13054048480".into()),
            attributes: serde_json::from_str(r#"{"points": 228, "first_name": "no"}"#).unwrap(),
            ..Recipient::default()
        };
        let template = Template::parse("{{ first_name }}: {{ points }}", Markup::Text).unwrap();

        assert_eq!(template.render(&recipient.facts()).unwrap(), "Zoë: 228");
        assert_eq!(recipient.address(Channel::Whatsapp), Some("+13054048480"));
        assert_eq!(recipient.address(Channel::Email), None);
    }
}
