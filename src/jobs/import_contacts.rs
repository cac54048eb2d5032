//! Reads an uploaded file into contacts.
//!
//! Each chunk is one transaction: contacts, list, consent, refused rows, counts, and the cursor that says the
//! chunk is read. Running twice is harmless: a run takes the cursor's row, and what was read before is behind it. A
//! run that is killed leaves the last chunk as it was, and the next one reads it again, on whatever machine.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::{Job, JobContext, Outcome, Run, WORK_MAX};
use crate::clock::Clock;
use crate::crypto::mac::MacKey;
use crate::domain::channel::Channel;
use crate::domain::csv_file::FileRefusal;
use crate::domain::ids::ContactId;
use crate::domain::import::batch::Batch;
use crate::domain::import::{Attestation, Import, ImportStatus, OnMatch, Plan};
use crate::domain::orders::ImportContacts;
use crate::domain::phone::Country;
use crate::store::consents::{Attested, AttestedHow};
use crate::store::contacts::NewContact;
use crate::store::{
    Db, StoreError, StoreResult, TenantTx, consents, contacts, imports, lists, tenants,
};

impl Job for ImportContacts {
    async fn run(self, context: &JobContext, run: Run) -> Outcome {
        match import(&self, context, &run).await {
            Ok(Progress::Done) => Outcome::Done,
            Ok(Progress::MoreToDo) => Outcome::Snooze(Duration::ZERO),
            Err(error) => error.into(),
        }
    }
}

/// Whether anything is left to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The import has ended.
    Done,
    /// There are further chunks.
    MoreToDo,
}

async fn import(order: &ImportContacts, context: &JobContext, run: &Run) -> StoreResult<Progress> {
    let started_at = Clock::boottime();
    loop {
        if import_chunk(order, &context.db, &context.mac_key).await? == Progress::Done {
            return Ok(Progress::Done);
        }
        run.gets_on::<ImportContacts>(&context.db).await?;
        if Clock::boottime().saturating_sub(started_at) > WORK_MAX {
            return Ok(Progress::MoreToDo);
        }
    }
}

/// Reads one chunk, and commits what it came to.
pub async fn import_chunk(
    order: &ImportContacts,
    db: &Db,
    mac_key: &MacKey,
) -> StoreResult<Progress> {
    let Some(work) = load(order, db).await? else {
        return Ok(Progress::Done);
    };
    let mac_key = mac_key.clone();
    // Outside a transaction: tens of thousands of rows take a while, and nobody shall wait for a lock meanwhile.
    let read = tokio::task::spawn_blocking(move || work.read(&mac_key));
    let (work, read) = read
        .await
        .map_err(|error| StoreError::Unreadable(format!("a chunk of an import: {error}")))?;
    save(order, db, &work, read).await
}

/// What is needed to read one chunk.
struct Work {
    import: Import,
    plan: Plan,
    chunk: Vec<u8>,
    country: Country,
}

/// A chunk's contacts with their MACs, in the file's order, and the rest of the batch.
struct Prepared {
    batch: Batch,
    contacts: Vec<NewContact>,
}

/// Loads the chunk at the cursor; none when the import is not to be read, or no longer.
async fn load(order: &ImportContacts, db: &Db) -> StoreResult<Option<Work>> {
    let mut tx = db.cell(order.tenant_id).begin().await?;
    let import = imports::load_import(&mut tx, order.tenant_id, order.import_id).await?;
    let Some(plan) = import.plan.clone().filter(|_| import.is_due()) else {
        return Ok(None);
    };
    let chunk =
        imports::find_chunk(&mut tx, import.tenant_id, import.id, import.next_chunk).await?;
    let tenant = tenants::load_tenant(&mut tx, order.tenant_id).await?;
    tx.commit().await?;
    let country = tenant
        .default_country
        .parse()
        .map_err(|_| StoreError::Unreadable("a tenant's country".into()))?;
    Ok(Some(Work {
        chunk: chunk.ok_or_else(|| StoreError::Unreadable("a chunk is gone".into()))?,
        import,
        plan,
        country,
    }))
}

impl Work {
    fn read(self, mac_key: &MacKey) -> (Self, Result<Prepared, FileRefusal>) {
        let batch = Batch::read(&self.import, &self.plan, &self.chunk, self.country);
        let prepared = batch.map(|mut batch| {
            let drafts = std::mem::take(&mut batch.drafts);
            let contacts = drafts.into_iter().map(|draft| {
                let (phone, email) = draft.identity();
                NewContact {
                    id: ContactId(Uuid::now_v7()),
                    phone_mac: phone.map(|phone| mac_key.address(phone)),
                    email_mac: email.map(|email| mac_key.address(email)),
                    draft,
                }
            });
            let contacts = contacts.collect();
            Prepared { batch, contacts }
        });
        (self, prepared)
    }
}

async fn save(
    order: &ImportContacts,
    db: &Db,
    work: &Work,
    read: Result<Prepared, FileRefusal>,
) -> StoreResult<Progress> {
    let mut tx = db.cell(order.tenant_id).begin().await?;
    let import = imports::load_for_update(&mut tx, order.tenant_id, order.import_id).await?;
    if !import.is_due() {
        return Ok(Progress::Done);
    }
    if import.next_chunk != work.import.next_chunk {
        // Another worker read this chunk meanwhile.
        return Ok(Progress::MoreToDo);
    }
    let read_chunk = import.next_chunk;
    let import = match read {
        Ok(prepared) => save_rows(&mut tx, import, &prepared).await?,
        Err(refusal) => Import {
            status: ImportStatus::Failed,
            failure_reason: Some(refusal.to_string()),
            ..import
        },
    };
    let is_done = !import.is_due();
    let finished_at = is_done.then(|| db.clock().now());
    let import = Import {
        finished_at,
        ..import
    };
    imports::save_import(&mut tx, &import).await?;
    if is_done {
        imports::delete_chunks(&mut tx, import.tenant_id, import.id).await?;
    } else {
        imports::delete_chunk(&mut tx, import.tenant_id, import.id, read_chunk).await?;
    }
    tx.commit().await?;
    Ok(if is_done {
        Progress::Done
    } else {
        Progress::MoreToDo
    })
}

/// Writes what a chunk came to, and returns the import behind it.
async fn save_rows(
    tx: &mut TenantTx,
    mut import: Import,
    prepared: &Prepared,
) -> StoreResult<Import> {
    let Prepared {
        batch,
        contacts: new,
    } = prepared;
    let (created, ids) = save_contacts(tx, &import, new).await?;
    if let Some(list_id) = import.list_id {
        let members: Vec<ContactId> = ids.iter().map(|(id, _)| *id).collect();
        lists::insert_members(tx, import.tenant_id, list_id, &members).await?;
    }
    if let Some(consent) = &import.consent {
        save_consents(tx, &import, consent, &ids).await?;
    }
    imports::insert_errors(tx, import.tenant_id, import.id, &batch.refused).await?;
    let matched = new.len() as u64 + batch.repeats - created;
    import
        .counts
        .add(&batch.counts_with(import.on_match, created, matched));
    import.cursor = batch.cursor.clone();
    import.next_chunk += 1;
    import.status = if import.next_chunk < import.chunks() {
        ImportStatus::Running
    } else {
        ImportStatus::Completed
    };
    Ok(import)
}

/// Adds or updates the contacts; returns how many are new, and the id of each with what is known of it.
async fn save_contacts<'a>(
    tx: &mut TenantTx,
    import: &Import,
    new: &'a [NewContact],
) -> StoreResult<(u64, Vec<(ContactId, &'a NewContact)>)> {
    let created = contacts::insert_contacts(tx, import.tenant_id, new).await?;
    let created: HashSet<ContactId> = created.into_iter().collect();
    let (mut ids, known): (Vec<_>, Vec<_>) = new
        .iter()
        .map(|contact| (contact.id, contact))
        .partition(|(id, _)| created.contains(id));
    let identities: Vec<_> = known
        .iter()
        .map(|(_, contact)| contact.draft.identity())
        .collect();
    let found = contacts::find_matches(tx, import.tenant_id, &identities).await?;
    let matched = found.iter().map(|it| (it.id, known[it.place].1));
    if import.on_match == OnMatch::Update {
        let drafts: Vec<_> = matched.clone().map(|(id, it)| (id, &it.draft)).collect();
        contacts::update_contacts(tx, import.tenant_id, &drafts).await?;
    }
    ids.extend(matched);
    Ok((created.len() as u64, ids))
}

async fn save_consents(
    tx: &mut TenantTx,
    import: &Import,
    consent: &Attestation,
    ids: &[(ContactId, &NewContact)],
) -> StoreResult<()> {
    let mut attested = Vec::with_capacity(ids.len() * consent.channels.len());
    for (contact_id, contact) in ids {
        for channel in &consent.channels {
            let mac = match channel {
                Channel::Sms | Channel::Whatsapp => &contact.phone_mac,
                Channel::Email => &contact.email_mac,
            };
            if let Some(dest_mac) = mac {
                attested.push(Attested {
                    contact_id: *contact_id,
                    channel: *channel,
                    dest_mac,
                });
            }
        }
    }
    let evidence = serde_json::json!({ "import_id": import.id, "file_name": import.file_name });
    let how = AttestedHow {
        source: &consent.source,
        wording: &consent.wording,
        evidence: &evidence,
        actor: consent.actor.as_deref(),
        occurred_at: consent.date,
    };
    consents::insert_attested(tx, import.tenant_id, &attested, &how).await
}
