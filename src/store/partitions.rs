//! The pieces that large tables are cut into.

use sqlx::query_scalar;

use super::{StoreResult, SystemTx};

/// Makes the partitions of the coming weeks, and drops those past their retention. Returns how many changed.
pub async fn maintain(tx: &mut SystemTx) -> StoreResult<i64> {
    let changed = query_scalar!(r#"SELECT count(*) AS "changed!" FROM maintain_partitions()"#)
        .fetch_one(tx.conn())
        .await?;
    Ok(changed)
}
