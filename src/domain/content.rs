//! What one message says: subject, text and HTML, compiled together and rendered for one recipient.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::channel::Channel;
use super::segments::{BodyRefusal, segment_count};
use super::template::{Facts, Markup, RenderRefusal, Template, TemplateRefusal};

/// The texts as somebody wrote them.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The subject, of emails.
    pub subject: Option<&'a str>,
    /// The text.
    pub body: &'a str,
    /// The HTML, of emails.
    pub html: Option<&'a str>,
}

/// The texts, compiled.
#[derive(Debug, Clone)]
pub struct Content {
    subject: Option<Template>,
    body: Template,
    html: Option<Template>,
}

/// The texts for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text.
    pub body: String,
    /// The HTML, of emails.
    pub html: Option<String>,
}

/// Why texts cannot be a template's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentRefusal {
    /// One of them does not compile.
    #[error("{field}: {reason}")]
    Template {
        /// Which one.
        field: &'static str,
        /// Why not.
        reason: TemplateRefusal,
    },
    /// An email has none.
    #[error("an email needs a subject")]
    NoSubject,
    /// There is nothing to say.
    #[error("the body is empty")]
    NoBody,
    /// The channel carries text alone.
    #[error("{channel} carries no {field}")]
    Misplaced {
        /// The channel.
        channel: Channel,
        /// What it does not carry.
        field: &'static str,
    },
}

impl ContentRefusal {
    /// The text that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Template { field, .. } | Self::Misplaced { field, .. } => field,
            Self::NoSubject => "subject",
            Self::NoBody => "body",
        }
    }
}

impl Content {
    /// Compiles the texts of a template for `channel`.
    pub fn compile(channel: Channel, source: Source<'_>) -> Result<Self, ContentRefusal> {
        if source.body.trim().is_empty() {
            return Err(ContentRefusal::NoBody);
        }
        match (channel, source.subject, source.html) {
            (Channel::Email, None, _) => return Err(ContentRefusal::NoSubject),
            (Channel::Email, Some(subject), _) if subject.trim().is_empty() => {
                return Err(ContentRefusal::NoSubject);
            }
            (Channel::Sms | Channel::Whatsapp, Some(_), _) => {
                return Err(ContentRefusal::Misplaced {
                    channel,
                    field: "subject",
                });
            }
            (Channel::Sms | Channel::Whatsapp, _, Some(_)) => {
                return Err(ContentRefusal::Misplaced {
                    channel,
                    field: "html",
                });
            }
            _ => {}
        }
        Ok(Self {
            subject: source
                .subject
                .map(|text| parse("subject", text, Markup::Text))
                .transpose()?,
            body: parse("body", source.body, Markup::Text)?,
            html: source
                .html
                .map(|text| parse("html", text, Markup::Html))
                .transpose()?,
        })
    }

    /// Every variable it may ask for, in alphabetical order; those with a fall-back too.
    pub fn variables(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.templates().flat_map(Template::variables).collect();
        names.into_iter().cloned().collect()
    }

    /// Whether a recipient who lacks `name` alone gets no text: it has no fall-back.
    pub fn requires(&self, name: &str) -> bool {
        let mut facts = Facts::new();
        for other in self.variables().iter().filter(|other| *other != name) {
            facts.add(other, "1");
        }
        let facts = Arc::new(facts);
        self.templates().any(|template| {
            matches!(template.render(&facts), Err(RenderRefusal::MissingVariable(missing)) if missing == name)
        })
    }

    /// The texts for one recipient.
    pub fn render(&self, facts: &Arc<Facts>) -> Result<Rendered, RenderRefusal> {
        let render = |template: &Template| template.render(facts);
        Ok(Rendered {
            subject: self.subject.as_ref().map(render).transpose()?,
            body: self.body.render(facts)?,
            html: self.html.as_ref().map(render).transpose()?,
        })
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        [self.subject.as_ref(), Some(&self.body), self.html.as_ref()]
            .into_iter()
            .flatten()
    }
}

impl Rendered {
    /// What it is paced and billed as: segments of a text message, 1 to 255, and 1 of anything else.
    ///
    /// # Errors
    /// [`BodyRefusal::TooLong`] above 255 segments.
    pub fn cost(&self, channel: Channel) -> Result<i16, BodyRefusal> {
        match channel {
            Channel::Sms => Ok(segment_count(&self.body)?.into()),
            Channel::Whatsapp | Channel::Email => Ok(1),
        }
    }

    /// The parts that make it the same content as another.
    pub fn parts(&self) -> [&str; 3] {
        [
            self.subject.as_deref().unwrap_or(""),
            &self.body,
            self.html.as_deref().unwrap_or(""),
        ]
    }
}

fn parse(field: &'static str, text: &str, markup: Markup) -> Result<Template, ContentRefusal> {
    Template::parse(text, markup).map_err(|reason| ContentRefusal::Template { field, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sms(body: &str) -> Result<Content, ContentRefusal> {
        let source = Source {
            subject: None,
            body,
            html: None,
        };
        Content::compile(Channel::Sms, source)
    }

    #[test]
    fn a_channel_takes_what_it_carries() {
        let cases = [
            (Channel::Sms, None, "a", None, None),
            (Channel::Sms, None, " ", None, Some("body")),
            (Channel::Sms, Some("a"), "a", None, Some("subject")),
            (Channel::Whatsapp, None, "a", Some("<p>"), Some("html")),
            (Channel::Email, None, "a", None, Some("subject")),
            (Channel::Email, Some(""), "a", None, Some("subject")),
            (Channel::Email, Some("a"), "a", Some("<p>"), None),
            (
                Channel::Email,
                Some("a"),
                "a",
                Some("{% if %}"),
                Some("html"),
            ),
        ];
        for (channel, subject, body, html, wrong) in cases {
            let source = Source {
                subject,
                body,
                html,
            };
            let refused = Content::compile(channel, source).err();
            assert_eq!(refused.map(|refusal| refusal.field()), wrong, "{source:?}");
        }
    }

    #[test]
    fn a_variable_with_a_fall_back_is_not_required() {
        let content = sms("{{ name | default('you') }}: {{ points }}").unwrap();
        assert_eq!(content.variables(), ["name", "points"]);
        assert!(content.requires("points"));
        assert!(!content.requires("name"));
    }
}
