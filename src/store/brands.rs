//! What carriers grant brands, as the statements read it that ask how fast something may go.

use uuid::Uuid;

use super::StoreResult;
use crate::domain::ids::BrandId;
use crate::domain::rate::brand::BrandGrant;

/// The columns of `brand_grants`; all of them empty for a sender without a brand, or with one that nothing is known of.
#[derive(Debug)]
pub(super) struct GrantColumns {
    pub(super) brand_id: Option<Uuid>,
    pub(super) messages_per_sec: Option<f64>,
    pub(super) att_class: Option<String>,
    pub(super) day_segments_max: Option<i32>,
    pub(super) trust_score: Option<i16>,
}

impl GrantColumns {
    pub(super) fn grant(self) -> StoreResult<Option<BrandGrant>> {
        let Some(id) = self.brand_id else {
            return Ok(None);
        };
        Ok(Some(BrandGrant {
            id: BrandId(id),
            messages_per_sec: self.messages_per_sec,
            att_class: self.att_class.map(|word| word.parse()).transpose()?,
            day_segments_max: self.day_segments_max.map(i64::from),
            trust_score: self.trust_score,
        }))
    }
}

/// The grant of a row that has its columns.
macro_rules! grant_of {
    ($row:expr) => {
        $crate::store::brands::GrantColumns {
            brand_id: $row.brand_id,
            messages_per_sec: $row.brand_per_sec,
            att_class: $row.att_class,
            day_segments_max: $row.day_segments_max,
            trust_score: $row.trust_score,
        }
        .grant()
    };
}
pub(super) use grant_of;
