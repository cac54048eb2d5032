//! The switches of an import: upload, start and cancel, the same for every door.
//!
//! An upload is written piece by piece, each in a transaction of its own, since nobody knows how slowly it comes. It
//! becomes an import in one more, which may be the caller's. One that is refused or breaks off leaves nothing behind, and
//! what a killed process leaves is forgotten by `PruneHistory`.

use crate::clock::Clock;
use crate::domain::contact::Mapping;
use crate::domain::csv_file::{FileRefusal, Sniffer};
use crate::domain::ids::{ImportId, ListId, TenantId, UserId};
use crate::domain::import::{
    CHUNK_BYTES, CancelRefusal, Choices, FILE_BYTES_MAX, Import, ImportStatus, NAME_CHARS_MAX,
    Plan, StartRefusal,
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
    /// It was taken for what a killed process left, and forgotten while it still came in.
    #[error("the upload took too long")]
    TookTooLong,
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

    /// Ends the upload: all bytes are stored, and they can be read.
    ///
    /// # Errors
    /// [`UploadError`]; nothing is left of the upload then.
    pub async fn close(mut self) -> Result<Received, UploadError> {
        match self.try_close().await {
            Ok(plan) => Ok(Received { upload: self, plan }),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Ends the upload and makes it an import, for whoever changes nothing else with it.
    ///
    /// # Errors
    /// [`UploadError`]; nothing is left of the upload then.
    pub async fn finish(self) -> Result<Import, UploadError> {
        let received = self.close().await?;
        let kept = async {
            let Upload { db, tenant_id, .. } = &received.upload;
            let mut tx = db.cell(*tenant_id).begin().await?;
            let import = received.keep(&mut tx).await?;
            tx.commit().await?;
            Ok(import)
        };
        let kept: Result<Import, UploadError> = kept.await;
        if kept.is_err() {
            received.abort().await;
        }
        kept
    }

    /// Removes what came in.
    pub async fn abort(self) {
        let removed = async {
            let mut tx = self.db.cell(self.tenant_id).begin().await?;
            imports::delete_upload(&mut tx, self.tenant_id, self.id).await?;
            tx.commit().await
        };
        if let Err(error) = removed.await {
            tracing::warn!(import.id = %self.id, %error, "refused upload not removed yet; it is pruned");
        }
    }

    async fn try_close(&mut self) -> Result<Plan, UploadError> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        let layout = std::mem::take(&mut self.sniffer).finish()?;
        let mapping = Mapping::guess(&layout.columns);
        Ok(Plan { layout, mapping })
    }

    async fn flush(&mut self) -> Result<(), UploadError> {
        self.sniffer.feed(&self.buffer)?;
        let mut tx = self.db.cell(self.tenant_id).begin().await?;
        let (id, chunk_no) = (self.id, self.chunks);
        imports::insert_chunk(&mut tx, self.tenant_id, id, chunk_no, &self.buffer)
            .await
            .map_err(|error| match error.constraint() {
                Some("import_chunks_tenant_id_import_id_fkey") => UploadError::TookTooLong,
                _ => error.into(),
            })?;
        tx.commit().await?;
        self.chunks += 1;
        self.buffer.clear();
        Ok(())
    }
}

/// A file that came in whole and can be read, and is no import yet.
#[derive(Debug)]
pub struct Received {
    upload: Upload,
    plan: Plan,
}

impl Received {
    /// Makes it an import in the caller's transaction.
    ///
    /// # Errors
    /// [`UploadError`]; call [`Received::abort`] then, and when the transaction does not commit.
    pub async fn keep(&self, tx: &mut TenantTx) -> Result<Import, UploadError> {
        let Upload {
            tenant_id,
            id,
            bytes,
            ..
        } = self.upload;
        match imports::mark_uploaded(tx, tenant_id, id, bytes, &self.plan).await {
            Err(StoreError::Moved { .. }) => return Err(UploadError::TookTooLong),
            marked => marked?,
        }
        Ok(imports::load_import(tx, tenant_id, id).await?)
    }

    /// Removes what came in, unless it became an import: whoever got no answer to a commit may call this.
    pub async fn abort(self) {
        self.upload.abort().await;
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

/// Cancels an import in the caller's transaction. What was read stays; the rest of the file is removed. Says where the
/// import was, too.
pub async fn cancel_import(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    clock: &Clock,
) -> Result<(ImportStatus, Import), CancelError> {
    let import = imports::load_for_update(tx, tenant_id, id).await?;
    let before = import.status;
    let cancelled = import.cancel(clock.now())?;
    imports::save_import(tx, &cancelled).await?;
    imports::delete_chunks(tx, tenant_id, id).await?;
    Ok((before, cancelled))
}
