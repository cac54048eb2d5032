//! What operators see and steer: dead jobs, schedules, workers. Everything they change is on record.

use std::time::Duration;

use engageninja::domain::orders::{FoldCampaignDeltas, PruneHistory};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, Events, Tenant, answer};
use crate::harness::eventually;
use crate::harness::world::World;

struct Desk {
    world: World,
    app: App,
    cookie: String,
}

impl Desk {
    async fn open() -> Self {
        let world = World::start().await;
        let (app, tenant): (App, Tenant) = App::beside(&world).await;
        let cookie = app.operator(&tenant).await;
        Self { world, app, cookie }
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        let path = format!("/api/ops/{path}");
        answer(self.app.with_cookie(&self.cookie, method, &path)).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path).await.ok(200)
    }

    async fn post(&self, path: &str) -> Answer {
        self.ask(Method::POST, path).await
    }

    async fn plant_dead(&self, id: i64, kind: &str, unique_key: Option<&str>) {
        let key = unique_key.map_or("NULL".to_owned(), |key| format!("'{key}'"));
        let sql = format!(
            "INSERT INTO cell.dead_jobs (id, queue, kind, priority, unique_key, payload, attempt, starts, reason,
                 last_error, created_at, died_at)
             VALUES ({id}, 'house', '{kind}', 0, {key}, '{{}}', 3, 0, 'attempts exhausted', 'no luck',
                 public.app_now(), public.app_now() - interval '1 hour' + {id} * interval '1 s')"
        );
        self.world.db.execute(&sql).await;
    }

    async fn audited(&self, action: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM control.platform_audit WHERE action = '{action}' AND actor_user_id IS NOT NULL"
        );
        self.world.number(&sql).await
    }

    async fn schedule(&self, id: &str) -> Value {
        let list = self.get("schedules").await;
        let items = list["items"].as_array().unwrap().iter();
        let mut items = items.filter(|item| item["id"] == id);
        items.next().unwrap().clone()
    }
}

const FOLD: &str = FoldCampaignDeltas::NAME;

#[tokio::test]
async fn dead_jobs_are_paged_shown_and_discarded() {
    let desk = Desk::open().await;
    for id in 1..=3 {
        desk.plant_dead(id, FOLD, None).await;
    }
    let first = desk.get("dead-jobs?limit=2").await;
    let ids = |page: &Value| -> Vec<i64> {
        let items = page["items"].as_array().unwrap();
        items
            .iter()
            .map(|job| job["id"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ids(&first), [3, 2]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = desk
        .get(&format!("dead-jobs?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(
        (ids(&second), &second["next_cursor"]),
        (vec![1], &Value::Null)
    );
    assert_eq!(desk.get("dead-jobs?queue=send").await["items"], json!([]));

    let shown = desk.get("dead-jobs/2").await;
    assert_eq!(shown["reason"], "attempts exhausted");
    assert_eq!(shown["last_error"], "no luck");
    assert_eq!(shown["payload"], "{}");
    assert_eq!(shown["attempts"], 3);

    let gone = desk.ask(Method::DELETE, "dead-jobs/2").await;
    assert_eq!(gone.status, 204);
    for (method, path) in [
        (Method::DELETE, "dead-jobs/2"),
        (Method::GET, "dead-jobs/2"),
        (Method::POST, "dead-jobs/2/replay"),
    ] {
        let problem = desk.ask(method, path).await.problem(404, "not-found");
        assert!(problem["detail"].as_str().unwrap().contains("no dead job"));
    }
    assert_eq!(desk.audited("discard_dead_job").await, 1);
    assert_eq!(ids(&desk.get("dead-jobs").await), [3, 1]);
}

#[tokio::test]
async fn a_dead_job_replays_once_however_often_it_is_pressed() {
    let desk = Desk::open().await;
    desk.plant_dead(7, FOLD, None).await;
    let answers = join_all((0..20).map(|_| desk.post("dead-jobs/7/replay"))).await;
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(done, 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.problem(404, "not-found");
    }
    let live = "SELECT count(*) FROM jobs WHERE kind = 'fold-campaign-deltas' AND attempt = 0";
    assert_eq!(desk.world.number(live).await, 1);
    assert_eq!(desk.audited("replay_dead_job").await, 1);

    let worker = desk.world.worker().await;
    eventually("it is done", || async {
        desk.world.number("SELECT count(*) FROM jobs").await == 0
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(desk.get("dead-jobs").await["items"], json!([]));
}

#[tokio::test]
async fn a_dead_job_whose_work_waits_already_is_not_replayed() {
    let desk = Desk::open().await;
    desk.plant_dead(7, FOLD, Some(FOLD)).await;
    let live = format!(
        "INSERT INTO cell.jobs (queue, kind, unique_key, payload) VALUES ('house', '{FOLD}', '{FOLD}', '{{}}')"
    );
    desk.world.db.execute(&live).await;
    let refused = desk.post("dead-jobs/7/replay").await;
    refused.problem(409, "job-already-live");
    assert_eq!(desk.get("dead-jobs/7").await["id"], 7);
    assert_eq!(desk.audited("replay_dead_job").await, 0);
    assert_eq!(desk.world.number("SELECT count(*) FROM jobs").await, 1);
}

/// Writes down every job of a kind that somebody inserts.
const EAR: &str = "
    CREATE TABLE public.heard (kind text);
    CREATE FUNCTION public.hear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN INSERT INTO public.heard VALUES (new.kind); RETURN new; END $$;
    CREATE TRIGGER hear AFTER INSERT ON cell.jobs FOR EACH ROW EXECUTE FUNCTION public.hear()";

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_is_run_now_orders_its_job_once_with_three_schedulers() {
    let desk = Desk::open().await;
    desk.world.db.execute(EAR).await;
    let _schedulers = [
        desk.world.scheduler(),
        desk.world.scheduler(),
        desk.world.scheduler(),
    ];
    let ticks = "SELECT count(*) FROM schedule_runs WHERE schedule_id = 'fold-deltas'";
    eventually("they tick", || async { desk.world.number(ticks).await > 0 }).await;
    let pressed = desk.post("schedules/prune/run").await.ok(200);
    assert_eq!(pressed["last_result"], "waiting");
    assert!(pressed["next_at"].is_string() && pressed["last_at"].is_string());
    // Pressed again while it waits: that one is it.
    desk.post("schedules/prune/run").await.ok(200);
    let seen = desk.world.number(ticks).await;
    eventually("they tick on", || async {
        desk.world.number(ticks).await > seen + 2
    })
    .await;
    let heard = format!(
        "SELECT count(*) FROM public.heard WHERE kind = '{}'",
        PruneHistory::NAME
    );
    assert_eq!(desk.world.number(&heard).await, 1);

    let worker = desk.world.worker().await;
    eventually("it is done", || async {
        desk.schedule("prune").await["last_result"] == "done"
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(desk.audited("run_schedule").await, 2);
    desk.post("schedules/nothing/run")
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_stays_paused_over_a_restart() {
    let desk = Desk::open().await;
    let ticks = async |id: &str| {
        let sql = format!("SELECT count(*) FROM schedule_runs WHERE schedule_id = '{id}'");
        desk.world.number(&sql).await
    };
    let scheduler = desk.world.scheduler();
    eventually("it ticks", || async { ticks("fold-deltas").await > 0 }).await;
    let paused = desk.post("schedules/fold-deltas/pause").await.ok(200);
    assert_eq!(
        (&paused["is_paused"], &paused["next_at"]),
        (&json!(true), &Value::Null)
    );
    drop(scheduler);
    let _scheduler = desk.world.scheduler();
    let before = ticks("fold-deltas").await;
    // The clock jumps over ticks of both.
    desk.world.db.advance(Duration::from_secs(20)).await;
    let others = ticks("demo-advance").await;
    eventually("another ticks", || async {
        ticks("demo-advance").await > others
    })
    .await;
    assert_eq!(ticks("fold-deltas").await, before);
    assert_eq!(desk.schedule("fold-deltas").await["is_paused"], true);

    let unpaused = desk.post("schedules/fold-deltas/unpause").await.ok(200);
    assert_eq!(unpaused["is_paused"], false);
    eventually("it ticks again", || async {
        ticks("fold-deltas").await > before
    })
    .await;
    for action in ["pause_schedule", "unpause_schedule"] {
        assert_eq!(desk.audited(action).await, 1);
    }
    desk.post("schedules/nothing/pause")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn workers_are_listed_until_they_end() {
    let desk = Desk::open().await;
    assert_eq!(desk.get("workers").await["items"], json!([]));
    let worker = desk.world.worker().await;
    let list = desk.get("workers").await;
    let one = &list["items"][0];
    assert_eq!(one["is_alive"], true);
    assert_eq!(one["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(one["roles"], json!(["worker"]));
    assert_eq!(one["pid"], std::process::id());
    let silent = "UPDATE cell.incarnations SET seen_at = seen_at - interval '5 min'";
    worker.drain(Duration::from_secs(5)).await;
    assert_eq!(desk.get("workers").await["items"], json!([]));
    // One that ended without a word.
    desk.world
        .db
        .execute("UPDATE cell.incarnations SET ended_at = NULL, ended_by = NULL")
        .await;
    desk.world.db.execute(silent).await;
    assert_eq!(desk.get("workers").await["items"][0]["is_alive"], false);
}

/// Four lanes, and each says what holds it: nothing, its sender's halt, its campaign, its brake.
#[tokio::test]
async fn lanes_show_what_waits_whose_turn_it_is_and_what_holds_them() {
    let desk = Desk::open().await;
    desk.world.add_contacts(30).await;
    let lane = async |campaign: engageninja::domain::ids::CampaignId| {
        let list = desk.get("lanes?limit=200").await;
        let items = list["items"].as_array().unwrap().clone();
        let found = items
            .into_iter()
            .find(|lane| lane["campaign_id"] == campaign.to_string());
        found.unwrap_or(Value::Null)
    };
    let braked = "ALTER TABLE cell.campaigns ALTER pace_per_sec SET DEFAULT 0.2";
    desk.world.db.execute(braked).await;
    let slow = desk.world.campaign("Slow").await;
    let brakeless = "ALTER TABLE cell.campaigns ALTER pace_per_sec DROP DEFAULT";
    desk.world.db.execute(brakeless).await;
    let worker = desk.world.worker().await;
    eventually(
        "the first one is begun and the brake holds the rest",
        async || {
            let shown = lane(slow).await;
            shown["held_by"] == "campaign" && shown["released"] == 0
        },
    )
    .await;
    let shown = lane(slow).await;
    assert_eq!(
        (&shown["paced_by"], &shown["allowed_per_sec"]),
        (&json!("campaign"), &json!(0.2))
    );
    assert_eq!(
        (&shown["is_active"], &shown["class"], &shown["ring"]),
        (&json!(true), &json!("bulk"), &json!(2))
    );
    assert_eq!(
        (&shown["window"], &shown["released"]),
        (&json!(10), &json!(0))
    );
    assert_eq!(shown["tenant"], "Dojo Coffee");
    assert!(
        shown["head_message_id"].is_string() && shown["head_since"].is_string(),
        "{shown}"
    );
    // The lane comes again when its brake lets the next one out.
    assert_eq!(shown["next_at"], shown["held_until"], "{shown}");

    desk.world.pause(slow).await.unwrap();
    eventually("it is switched off", async || {
        lane(slow).await["is_active"] == false
    })
    .await;
    let shown = lane(slow).await;
    assert_eq!(shown["held_by"], "campaign_stopped");
    assert!(
        shown.get("held_until").is_none() && shown.get("next_at").is_none(),
        "{shown}"
    );

    let halt = "INSERT INTO cell.halts (tenant_id, sender_id, until, reason, code)
        SELECT tenant_id, id, app_now() + interval '1 hour', 'no luck', '30034' FROM cell.senders";
    desk.world.db.execute(halt).await;
    let halted = desk.world.campaign("Halted").await;
    eventually("it waits", async || {
        lane(halted).await["head_message_id"].is_string()
    })
    .await;
    let shown = lane(halted).await;
    assert_eq!(
        (&shown["held_by"], &shown["held_because"]),
        (&json!("sender_halted"), &json!("no luck"))
    );
    assert!(shown["held_until"].is_string(), "{shown}");
    let page = desk.get("lanes?limit=1").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = desk.get(&format!("lanes?limit=1&cursor={cursor}")).await;
    assert_ne!(rest["items"][0]["lane"], page["items"][0]["lane"]);

    desk.world
        .db
        .execute("UPDATE cell.tenants SET status = 'suspended'")
        .await;
    assert_eq!(lane(halted).await["held_by"], "tenant_stopped");
    let nobody = uuid::Uuid::now_v7();
    let none = desk.get(&format!("lanes?tenant_id={nobody}")).await;
    assert_eq!(none["items"], json!([]));
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_stream_begins_with_what_the_lists_answer_and_tells_each_change() {
    let desk = Desk::open().await;
    let _scheduler = desk.world.scheduler();
    let worker = desk.world.worker().await;
    eventually("the schedules are listed", async || {
        desk.get("schedules").await["items"] != json!([])
    })
    .await;
    let request = desk
        .app
        .with_cookie(&desk.cookie, Method::GET, "/api/ops/sse");
    let mut events = Events::of(request).await;
    let first = events.next().await.unwrap();
    assert_eq!(first.name, "operations");
    assert_eq!(first.data["version"], first.id);
    let ids = |items: &Value| -> Vec<Value> {
        items
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].clone())
            .collect()
    };
    let listed = desk.get("schedules").await;
    assert_eq!(ids(&first.data["schedules"]), ids(&listed["items"]));
    let workers = desk.get("workers").await;
    assert_eq!(
        first.data["workers"][0]["incarnation"],
        workers["items"][0]["incarnation"]
    );

    desk.plant_dead(1, FOLD, None).await;
    let id = ids(&listed["items"])[0].as_str().unwrap().to_owned();
    desk.post(&format!("schedules/{id}/pause")).await.ok(200);
    let mut last = first.id;
    loop {
        let event = events.next().await.unwrap();
        assert!(event.id > last, "{event:?}");
        last = event.id;
        let is_dead = |queue: &Value| queue["queue"] == "house" && queue["dead"] == 1;
        let has_dead = event.data["queues"].as_array().unwrap().iter().any(is_dead);
        if has_dead && event.data["schedules"][0]["is_paused"] == true {
            break;
        }
    }
    worker.drain(Duration::from_secs(5)).await;
}
