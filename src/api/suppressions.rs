//! Addresses never to write to: those who opted out, and those that somebody entered.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::body::Body;
use super::change::{Facts, Once, Turn};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{AsJson, Created, Done};
use super::state::ApiState;
use crate::delivery::contacts::suppress;
use crate::delivery::single::read_address;
use crate::domain::actor::{Actor, Permission};
use crate::domain::audit::AuditEntry;
use crate::domain::channel::Channel;
use crate::domain::ids::ContactId;
use crate::store::suppressions::{self, After, Suppression};
use crate::store::{TenantTx, tenants};

/// The operations on suppressions.
#[derive(Debug)]
pub struct Suppressions {
    state: ApiState,
}

/// An address to write to no more.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewSuppression {
    /// The channel; a number is suppressed for SMS and WhatsApp apart.
    channel: Channel,
    /// Number or email address.
    #[oai(validator(min_length = 1, max_length = 320))]
    address: String,
    /// Where the wish came from, for those who look later.
    #[oai(validator(max_length = 255))]
    source: Option<String>,
}

/// An address on a channel that is not written to. The address itself is not kept, only a mark that recognises it.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct SuppressionView {
    /// Its id.
    id: String,
    /// The channel.
    channel: Channel,
    /// `opt_out`, `unsubscribe`, `complaint`, `bounce`, `provider`, `manual` or `erased`.
    reason: String,
    /// Where that came from.
    source: Option<String>,
    /// A contact with this address, if there is one.
    contact_id: Option<ContactId>,
    /// Since when.
    created_at: DateTime<Utc>,
}

#[OpenApi(tag = "Tag::Suppressions")]
impl Suppressions {
    /// Suppress an address.
    ///
    /// Nothing is sent to it on this channel from now on; what waits for it is dropped as opted out. One that is
    /// suppressed already stays as it is, with its first reason.
    #[oai(
        path = "/suppressions",
        method = "post",
        operation_id = "create_suppression"
    )]
    async fn create_suppression(
        &self,
        actor: Actor,
        once: Once,
        body: Body<NewSuppression>,
    ) -> ApiResult<Created<SuppressionView>> {
        actor.require(Permission::WriteContacts)?;
        let new = body.0;
        let mut change = match once.in_cell(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let tx = change.tx();
        let mac = self.mac(tx, &actor, new.channel, &new.address).await?;
        let source = new.source.as_deref();
        suppress(tx, actor.tenant_id, new.channel, &mac, "manual", source).await?;
        let found = suppressions::load_suppression(tx, actor.tenant_id, new.channel, &mac).await?;
        let view = SuppressionView::from(found);
        let entry =
            AuditEntry::new("create_suppression", "suppression", &view.id).after(view.as_json());
        change.commit(entry, Created(view)).await
    }

    /// List suppressed addresses.
    ///
    /// The newest first. With `channel` and `address` the one of that address, to see whether it is there.
    #[oai(
        path = "/suppressions",
        method = "get",
        operation_id = "list_suppressions"
    )]
    async fn list_suppressions(
        &self,
        actor: Actor,
        /// Of this channel alone.
        channel: Query<Option<Channel>>,
        /// Of this number or email address alone; needs `channel`.
        #[oai(validator(max_length = 320))]
        address: Query<Option<String>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<SuppressionView>>> {
        actor.require(Permission::ReadContacts)?;
        let page = PageRequest::<After>::new("suppressions", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let mac = match (channel.0, address.0) {
            (_, None) => None,
            (Some(channel), Some(address)) => {
                Some(self.mac(&mut tx, &actor, channel, &address).await?)
            }
            (None, Some(_)) => return Err(channel_missing()),
        };
        let rows = suppressions::list_suppressions(
            &mut tx,
            actor.tenant_id,
            channel.0,
            mac.as_deref(),
            page.after.as_ref(),
            page.rows_to_load(),
        )
        .await?;
        Ok(Json(
            page.page(rows, |row| (row.created_at, row.dest_mac.clone())),
        ))
    }

    /// Lift a suppression.
    ///
    /// The address may be written to again. Only for whoever asked for it: a person who opted out has to opt in anew.
    #[oai(
        path = "/suppressions/:suppression_id",
        method = "delete",
        operation_id = "delete_suppression"
    )]
    async fn delete_suppression(
        &self,
        actor: Actor,
        facts: Facts,
        /// The suppression.
        suppression_id: Path<String>,
    ) -> ApiResult<Done> {
        actor.require(Permission::LiftSuppressions)?;
        let (channel, mac) =
            parse_id(&suppression_id.0).ok_or_else(|| ApiError::not_found("suppression"))?;
        let mut change = facts.in_cell(&self.state, &actor).await?;
        let tx = change.tx();
        let found = suppressions::load_suppression(tx, actor.tenant_id, channel, &mac).await?;
        suppressions::delete_suppression(tx, actor.tenant_id, channel, &mac).await?;
        let view = SuppressionView::from(found);
        let entry =
            AuditEntry::new("delete_suppression", "suppression", &view.id).before(view.as_json());
        change.finish(entry).await?;
        Ok(Done)
    }
}

impl Suppressions {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn mac(
        &self,
        tx: &mut TenantTx,
        actor: &Actor,
        channel: Channel,
        address: &str,
    ) -> ApiResult<Vec<u8>> {
        let tenant = tenants::load_tenant(tx, actor.tenant_id).await?;
        let (_, normalized) = read_address(channel, address, &tenant.default_country)?;
        Ok(self.state.mac_key.address(&normalized))
    }
}

fn channel_missing() -> ApiError {
    ApiError::new(
        ProblemType::InvalidParameter,
        "Name the 'channel' of the 'address'.",
    )
    .with_field("channel", "is missing")
}

fn id_of(channel: Channel, mac: &[u8]) -> String {
    use std::fmt::Write;
    mac.iter().fold(format!("{channel}-"), |mut text, byte| {
        // Writing into a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_id(id: &str) -> Option<(Channel, Vec<u8>)> {
    let (channel, digits) = id.split_once('-')?;
    let byte = |place| u8::from_str_radix(digits.get(place..place + 2)?, 16).ok();
    let mac: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    Some((channel.parse().ok()?, mac?))
}

impl From<Suppression> for SuppressionView {
    fn from(row: Suppression) -> Self {
        Self {
            id: id_of(row.channel, &row.dest_mac),
            channel: row.channel,
            reason: row.reason,
            source: row.source,
            contact_id: row.contact_id,
            created_at: row.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_rubbish_is_none() {
        let id = id_of(Channel::Sms, &[0, 171, 255]);
        assert_eq!(id, "sms-00abff");
        assert_eq!(parse_id(&id), Some((Channel::Sms, vec![0, 171, 255])));
        for rubbish in ["", "sms", "fax-00", "sms-0", "sms-zz", "sms-é1"] {
            assert_eq!(parse_id(rubbish), None, "{rubbish}");
        }
    }
}
