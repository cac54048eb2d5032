//! Lanes: what waits behind which sender, whose turn it is, and what holds it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::api::Tag;
use crate::api::page::{Page, PageRequest};
use crate::api::problem::ApiResult;
use crate::api::state::ApiState;
use crate::domain::actor::Operator;
use crate::domain::channel::{Channel, Class};
use crate::domain::holds::Holds;
use crate::domain::ids::{CampaignId, LaneId, MessageId, SenderId, TenantId};
use crate::domain::rate::bucket::Bucket;
use crate::domain::rate::{BucketKind, LanePace, Rule};
use crate::domain::release::{Hold, HoldReason, Standing, share_of_slots};
use crate::store::lanes::standing::{LaneStanding, list_lanes};
use crate::store::release::{LowWater, UnderWay, count_under_way};
use crate::store::settings::read_now;
use crate::store::{StoreResult, SystemTx, buckets, incarnations};

/// The operations on lanes.
#[derive(Debug)]
pub struct Lanes {
    state: ApiState,
}

/// What one tenant has waiting behind one sender, class and campaign.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct LaneView {
    /// Its number.
    lane: i64,
    /// Whose it is.
    tenant_id: TenantId,
    /// What that tenant is called.
    tenant: String,
    /// Where its messages come from.
    sender_id: SenderId,
    /// The sender's address.
    address: String,
    /// With which account at the provider.
    account: String,
    /// What its messages are.
    channel: Channel,
    /// Which kind of traffic.
    class: Class,
    /// Its campaign; absent for single messages.
    campaign_id: Option<CampaignId>,
    /// What that campaign is called.
    campaign: Option<String>,
    /// Whether the release looks at it. One whose campaign or tenant has stopped is switched off until that goes on.
    is_active: bool,
    /// The first message of its backlog; absent when nothing waits there.
    head_message_id: Option<MessageId>,
    /// Since when that one waits there.
    head_since: Option<DateTime<Utc>>,
    /// Messages that are let out and not begun.
    released: i64,
    /// How many that may be; absent where no rate limits it.
    window: Option<i64>,
    /// The tenant's place in the ring: 0 for single messages, 1 for who just woke up, 2 for bulk.
    ring: Option<i32>,
    /// When it is looked at next.
    next_at: Option<DateTime<Utc>>,
    /// When it was looked at last.
    last_served_at: Option<DateTime<Utc>>,
    /// How fast it may go, in segments a second (emails: messages); absent where nothing limits it.
    allowed_per_sec: Option<f64>,
    /// What limits it to that.
    paced_by: Option<BucketKind>,
    /// What keeps it from letting anything out now; absent when it may.
    held_by: Option<HoldReason>,
    /// Until when; absent when somebody has to act.
    held_until: Option<DateTime<Utc>>,
    /// What happened, of a sender that is halted.
    held_because: Option<String>,
}

#[OpenApi(tag = "Tag::Ops")]
impl Lanes {
    /// List lanes.
    ///
    /// Those with something waiting, by tenant: the head of each backlog, how much is let out, whose turn comes when, and
    /// what holds it or how fast it may go.
    #[oai(path = "/ops/lanes", method = "get", operation_id = "list_lanes")]
    async fn list_lanes(
        &self,
        _operator: Operator,
        /// Of this tenant alone.
        tenant_id: Query<Option<TenantId>>,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<LaneView>>> {
        let page = PageRequest::<(TenantId, LaneId)>::new("lanes", limit.0, cursor.0.as_deref())?;
        // System: lanes of all tenants take turns in one ring.
        let mut tx = self.state.db.system().begin().await?;
        let rows = list_lanes(&mut tx, tenant_id.0, page.after, page.rows_to_load()).await?;
        let facts = Facts::read(&mut tx, &rows).await?;
        let rows = rows.into_iter().map(|row| facts.judge(row)).collect();
        Ok(Json(page.page(rows, |row: &Judged| {
            (row.lane.tenant_id, row.lane.id)
        })))
    }
}

impl Lanes {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// What the next tick would go by.
struct Facts {
    now: DateTime<Utc>,
    buckets: BTreeMap<String, Bucket>,
    under_way: UnderWay,
}

/// A lane, and what the next tick would make of it.
struct Judged {
    lane: LaneStanding,
    released: i64,
    window: Option<i64>,
    hold: Option<Hold>,
    limit: Option<Rule>,
}

impl Facts {
    async fn read(tx: &mut SystemTx, lanes: &[LaneStanding]) -> StoreResult<Self> {
        let now = read_now(tx).await?;
        let rules: BTreeMap<String, Rule> = lanes
            .iter()
            .flat_map(|lane| lane.pace.rules())
            .map(|rule| (rule.name.clone(), rule))
            .collect();
        let loaded = buckets::read_buckets(tx, rules.into_values().collect(), now).await?;
        let under_way = count_under_way(tx, Holds::REAL.deadline, LowWater::default()).await?;
        let slots = incarnations::sum_concurrency(tx.conn()).await?;
        let share = share_of_slots(slots, under_way.calls.len());
        let buckets = loaded.into_iter().map(|loaded| {
            let mut bucket = loaded.bucket;
            bucket.count_calls(&under_way.calls, share);
            (bucket.rule.name.clone(), bucket)
        });
        Ok(Self {
            now,
            buckets: buckets.collect(),
            under_way,
        })
    }

    fn judge(&self, lane: LaneStanding) -> Judged {
        let rules = lane.pace.rules();
        let own: Vec<&Bucket> = rules
            .iter()
            .filter_map(|rule| self.buckets.get(&rule.name))
            .collect();
        let released = self.under_way.released.get(&lane.id).copied();
        let halted_until = lane.halt.as_ref().map(|halt| {
            // One that has to be lifted has no instant of its own.
            halt.until.unwrap_or(DateTime::<Utc>::MAX_UTC)
        });
        let standing = Standing {
            stopped: lane.stopped,
            halted_until,
            quantum: lane.quantum.into(),
            released: released.unwrap_or(0),
        };
        let hold = standing.hold(&own, self.now).map(|hold| Hold {
            until: hold.until.filter(|at| *at < DateTime::<Utc>::MAX_UTC),
            ..hold
        });
        Judged {
            released: standing.released,
            window: standing.window(&own),
            hold,
            limit: LanePace::limit(&lane.pace),
            lane,
        }
    }
}

impl From<Judged> for LaneView {
    fn from(judged: Judged) -> Self {
        let Judged { lane, .. } = judged;
        let (campaign_id, campaign) = lane.campaign.unzip();
        let (head_message_id, head_since) = lane.head.unzip();
        Self {
            lane: lane.id.0,
            tenant_id: lane.tenant_id,
            tenant: lane.tenant,
            sender_id: lane.sender_id,
            address: lane.pace.address,
            account: lane.pace.account_ref,
            channel: lane.channel,
            class: lane.class,
            campaign_id,
            campaign,
            is_active: lane.is_active,
            head_message_id,
            head_since,
            released: judged.released,
            window: judged.window,
            ring: lane.ring.map(i32::from),
            next_at: lane.next_at,
            last_served_at: lane.last_served_at,
            allowed_per_sec: judged.limit.as_ref().map(|rule| rule.rate_per_sec),
            paced_by: judged.limit.map(|rule| rule.kind),
            held_by: judged.hold.map(|hold| hold.reason),
            held_until: judged.hold.and_then(|hold| hold.until),
            held_because: lane.halt.map(|halt| halt.reason),
        }
    }
}
