//! Finding anything of a tenant by what somebody types or pastes: each statement is one key, or one range, of an index.

use chrono::{DateTime, Utc};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::contact_search::{SearchBy, upper_bound};
use super::contacts::{self, Contact};
use super::{StoreError, StoreResult, TenantTx, campaigns, lists, templates};
use crate::domain::campaign::CampaignStatus;
use crate::domain::channel::Channel;
use crate::domain::ids::{CampaignId, ContactId, ListId, MessageId, TemplateId, TenantId};
use crate::domain::message::{DropReason, Phase};
use crate::domain::search::Sought;

/// Things of one kind at most.
pub const FOUND_MAX: usize = 10;

/// What was found, by kind; [`FOUND_MAX`] of each at most.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// By number first, then by email address, then by name.
    pub contacts: Vec<FoundContact>,
    /// By name.
    pub campaigns: Vec<FoundCampaign>,
    /// By name.
    pub lists: Vec<FoundList>,
    /// By name, those in use.
    pub templates: Vec<FoundTemplate>,
    /// The newest first.
    pub messages: Vec<FoundMessage>,
}

/// A contact, as much as tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundContact {
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
}

impl From<Contact> for FoundContact {
    fn from(contact: Contact) -> Self {
        Self {
            id: contact.id,
            first_name: contact.first_name,
            last_name: contact.last_name,
            phone_e164: contact.phone_e164,
            email: contact.email,
        }
    }
}

/// A campaign, as much as tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCampaign {
    /// Which one.
    pub id: CampaignId,
    /// What people call it.
    pub name: String,
    /// How it reaches people.
    pub channel: Channel,
    /// Where it is.
    pub status: CampaignStatus,
}

/// A list, as much as tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundList {
    /// Which one.
    pub id: ListId,
    /// What people call it.
    pub name: String,
}

/// A template, as much as tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTemplate {
    /// Which one.
    pub id: TemplateId,
    /// What people call it.
    pub name: String,
    /// The channel it is written for.
    pub channel: Channel,
}

/// A message, as much as tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMessage {
    /// Which one.
    pub id: MessageId,
    /// The campaign it belongs to, and what people call that.
    pub campaign: Option<(CampaignId, String)>,
    /// Whom it is for.
    pub contact_id: Option<ContactId>,
    /// How it reaches them.
    pub channel: Channel,
    /// Number or address; none after it was erased.
    pub address: Option<String>,
    /// Where it is with us.
    pub phase: Phase,
    /// Since when.
    pub phase_at: DateTime<Utc>,
    /// Why it will not be sent.
    pub drop_reason: Option<DropReason>,
    /// The provider's word.
    pub status: Option<String>,
}

/// Looks for everything that the text may be.
pub async fn find_all(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sought: &Sought,
) -> StoreResult<Found> {
    let mut found = find_named(tx, tenant_id, &sought.name).await?;
    let hits = list_contacts(tx, tenant_id, sought).await?;
    // What was sent to a number or an address is what it is looked for by; a name may be many people's.
    let addressed = hits.iter().filter(|(by, _)| *by != SearchBy::Name);
    let addressed: Vec<ContactId> = addressed.map(|(_, contact)| contact.id).collect();
    for (_, contact) in hits {
        let is_known = found.contacts.iter().any(|known| known.id == contact.id);
        if !is_known && found.contacts.len() < FOUND_MAX {
            found.contacts.push(contact);
        }
    }
    found.messages = list_newest_messages(tx, tenant_id, &addressed).await?;
    if let Some(provider_message_id) = &sought.provider_message_id {
        let ids = list_ids_by_provider(tx, tenant_id, provider_message_id).await?;
        add_messages(&mut found, tx, tenant_id, &ids).await?;
    }
    if let Some(id) = sought.id {
        add_by_id(&mut found, tx, tenant_id, id).await?;
    }
    Ok(found)
}

async fn add_messages(
    found: &mut Found,
    tx: &mut TenantTx,
    tenant_id: TenantId,
    ids: &[MessageId],
) -> StoreResult<()> {
    for message in list_messages(tx, tenant_id, ids).await? {
        if !found.messages.iter().any(|known| known.id == message.id) {
            found.messages.insert(0, message);
        }
    }
    found.messages.truncate(FOUND_MAX);
    Ok(())
}

/// Adds what has this id, whatever it is.
async fn add_by_id(
    found: &mut Found,
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: Uuid,
) -> StoreResult<()> {
    let contact = contacts::load_contact(tx, tenant_id, ContactId(id)).await;
    found
        .contacts
        .extend(if_there(contact)?.map(FoundContact::from));
    let campaign = campaigns::load_campaign(tx.conn(), tenant_id, CampaignId(id)).await;
    let campaign = if_there(campaign)?.map(|campaign| FoundCampaign {
        id: campaign.id,
        name: campaign.name,
        channel: campaign.channel,
        status: campaign.status,
    });
    found.campaigns.extend(campaign);
    let list = lists::load_list(tx, tenant_id, ListId(id)).await;
    let list = if_there(list)?.map(|list| FoundList {
        id: list.id,
        name: list.name,
    });
    found.lists.extend(list);
    let template = templates::load_template(tx, tenant_id, TemplateId(id)).await;
    let template = if_there(template)?.map(|template| FoundTemplate {
        id: template.id,
        name: template.name,
        channel: template.channel,
    });
    found.templates.extend(template);
    add_messages(found, tx, tenant_id, &[MessageId(id)]).await
}

fn if_there<T>(loaded: StoreResult<T>) -> StoreResult<Option<T>> {
    match loaded {
        Ok(thing) => Ok(Some(thing)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Campaigns, lists and templates by the beginning of their name.
async fn find_named(tx: &mut TenantTx, tenant_id: TenantId, prefix: &str) -> StoreResult<Found> {
    let rows = query!(
        r#"
        (SELECT id AS "id!", name AS "name!", channel, status
         FROM campaigns
         WHERE tenant_id = $1 AND name_normalized >= $2 AND name_normalized < $3
           -- The range is the beginning alone where texts are ordered byte by byte; elsewhere this keeps it so.
           AND starts_with(name_normalized, $2)
         ORDER BY name_normalized, id
         LIMIT $4)
        UNION ALL
        (SELECT id, name, channel, NULL
         FROM templates
         WHERE tenant_id = $1 AND name_normalized >= $2 AND name_normalized < $3 AND NOT is_archived
           AND starts_with(name_normalized, $2)
         ORDER BY name_normalized, id
         LIMIT $4)
        UNION ALL
        (SELECT id, name, NULL, NULL
         FROM contact_lists
         WHERE tenant_id = $1 AND name_normalized >= $2 AND name_normalized < $3
           AND starts_with(name_normalized, $2)
         ORDER BY name_normalized, id
         LIMIT $4)
        "#,
        tenant_id.0,
        prefix,
        upper_bound(prefix),
        FOUND_MAX as i64,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut found = Found::default();
    for row in rows {
        let name = row.name;
        match (row.channel, row.status) {
            (Some(channel), Some(status)) => found.campaigns.push(FoundCampaign {
                id: CampaignId(row.id),
                name,
                channel: channel.parse()?,
                status: status.parse()?,
            }),
            (Some(channel), None) => found.templates.push(FoundTemplate {
                id: TemplateId(row.id),
                name,
                channel: channel.parse()?,
            }),
            (None, _) => found.lists.push(FoundList {
                id: ListId(row.id),
                name,
            }),
        }
    }
    Ok(found)
}

/// Contacts by the beginning of a number, an address or a name, with what each was found by, in this order. One who is
/// found by several is there several times.
async fn list_contacts(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    sought: &Sought,
) -> StoreResult<Vec<(SearchBy, FoundContact)>> {
    let above: Vec<String> = sought.phones.iter().map(|it| upper_bound(it)).collect();
    let rows = query!(
        r#"
        WITH hits AS MATERIALIZED (
            SELECT 0 AS found_by, u.place, h.key, h.id
            FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS u (low, high, place)
            CROSS JOIN LATERAL (
                SELECT c.phone_e164 AS key, c.id
                FROM contacts c
                WHERE c.tenant_id = $1 AND c.phone_e164 >= u.low AND c.phone_e164 < u.high
                  AND starts_with(c.phone_e164, u.low)
                ORDER BY c.phone_e164, c.id
                LIMIT $8
            ) h
            UNION ALL
            (SELECT 1, 1, c.email_normalized, c.id
             FROM contacts c
             WHERE c.tenant_id = $1 AND c.email_normalized >= $4 AND c.email_normalized < $5
               AND starts_with(c.email_normalized, $4)
             ORDER BY c.email_normalized, c.id
             LIMIT $8)
            UNION ALL
            (SELECT 2, 1, c.name_normalized, c.id
             FROM contacts c
             WHERE c.tenant_id = $1 AND c.name_normalized >= $6 AND c.name_normalized < $7
               AND starts_with(c.name_normalized, $6)
             ORDER BY c.name_normalized, c.id
             LIMIT $8)
        )
        SELECT h.found_by AS "found_by!", c.id, c.first_name, c.last_name, c.phone_e164, c.email
        FROM hits h
        JOIN contacts c ON c.tenant_id = $1 AND c.id = h.id
        ORDER BY h.found_by, h.place, h.key, h.id
        "#,
        tenant_id.0,
        &sought.phones,
        &above,
        sought.email,
        sought.email.as_deref().map(upper_bound),
        sought.name,
        upper_bound(&sought.name),
        FOUND_MAX as i64,
    )
    .fetch_all(tx.conn())
    .await?;
    let hits = rows.into_iter().map(|row| {
        let by = match row.found_by {
            0 => SearchBy::Phone,
            1 => SearchBy::Email,
            _ => SearchBy::Name,
        };
        let contact = FoundContact {
            id: ContactId(row.id),
            first_name: row.first_name,
            last_name: row.last_name,
            phone_e164: row.phone_e164,
            email: row.email,
        };
        (by, contact)
    });
    Ok(hits.collect())
}

struct MessageRow {
    id: Uuid,
    campaign_id: Option<Uuid>,
    campaign_name: Option<String>,
    contact_id: Option<Uuid>,
    channel: String,
    address: Option<String>,
    phase: i16,
    phase_at: DateTime<Utc>,
    drop_reason: Option<String>,
    status: Option<String>,
}

impl TryFrom<MessageRow> for FoundMessage {
    type Error = StoreError;

    fn try_from(row: MessageRow) -> StoreResult<Self> {
        Ok(Self {
            id: MessageId(row.id),
            campaign: row.campaign_id.map(CampaignId).zip(row.campaign_name),
            contact_id: row.contact_id.map(ContactId),
            channel: row.channel.parse()?,
            address: row.address,
            phase: row.phase.try_into()?,
            phase_at: row.phase_at,
            drop_reason: row.drop_reason.map(|word| word.parse()).transpose()?,
            status: row.status,
        })
    }
}

async fn list_messages(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    ids: &[MessageId],
) -> StoreResult<Vec<FoundMessage>> {
    let rows = query_as!(
        MessageRow,
        r#"
        SELECT m.id, m.campaign_id, c.name AS "campaign_name?", m.contact_id, m.channel,
               COALESCE(m.phone_number, m.email_address) AS address, m.phase, m.phase_at, m.drop_reason, m.status
        FROM unnest($2::uuid[]) AS u (id)
        JOIN messages m ON m.tenant_id = $1 AND m.id = u.id
        LEFT JOIN campaigns c ON c.tenant_id = $1 AND c.id = m.campaign_id
        ORDER BY m.id
        "#,
        tenant_id.0,
        &MessageId::column(ids),
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(FoundMessage::try_from).collect()
}

/// The newest messages to any of these contacts, the newest first.
async fn list_newest_messages(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contact_ids: &[ContactId],
) -> StoreResult<Vec<FoundMessage>> {
    if contact_ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = query_as!(
        MessageRow,
        r#"
        SELECT m.id, m.campaign_id, c.name AS "campaign_name?", m.contact_id, m.channel,
               COALESCE(m.phone_number, m.email_address) AS address, m.phase, m.phase_at, m.drop_reason, m.status
        FROM unnest($2::uuid[]) AS u (contact_id)
        CROSS JOIN LATERAL (
            SELECT m.id, m.campaign_id, m.contact_id, m.channel, m.phone_number, m.email_address, m.phase, m.phase_at,
                   m.drop_reason, m.status
            FROM messages m
            WHERE m.tenant_id = $1 AND m.contact_id = u.contact_id
            ORDER BY m.id DESC
            LIMIT $3
        ) m
        LEFT JOIN campaigns c ON c.tenant_id = $1 AND c.id = m.campaign_id
        ORDER BY m.id DESC
        LIMIT $3
        "#,
        tenant_id.0,
        &ContactId::column(contact_ids),
        FOUND_MAX as i64,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(FoundMessage::try_from).collect()
}

/// The messages that a provider knows by this id. A provider's ids are its account's, so those accounts are asked that
/// the tenant sends, or has sent, through.
async fn list_ids_by_provider(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    provider_message_id: &str,
) -> StoreResult<Vec<MessageId>> {
    let ids = query_scalar!(
        r#"
        SELECT p.message_id AS "id: MessageId"
        FROM (
            SELECT s.provider, s.account_ref FROM senders s WHERE s.tenant_id = $1
            UNION
            SELECT c.provider, c.account_ref
            FROM tenant_channel_credentials_v2 c
            WHERE c.tenant_id = $1 AND c.account_ref IS NOT NULL
        ) a
        -- A fence: with the limit outside, walking a whole index in order looks good while there is little in it.
        CROSS JOIN LATERAL (
            SELECT m.message_id, m.tenant_id
            FROM message_provider_mappings m
            WHERE m.provider = a.provider AND m.provider_account = a.account_ref AND m.provider_message_id = $2
            OFFSET 0
        ) p
        WHERE p.tenant_id = $1
        LIMIT $3
        "#,
        tenant_id.0,
        provider_message_id,
        FOUND_MAX as i64,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids)
}
