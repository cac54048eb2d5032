//! One newtype per identifier, so that a contact's id can never be passed for a campaign's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtypes {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
            poem_openapi::NewType,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The columns of many ids, as `unnest` takes them.
            pub fn column(ids: &[Self]) -> Vec<Uuid> {
                ids.iter().map(|id| id.0).collect()
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    )+};
}

uuid_newtypes! {
    /// A customer of the installation; every row and every payload names one.
    TenantId,
    /// A person who signs in.
    UserId,
    /// One sign-in of a person; it opens nothing by itself.
    SessionId,
    /// An invitation to a tenant.
    InvitationId,
    /// A key of a tenant's program.
    ApiKeyId,
    /// A person a tenant writes to.
    ContactId,
    /// A named set of contacts.
    ListId,
    /// One upload of contacts.
    ImportId,
    /// A template's name; its text lies in versions.
    TemplateId,
    /// One immutable text of a template.
    TemplateVersionId,
    /// A campaign.
    CampaignId,
    /// Where messages come from: number, WhatsApp sender, mail identity.
    SenderId,
    /// A brand, as one submission to the carriers.
    BrandId,
    /// One message. Always used with its tenant, since an id alone scans every partition.
    MessageId,
    /// One attempt; the token that callbacks carry.
    AttemptId,
}

/// A message as every statement names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey {
    /// Whose message it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub id: MessageId,
}

impl MessageKey {
    /// Two columns, as `unnest` takes them.
    pub fn columns(keys: &[Self]) -> (Vec<Uuid>, Vec<Uuid>) {
        keys.iter().map(|key| (key.tenant_id.0, key.id.0)).unzip()
    }
}

/// A lane's number. It never leaves the cell.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[sqlx(transparent)]
pub struct LaneId(pub i64);

/// One start of one process. Its number never leaves the cell.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[sqlx(transparent)]
pub struct Incarnation(pub i64);
