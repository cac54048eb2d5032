//! Contacts.
//!
//! Same number and same address = same contact: the constraint `contacts_identity_key` says so, and every way
//! in goes through it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{StoreError, StoreResult, TenantTx, affected};
use crate::domain::contact::{ContactDraft, Identity, normalize_name};
use crate::domain::email::EmailAddress;
use crate::domain::ids::{ContactId, TenantId};
use crate::domain::recipient::Recipient;

const CONTACT: &str = "contact";

/// What is known of a contact beside its fields.
pub type Attributes = serde_json::Map<String, serde_json::Value>;

/// A contact as its row holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Contact {
    /// Which one.
    pub id: ContactId,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Number, E.164.
    pub phone_e164: Option<String>,
    /// Address as written.
    pub email: Option<String>,
    /// Two letters, or as written.
    pub country: Option<String>,
    /// Postal code.
    pub zip: Option<String>,
    /// IANA name.
    pub timezone: Option<String>,
    /// What else is known.
    pub attributes: Json<Attributes>,
    /// When it came in.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
}

impl From<Contact> for Recipient {
    fn from(contact: Contact) -> Self {
        Self {
            first_name: contact.first_name,
            last_name: contact.last_name,
            phone_e164: contact.phone_e164,
            email: contact.email,
            country: contact.country,
            zip: contact.zip,
            timezone: contact.timezone,
            attributes: contact.attributes.0,
        }
    }
}

/// A draft with what the row holds besides.
#[derive(Debug, Clone)]
pub struct NewContact {
    /// Its id if it turns out to be new.
    pub id: ContactId,
    /// What is known.
    pub draft: ContactDraft,
    /// MAC of the number.
    pub phone_mac: Option<Vec<u8>>,
    /// MAC of the normalized address.
    pub email_mac: Option<Vec<u8>>,
}

/// A contact that was there before, and the draft that named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// The contact.
    pub id: ContactId,
    /// Place of the draft among those that were asked for, from 0.
    pub place: usize,
}

/// Adds the contacts that are new and returns their ids, in no order. No two may have one identity.
pub async fn insert_contacts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contacts: &[NewContact],
) -> StoreResult<Vec<ContactId>> {
    let mut sorted: Vec<&NewContact> = contacts.iter().collect();
    // One order for every importer, so that two of them never wait for each other's rows.
    sorted.sort_unstable_by_key(|contact| contact.draft.identity());
    let mut columns = Columns::default();
    for contact in &sorted {
        columns.push(&contact.draft, contact.draft.name_normalized());
    }
    let ids: Vec<Uuid> = sorted.iter().map(|contact| contact.id.0).collect();
    let phone_macs: Vec<_> = sorted
        .iter()
        .map(|contact| contact.phone_mac.as_deref())
        .collect();
    let email_macs: Vec<_> = sorted
        .iter()
        .map(|contact| contact.email_mac.as_deref())
        .collect();
    let created = query_scalar!(
        r#"
        WITH clock AS MATERIALIZED (SELECT app_now() AS at)
        INSERT INTO contacts (tenant_id, id, first_name, last_name, name_normalized, phone_e164, email,
                              email_normalized, phone_mac, email_mac, country, zip, timezone, attributes,
                              created_at, updated_at)
        SELECT $1, u.id, u.first_name, u.last_name, u.name_normalized, u.phone_e164, u.email,
               u.email_normalized, u.phone_mac, u.email_mac, u.country, u.zip, u.timezone, u.attributes::jsonb,
               clock.at, clock.at
        FROM clock, unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                           $9::bytea[], $10::bytea[], $11::text[], $12::text[], $13::text[], $14::text[])
             AS u (id, first_name, last_name, name_normalized, phone_e164, email, email_normalized,
                   phone_mac, email_mac, country, zip, timezone, attributes)
        ON CONFLICT ON CONSTRAINT contacts_identity_key DO NOTHING
        RETURNING id
        "#,
        tenant_id.0,
        &ids,
        &columns.first_names as _,
        &columns.last_names as _,
        &columns.names_normalized,
        &columns.phones as _,
        &columns.emails as _,
        &columns.emails_normalized as _,
        &phone_macs as _,
        &email_macs as _,
        &columns.countries as _,
        &columns.zips as _,
        &columns.timezones as _,
        &columns.attributes,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(created.into_iter().map(ContactId).collect())
}

/// The contacts that have the identities, each with the place of its identity; in no order.
pub async fn find_matches(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    identities: &[Identity<'_>],
) -> StoreResult<Vec<Match>> {
    let (phones, emails): (Vec<_>, Vec<_>) = identities.iter().copied().unzip();
    let rows = query!(
        r#"
        SELECT c.id AS "id!", u.place AS "place!"
        FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS u (phone_e164, email_normalized, place)
        -- Three ways to be one, since IS NOT DISTINCT FROM finds nothing by an index. What must be missing is no condition of an
        -- index: where most have no address, that would find most.
        CROSS JOIN LATERAL (
            SELECT id FROM contacts
            WHERE tenant_id = $1 AND phone_e164 = u.phone_e164 AND email_normalized = u.email_normalized
            UNION ALL
            SELECT id FROM contacts
            WHERE tenant_id = $1 AND phone_e164 = u.phone_e164
              AND u.email_normalized IS NULL AND COALESCE(email_normalized, '') = ''
            UNION ALL
            SELECT id FROM contacts
            WHERE tenant_id = $1 AND email_normalized = u.email_normalized
              AND u.phone_e164 IS NULL AND COALESCE(phone_e164, '') = ''
        ) AS c
        "#,
        tenant_id.0,
        &phones as _,
        &emails as _,
    )
    .fetch_all(tx.conn())
    .await?;
    let matches = rows.into_iter().map(|row| Match {
        id: ContactId(row.id),
        place: row.place as usize - 1,
    });
    Ok(matches.collect())
}

/// Lets each contact take over what its draft holds; what is empty there stays.
pub async fn update_contacts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    drafts: &[(ContactId, &ContactDraft)],
) -> StoreResult<()> {
    let drafts: HashMap<ContactId, &ContactDraft> = drafts.iter().copied().collect();
    let ids: Vec<Uuid> = drafts.keys().map(|id| id.0).collect();
    let locked = query!(
        r#"
        SELECT id, first_name, last_name
        FROM contacts
        WHERE tenant_id = $1 AND id = ANY($2)
        -- One order for every writer of many rows, so that two of them never deadlock.
        ORDER BY tenant_id, id
        FOR UPDATE
        "#,
        tenant_id.0,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut columns = Columns::default();
    let mut ids = Vec::with_capacity(locked.len());
    for row in locked {
        let Some(draft) = drafts.get(&ContactId(row.id)) else {
            continue;
        };
        let first_name = draft.first_name.as_deref().or(row.first_name.as_deref());
        let last_name = draft.last_name.as_deref().or(row.last_name.as_deref());
        ids.push(row.id);
        columns.push(draft, normalize_name(first_name, last_name));
    }
    query!(
        r#"
        WITH clock AS MATERIALIZED (SELECT app_now() AS at)
        UPDATE contacts c
        SET first_name = coalesce(u.first_name, c.first_name),
            last_name = coalesce(u.last_name, c.last_name),
            name_normalized = u.name_normalized,
            country = coalesce(u.country, c.country),
            zip = coalesce(u.zip, c.zip),
            timezone = coalesce(u.timezone, c.timezone),
            attributes = c.attributes || u.attributes::jsonb,
            updated_at = clock.at
        FROM clock, unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                           $9::text[])
             AS u (id, first_name, last_name, name_normalized, country, zip, timezone, attributes)
        WHERE c.tenant_id = $1 AND c.id = u.id
        "#,
        tenant_id.0,
        &ids,
        &columns.first_names as _,
        &columns.last_names as _,
        &columns.names_normalized,
        &columns.countries as _,
        &columns.zips as _,
        &columns.timezones as _,
        &columns.attributes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A contact.
pub async fn load_contact(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ContactId,
) -> StoreResult<Contact> {
    query_as!(
        Contact,
        r#"
        SELECT id, first_name, last_name, phone_e164, email, country, zip, timezone,
               attributes AS "attributes: Json<Attributes>", created_at, updated_at
        FROM contacts
        WHERE tenant_id = $1 AND id = $2
        "#,
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: CONTACT })
}

/// A contact, held until the transaction ends.
pub async fn load_for_update(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ContactId,
) -> StoreResult<Contact> {
    query_scalar!(
        "SELECT id FROM contacts WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: CONTACT })?;
    load_contact(tx, tenant_id, id).await
}

/// Replaces what is known of a contact.
pub async fn save_contact(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contact: &NewContact,
    attributes: &Attributes,
) -> StoreResult<()> {
    let draft = &contact.draft;
    let (phone, email_normalized) = draft.identity();
    let done = query!(
        r#"
        UPDATE contacts
        SET first_name = $3, last_name = $4, name_normalized = $5, phone_e164 = $6, phone_mac = $7, email = $8,
            email_normalized = $9, email_mac = $10, country = $11, zip = $12, timezone = $13, attributes = $14,
            updated_at = app_now()
        WHERE tenant_id = $1 AND id = $2
        "#,
        tenant_id.0,
        contact.id.0,
        draft.first_name,
        draft.last_name,
        draft.name_normalized(),
        phone,
        contact.phone_mac,
        draft.email.as_ref().map(EmailAddress::as_str),
        email_normalized,
        contact.email_mac,
        draft.country,
        draft.zip,
        draft.timezone,
        Json(attributes) as _,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, CONTACT)
}

/// Forgets a contact, with its places on lists and what it agreed to; the ledger of consent stays.
pub async fn delete_contact(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ContactId,
) -> StoreResult<()> {
    let done = query!(
        "DELETE FROM contacts WHERE tenant_id = $1 AND id = $2",
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, CONTACT)
}

/// Lets no contact of the tenant be deleted before the transaction ends: its messages are being made.
pub async fn keep_people(tx: &mut TenantTx, tenant_id: TenantId) -> StoreResult<()> {
    query!(
        "SELECT pg_advisory_xact_lock_shared(people_lock_key($1))",
        tenant_id.0
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(())
}

/// Waits for the messages that are being made, and lets no other be made before the transaction ends.
pub async fn lock_out_makers(tx: &mut TenantTx, tenant_id: TenantId) -> StoreResult<()> {
    query!(
        "SELECT pg_advisory_xact_lock(people_lock_key($1))",
        tenant_id.0
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(())
}

/// Contacts of a tenant, newest first, before `before`.
pub async fn list_contacts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    before: Option<ContactId>,
    limit: i64,
) -> StoreResult<Vec<Contact>> {
    let contacts = query_as!(
        Contact,
        r#"
        SELECT id, first_name, last_name, phone_e164, email, country, zip, timezone,
               attributes AS "attributes: Json<Attributes>", created_at, updated_at
        FROM contacts
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        tenant_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(contacts)
}

/// Of these contacts, those that are there. They stay until the transaction ends.
pub async fn hold_contacts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    ids: &[ContactId],
) -> StoreResult<Vec<ContactId>> {
    let found = query_scalar!(
        r#"
        SELECT id AS "id: ContactId"
        FROM contacts
        WHERE tenant_id = $1 AND id = ANY($2)
        ORDER BY id
        FOR KEY SHARE
        "#,
        tenant_id.0,
        &ContactId::column(ids),
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found)
}

/// Drafts as columns, as `unnest` takes them.
#[derive(Default)]
struct Columns<'a> {
    first_names: Vec<Option<&'a str>>,
    last_names: Vec<Option<&'a str>>,
    names_normalized: Vec<String>,
    phones: Vec<Option<&'a str>>,
    emails: Vec<Option<&'a str>>,
    emails_normalized: Vec<Option<&'a str>>,
    countries: Vec<Option<&'a str>>,
    zips: Vec<Option<&'a str>>,
    timezones: Vec<Option<&'a str>>,
    attributes: Vec<String>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, draft: &'a ContactDraft, name_normalized: String) {
        let (phone, email_normalized) = draft.identity();
        self.first_names.push(draft.first_name.as_deref());
        self.last_names.push(draft.last_name.as_deref());
        self.names_normalized.push(name_normalized);
        self.phones.push(phone);
        self.emails
            .push(draft.email.as_ref().map(EmailAddress::as_str));
        self.emails_normalized.push(email_normalized);
        self.countries.push(draft.country.as_deref());
        self.zips.push(draft.zip.as_deref());
        self.timezones.push(draft.timezone.as_deref());
        self.attributes
            .push(serde_json::json!(draft.attributes).to_string());
    }
}
