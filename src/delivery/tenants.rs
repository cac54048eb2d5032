//! The cell's row of a tenant follows the directory: its name, its status, and that it is there at all.
//!
//! Whoever changes the directory calls this after the commit; who dies between the two is made up for by `SyncTenants`.
//! Running twice, late or in the wrong order is harmless: the row follows versions, and an older one changes nothing.

use uuid::Uuid;

use crate::domain::channel::{Channel, Provider};
use crate::domain::ids::{SenderId, TenantId};
use crate::domain::tenant::TenantStatus;
use crate::store::control::directory::{self, DirectoryEntry};
use crate::store::senders::{Sender, insert_account, insert_default_sender};
use crate::store::{Db, LANES, StoreResult, SystemTx, lanes, tenants};

/// Makes the cell's part of a tenant as the directory says now.
///
/// When a tenant that is not active has been followed, no call of it begins any more.
pub async fn follow_directory(db: &Db, id: TenantId) -> StoreResult<()> {
    let mut tx = db.control_system().begin().await?;
    let entry = directory::load_tenant(&mut tx, id).await?;
    drop(tx);

    // System: what follows is the platform's, and the provider account belongs to no tenant.
    let mut tx = db.system().begin().await?;
    let is_active = entry.status == TenantStatus::Active;
    if !is_active {
        // Before the row, as a pause does: a begin that is under way commits first.
        tenants::lock_out_begins(&mut tx, id).await?;
    }
    let has_changed = tenants::follow(&mut tx, &entry).await?;
    if is_active && has_changed {
        lanes::wake_tenant(tx.conn(), id).await?;
        tx.announce(LANES, 0);
    }
    if entry.is_demo && is_active {
        ensure_demo_senders(&mut tx, &entry).await?;
    }
    tx.commit().await?;

    let mut tx = db.control_system().begin().await?;
    directory::mark_synced(&mut tx, id, entry.version).await?;
    tx.commit().await
}

/// The account that simulates a demo tenant's provider.
pub fn demo_account(id: TenantId) -> String {
    format!("demo:{id}")
}

async fn ensure_demo_senders(tx: &mut SystemTx, entry: &DirectoryEntry) -> StoreResult<()> {
    let account_ref = demo_account(entry.id);
    insert_account(tx, &account_ref, Provider::Demo).await?;
    for channel in Channel::ALL.iter().copied() {
        let sender = Sender {
            id: SenderId(Uuid::now_v7()),
            channel,
            provider: Provider::Demo,
            account_ref: account_ref.clone(),
            address: sender_address(channel, entry.id, &entry.slug),
        };
        insert_default_sender(tx, entry.id, &sender).await?;
    }
    Ok(())
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
