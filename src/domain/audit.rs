//! The record of a change: who made it, what it was, and what was there before and after.
//!
//! A record outlives what it is about and is never changed, so it holds no secret and nobody's address.

use std::str::FromStr;

use serde::Serialize;
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

/// Characters of a reason, at least.
const REASON_CHARS_MIN: usize = 3;
/// And at most.
const REASON_CHARS_MAX: usize = 500;

/// Why somebody made a change that has to be explained: 3 to 500 characters, without the blanks around them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reason(String);

/// What is no reason: blanks, or more than anybody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must have {REASON_CHARS_MIN} to {REASON_CHARS_MAX} characters, without the blanks around them"
)]
pub struct ReasonRefusal;

impl FromStr for Reason {
    type Err = ReasonRefusal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if (REASON_CHARS_MIN..=REASON_CHARS_MAX).contains(&text.chars().count()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReasonRefusal)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_something_and_not_more_than_anybody_reads() {
        let longest = "é".repeat(REASON_CHARS_MAX);
        let padded = format!(" {longest} ");
        for (text, kept) in [
            ("  the provider lost it\n", "the provider lost it"),
            ("ask", "ask"),
            (padded.as_str(), longest.as_str()),
        ] {
            assert_eq!(text.parse(), Ok(Reason(kept.to_owned())));
        }
        let too_long = "x".repeat(REASON_CHARS_MAX + 1);
        for text in ["", "   ", " no ", too_long.as_str()] {
            assert_eq!(text.parse::<Reason>(), Err(ReasonRefusal), "{text:?}");
        }
        assert_eq!(
            ReasonRefusal.to_string(),
            "must have 3 to 500 characters, without the blanks around them"
        );
    }
}
