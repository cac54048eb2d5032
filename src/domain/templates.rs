//! Templates: a name, and texts that never change once they are a version. An archived one is for nothing new; what was
//! made with it keeps its version.

use chrono::{DateTime, Utc};

use super::channel::Channel;
use super::content::Source;
use super::ids::{TemplateId, TemplateVersionId};

/// A template with its current version.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Which one.
    pub id: TemplateId,
    /// What people call it; unique within the tenant.
    pub name: String,
    /// The channel it is written for.
    pub channel: Channel,
    /// Whether it is for nothing new.
    pub is_archived: bool,
    /// What it says now.
    pub version: TemplateVersion,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// One immutable text.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateVersion {
    /// Which one.
    pub id: TemplateVersionId,
    /// Whose text it is.
    pub template_id: TemplateId,
    /// Counted from 1.
    pub version: i32,
    /// The channel it is written for.
    pub channel: Channel,
    /// The subject, of emails.
    pub subject: Option<String>,
    /// The text.
    pub body: String,
    /// The HTML, of emails.
    pub html: Option<String>,
    /// Every variable it may ask for.
    pub variables: Vec<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// Why nothing new is made of a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template {name:?} is archived; unarchive it, or choose another one")]
pub struct TemplateArchived {
    /// What people call it.
    pub name: String,
}

impl Template {
    /// Goes on only when something new may be made of it: a campaign, a message, a version.
    ///
    /// # Errors
    /// [`TemplateArchived`].
    pub fn require_usable(&self) -> Result<(), TemplateArchived> {
        if self.is_archived {
            let name = self.name.clone();
            return Err(TemplateArchived { name });
        }
        Ok(())
    }
}

impl TemplateVersion {
    /// Its texts, to be compiled.
    pub fn source(&self) -> Source<'_> {
        Source {
            subject: self.subject.as_deref(),
            body: &self.body,
            html: self.html.as_deref(),
        }
    }
}
