//! Settings that hang on the database, so that every process of an installation agrees on them.

use chrono::{DateTime, Utc};
use sqlx::query_scalar;

use super::{StoreError, StoreResult, SystemTx};

/// What the database's clock says.
pub async fn read_now(tx: &mut SystemTx) -> StoreResult<DateTime<Utc>> {
    let now = query_scalar!(r#"SELECT app_now() AS "now!""#)
        .fetch_one(tx.conn())
        .await?;
    Ok(now)
}

/// How many times as long every hold is: `alter database … set engageninja.holds_scale = '0.1'`. 1 when nothing is set.
pub async fn read_holds_scale(tx: &mut SystemTx) -> StoreResult<f64> {
    let scale = query_scalar!(
        r#"SELECT COALESCE(NULLIF(current_setting('engageninja.holds_scale', true), ''), '1') AS "scale!""#,
    )
    .fetch_one(tx.conn())
    .await?;
    match scale.parse() {
        Ok(scale) if (0.001..=1.0).contains(&scale) => Ok(scale),
        _ => Err(StoreError::Unreadable(format!(
            "engageninja.holds_scale is {scale:?}, not 0.001 to 1"
        ))),
    }
}
