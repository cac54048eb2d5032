//! People a tenant writes to.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;

use super::Tag;
use super::page::{Page, PageRequest};
use super::problem::ApiResult;
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::contact::normalize_name;
use crate::domain::ids::ContactId;
use crate::store::contact_search::{self, SearchBy};
use crate::store::contacts::{self, Contact};

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
    /// a digit is the beginning of a number, one with `@` the beginning of an email address.
    #[oai(path = "/contacts", method = "get", operation_id = "list_contacts")]
    async fn list_contacts(
        &self,
        actor: Actor,
        /// The beginning of a name, a number or an email address.
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ContactView>>> {
        actor.require(Permission::ReadContacts)?;
        let cursor = cursor.0.as_deref();
        match q.0.as_deref().and_then(search) {
            Some((by, prefix)) => self.search(&actor, by, &prefix, limit.0, cursor).await,
            None => self.list_newest(&actor, limit.0, cursor).await,
        }
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
        let contact = contacts::load_contact(&mut tx, actor.tenant_id, contact_id.0).await?;
        let consents = contact_search::list_consents(&mut tx, actor.tenant_id, contact.id).await?;
        Ok(Json(ContactDetail {
            contact: contact.into(),
            consents: consents.into_iter().collect(),
        }))
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
