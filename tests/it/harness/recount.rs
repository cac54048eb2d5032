//! The counts of a campaign beside its rows, in one snapshot of the database.

use std::collections::BTreeMap;

use engageninja::domain::channel::Channel;
use engageninja::domain::counts::{CountWord, Counts};
use engageninja::domain::ids::CampaignId;
use engageninja::domain::message::Phase;
use engageninja::domain::status::{End, Status};
use engageninja::store::campaign_counts::list_snapshots;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::world::World;

/// What the counts say, and what the rows say.
#[derive(Debug)]
pub struct Counted {
    /// Grows with every change.
    pub version: i64,
    /// What was counted on the way.
    pub counts: Counts,
    /// What stands in the rows.
    pub found: Counts,
}

impl Counted {
    /// Panics unless both are the same, and nobody is missing.
    pub fn assert_equal(&self) {
        assert_eq!(words(&self.counts), words(&self.found));
        assert!(self.counts.is_balanced(), "{:?}", self.counts);
    }
}

impl World {
    /// Reads both at the same instant.
    pub async fn counted(&self, id: CampaignId) -> Counted {
        let mut tx = self.db.db().system().begin().await.unwrap();
        tx.conn()
            .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            .await
            .unwrap();
        let campaigns = [(self.tenant_id, id)];
        let counted = list_snapshots(tx.conn(), &campaigns)
            .await
            .unwrap()
            .pop()
            .unwrap();
        let sql = format!(
            "SELECT phase, drop_reason, status, count(*) FROM messages WHERE tenant_id = '{}' AND campaign_id = '{id}'
             GROUP BY phase, drop_reason, status",
            self.tenant_id
        );
        let mut words: BTreeMap<String, i64> = BTreeMap::new();
        let mut add =
            |word: CountWord, people| *words.entry(word.as_str().into()).or_default() += people;
        for row in tx.conn().fetch_all(AssertSqlSafe(sql)).await.unwrap() {
            let people: i64 = row.get(3);
            let phase = Phase::try_from(row.get::<i16, _>(0)).unwrap();
            let reason: Option<String> = row.get(1);
            add(
                CountWord::of(phase, reason.map(|word| word.parse().unwrap())),
                people,
            );
            let status: Option<String> = row.get(2);
            let end = status.and_then(|word| Status::parse(Channel::Sms, &word).unwrap().end());
            match end {
                Some(End::Delivered) => add(CountWord::Delivered, people),
                Some(End::Failed) => add(CountWord::Failed, people),
                None => {}
            }
        }
        let frozen = format!(
            "SELECT coalesce(sum(total - next_pos), 0)::bigint, coalesce(sum(total), 0)::bigint FROM campaign_expansion WHERE campaign_id = '{id}'"
        );
        let row = tx.conn().fetch_one(AssertSqlSafe(frozen)).await.unwrap();
        add(CountWord::Unexpanded, row.get(0));
        add(CountWord::Audience, row.get(1));
        words.retain(|_, people| *people != 0);
        Counted {
            version: counted.version,
            counts: counted.counts,
            found: Counts::from_stored(words),
        }
    }
}

fn words(counts: &Counts) -> Vec<(&'static str, i64)> {
    let words = CountWord::ALL
        .iter()
        .map(|word| (word.as_str(), counts.get(*word)));
    words.filter(|(_, people)| *people != 0).collect()
}
