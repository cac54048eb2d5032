//! What must hold afterwards: every message is with its provider once, or with a person who knows why.

use std::collections::HashMap;
use std::time::Duration;

use engageninja::domain::attempt::AttemptState;
use engageninja::domain::campaign::CampaignStatus;
use engageninja::domain::channel::Channel;
use engageninja::domain::counts::CountWord;
use engageninja::domain::demo::Fate;
use engageninja::domain::ids::{CampaignId, MessageId};
use engageninja::domain::message::Phase;
use engageninja::jobs::check_orphans::find_orphans;
use sqlx::Row;
use uuid::Uuid;

use super::stage::{PEOPLE, SCALE, SETTLED_BY_EVIDENCE, STOPPED_ACROSS, Stage};
use crate::harness::world::World;

/// After the faults: everything is final or with a person by then, the ladder to its end included.
const SETTLED_WITHIN_SECS: u64 = 150;

/// What is not as much faster as the holds are: looks are ordered each second, and others use the machine, too.
const UNSCALED: Duration = Duration::from_secs(10);

/// What may leave it to a person, in the words of `domain/doubt.rs`: its process stood still to the end, or no look at the
/// provider came to anything, because something was hurt each time. That the provider has several like it, or refused it, is
/// nothing that is done to anybody here.
const CAUSES: [&str; 2] = [
    "its worker is stopped and may still call",
    "the provider never showed whether it has it",
];

/// Everything that may be waiting for something, for whoever reads a failure.
const WHERE_THEY_ARE: &str = "SELECT jsonb_build_object(
    'messages', (SELECT jsonb_object_agg(p, n) FROM (SELECT phase p, count(*) n FROM messages GROUP BY 1) x),
    'attempts', (SELECT jsonb_object_agg(s, n) FROM (SELECT state s, count(*) n FROM send_attempts GROUP BY 1) x),
    'jobs', (SELECT jsonb_object_agg(k, n) FROM (SELECT kind || state k, count(*) n FROM jobs GROUP BY 1) x),
    'dead', (SELECT jsonb_agg(to_jsonb(d)) FROM dead_jobs d),
    'campaigns', (SELECT jsonb_agg(status) FROM campaigns),
    'expansions', (SELECT jsonb_agg(to_jsonb(e)) FROM campaign_expansion e),
    'lanes', (SELECT jsonb_agg(to_jsonb(l)) FROM lanes l),
    'shards', (SELECT jsonb_agg(to_jsonb(r)) FROM release_shards r),
    'live', (SELECT jsonb_agg(to_jsonb(i)) FROM incarnations i WHERE ended_at IS NULL AND seen_at > app_now() - interval '10 s'),
    'now', app_now())::text";

impl Stage {
    pub(super) async fn judge(mut self, seed: u64) {
        for (world, campaigns) in &self.tenants {
            for id in campaigns {
                let settled = async {
                    while world.load(*id).await.status != CampaignStatus::Completed {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                };
                let limit = Duration::from_secs(SETTLED_WITHIN_SECS);
                if tokio::time::timeout(limit, settled).await.is_err() {
                    let where_they_are = world.db.text(WHERE_THEY_ARE).await;
                    panic!("seed {seed}, {:?}: {where_they_are}", self.faults);
                }
            }
        }
        let mut alarms = Vec::new();
        for member in self.crew.drain(..) {
            alarms.extend(member.end().await);
        }
        assert!(alarms.is_empty(), "{alarms:#?}");
        let world = &self.tenants[0].0;
        let how = "SELECT string_agg(concat_ws(' ', x.resolved_by, x.state, x.n), ', ') FROM (
            SELECT resolved_by, state, count(*) AS n FROM send_attempts GROUP BY 1, 2 ORDER BY 1, 2) x";
        eprintln!(
            "seed {seed}: {:?}; {}",
            self.faults,
            world.db.text(how).await
        );
        if self.profile.crash_every.is_some() {
            let across = self.faults.get(STOPPED_ACROSS).copied().unwrap_or(0);
            assert!(across > 0, "nobody stood still while the server crashed");
        }
        self.assert_once().await;
        assert_settled(world).await;
        let has_crashed = self.profile.crash_every.is_some();
        assert_in_time(world, &self.calm_since, has_crashed).await;
        assert_parked_for_a_cause(world).await;
        assert_eq!(find_orphans(&world.db.db()).await.unwrap(), []);
        for (world, campaigns) in &self.tenants {
            for id in campaigns {
                assert_counted(world, *id).await;
            }
        }
        assert_eq!(self.cluster.deadlocks(), 0);
    }

    /// How often the provider took each message, by its ledger.
    async fn taken(&self) -> HashMap<Uuid, u32> {
        let mut taken: HashMap<Uuid, u32> = HashMap::new();
        if let Some(fake) = &self.fake {
            for one in fake.ledger().accepted() {
                let message = one.mark("m").unwrap().parse().unwrap();
                *taken.entry(message).or_default() += 1;
            }
        } else {
            let world = &self.tenants[0].0;
            for row in world.rows("SELECT message_id FROM demo_ledger").await {
                *taken.entry(row.get(0)).or_default() += 1;
            }
        }
        taken
    }

    /// Each message was taken at most once, and is with the provider exactly if it was. Nobody drops one but a provider that
    /// refuses it.
    async fn assert_once(&self) {
        let (world, taken) = (&self.tenants[0].0, self.taken().await);
        let doubled: Vec<_> = taken.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubled.is_empty(), "taken twice: {doubled:?}");
        let (mut lost, mut parked, mut all) = (Vec::new(), 0, 0);
        for row in world
            .rows("SELECT id, phase, drop_reason FROM messages")
            .await
        {
            let (id, phase) = (row.get::<Uuid, _>(0), row.get::<i16, _>(1));
            let reason: Option<String> = row.get(2);
            let is_taken = taken.contains_key(&id);
            let is_right = match Phase::try_from(phase).unwrap() {
                Phase::HandedOver => is_taken,
                Phase::Dropped => {
                    !is_taken && self.refuses(MessageId(id)) && reason.as_deref() == Some("refused")
                }
                Phase::Parked => true,
                _ => false,
            };
            if !is_right {
                lost.push((id, phase, reason, is_taken));
            }
            all += 1;
            parked += u32::from(phase == i16::from(Phase::Parked));
        }
        assert!(lost.is_empty(), "not as the ledger says: {lost:?}");
        assert!(parked * 1_000 <= all, "{parked} of {all} are parked");
        eprintln!("{all} messages, {parked} parked");
    }

    /// Whether the provider refuses a message for good: the simulated one does some, by their ids; the stand-in's weather
    /// knows nothing of the kind.
    fn refuses(&self, id: MessageId) -> bool {
        self.fake.is_none() && matches!(Fate::of(id, Channel::Sms), Fate::Refused { .. })
    }
}

async fn assert_settled(world: &World) {
    let none = [
        (
            "known to be doubled",
            "SELECT count(*) FROM (SELECT FROM send_attempts WHERE state = 1
             GROUP BY tenant_id, message_id HAVING count(*) > 1) x",
        ),
        (
            "open attempts",
            "SELECT count(*) FROM send_attempts WHERE state IN (0, 2)",
        ),
        ("live calls", "SELECT count(*) FROM live_calls"),
        (
            "faults of the schema",
            "SELECT count(*) FROM schema_faults()",
        ),
    ];
    for (what, sql) in none {
        assert_eq!(world.number(sql).await, 0, "{what}");
    }
    let dead = "SELECT COALESCE(string_agg(to_jsonb(d)::text, ' '), '') FROM dead_jobs d";
    assert_eq!(world.db.text(dead).await, "", "dead jobs");
    // Else nothing of this was tried.
    assert!(
        world.number(SETTLED_BY_EVIDENCE).await > 0,
        "no attempt was ever in doubt"
    );
}

/// Once the faults were over no attempt stayed in doubt for longer than is promised, each kind of verdict with its own bound.
async fn assert_in_time(world: &World, calm_since: &str, has_crashed: bool) {
    let verdicts = format!(
        "SELECT state, count(*), max(extract(epoch FROM resolved_at - greatest(started_at, '{calm_since}')))::float8
         FROM send_attempts WHERE resolved_at > '{calm_since}' AND resolved_by <> 'owner' GROUP BY 1 ORDER BY 1"
    );
    for row in world.rows(&verdicts).await {
        let state = AttemptState::try_from(row.get::<i16, _>(0)).unwrap();
        let (attempts, longest): (i64, f64) = (row.get(1), row.get(2));
        let promised = match state {
            AttemptState::Accepted => Duration::from_secs(30),
            AttemptState::NotSent if has_crashed => Duration::from_mins(12),
            AttemptState::NotSent => Duration::from_mins(4),
            AttemptState::Parked => Duration::from_mins(30),
            other => panic!("no evidence says {other:?}"),
        };
        let bound = promised.mul_f64(SCALE) + UNSCALED;
        eprintln!(
            "{attempts} {state:?} by evidence after the faults, {longest} s at most of {bound:?}"
        );
        assert!(longest <= bound.as_secs_f64(), "{state:?}: {longest} s");
    }
}

/// The last attempt of each parked message says why nobody knows, and that is one of the things that were done to them.
async fn assert_parked_for_a_cause(world: &World) {
    let parked = "SELECT m.id, a.state, a.error_code FROM messages m
        LEFT JOIN send_attempts a ON a.tenant_id = m.tenant_id AND a.message_id = m.id AND a.attempt_no = m.attempt_no
        WHERE m.phase = 5";
    for row in world.rows(parked).await {
        let (id, state): (Uuid, Option<i16>) = (row.get(0), row.get(1));
        let cause: Option<String> = row.get(2);
        let is_known = cause.as_deref().is_some_and(|text| CAUSES.contains(&text));
        let is_parked = state == Some(i16::from(AttemptState::Parked));
        assert!(is_parked && is_known, "{id}: {state:?}, {cause:?}");
    }
}

/// What was counted on the way is what stands in the rows, and everybody is in them.
async fn assert_counted(world: &World, id: CampaignId) {
    let counted = world.counted(id).await;
    counted.assert_equal();
    assert_eq!(counted.found.get(CountWord::Audience), i64::from(PEOPLE));
}
