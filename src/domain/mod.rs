//! Types and rules. Nothing here does I/O, reads a clock or knows a database.
//!
//! The words, one per thing:
//!
//! - **message**: one recipient, one channel, one frozen content.
//! - **attempt**: a committed permission to make one provider call.
//! - **event**: what a provider told us about a message.
//! - **job**: a row of the queue; **order**: its payload.
//! - **lane**: what one tenant has waiting behind one sender, class and campaign.
//! - **turn**: a tenant's place in the ring; it is dealt out over the tenant's lanes.
//! - **bucket**: a rate limit; **halt**: a sender that must not send for now.
//! - **phase**: where a message is with us; **status**: what the provider says of it.

pub mod actor;
pub mod attempt;
pub mod audit;
pub mod campaign;
pub mod channel;
pub mod contact;
pub mod content;
pub mod counts;
pub mod csv_file;
pub mod demo;
pub mod demo_seed;
pub mod doubt;
pub mod email;
pub mod feedback;
pub mod holds;
pub mod ids;
pub mod import;
pub mod members;
pub mod message;
pub mod orders;
pub mod phone;
pub mod rate;
pub mod recipient;
pub mod reconcile_provider;
pub mod release;
pub mod retries;
pub mod search;
pub mod segments;
pub mod senders;
pub mod shown;
pub mod single;
pub mod status;
pub mod template;
pub mod templates;
pub mod tenant;

/// A word from a row or a request that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not a {kind}")]
pub struct UnknownWord {
    /// The type that should have held it.
    pub kind: &'static str,
    /// What stood there.
    pub word: String,
}
