//! A contact as a request writes it, and what is wrong with that.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::Object;

use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::state::ApiState;
use crate::crypto::mac::MacKey;
use crate::domain::actor::Actor;
use crate::domain::audit::Author;
use crate::domain::channel::Channel;
use crate::domain::contact::{ContactDraft, ContactField, RowRefusal};
use crate::domain::csv_file::key_of;
use crate::domain::ids::ContactId;
use crate::domain::import::{Attestation, AttestationRefusal};
use crate::domain::phone::Country;
use crate::domain::recipient;
use crate::store::consents::{self, Granted};
use crate::store::contacts::{Attributes, Contact, NewContact};
use crate::store::{StoreError, TenantTx, tenants};

/// What is known of a person. In a change, what is absent stays as it is and an empty text removes what is there.
#[derive(Debug, Object)]
#[oai(
    rename = "ContactFields",
    deny_unknown_fields,
    skip_serializing_if_is_none
)]
pub(super) struct ContactFields {
    /// Given name.
    #[oai(validator(max_length = 200))]
    first_name: Option<String>,
    /// Family name.
    #[oai(validator(max_length = 200))]
    last_name: Option<String>,
    /// Number; without a country code it is read in the contact's country, else in the tenant's.
    #[oai(validator(max_length = 60))]
    phone: Option<String>,
    /// Email address.
    #[oai(validator(max_length = 320))]
    email: Option<String>,
    /// Country: two letters.
    #[oai(validator(max_length = 60))]
    country: Option<String>,
    /// Postal code.
    #[oai(validator(max_length = 60))]
    zip: Option<String>,
    /// A zone of the IANA database, such as `America/New_York`.
    #[oai(validator(max_length = 60))]
    timezone: Option<String>,
    /// What else is known, by names as a template writes them: `loyalty_tier`.
    attributes: Option<BTreeMap<String, String>>,
    /// What the person agreed to. It goes into the ledger of consent, which keeps it for ever.
    consent: Option<ConsentGiven>,
}

/// What one person agreed to.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct ConsentGiven {
    /// To what, in the words they saw.
    #[oai(validator(min_length = 1, max_length = 4000))]
    wording: String,
    /// Where they did: a form, a shop.
    #[oai(validator(min_length = 1, max_length = 255))]
    source: String,
    /// When they did.
    date: DateTime<Utc>,
    /// For which channels; all that the contact has an address for when absent.
    #[oai(validator(min_items = 1, max_items = 3))]
    channels: Option<Vec<Channel>>,
}

/// Attributes of one contact at most.
const ATTRIBUTES_MAX: usize = 200;

impl ContactFields {
    /// The contact that it makes, or makes of one that is known.
    pub(super) fn contact(
        &self,
        known: Option<&Contact>,
        country: Country,
        mac_key: &MacKey,
    ) -> ApiResult<NewContact> {
        self.check_attributes()?;
        let written = |field| self.given(field).or_else(|| stored(known?, field));
        let attributes = self.attributes.clone().unwrap_or_default();
        let draft = ContactDraft::check(
            |field| written(field).unwrap_or_default(),
            attributes,
            country,
        )?;
        let (phone, email) = draft.identity();
        Ok(NewContact {
            id: known.map_or_else(|| ContactId(uuid::Uuid::now_v7()), |contact| contact.id),
            phone_mac: phone.map(|phone| mac_key.address(phone)),
            email_mac: email.map(|email| mac_key.address(email)),
            draft,
        })
    }

    /// The attributes once these are written over the known ones.
    pub(super) fn attributes_over(&self, known: &Attributes) -> Attributes {
        let mut attributes = known.clone();
        for (name, value) in self.attributes.iter().flatten() {
            match value.trim() {
                "" => attributes.remove(name),
                value => attributes.insert(name.clone(), value.into()),
            };
        }
        attributes
    }

    /// What it says something about, by name: records of a change hold no more.
    pub(super) fn names(&self) -> Vec<&str> {
        let fields = ContactField::ALL.iter();
        let given = fields.filter(|field| self.given(**field).is_some());
        let mut names: Vec<&str> = given.map(|field| field.as_str()).collect();
        names.extend(self.attributes.iter().flatten().map(|(name, _)| &**name));
        names.extend(self.consent.as_ref().map(|_| "consent"));
        names
    }

    /// Enters what the person agreed to, if that was said.
    pub(super) async fn save_consent(
        &self,
        state: &ApiState,
        tx: &mut TenantTx,
        actor: &Actor,
        contact: &NewContact,
    ) -> ApiResult<()> {
        let Some(consent) = &self.consent else {
            return Ok(());
        };
        let channels = consent.channels(contact)?;
        let author = Author::from(actor);
        let attestation = Attestation {
            wording: consent.wording.clone(),
            source: consent.source.clone(),
            date: consent.date,
            channels: channels.iter().map(|(channel, _)| *channel).collect(),
            actor: author.id().map(|id| format!("{}:{id}", author.kind())),
        };
        attestation
            .check(state.clock().now())
            .map_err(consent_refused)?;
        let granted = Granted {
            contact_id: contact.id,
            channels: &channels,
            source: &attestation.source,
            wording: &attestation.wording,
            actor: attestation.actor.as_deref(),
            occurred_at: attestation.date,
        };
        Ok(consents::insert_granted(tx, actor.tenant_id, &granted).await?)
    }

    fn given(&self, field: ContactField) -> Option<&str> {
        match field {
            ContactField::FirstName => self.first_name.as_deref(),
            ContactField::LastName => self.last_name.as_deref(),
            ContactField::Phone => self.phone.as_deref(),
            ContactField::Email => self.email.as_deref(),
            ContactField::Country => self.country.as_deref(),
            ContactField::Zip => self.zip.as_deref(),
            ContactField::Timezone => self.timezone.as_deref(),
        }
    }

    fn check_attributes(&self) -> ApiResult<()> {
        let attributes = self.attributes.iter().flatten();
        if attributes.clone().count() > ATTRIBUTES_MAX {
            let message = format!("may have at most {ATTRIBUTES_MAX} entries");
            return Err(refused("attributes", &message));
        }
        for (name, _) in attributes {
            let readable = key_of(name, 1);
            if *name != readable {
                let message = format!("must be written as a template does: {readable}");
                return Err(refused(&format!("attributes.{name}"), &message));
            }
            if recipient::FIELDS.contains(&name.as_str()) {
                let message = "is a field of its own; write it beside 'attributes'";
                return Err(refused(&format!("attributes.{name}"), message));
            }
        }
        Ok(())
    }
}

impl ConsentGiven {
    fn channels(&self, contact: &NewContact) -> ApiResult<Vec<(Channel, Vec<u8>)>> {
        let asked = self.channels.as_deref().unwrap_or(Channel::ALL);
        let mut channels = Vec::with_capacity(asked.len());
        for channel in asked.iter().copied() {
            let mac = match channel {
                Channel::Sms | Channel::Whatsapp => &contact.phone_mac,
                Channel::Email => &contact.email_mac,
            };
            match mac {
                Some(mac) if !channels.iter().any(|(known, _)| *known == channel) => {
                    channels.push((channel, mac.clone()));
                }
                None if self.channels.is_some() => {
                    let message = format!("the contact has no address for {channel}");
                    return Err(refused("consent.channels", &message));
                }
                _ => {}
            }
        }
        Ok(channels)
    }
}

/// The country that national numbers of the tenant are read in.
pub(in crate::api) async fn country_of(tx: &mut TenantTx, actor: &Actor) -> ApiResult<Country> {
    let tenant = tenants::load_tenant(tx, actor.tenant_id).await?;
    let country = tenant.default_country.parse();
    Ok(country.map_err(|_| StoreError::Unreadable("a tenant's country".into()))?)
}

fn stored(contact: &Contact, field: ContactField) -> Option<&str> {
    match field {
        ContactField::FirstName => contact.first_name.as_deref(),
        ContactField::LastName => contact.last_name.as_deref(),
        ContactField::Phone => contact.phone_e164.as_deref(),
        ContactField::Email => contact.email.as_deref(),
        ContactField::Country => contact.country.as_deref(),
        ContactField::Zip => contact.zip.as_deref(),
        ContactField::Timezone => contact.timezone.as_deref(),
    }
}

fn refused(field: &str, message: &str) -> ApiError {
    ApiError::unchanged(
        ProblemType::InvalidBody,
        &format_args!("'{field}' {message}"),
    )
    .with_field(field, message)
}

fn consent_refused(refusal: AttestationRefusal) -> ApiError {
    let field = match refusal {
        AttestationRefusal::Wording => "consent.wording",
        AttestationRefusal::Source => "consent.source",
        AttestationRefusal::Future => "consent.date",
        AttestationRefusal::NoChannel => "consent.channels",
    };
    refused(field, &format!("cannot be taken, since {refusal}"))
}

/// Somebody has this number and this address.
pub(super) fn contact_exists(id: ContactId) -> ApiError {
    ApiError::new(
        ProblemType::ContactExists,
        format!(
            "The contact {id} has the same number and the same email address. Change that one, or write another number \
             or address. Nothing was changed."
        ),
    )
    .with_field("contact_id", id.to_string())
}

impl From<RowRefusal> for ApiError {
    fn from(refusal: RowRefusal) -> Self {
        let field = match refusal.field() {
            None => "phone".to_owned(),
            Some(name) if ContactField::ALL.iter().any(|field| field.as_str() == name) => {
                name.to_owned()
            }
            Some(name) => format!("attributes.{name}"),
        };
        Self::new(
            ProblemType::InvalidBody,
            format!("The contact was not saved: {refusal}."),
        )
        .with_field(field, refusal.to_string())
    }
}
