//! Contacts: what a tenant knows of a person, and how a row of a file becomes one.
//!
//! Two contacts are the same when number *and* address are the same; a row that cannot be read is
//! refused as a whole, so that nobody is half there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::channel::text_enum;
use crate::domain::csv_file::{Fields, RowDamage, key_of};
use crate::domain::email::{EmailAddress, EmailRefusal};
use crate::domain::phone::{Country, E164, PhoneRefusal};

/// Longest name, of either kind.
pub const NAME_CHARS_MAX: usize = 200;
/// Longest country, postal code or zone.
const WORD_CHARS_MAX: usize = 60;
/// Longest value of an attribute.
pub const ATTRIBUTE_CHARS_MAX: usize = 2_000;

text_enum! {
    /// What a contact has beside its attributes.
    ContactField {
        /// Given name.
        FirstName = "first_name",
        /// Family name.
        LastName = "last_name",
        /// Number for text messages and WhatsApp.
        Phone = "phone",
        /// Address for mail.
        Email = "email",
        /// Two letters of ISO 3166-1; a national number of the same row is read in it.
        Country = "country",
        /// Postal code.
        Zip = "zip",
        /// A zone of the IANA database.
        Timezone = "timezone",
    }
}

/// Where a column's values go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Into the contact itself.
    Field(ContactField),
    /// Into an attribute of this name, which templates can write.
    Attribute(String),
    /// Nowhere.
    Ignored,
}

/// One target for each column, in the file's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mapping(Vec<Target>);

impl Mapping {
    /// The mapping that the columns' names suggest; what no field is called becomes an attribute.
    pub fn guess(columns: &[String]) -> Self {
        let mut taken = Vec::new();
        let targets = columns.iter().enumerate().map(|(place, name)| {
            match field_called(name) {
                // The second telephone of a file is a fact about a person, not another address.
                Some(field) if !taken.contains(&field) => {
                    taken.push(field);
                    Target::Field(field)
                }
                _ => Target::Attribute(key_of(name, place + 1)),
            }
        });
        Self(targets.collect())
    }

    /// Takes the mapping somebody chose for a file of so many columns.
    ///
    /// # Errors
    /// [`MappingRefusal`] says why rows could not be read by it.
    pub fn new(targets: Vec<Target>, columns: usize) -> Result<Self, MappingRefusal> {
        if targets.len() != columns {
            let given = targets.len();
            return Err(MappingRefusal::OtherColumns { given, columns });
        }
        for (place, target) in targets.iter().enumerate() {
            if let Target::Attribute(name) = target
                && key_of(name, place + 1) != *name
            {
                return Err(MappingRefusal::AttributeName(name.clone()));
            }
            if *target != Target::Ignored && targets[..place].contains(target) {
                return Err(MappingRefusal::Twice(target.name().into()));
            }
        }
        let has = |field| targets.contains(&Target::Field(field));
        if !has(ContactField::Phone) && !has(ContactField::Email) {
            return Err(MappingRefusal::NoAddress);
        }
        Ok(Self(targets))
    }

    /// The attribute for a column, under the name somebody chose or the column's own.
    pub fn attribute(chosen: Option<&str>, column: &str, place: usize) -> Target {
        match chosen {
            Some(name) => Target::Attribute(name.to_owned()),
            None => Target::Attribute(key_of(column, place + 1)),
        }
    }

    /// In the file's order.
    pub fn targets(&self) -> &[Target] {
        &self.0
    }
}

impl Target {
    /// The field's or the attribute's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Field(field) => field.as_str(),
            Self::Attribute(name) => name,
            Self::Ignored => "",
        }
    }
}

/// Why rows cannot be read by a mapping. Shown to people as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingRefusal {
    /// It was made for another file.
    #[error(
        "the mapping has {given} columns, the file {columns}; name each column of the file once"
    )]
    OtherColumns {
        /// In the mapping.
        given: usize,
        /// In the file.
        columns: usize,
    },
    /// Two columns for one thing.
    #[error("two columns are mapped to {0}; give one of them another target")]
    Twice(String),
    /// A name that no template could write.
    #[error("{0:?} is no name of an attribute; use small letters, digits and _")]
    AttributeName(String),
    /// Rows without number and address are nobody.
    #[error("no column is mapped to phone or email; map one of them")]
    NoAddress,
}

/// A row that will become a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactDraft {
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Number.
    pub phone: Option<E164>,
    /// Mail address; one of the two is there.
    pub email: Option<EmailAddress>,
    /// As written, two letters in upper case.
    pub country: Option<String>,
    /// As written.
    pub zip: Option<String>,
    /// A zone that exists.
    pub timezone: Option<String>,
    /// Everything else that is not empty.
    pub attributes: BTreeMap<String, String>,
}

/// What makes two contacts one: number and normalized address.
pub type Identity<'a> = (Option<&'a str>, Option<&'a str>);

impl ContactDraft {
    /// Reads a row. National numbers are read in the row's country if it has one, else in `country`.
    ///
    /// # Errors
    /// [`RowRefusal`]; the first thing that is wrong counts, number before address before the rest.
    pub fn read(fields: &Fields, mapping: &Mapping, country: Country) -> Result<Self, RowRefusal> {
        let attributes = |(place, target): (usize, &'_ Target)| match target {
            Target::Attribute(name) => Some((name.clone(), fields.get(place).to_owned())),
            Target::Field(_) | Target::Ignored => None,
        };
        let attributes = mapping.0.iter().enumerate().filter_map(attributes);
        let value = |field| {
            let target = Target::Field(field);
            let place = mapping.0.iter().position(|it| *it == target);
            place.map_or("", |place| fields.get(place))
        };
        Self::check(value, attributes, country)
    }

    /// Reads what somebody wrote, by field and by attribute; an empty text is none. National numbers are read in the
    /// contact's own country if it has one, else in `country`.
    ///
    /// # Errors
    /// [`RowRefusal`], as [`ContactDraft::read`].
    pub fn check<'a>(
        written: impl Fn(ContactField) -> &'a str,
        attributes: impl IntoIterator<Item = (String, String)>,
        country: Country,
    ) -> Result<Self, RowRefusal> {
        let value = |field| written(field).trim();
        let own_country = value(ContactField::Country);
        let country = own_country.parse().unwrap_or(country);
        let phone = match value(ContactField::Phone) {
            "" => None,
            written => Some(E164::read(written, country).map_err(RowRefusal::InvalidPhone)?),
        };
        let email = match value(ContactField::Email) {
            "" => None,
            written => Some(EmailAddress::read(written).map_err(RowRefusal::InvalidEmail)?),
        };
        if phone.is_none() && email.is_none() {
            return Err(RowRefusal::MissingAddress);
        }
        let text = |field, chars_max| text_of(field, value(field), chars_max);
        let timezone = text(ContactField::Timezone, WORD_CHARS_MAX)?;
        if let Some(zone) = &timezone
            && zone.parse::<chrono_tz::Tz>().is_err()
        {
            return Err(RowRefusal::UnknownTimezone(zone.clone()));
        }
        Ok(Self {
            first_name: text(ContactField::FirstName, NAME_CHARS_MAX)?,
            last_name: text(ContactField::LastName, NAME_CHARS_MAX)?,
            phone,
            email,
            country: text(ContactField::Country, WORD_CHARS_MAX)?.map(country_as_stored),
            zip: text(ContactField::Zip, WORD_CHARS_MAX)?,
            timezone,
            attributes: checked_attributes(attributes)?,
        })
    }

    /// Number and address, as compared.
    pub fn identity(&self) -> Identity<'_> {
        let phone = self.phone.as_ref().map(E164::as_str);
        let email = self.email.as_ref().map(EmailAddress::normalized);
        (phone, email)
    }

    /// Takes what a later row of the same contact holds; what is empty there stays.
    pub fn take_over(&mut self, later: Self) {
        self.first_name = later.first_name.or(self.first_name.take());
        self.last_name = later.last_name.or(self.last_name.take());
        self.country = later.country.or(self.country.take());
        self.zip = later.zip.or(self.zip.take());
        self.timezone = later.timezone.or(self.timezone.take());
        self.attributes.extend(later.attributes);
    }

    /// What a search by the beginning of a name looks at.
    pub fn name_normalized(&self) -> String {
        normalize_name(self.first_name.as_deref(), self.last_name.as_deref())
    }
}

/// First and last name in small letters with single spaces.
pub fn normalize_name(first_name: Option<&str>, last_name: Option<&str>) -> String {
    let words = [first_name, last_name].into_iter().flatten();
    let words: Vec<&str> = words.flat_map(str::split_whitespace).collect();
    words.join(" ").to_lowercase()
}

/// Why a row is not imported. Shown to people as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowRefusal {
    /// The number cannot be read.
    #[error(transparent)]
    InvalidPhone(PhoneRefusal),
    /// The address cannot be read.
    #[error(transparent)]
    InvalidEmail(EmailRefusal),
    /// Neither number nor address.
    #[error("has neither a phone number nor an email address")]
    MissingAddress,
    /// A zone that does not exist; quiet hours would be wrong.
    #[error("{0:?} is no time zone; write it as America/New_York")]
    UnknownTimezone(String),
    /// A value that is no such value.
    #[error("longer than {chars_max} characters")]
    TooLong {
        /// The field's or the attribute's name.
        name: String,
        /// What it may have.
        chars_max: usize,
    },
    /// Its fields cannot be told apart.
    #[error(transparent)]
    Damaged(RowDamage),
}

impl RowRefusal {
    /// The word programs know it by; part of the API.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidPhone(_) => "invalid_phone",
            Self::InvalidEmail(_) => "invalid_email",
            Self::MissingAddress => "missing_address",
            Self::UnknownTimezone(_) => "invalid_timezone",
            Self::TooLong { .. } => "too_long",
            Self::Damaged(_) => "malformed_row",
        }
    }

    /// The field or attribute that is to blame, if one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::InvalidPhone(_) => Some(ContactField::Phone.as_str()),
            Self::InvalidEmail(_) => Some(ContactField::Email.as_str()),
            Self::UnknownTimezone(_) => Some(ContactField::Timezone.as_str()),
            Self::TooLong { name, .. } => Some(name),
            Self::MissingAddress | Self::Damaged(_) => None,
        }
    }
}

fn text_of(
    field: ContactField,
    value: &str,
    chars_max: usize,
) -> Result<Option<String>, RowRefusal> {
    check_length(field.as_str(), value, chars_max)?;
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

fn check_length(name: &str, value: &str, chars_max: usize) -> Result<(), RowRefusal> {
    if value.len() > chars_max && value.chars().count() > chars_max {
        let name = name.into();
        return Err(RowRefusal::TooLong { name, chars_max });
    }
    Ok(())
}

fn checked_attributes(
    written: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, RowRefusal> {
    let mut attributes = BTreeMap::new();
    for (name, value) in written {
        let value = value.trim();
        if !value.is_empty() {
            check_length(&name, value, ATTRIBUTE_CHARS_MAX)?;
            attributes.insert(name, value.to_owned());
        }
    }
    Ok(attributes)
}

fn country_as_stored(written: String) -> String {
    if written.len() == 2 {
        written.to_ascii_uppercase()
    } else {
        written
    }
}

/// The field that people call so, in the languages our first customers' tools speak.
fn field_called(name: &str) -> Option<ContactField> {
    let name: String = name
        .chars()
        .filter(|char| char.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    Some(match name.as_str() {
        "firstname" | "first" | "givenname" | "forename" | "vorname" | "prénom" | "prenom"
        | "nombre" => ContactField::FirstName,
        "lastname" | "last" | "surname" | "familyname" | "nachname" | "nomdefamille"
        | "apellido" | "apellidos" => ContactField::LastName,
        "phone" | "phonenumber" | "mobile" | "mobilephone" | "mobilenumber" | "cell"
        | "cellphone" | "cellnumber" | "tel" | "telephone" | "telephonenumber" | "telefon"
        | "handy" | "telefono" | "teléfono" | "msisdn" | "phonee164" => ContactField::Phone,
        "email" | "emailaddress" | "mail" | "emails" | "correo" | "courriel" => ContactField::Email,
        "country" | "countrycode" | "land" | "pays" | "pais" | "país" => ContactField::Country,
        "zip" | "zipcode" | "postalcode" | "postcode" | "plz" | "codepostal" => ContactField::Zip,
        "timezone" | "tz" | "zeitzone" => ContactField::Timezone,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
