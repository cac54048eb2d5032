//! What a template comes to for one person, and for whom it comes to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem_openapi::{Enum, Object};

use super::problem::{ApiError, ApiResult};
use crate::domain::actor::Actor;
use crate::domain::channel::Channel;
use crate::domain::content::{Content, Rendered};
use crate::domain::ids::{ContactId, ImportId};
use crate::domain::recipient::Recipient;
use crate::domain::segments::{self, BodyRefusal, Encoding, measure};
use crate::domain::template::{Facts, RenderRefusal};
use crate::domain::templates::Template;
use crate::store::{TenantTx, contact_variables, contacts, imports};

/// For whom to preview.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub struct PreviewRequest {
    /// Whose values to use.
    contact_id: Option<ContactId>,
    /// Values that stand above the contact's, by variable.
    values: Option<BTreeMap<String, String>>,
    /// Count missing variables among the people of this import; among everybody when absent.
    import_id: Option<ImportId>,
}

/// A preview.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct Preview {
    /// The text for this person; absent when there is none.
    rendered: Option<RenderedView>,
    /// What the text is billed as; absent for other channels than SMS.
    segments: Option<SegmentsView>,
    /// Why this person gets no text.
    refusal: Option<String>,
    /// People with an address on the channel.
    people: i64,
    /// Each variable of the template, and who lacks it.
    variables: Vec<VariableView>,
}

/// A text for one person.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct RenderedView {
    /// The subject, of emails.
    subject: Option<String>,
    /// The text.
    body: String,
    /// The HTML, of emails.
    html: Option<String>,
}

/// How a text is written on the air.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "snake_case")]
enum EncodingView {
    /// 160 characters in one segment, 153 in each of several.
    Gsm7,
    /// 70 characters in one segment, 67 in each of several.
    Ucs2,
}

/// What a text is billed as.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct SegmentsView {
    /// Segments, 1 to 255.
    count: i32,
    /// How it is written.
    encoding: EncodingView,
    /// Characters as the encoding counts them.
    units: i64,
    /// The first character that forces `ucs2`.
    forced_by: Option<String>,
}

/// One variable of a template.
#[derive(Debug, Object)]
struct VariableView {
    /// As the template writes it.
    name: String,
    /// Whether the template has no fall-back for it: people who lack it are skipped.
    is_required: bool,
    /// People who lack it.
    people_missing: i64,
}

/// Renders a template for the person asked for, and counts who lacks what.
pub async fn preview(
    tx: &mut TenantTx,
    actor: &Actor,
    template: &Template,
    request: &PreviewRequest,
) -> ApiResult<Preview> {
    let tenant_id = actor.tenant_id;
    let content = compile(template)?;
    let facts = facts(tx, actor, request).await?;
    let list_id = match request.import_id {
        // An import without a list named nobody: the nil list has no member.
        Some(id) => Some(
            imports::load_import(tx, tenant_id, id)
                .await?
                .list_id
                .map_or(uuid::Uuid::nil(), |list| list.0),
        ),
        None => None,
    };
    let names = content.variables();
    let people = contact_variables::count_people(tx, tenant_id, template.channel, list_id).await?;
    let missing =
        contact_variables::list_missing_variables(tx, tenant_id, template.channel, list_id, &names)
            .await?;
    let variables = names
        .into_iter()
        .map(|name| VariableView {
            is_required: content.requires(&name),
            people_missing: missing
                .iter()
                .find(|missing| missing.name == name)
                .map_or(0, |missing| missing.people),
            name,
        })
        .collect();
    let person = person(template.channel, content.render(&facts));
    Ok(Preview {
        rendered: person.rendered,
        segments: person.segments,
        refusal: person.refusal,
        people,
        variables,
    })
}

/// A stored text compiled before; one that does not now was written by a newer version.
fn compile(template: &Template) -> ApiResult<Content> {
    Content::compile(template.channel, template.version.source()).map_err(ApiError::internal)
}

async fn facts(
    tx: &mut TenantTx,
    actor: &Actor,
    request: &PreviewRequest,
) -> ApiResult<Arc<Facts>> {
    let mut recipient = match request.contact_id {
        Some(id) => contacts::load_contact(tx, actor.tenant_id, id)
            .await?
            .into(),
        None => Recipient::default(),
    };
    for (name, value) in request.values.iter().flatten() {
        recipient.set(name, value);
    }
    Ok(recipient.facts())
}

/// What one person gets.
#[derive(Default)]
struct Person {
    rendered: Option<RenderedView>,
    segments: Option<SegmentsView>,
    refusal: Option<String>,
}

fn person(channel: Channel, rendered: Result<Rendered, RenderRefusal>) -> Person {
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(refusal) => {
            return Person {
                refusal: Some(refusal.to_string()),
                ..Person::default()
            };
        }
    };
    let (segments, refusal) = match channel {
        Channel::Sms => split(measure(&rendered.body)),
        Channel::Whatsapp | Channel::Email => (None, None),
    };
    Person {
        segments,
        refusal,
        rendered: Some(RenderedView {
            subject: rendered.subject,
            body: rendered.body,
            html: rendered.html,
        }),
    }
}

fn split(
    measured: Result<segments::Segments, BodyRefusal>,
) -> (Option<SegmentsView>, Option<String>) {
    match measured {
        Ok(segments) => {
            let view = SegmentsView {
                count: segments.count.into(),
                encoding: match segments.encoding {
                    Encoding::Gsm7 => EncodingView::Gsm7,
                    Encoding::Ucs2 => EncodingView::Ucs2,
                },
                units: segments.units as i64,
                forced_by: segments.forced_by.map(String::from),
            };
            (Some(view), None)
        }
        Err(refusal) => (None, Some(refusal.to_string())),
    }
}
