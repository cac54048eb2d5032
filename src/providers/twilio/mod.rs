//! Twilio: text messages out, their status in.
//!
//! One request per call, never repeated by anything below: no retries, no redirects, HTTP/1.1. What an answer means is a
//! pure function in [`sms`]; whatever is not certain is doubt. Tokens are opened here alone.

mod client;
pub mod codes;
mod lists;
pub mod sms;
pub mod verify;

use secrecy::SecretString;
use uuid::Uuid;

pub use self::client::Twilio;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::sealed::{Place, SealError, Sealed, open};
use crate::domain::ids::TenantId;

/// The table of credentials, and the column of the token: parts of the place that a token is bound to.
const TABLE: &str = "tenant_channel_credentials_v2";
const COLUMN: &str = "twilio_auth_token_encrypted";

/// A tenant's account, its token sealed.
#[derive(Debug, Clone)]
pub struct Account {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The row of the credentials.
    pub credentials_id: Uuid,
    /// `AC…`.
    pub account_sid: String,
    /// The token.
    pub auth_token: Sealed,
}

/// Where the token of these credentials lies.
pub fn place_of_token(tenant_id: TenantId, credentials_id: Uuid) -> Place {
    Place {
        tenant_id,
        table: TABLE,
        column: COLUMN,
        row: credentials_id,
    }
}

/// What Twilio calls a message: `SM` or `MM`, and 32 hexadecimal digits.
fn is_sid(text: &str) -> bool {
    let digits = text.strip_prefix("SM").or_else(|| text.strip_prefix("MM"));
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|c| c.is_ascii_hexdigit()))
}

impl Account {
    fn token(&self, keys: &KeyRing) -> Result<SecretString, SealError> {
        let place = place_of_token(self.tenant_id, self.credentials_id);
        open(keys, place, &self.auth_token)
    }
}
