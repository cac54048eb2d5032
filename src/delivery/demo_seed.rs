//! Fills a demo tenant with what it begins with, when it is made and when it is reset.
//!
//! Once for each time it begins: the tenant's row is held meanwhile and says for which version of the directory it was
//! filled, so that of two who fill, or of one who fills and one who still deletes, the later one finds it done.

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::crypto::mac::MacKey;
use crate::domain::campaign::{Audience, Campaign};
use crate::domain::channel::Channel;
use crate::domain::content::Content;
use crate::domain::demo_seed::{
    CAMPAIGN, CONSENT_SOURCE, CONSENT_WORDING, TEXTS, Text, Unfit, people,
};
use crate::domain::ids::{CampaignId, ContactId, TemplateId, TemplateVersionId, TenantId};
use crate::store::consents::{Attested, AttestedHow};
use crate::store::contacts::NewContact;
use crate::store::templates::NewVersion;
use crate::store::{
    Db, StoreError, StoreResult, TenantTx, campaigns, consents, contacts, templates, tenants,
};

impl From<Unfit> for StoreError {
    fn from(unfit: Unfit) -> Self {
        Self::Unreadable(unfit.to_string())
    }
}

/// Fills a demo tenant as [`fill`], in a transaction of its own.
pub async fn fill_tenant(
    db: &Db,
    tenant_id: TenantId,
    version: i64,
    mac_key: &MacKey,
) -> StoreResult<()> {
    let mut tx = db.cell(tenant_id).begin().await?;
    fill(&mut tx, tenant_id, version, mac_key, db.clock().now()).await?;
    tx.commit().await
}

/// Fills a demo tenant, all or nothing, and answers its campaign, a draft to everybody; none when it was filled for this
/// `version` of the directory before, or has templates of its own.
pub async fn fill(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    version: i64,
    mac_key: &MacKey,
    now: DateTime<Utc>,
) -> StoreResult<Option<CampaignId>> {
    let is_filled = tenants::hold_filled(tx.conn(), tenant_id, version).await?;
    let some = templates::list_templates(tx, tenant_id, true, None, 1).await?;
    if is_filled || !some.is_empty() {
        return Ok(None);
    }
    let people = with_macs(mac_key)?;
    contacts::insert_contacts(tx, tenant_id, &people).await?;
    attest(tx, tenant_id, now, &people).await?;
    let mut content_id = None;
    for text in &TEXTS {
        let version_id = insert_template(tx, tenant_id, text).await?;
        content_id = content_id.or(Some(version_id));
    }
    let ids = (tenant_id, CampaignId(Uuid::now_v7()));
    let audience = Audience::Everybody;
    let campaign = Campaign::draft(ids, CAMPAIGN, Channel::Sms, content_id, audience, now);
    campaigns::insert_campaign(tx, &campaign, None).await?;
    tenants::mark_filled(tx, tenant_id, version).await?;
    Ok(Some(campaign.id))
}

fn with_macs(mac_key: &MacKey) -> StoreResult<Vec<NewContact>> {
    let people = people()?.into_iter().map(|draft| NewContact {
        id: ContactId(Uuid::now_v7()),
        phone_mac: draft.phone.as_ref().map(|it| mac_key.address(it.as_str())),
        email_mac: draft
            .email
            .as_ref()
            .map(|it| mac_key.address(it.normalized())),
        draft,
    });
    Ok(people.collect())
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
        source: CONSENT_SOURCE,
        wording: CONSENT_WORDING,
        evidence: &json!({ "demo": true }),
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
    let content = Content::compile(text.channel, text.source()).map_err(|_| Unfit("template"))?;
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
