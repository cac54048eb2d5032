//! People a tenant writes to.

mod written;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::{Value, json};

pub(super) use self::written::country_of;
use self::written::{ContactFields, contact_exists};
use super::Tag;
use super::body::Body;
use super::change::{Facts, Once, Turn};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{Created, Done};
use super::state::ApiState;
use crate::delivery::contacts::delete_contact;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::Channel;
use crate::domain::contact::{Identity, normalize_name};
use crate::domain::ids::ContactId;
use crate::store::contact_search::{self, SearchBy};
use crate::store::contacts::{self, Contact, NewContact};
use crate::store::{TenantTx, consents};

/// The operations on contacts.
#[derive(Debug)]
pub struct Contacts {
    state: ApiState,
}

/// A person.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct ContactView {
    /// Its id.
    id: ContactId,
    /// Given name.
    first_name: Option<String>,
    /// Family name.
    last_name: Option<String>,
    /// Number, E.164.
    phone: Option<String>,
    /// Address as written.
    email: Option<String>,
    /// Country.
    country: Option<String>,
    /// Postal code.
    zip: Option<String>,
    /// A zone of the IANA database.
    timezone: Option<String>,
    /// What else is known; templates may name it.
    attributes: BTreeMap<String, Value>,
    /// When they came in.
    created_at: DateTime<Utc>,
    /// When they were changed last.
    updated_at: DateTime<Utc>,
}

/// A person, with what they agreed to.
#[derive(Debug, Object)]
struct ContactDetail {
    /// The person.
    contact: ContactView,
    /// What they agreed to, per channel: `granted`, `attested` (the tenant vouched for it) or `revoked`. A channel that
    /// is absent was never asked for.
    consents: BTreeMap<String, String>,
}

#[OpenApi(tag = "Tag::Contacts")]
impl Contacts {
    /// List contacts.
    ///
    /// The newest first; with `q` those whose name begins with it, in the order of names. A `q` that begins with `+` or
    /// a digit is the beginning of a number, one with `@` the beginning of an email address. `contains` finds a text
    /// anywhere in them and reads every contact for it, which takes long where there are many.
    #[oai(path = "/contacts", method = "get", operation_id = "list_contacts")]
    async fn list_contacts(
        &self,
        actor: Actor,
        /// The beginning of a name, a number or an email address.
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        /// A text anywhere in a name, a number or an email address; instead of `q`.
        #[oai(validator(min_length = 2, max_length = 200))]
        contains: Query<Option<String>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ContactView>>> {
        actor.require(Permission::ReadContacts)?;
        let cursor = cursor.0.as_deref();
        match (q.0.as_deref().and_then(search), contains.0) {
            (Some((by, prefix)), None) => self.search(&actor, by, &prefix, limit.0, cursor).await,
            (None, Some(text)) => self.scan(&actor, &text, limit.0, cursor).await,
            (None, None) => self.list_newest(&actor, limit.0, cursor).await,
            (Some(_), Some(_)) => Err(ApiError::new(
                ProblemType::InvalidParameter,
                "Send either 'q' or 'contains', and not both.",
            )),
        }
    }

    /// Make a contact.
    ///
    /// Needs a number or an email address. Same number and same email is the same contact: a second one is refused with
    /// the id of the first.
    #[oai(path = "/contacts", method = "post", operation_id = "create_contact")]
    async fn create_contact(
        &self,
        actor: Actor,
        once: Once,
        body: Body<ContactFields>,
    ) -> ApiResult<Created<ContactDetail>> {
        actor.require(Permission::WriteContacts)?;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let (tx, fields) = (change.tx(), body.0);
        let country = country_of(tx, &actor).await?;
        let contact = fields.contact(None, country, &self.state.mac_key)?;
        let new = std::slice::from_ref(&contact);
        if contacts::insert_contacts(tx, actor.tenant_id, new)
            .await?
            .is_empty()
        {
            return Err(taken(tx, &actor, contact.draft.identity(), None).await?);
        }
        fields
            .save_consent(&self.state, tx, &actor, &contact)
            .await?;
        let detail = detail(tx, &actor, contact.id).await?;
        let entry = AuditEntry::new("create_contact", "contact", &contact.id)
            .after(json!({"fields": fields.names()}));
        change.commit(entry, Created(detail)).await
    }

    /// Change a contact.
    ///
    /// What is absent stays. Another number or email address is another one to agree for: what was agreed to for the old
    /// one no longer counts, unless the body says what was agreed to for the new one. Messages that are made already
    /// stay as they are.
    #[oai(
        path = "/contacts/:contact_id",
        method = "patch",
        operation_id = "update_contact"
    )]
    async fn update_contact(
        &self,
        actor: Actor,
        facts: Facts,
        /// The contact.
        contact_id: Path<ContactId>,
        body: Body<ContactFields>,
    ) -> ApiResult<Json<ContactDetail>> {
        actor.require(Permission::WriteContacts)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let (tx, fields) = (change.tx(), body.0);
        let known = contacts::load_for_update(tx, actor.tenant_id, contact_id.0).await?;
        let country = country_of(tx, &actor).await?;
        let contact = fields.contact(Some(&known), country, &self.state.mac_key)?;
        save(tx, &actor, &known, &contact, &fields).await?;
        fields
            .save_consent(&self.state, tx, &actor, &contact)
            .await?;
        let detail = detail(tx, &actor, contact.id).await?;
        let entry = AuditEntry::new("update_contact", "contact", &contact.id)
            .after(json!({"fields": fields.names()}));
        change.finish(entry).await?;
        Ok(Json(detail))
    }

    /// Delete a contact.
    ///
    /// Messages to this person for which no call has begun are dropped as cancelled, those of a running campaign too;
    /// what is with the provider already goes on. What the person agreed to stays in the ledger, and an opt-out stays.
    #[oai(
        path = "/contacts/:contact_id",
        method = "delete",
        operation_id = "delete_contact"
    )]
    async fn delete_contact(
        &self,
        actor: Actor,
        facts: Facts,
        /// The contact.
        contact_id: Path<ContactId>,
    ) -> ApiResult<Done> {
        actor.require(Permission::WriteContacts)?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let dropped = delete_contact(change.tx(), actor.tenant_id, contact_id.0).await?;
        let entry = AuditEntry::new("delete_contact", "contact", &contact_id.0)
            .after(json!({"dropped_messages": dropped}));
        change.finish(entry).await?;
        Ok(Done)
    }

    /// Show a contact.
    ///
    /// With what the person agreed to.
    #[oai(
        path = "/contacts/:contact_id",
        method = "get",
        operation_id = "get_contact"
    )]
    async fn get_contact(
        &self,
        actor: Actor,
        /// The contact.
        contact_id: Path<ContactId>,
    ) -> ApiResult<Json<ContactDetail>> {
        actor.require(Permission::ReadContacts)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        Ok(Json(detail(&mut tx, &actor, contact_id.0).await?))
    }
}

impl Contacts {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn list_newest(
        &self,
        actor: &Actor,
        limit: Option<i64>,
        cursor: Option<&str>,
    ) -> ApiResult<Json<Page<ContactView>>> {
        let page = PageRequest::<ContactId>::new("contacts", limit, cursor)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows =
            contacts::list_contacts(&mut tx, actor.tenant_id, page.after, page.rows_to_load())
                .await?;
        Ok(Json(page.page(rows, |contact| contact.id)))
    }

    async fn scan(
        &self,
        actor: &Actor,
        text: &str,
        limit: Option<i64>,
        cursor: Option<&str>,
    ) -> ApiResult<Json<Page<ContactView>>> {
        let page = PageRequest::<ContactId>::new("contacts-containing", limit, cursor)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let rows = contact_search::list_containing(
            &mut tx,
            actor.tenant_id,
            &normalize_name(Some(text), None),
            page.after,
            page.rows_to_load(),
        )
        .await?;
        Ok(Json(page.page(rows, |contact| contact.id)))
    }

    async fn search(
        &self,
        actor: &Actor,
        by: SearchBy,
        prefix: &str,
        limit: Option<i64>,
        cursor: Option<&str>,
    ) -> ApiResult<Json<Page<ContactView>>> {
        let page = PageRequest::<(String, ContactId)>::new(list_name(by), limit, cursor)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let found = contact_search::list_by_prefix(
            &mut tx,
            actor.tenant_id,
            by,
            prefix,
            page.after.as_ref(),
            page.rows_to_load(),
        )
        .await?;
        Ok(Json(page.page(found, |found| {
            (found.key.clone(), found.contact.id)
        })))
    }
}

/// A contact with what they agreed to, as it is now.
async fn detail(tx: &mut TenantTx, actor: &Actor, id: ContactId) -> ApiResult<ContactDetail> {
    let contact = contacts::load_contact(tx, actor.tenant_id, id).await?;
    let consents = contact_search::list_consents(tx, actor.tenant_id, contact.id).await?;
    Ok(ContactDetail {
        contact: contact.into(),
        consents: consents.into_iter().collect(),
    })
}

/// Stores a change, with what it means for what was agreed to.
async fn save(
    tx: &mut TenantTx,
    actor: &Actor,
    known: &Contact,
    contact: &NewContact,
    fields: &ContactFields,
) -> ApiResult<()> {
    let (phone, email) = contact.draft.identity();
    let is_other_number = known.phone_e164.as_deref() != phone;
    let is_other_email = known.email.as_deref().map(str::to_lowercase).as_deref() != email;
    if is_other_number || is_other_email {
        let others = contacts::find_matches(tx, actor.tenant_id, &[(phone, email)]).await?;
        if others.iter().any(|other| other.id != known.id) {
            return Err(taken(tx, actor, (phone, email), Some(known.id)).await?);
        }
    }
    let attributes = fields.attributes_over(&known.attributes);
    contacts::save_contact(tx, actor.tenant_id, contact, &attributes).await?;
    let mut channels = Vec::new();
    if is_other_number {
        channels.extend([Channel::Sms, Channel::Whatsapp]);
    }
    if is_other_email {
        channels.push(Channel::Email);
    }
    Ok(consents::delete_granted(tx, actor.tenant_id, known.id, &channels).await?)
}

/// Who has the identity already.
async fn taken(
    tx: &mut TenantTx,
    actor: &Actor,
    identity: Identity<'_>,
    except: Option<ContactId>,
) -> ApiResult<ApiError> {
    let found = contacts::find_matches(tx, actor.tenant_id, &[identity]).await?;
    let other = found.into_iter().find(|other| Some(other.id) != except);
    // It went meanwhile: the next try may succeed.
    Ok(other.map_or_else(
        || ApiError::unavailable(1),
        |other| contact_exists(other.id),
    ))
}

/// What a search text is the beginning of; nothing is not a search.
fn search(text: &str) -> Option<(SearchBy, String)> {
    let text = text.trim();
    let first = text.chars().next()?;
    if text.contains('@') {
        return Some((SearchBy::Email, text.to_ascii_lowercase()));
    }
    if first == '+' || first.is_ascii_digit() {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        return Some((SearchBy::Phone, format!("+{digits}")));
    }
    Some((SearchBy::Name, normalize_name(Some(text), None)))
}

/// Cursors of one order are not another's.
fn list_name(by: SearchBy) -> &'static str {
    match by {
        SearchBy::Name => "contacts-by-name",
        SearchBy::Phone => "contacts-by-phone",
        SearchBy::Email => "contacts-by-email",
    }
}

impl From<contact_search::Found> for ContactView {
    fn from(found: contact_search::Found) -> Self {
        found.contact.into()
    }
}

impl From<Contact> for ContactView {
    fn from(contact: Contact) -> Self {
        Self {
            id: contact.id,
            first_name: contact.first_name,
            last_name: contact.last_name,
            phone: contact.phone_e164,
            email: contact.email,
            country: contact.country,
            zip: contact.zip,
            timezone: contact.timezone,
            attributes: contact
                .attributes
                .0
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect(),
            created_at: contact.created_at,
            updated_at: contact.updated_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_text_says_itself_what_it_is_the_beginning_of() {
        let cases = [
            ("  ", None),
            ("Ann", Some((SearchBy::Name, "ann"))),
            ("Ann  Lee", Some((SearchBy::Name, "ann lee"))),
            ("+1 (305) 404", Some((SearchBy::Phone, "+1305404"))),
            ("1305", Some((SearchBy::Phone, "+1305"))),
            ("Ann@Exa", Some((SearchBy::Email, "ann@exa"))),
        ];
        for (text, wanted) in cases {
            let wanted = wanted.map(|(by, prefix)| (by, prefix.to_owned()));
            assert_eq!(search(text), wanted, "{text:?}");
        }
    }
}
