//! The numbers of the home page: what is where now, and the last 24 hours.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::problem::ApiResult;
use super::state::ApiState;
use crate::domain::actor::{Actor, Permission};
use crate::domain::channel::Channel;
use crate::domain::counts::{CountWord, Counts};
use crate::store::message_hours::{self, HOURS, HourSnapshot};

/// The operations on statistics.
#[derive(Debug)]
pub struct Stats {
    state: ApiState,
}

/// What a tenant's messages came to: one snapshot, campaigns and single messages together.
#[derive(Debug, Clone, PartialEq, Object)]
pub struct StatsView {
    /// Grows with every change; show the snapshot with the highest.
    version: i64,
    /// What is under way now.
    now: NowView,
    /// What happened in the last 24 hours, this one included.
    last_24_hours: DayView,
    /// The same hour by hour, the oldest first; an hour in which nothing happened is there with zeros.
    hours: Vec<HourView>,
}

/// Messages that are under way.
#[derive(Debug, Clone, PartialEq, Object)]
struct NowView {
    /// Their turn comes.
    waiting: i64,
    /// They are being handed over.
    sending: i64,
    /// They need a decision.
    parked: i64,
}

/// Messages that came so far in a time.
#[derive(Debug, Clone, Default, PartialEq, Object)]
struct DayView {
    /// The provider took them.
    sent: i64,
    /// They arrived, as far as the provider says.
    delivered: i64,
    /// They will never arrive.
    failed: i64,
    /// They were never due: left out at the start, or stopped by a rule.
    skipped: i64,
}

/// One hour.
#[derive(Debug, Clone, PartialEq, Object)]
struct HourView {
    /// When it began.
    hour: DateTime<Utc>,
    /// The provider took them in it.
    sent: i64,
    /// They arrived in it.
    delivered: i64,
    /// It became known in it that they will never arrive.
    failed: i64,
    /// They were left out or stopped in it.
    skipped: i64,
}

#[OpenApi(tag = "Tag::Stats")]
impl Stats {
    /// Show what messages came to.
    ///
    /// What is under way, and the last 24 hours by state. A message counts in the hour in which it came into a state.
    #[oai(path = "/stats", method = "get", operation_id = "get_stats")]
    async fn get_stats(
        &self,
        actor: Actor,
        /// Of this channel alone.
        channel: Query<Option<Channel>>,
    ) -> ApiResult<Json<StatsView>> {
        actor.require(Permission::ReadMessages)?;
        let mut tx = self.state.db.cell(actor.tenant_id).begin().await?;
        let asked = [actor.tenant_id];
        let found = message_hours::list_hours(tx.conn(), &asked, channel.0).await?;
        Ok(Json(StatsView::new(
            found.first(),
            self.state.clock().now(),
        )))
    }
}

impl Stats {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

impl StatsView {
    /// The snapshot as it is shown at `now`; of a tenant without a message, zeros.
    pub fn new(snapshot: Option<&HourSnapshot>, now: DateTime<Utc>) -> Self {
        let this_hour = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
        let hours: Vec<HourView> = (0..HOURS)
            .rev()
            .map(|back| {
                let hour = this_hour - TimeDelta::hours(back.into());
                let known = snapshot.and_then(|snapshot| {
                    let mut hours = snapshot.hours.iter();
                    hours.find(|(known, _)| *known == hour)
                });
                HourView::new(hour, known.map(|(_, counts)| counts))
            })
            .collect();
        let totals = snapshot.map(|snapshot| snapshot.totals.groups());
        let totals = totals.unwrap_or_default();
        let sum = |of: fn(&HourView) -> i64| hours.iter().map(of).sum();
        Self {
            version: snapshot.map_or(0, |snapshot| snapshot.version),
            now: NowView {
                waiting: totals.waiting,
                sending: totals.sending,
                parked: totals.parked,
            },
            last_24_hours: DayView {
                sent: sum(|hour| hour.sent),
                delivered: sum(|hour| hour.delivered),
                failed: sum(|hour| hour.failed),
                skipped: sum(|hour| hour.skipped),
            },
            hours,
        }
    }

    /// Grows with every change.
    pub fn version(&self) -> i64 {
        self.version
    }
}

impl HourView {
    fn new(hour: DateTime<Utc>, counts: Option<&Counts>) -> Self {
        let Some(counts) = counts else {
            return Self {
                hour,
                sent: 0,
                delivered: 0,
                failed: 0,
                skipped: 0,
            };
        };
        let groups = counts.groups();
        Self {
            hour,
            sent: counts.get(CountWord::HandedOver),
            delivered: groups.delivered,
            failed: groups.failed,
            skipped: groups.skipped,
        }
    }
}
