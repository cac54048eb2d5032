//! The record of a change: who made it, what it was, and what was there before and after.
//!
//! A record outlives what it is about and is never changed, so it holds no secret and nobody's address.

use serde_json::Value;

use super::actor::{Actor, Operator, Who};
use super::ids::{ApiKeyId, UserId};

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Somebody who is signed in.
    User(UserId),
    /// A tenant's program.
    ApiKey(ApiKeyId),
    /// Whoever runs this installation, on its command line.
    Operator,
    /// The product itself.
    System,
}

impl Author {
    /// The kind, as stored.
    pub fn kind(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::ApiKey(_) => "api_key",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }

    /// Which one, where there are several.
    pub fn id(self) -> Option<String> {
        match self {
            Self::User(id) => Some(id.to_string()),
            Self::ApiKey(id) => Some(id.to_string()),
            Self::Operator | Self::System => None,
        }
    }
}

impl From<&Actor> for Author {
    fn from(actor: &Actor) -> Self {
        match actor.who {
            Who::User(id) => Self::User(id),
            Who::ApiKey(id) => Self::ApiKey(id),
        }
    }
}

impl From<&Operator> for Author {
    fn from(operator: &Operator) -> Self {
        Self::User(operator.user_id)
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// What was done: the name of the operation.
    pub action: &'static str,
    /// The kind of thing it was done to.
    pub target_kind: &'static str,
    /// Which one.
    pub target_id: Option<String>,
    /// What it was before.
    pub before: Option<Value>,
    /// What it is now.
    pub after: Option<Value>,
}

impl AuditEntry {
    /// A change of one thing.
    pub fn new(action: &'static str, target_kind: &'static str, target_id: &impl ToString) -> Self {
        Self {
            action,
            target_kind,
            target_id: Some(target_id.to_string()),
            before: None,
            after: None,
        }
    }

    /// What it was. No secret, no address of a person.
    #[must_use]
    pub fn before(mut self, value: Value) -> Self {
        self.before = Some(value);
        self
    }

    /// What it is now. No secret, no address of a person.
    #[must_use]
    pub fn after(mut self, value: Value) -> Self {
        self.after = Some(value);
        self
    }

    /// The detail as stored, with the request that asked for it.
    pub fn detail(&self, request_id: Option<uuid::Uuid>) -> Value {
        let parts = [
            (
                "request_id",
                request_id.map(|id| Value::String(id.to_string())),
            ),
            ("before", self.before.clone()),
            ("after", self.after.clone()),
        ];
        Value::Object(
            parts
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect(),
        )
    }
}
