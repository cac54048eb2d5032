//! One message by itself, the same for every door: load, decide, accept.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::intake::{Commands, accept_messages};
use crate::clock::Clock;
use crate::crypto::mac::MacKey;
use crate::domain::channel::{Channel, Class};
use crate::domain::content::{Content, Source};
use crate::domain::email::EmailAddress;
use crate::domain::ids::{
    ContactId, LaneId, MessageId, SenderId, TemplateId, TemplateVersionId, TenantId,
};
use crate::domain::phone::E164;
use crate::domain::recipient::Recipient;
use crate::domain::single::SingleRefusal;
use crate::store::contacts::Contact;
use crate::store::messages::{BatchHead, NewMessage};
use crate::store::senders::Sender;
use crate::store::suppressions::read_standing;
use crate::store::{StoreError, TenantTx, contacts, senders, templates, tenants};

/// Whom a single message is for.
#[derive(Debug, Clone)]
pub enum To {
    /// A contact, at its address on the channel.
    Contact(ContactId),
    /// A number or an email address, as somebody wrote it.
    Address(String),
}

/// What a single message says.
#[derive(Debug, Clone)]
pub enum Saying {
    /// A template's current version.
    Template(TemplateId),
    /// A text, which may name variables as a template does.
    Text {
        /// The subject, of emails.
        subject: Option<String>,
        /// The text.
        body: String,
        /// The HTML, of emails.
        html: Option<String>,
    },
}

/// A single message to send.
#[derive(Debug, Clone)]
pub struct Single {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// How it reaches the person.
    pub channel: Channel,
    /// Whether somebody waits for it.
    pub class: Class,
    /// Whom it is for.
    pub to: To,
    /// What it says.
    pub saying: Saying,
    /// Values for its variables, above what is known of the contact.
    pub values: BTreeMap<String, String>,
    /// Where it comes from; the channel's default when absent.
    pub sender_id: Option<SenderId>,
    /// It is not sent when it waits longer.
    pub expires_after: Duration,
}

/// Why a single message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    /// It may not be sent as it is.
    #[error(transparent)]
    Refused(#[from] SingleRefusal),
    /// A thing it names is not there.
    #[error("there is no {what} with this id")]
    Unknown {
        /// The thing.
        what: &'static str,
    },
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Accepts one message in the caller's transaction; release lets it out.
///
/// # Errors
/// [`SingleError::Refused`] when the address opted out, bulk lacks consent, or the text does not fit.
pub async fn send_message(
    tx: &mut TenantTx,
    mac_key: &MacKey,
    clock: &Clock,
    single: &Single,
) -> Result<MessageId, SingleError> {
    let Single {
        tenant_id, channel, ..
    } = *single;
    let sender = senders::find_active(tx.conn(), tenant_id, channel, single.sender_id)
        .await?
        .ok_or(SingleRefusal::NoSender { channel })?;
    let person = find_person(tx, single).await?;
    let (content, content_id) = find_content(tx, single).await?;
    let message = compose(mac_key, single, &person, &content)?;

    let standing = read_standing(tx, tenant_id, channel, &message.dest_mac).await?;
    standing.allow(channel, single.class)?;

    let accepted_at = clock.now();
    let head = BatchHead {
        tenant_id,
        lane_id: LaneId(0),
        campaign_id: None,
        channel,
        provider: sender.provider,
        account_ref: sender.account_ref.clone(),
        content_id,
        accepted_at,
        expires_at: accepted_at + single.expires_after,
    };
    accept(tx, &sender, single.class, head, &message).await?;
    Ok(message.id)
}

/// Who gets it, and where.
struct Person {
    contact_id: Option<ContactId>,
    recipient: Recipient,
    address: String,
    /// The address as MACs are made of it.
    normalized: String,
}

async fn find_person(tx: &mut TenantTx, single: &Single) -> Result<Person, SingleError> {
    match &single.to {
        To::Contact(id) => {
            // Held, so that nobody deletes the contact before its message is there to be dropped.
            let held = contacts::hold_contacts(tx, single.tenant_id, &[*id]).await?;
            if held.is_empty() {
                return Err(SingleError::Unknown { what: "contact" });
            }
            let contact = contacts::load_contact(tx, single.tenant_id, *id).await?;
            Ok(person_of(contact, single.channel)?)
        }
        To::Address(written) => {
            let tenant = tenants::load_tenant(tx, single.tenant_id).await?;
            let mut recipient = Recipient::default();
            let (address, normalized) =
                read_address(single.channel, written, &tenant.default_country)?;
            match single.channel {
                Channel::Sms | Channel::Whatsapp => recipient.phone_e164 = Some(address.clone()),
                Channel::Email => recipient.email = Some(address.clone()),
            }
            Ok(Person {
                contact_id: None,
                recipient,
                address,
                normalized,
            })
        }
    }
}

fn person_of(contact: Contact, channel: Channel) -> Result<Person, SingleRefusal> {
    let contact_id = Some(contact.id);
    let recipient = Recipient::from(contact);
    let address = recipient
        .address(channel)
        .ok_or(SingleRefusal::NoAddress { channel })?
        .to_owned();
    let normalized = match channel {
        Channel::Sms | Channel::Whatsapp => address.clone(),
        Channel::Email => EmailAddress::read(&address)
            .map_err(|refusal| bad_address(&refusal))?
            .normalized()
            .to_owned(),
    };
    Ok(Person {
        contact_id,
        recipient,
        address,
        normalized,
    })
}

/// An address as it is sent to, and as MACs are made of it. National numbers are read in `country`.
pub fn read_address(
    channel: Channel,
    written: &str,
    country: &str,
) -> Result<(String, String), SingleError> {
    match channel {
        Channel::Sms | Channel::Whatsapp => {
            let country = country
                .parse()
                .map_err(|_| StoreError::Unreadable("a tenant's country".into()))?;
            let number =
                E164::read(written.trim(), country).map_err(|refusal| bad_address(&refusal))?;
            Ok((number.as_str().to_owned(), number.as_str().to_owned()))
        }
        Channel::Email => {
            let address =
                EmailAddress::read(written.trim()).map_err(|refusal| bad_address(&refusal))?;
            Ok((address.as_str().to_owned(), address.normalized().to_owned()))
        }
    }
}

fn bad_address(refusal: &impl ToString) -> SingleRefusal {
    SingleRefusal::BadAddress {
        reason: refusal.to_string(),
    }
}

async fn find_content(
    tx: &mut TenantTx,
    single: &Single,
) -> Result<(Content, Option<TemplateVersionId>), SingleError> {
    match &single.saying {
        Saying::Text {
            subject,
            body,
            html,
        } => {
            let source = Source {
                subject: subject.as_deref(),
                body,
                html: html.as_deref(),
            };
            let content = Content::compile(single.channel, source).map_err(SingleRefusal::from)?;
            Ok((content, None))
        }
        Saying::Template(id) => {
            let template = templates::load_template(tx, single.tenant_id, *id)
                .await
                .map_err(|error| match error {
                    StoreError::NotFound { what } => SingleError::Unknown { what },
                    error => SingleError::Store(error),
                })?;
            template.require_usable().map_err(SingleRefusal::from)?;
            if template.channel != single.channel {
                let refusal = SingleRefusal::OtherChannel {
                    template: template.channel,
                    asked: single.channel,
                };
                return Err(refusal.into());
            }
            let version = template.version;
            let content = Content::compile(single.channel, version.source())
                .map_err(|refusal| StoreError::Unreadable(refusal.to_string()))?;
            Ok((content, Some(version.id)))
        }
    }
}

fn compose(
    mac_key: &MacKey,
    single: &Single,
    person: &Person,
    content: &Content,
) -> Result<NewMessage, SingleRefusal> {
    let mut recipient = person.recipient.clone();
    for (name, value) in &single.values {
        recipient.set(name, value);
    }
    let texts = content.render(&recipient.facts())?;
    Ok(NewMessage {
        id: MessageId(Uuid::now_v7()),
        contact_id: person.contact_id,
        address: person.address.clone(),
        dest_mac: mac_key.address(&person.normalized),
        content_mac: mac_key.content(&texts.parts()),
        cost: texts.cost(single.channel)?,
        ready_at: None,
        subject: texts.subject,
        body: texts.body,
        html: texts.html,
    })
}

async fn accept(
    tx: &mut TenantTx,
    sender: &Sender,
    class: Class,
    head: BatchHead,
    message: &NewMessage,
) -> Result<(), StoreError> {
    let commands = Commands {
        sender,
        class,
        head,
        messages: std::slice::from_ref(message),
    };
    accept_messages(tx, commands).await?;
    Ok(())
}
