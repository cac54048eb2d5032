//! Imports: uploads, their bytes in pieces, and the rows that were refused.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::{StoreError, StoreResult, TenantTx, affected};
use crate::domain::csv_file::Cursor;
use crate::domain::ids::{ImportId, ListId, TenantId, UserId};
use crate::domain::import::batch::RefusedRow;
use crate::domain::import::{Attestation, Import, ImportCounts, ImportStatus, Plan};

const IMPORT: &str = "import";

struct Row {
    tenant_id: Uuid,
    id: Uuid,
    file_name: String,
    status: String,
    total_bytes: i64,
    plan: Option<Json<Plan>>,
    on_match: String,
    list_id: Option<Uuid>,
    consent: Option<Json<Attestation>>,
    next_chunk: i32,
    carry: Option<Vec<u8>>,
    rows_read: i64,
    rows_created: i64,
    rows_updated: i64,
    rows_skipped: i64,
    rows_refused: i64,
    refused_by_code: Json<BTreeMap<String, u64>>,
    failure_reason: Option<String>,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Import {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        let cursor = match &row.carry {
            None => Cursor::default(),
            Some(bytes) => Cursor::from_bytes(bytes)
                .ok_or_else(|| StoreError::Unreadable("the cursor of an import".into()))?,
        };
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            id: ImportId(row.id),
            file_name: row.file_name,
            status: status(&row.status, row.plan.is_some())?,
            total_bytes: row.total_bytes as u64,
            plan: row.plan.map(|plan| plan.0),
            on_match: row.on_match.parse()?,
            list_id: row.list_id.map(ListId),
            consent: row.consent.map(|consent| consent.0),
            next_chunk: row.next_chunk as u32,
            cursor,
            counts: ImportCounts {
                read: row.rows_read as u64,
                created: row.rows_created as u64,
                updated: row.rows_updated as u64,
                skipped: row.rows_skipped as u64,
                refused: row.rows_refused as u64,
                refused_by_code: row.refused_by_code.0,
            },
            failure_reason: row.failure_reason,
            created_by: row.created_by.map(UserId),
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    }
}

/// A row keeps one word for an upload that goes on and one that waits to be started; the plan tells them apart.
fn status(word: &str, has_plan: bool) -> StoreResult<ImportStatus> {
    match word.parse()? {
        ImportStatus::Uploading if has_plan => Ok(ImportStatus::Uploaded),
        status => Ok(status),
    }
}

fn word(status: ImportStatus) -> &'static str {
    match status {
        ImportStatus::Uploaded => ImportStatus::Uploading.as_str(),
        status => status.as_str(),
    }
}

/// Adds an import whose bytes are still to come.
pub async fn insert_import(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    file_name: &str,
    created_by: Option<UserId>,
) -> StoreResult<()> {
    query!(
        "INSERT INTO imports (tenant_id, id, file_name, created_by) VALUES ($1, $2, $3, $4)",
        tenant_id.0,
        id.0,
        file_name,
        created_by.map(|id| id.0),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Adds the next piece of an upload.
pub async fn insert_chunk(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    chunk_no: u32,
    bytes: &[u8],
) -> StoreResult<()> {
    query!(
        "INSERT INTO import_chunks (tenant_id, import_id, chunk_no, bytes) VALUES ($1, $2, $3, $4)",
        tenant_id.0,
        id.0,
        chunk_no as i32,
        bytes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends an upload: all bytes are here, and this is how they are read.
pub async fn mark_uploaded(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    total_bytes: u64,
    plan: &Plan,
) -> StoreResult<()> {
    let done = query!(
        r#"
        UPDATE imports
        SET total_bytes = $3, mapping = $4
        WHERE tenant_id = $1 AND id = $2 AND status = 'uploading'
        "#,
        tenant_id.0,
        id.0,
        total_bytes as i64,
        Json(plan) as _,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, IMPORT)
}

/// Removes an upload that has become no import, as if it had never been sent.
pub async fn delete_upload(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
) -> StoreResult<()> {
    query!(
        "DELETE FROM imports WHERE tenant_id = $1 AND id = $2 AND status = 'uploading' AND mapping = '{}'",
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The import, as it is now.
pub async fn load_import(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
) -> StoreResult<Import> {
    let mut found = list_by_key(tx.conn(), &[(tenant_id, id)]).await?;
    found.pop().ok_or(StoreError::NotFound { what: IMPORT })
}

/// Imports of any tenants, as they are now. One that is not there is missing in the answer.
pub async fn list_by_key(
    conn: &mut PgConnection,
    keys: &[(TenantId, ImportId)],
) -> StoreResult<Vec<Import>> {
    let (tenant_ids, ids): (Vec<Uuid>, Vec<Uuid>) = keys
        .iter()
        .map(|(tenant_id, id)| (tenant_id.0, id.0))
        .unzip();
    let rows = query_as!(
        Row,
        r#"
        SELECT i.tenant_id, i.id, file_name, status, total_bytes,
               nullif(mapping, '{}') AS "plan: Json<Plan>", on_match, list_id,
               consent AS "consent: Json<Attestation>", next_chunk, carry, rows_read, rows_created, rows_updated,
               rows_skipped, rows_refused, refused_by_code AS "refused_by_code: Json<BTreeMap<String, u64>>",
               failure_reason, created_by, created_at, finished_at
        FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)
        JOIN imports i ON i.tenant_id = u.tenant_id AND i.id = u.id
        "#,
        &tenant_ids,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Import::try_from).collect()
}

/// The import, held until the transaction ends.
pub async fn load_for_update(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
) -> StoreResult<Import> {
    query_scalar!(
        "SELECT id FROM imports WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        tenant_id.0,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound { what: IMPORT })?;
    load_import(tx, tenant_id, id).await
}

/// Imports of a tenant, newest first, before `before`.
pub async fn list_imports(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    before: Option<ImportId>,
    limit: i64,
) -> StoreResult<Vec<Import>> {
    let rows = query_as!(
        Row,
        r#"
        SELECT tenant_id, id, file_name, status, total_bytes,
               nullif(mapping, '{}') AS "plan: Json<Plan>", on_match, list_id,
               consent AS "consent: Json<Attestation>", next_chunk, carry, rows_read, rows_created, rows_updated,
               rows_skipped, rows_refused, refused_by_code AS "refused_by_code: Json<BTreeMap<String, u64>>",
               failure_reason, created_by, created_at, finished_at
        FROM imports
        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        "#,
        tenant_id.0,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(Import::try_from).collect()
}

/// Replaces what may change of an import. The caller holds its row.
pub async fn save_import(tx: &mut TenantTx, import: &Import) -> StoreResult<()> {
    let counts = &import.counts;
    let done = query!(
        r#"
        UPDATE imports
        SET status = $3, mapping = coalesce($4::jsonb, '{}'), on_match = $5, list_id = $6, consent = $7, next_chunk = $8,
            carry = $9, rows_read = $10, rows_created = $11, rows_updated = $12, rows_skipped = $13,
            rows_refused = $14, refused_by_code = $15, failure_reason = $16, finished_at = $17
        WHERE tenant_id = $1 AND id = $2
        "#,
        import.tenant_id.0,
        import.id.0,
        word(import.status),
        import.plan.as_ref().map(Json) as _,
        import.on_match.as_str(),
        import.list_id.map(|id| id.0),
        import.consent.as_ref().map(Json) as _,
        import.next_chunk as i32,
        import.cursor.to_bytes(),
        counts.read as i64,
        counts.created as i64,
        counts.updated as i64,
        counts.skipped as i64,
        counts.refused as i64,
        Json(&counts.refused_by_code) as _,
        import.failure_reason,
        import.finished_at,
    )
    .execute(tx.conn())
    .await?;
    affected(&done, 1, IMPORT)
}

/// The bytes of one piece; none when it was read before.
pub async fn find_chunk(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    chunk_no: u32,
) -> StoreResult<Option<Vec<u8>>> {
    let bytes = query_scalar!(
        "SELECT bytes FROM import_chunks WHERE tenant_id = $1 AND import_id = $2 AND chunk_no = $3",
        tenant_id.0,
        id.0,
        chunk_no as i32,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(bytes)
}

/// Removes a piece; its rows are read.
pub async fn delete_chunk(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    chunk_no: u32,
) -> StoreResult<()> {
    query!(
        "DELETE FROM import_chunks WHERE tenant_id = $1 AND import_id = $2 AND chunk_no = $3",
        tenant_id.0,
        id.0,
        chunk_no as i32,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Removes all pieces; nobody will read what is left.
pub async fn delete_chunks(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
) -> StoreResult<()> {
    query!(
        "DELETE FROM import_chunks WHERE tenant_id = $1 AND import_id = $2",
        tenant_id.0,
        id.0,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Keeps refused rows.
pub async fn insert_errors(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    rows: &[RefusedRow],
) -> StoreResult<()> {
    let lines: Vec<i64> = rows.iter().map(|row| row.line as i64).collect();
    let columns: Vec<Option<&str>> = rows.iter().map(|row| row.column.as_deref()).collect();
    let codes: Vec<&str> = rows.iter().map(|row| row.code.as_str()).collect();
    let details: Vec<&str> = rows.iter().map(|row| row.detail.as_str()).collect();
    query!(
        r#"
        INSERT INTO import_errors (tenant_id, import_id, line, column_name, code, detail)
        SELECT $1, $2, u.line, u.column_name, u.code, u.detail
        FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[]) AS u (line, column_name, code, detail)
        "#,
        tenant_id.0,
        id.0,
        &lines,
        &columns as _,
        &codes as _,
        &details as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Refused rows of an import in the file's order, behind the line `after`.
pub async fn list_errors(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    id: ImportId,
    after: u64,
    limit: i64,
) -> StoreResult<Vec<RefusedRow>> {
    let rows = query!(
        r#"
        SELECT line, column_name, code, detail
        FROM import_errors
        WHERE tenant_id = $1 AND import_id = $2 AND line > $3
        ORDER BY line
        LIMIT $4
        "#,
        tenant_id.0,
        id.0,
        after as i64,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    let rows = rows.into_iter().map(|row| RefusedRow {
        line: row.line as u64,
        column: row.column_name,
        code: row.code,
        detail: row.detail.unwrap_or_default(),
    });
    Ok(rows.collect())
}
