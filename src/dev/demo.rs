//! Demo tenants: an ordinary tenant with a simulated provider account and a sender per channel.

use uuid::Uuid;

use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{SenderId, TenantId};
use crate::store::control::directory;
use crate::store::senders::{Sender, insert_account, insert_default_sender};
use crate::store::{Db, StoreResult, tenants};

/// Makes a demo tenant, `control` first, and says its id. One that has this `slug` already is made whole and returned, so
/// that a start that was killed in the middle may run again.
pub async fn ensure_demo_tenant(db: &Db, name: &str, slug: &str) -> StoreResult<TenantId> {
    let mut tx = db.control_system().begin().await?;
    let known = directory::find_by_slug(&mut tx, slug).await?;
    let id = known.unwrap_or_else(|| TenantId(Uuid::now_v7()));
    let tenant = directory::NewTenant {
        id,
        name,
        slug,
        is_demo: true,
    };
    directory::insert_tenant(&mut tx, &tenant).await?;
    tx.commit().await?;

    let mut tx = db.cell(id).begin().await?;
    let tenant = tenants::NewTenant {
        id,
        name,
        default_country: "US",
        is_demo: true,
        is_consent_attested: true,
    };
    tenants::insert_tenant(&mut tx, &tenant).await?;
    tx.commit().await?;

    // System: provider accounts belong to no tenant, since several may share one.
    let mut tx = db.system().begin().await?;
    let account_ref = format!("demo:{id}");
    insert_account(&mut tx, &account_ref, Provider::Demo).await?;
    for channel in Channel::ALL.iter().copied() {
        let sender = Sender {
            id: SenderId(Uuid::now_v7()),
            channel,
            provider: Provider::Demo,
            account_ref: account_ref.clone(),
            address: sender_address(channel, id, slug),
        };
        insert_default_sender(&mut tx, id, &sender).await?;
    }
    tx.commit().await?;
    Ok(id)
}

/// An address that no other tenant has and nobody can be reached at: country code 999 is reserved.
///
/// Source: ITU-T E.164, list of assigned country codes (999: reserved for future global service).
fn sender_address(channel: Channel, id: TenantId, slug: &str) -> String {
    let number = || format!("+999{:012}", id.0.as_u128() % 1_000_000_000_000);
    match channel {
        Channel::Sms => number(),
        Channel::Whatsapp => format!("whatsapp:{}", number()),
        Channel::Email => format!("hello@{slug}.example"),
    }
}
