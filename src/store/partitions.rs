//! The pieces that large tables are cut into.

use sqlx::query_scalar;

use super::{StoreResult, SystemTx};

/// Days until the table that was cut least far ahead has no partition left.
pub async fn days_ahead(tx: &mut SystemTx) -> StoreResult<f64> {
    let days = query_scalar!(
        r#"
        SELECT COALESCE(min(x.ahead), 0)::float8 AS "days!"
        FROM (
            SELECT EXTRACT(epoch FROM max(partition_start(c.relname)
                       + CASE r.unit WHEN 'uuid_week' THEN INTERVAL '7 days' ELSE INTERVAL '1 day' END) - app_now()) / 86400 AS ahead
            FROM partition_rules r
            JOIN pg_inherits i ON i.inhparent = ('cell.' || quote_ident(r.parent))::regclass
            JOIN pg_class c ON c.oid = i.inhrelid
            GROUP BY r.parent
        ) x
        "#
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(days)
}

/// Makes the partitions of the coming weeks, and drops those past their retention. Returns how many changed.
pub async fn maintain(tx: &mut SystemTx) -> StoreResult<i64> {
    let changed = query_scalar!(r#"SELECT count(*) AS "changed!" FROM maintain_partitions()"#)
        .fetch_one(tx.conn())
        .await?;
    Ok(changed)
}
