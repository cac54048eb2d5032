//! The switches of an import: upload, start and cancel, the same for every door.
//!
//! An upload is written piece by piece, each in a transaction of its own, since nobody knows how slowly it comes.
//! One that is refused or breaks off leaves nothing behind.

use crate::clock::Clock;
use crate::domain::contact::Mapping;
use crate::domain::csv_file::{FileRefusal, Sniffer};
use crate::domain::ids::{ImportId, ListId, TenantId, UserId};
use crate::domain::import::{
    CHUNK_BYTES, CancelRefusal, Choices, FILE_BYTES_MAX, Import, NAME_CHARS_MAX, Plan, StartRefusal,
};
use crate::domain::orders::ImportContacts;
use crate::jobs::queue::enqueue;
use crate::store::{Db, StoreError, TenantTx, imports, lists};
use uuid::Uuid;

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// More than 512 MiB.
    #[error("the file is too large")]
    TooLarge,
    /// It cannot be read as contacts.
    #[error(transparent)]
    Refused(#[from] FileRefusal),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an import was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It may not start as it is.
    #[error(transparent)]
    Refused(#[from] StartRefusal),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an import was not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// It has ended.
    #[error(transparent)]
    Refused(#[from] CancelRefusal),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file that is coming in, in two megabytes of memory however large it is.
#[derive(Debug)]
pub struct Upload {
    db: Db,
    tenant_id: TenantId,
    id: ImportId,
    sniffer: Sniffer,
    buffer: Vec<u8>,
    chunks: u32,
    bytes: u64,
    bytes_max: u64,
}

impl Upload {
    /// Begins an upload.
    pub async fn begin(
        db: Db,
        tenant_id: TenantId,
        file_name: &str,
        created_by: Option<UserId>,
    ) -> Result<Self, StoreError> {
        let id = ImportId(Uuid::now_v7());
        let file_name: String = file_name.trim().chars().take(NAME_CHARS_MAX).collect();
        let mut tx = db.cell(tenant_id).begin().await?;
        imports::delete_abandoned(&mut tx, tenant_id).await?;
        imports::insert_import(&mut tx, tenant_id, id, &file_name, created_by).await?;
        tx.commit().await?;
        Ok(Self {
            db,
            tenant_id,
            id,
            sniffer: Sniffer::new(),
            buffer: Vec::with_capacity(CHUNK_BYTES),
            chunks: 0,
            bytes: 0,
            bytes_max: FILE_BYTES_MAX,
        })
    }

    /// The same with a lower limit.
    #[must_use]
    pub fn limited_to(mut self, bytes_max: u64) -> Self {
        self.bytes_max = self.bytes_max.min(bytes_max);
        self
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`UploadError`]; call [`Upload::abort`] then.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(UploadError::TooLarge);
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the upload: the file can be read, and this is how.
    ///
    /// # Errors
    /// [`UploadError`]; nothing is left of the upload then.
    pub async fn finish(mut self) -> Result<Import, UploadError> {
        match self.try_finish().await {
            Ok(import) => Ok(import),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Removes what came in.
    pub async fn abort(self) {
        let removed = async {
            let mut tx = self.db.cell(self.tenant_id).begin().await?;
            imports::delete_import(&mut tx, self.tenant_id, self.id).await?;
            tx.commit().await
        };
        if let Err(error) = removed.await {
            // A later upload of the tenant removes it.
            tracing::warn!(import.id = %self.id, %error, "refused upload not removed yet");
        }
    }

    async fn try_finish(&mut self) -> Result<Import, UploadError> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        let layout = std::mem::take(&mut self.sniffer).finish()?;
        let mapping = Mapping::guess(&layout.columns);
        let plan = Plan { layout, mapping };
        let mut tx = self.db.cell(self.tenant_id).begin().await?;
        imports::mark_uploaded(&mut tx, self.tenant_id, self.id, self.bytes, &plan).await?;
        let import = imports::load_import(&mut tx, self.tenant_id, self.id).await?;
        tx.commit().await?;
        Ok(import)
    }

    async fn flush(&mut self) -> Result<(), UploadError> {
        self.sniffer.feed(&self.buffer)?;
        let mut tx = self.db.cell(self.tenant_id).begin().await?;
        imports::insert_chunk(&mut tx, self.tenant_id, self.id, self.chunks, &self.buffer).await?;
        tx.commit().await?;
        self.chunks += 1;
        self.buffer.clear();
        Ok(())
    }
}

/// Starts an import in the caller's transaction; its rows are read by the job this orders.
pub async fn start_import(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    choices: Choices,
    clock: &Clock,
) -> Result<Import, StartError> {
    let import = imports::load_for_update(tx, tenant_id, id).await?;
    let list_id = ListId(Uuid::now_v7());
    let started = import.start(choices, list_id, clock.now())?;
    lists::insert_list(tx, tenant_id, list_id, &started.list_name()).await?;
    imports::save_import(tx, &started).await?;
    let order = ImportContacts {
        tenant_id,
        import_id: started.id,
    };
    enqueue(tx, order).await.map_err(StoreError::from)?;
    Ok(started)
}

/// Cancels an import in the caller's transaction. What was read stays; the rest of the file is removed.
pub async fn cancel_import(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    clock: &Clock,
) -> Result<Import, CancelError> {
    let import = imports::load_for_update(tx, tenant_id, id).await?;
    let cancelled = import.cancel(clock.now())?;
    imports::save_import(tx, &cancelled).await?;
    imports::delete_chunks(tx, tenant_id, id).await?;
    Ok(cancelled)
}
