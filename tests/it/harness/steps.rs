//! Single steps of the message path, for stories that need one of them to stop half-way.

use std::time::Duration;

use engageninja::delivery::campaigns::{
    SwitchError, cancel_campaign, count_in_flight, pause_campaign, resume_campaign,
    schedule_campaign,
};
use engageninja::domain::campaign::{Campaign, SendAt};
use engageninja::domain::counts::CountWord;
use engageninja::domain::ids::{
    AttemptId, CampaignId, Incarnation, MessageId, MessageKey, TenantId,
};
use engageninja::jobs::registry::{CAMPAIGNS, HOUSE};
use engageninja::jobs::worker::{Worker, WorkerOptions};
use engageninja::store::Db;
use engageninja::store::attempts::{Judged, begin_attempts};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};
use uuid::Uuid;

use super::eventually;
use super::world::World;

/// A process that no test starts: whoever begins under its name is not there to finish.
const NOBODY: Incarnation = Incarnation(1_000_000);

/// Pauses a campaign as every door does; says how many calls were under way.
pub async fn pause_on(
    db: &Db,
    tenant_id: TenantId,
    id: CampaignId,
) -> Result<(Campaign, i64), SwitchError> {
    let mut tx = db.cell(tenant_id).begin().await?;
    let switched = pause_campaign(&mut tx, tenant_id, id, db.clock()).await?;
    tx.commit().await?;
    let in_flight = count_in_flight(db, tenant_id, id).await?;
    Ok((switched.campaign, in_flight))
}

impl World {
    /// Pauses a campaign; says how many calls were under way.
    pub async fn pause(&self, id: CampaignId) -> Result<(Campaign, i64), SwitchError> {
        pause_on(&self.db.db(), self.tenant_id, id).await
    }

    /// Lets a paused campaign go on.
    pub async fn resume(&self, id: CampaignId) {
        let mut tx = self.db.db().cell(self.tenant_id).begin().await.unwrap();
        resume_campaign(&mut tx, self.tenant_id, id).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Stops a campaign for good; says how many calls were under way.
    pub async fn cancel(&self, id: CampaignId) -> Result<(Campaign, i64), SwitchError> {
        let db = self.db.db();
        let mut tx = db.cell(self.tenant_id).begin().await?;
        let switched = cancel_campaign(&mut tx, self.tenant_id, id, db.clock()).await?;
        tx.commit().await?;
        let in_flight = count_in_flight(&db, self.tenant_id, id).await?;
        Ok((switched.campaign, in_flight))
    }

    /// A campaign to everybody that starts by itself in a while.
    pub async fn scheduled(&self, body: &str, wait: Duration) -> CampaignId {
        let id = self.draft(body).await;
        let clock = self.db.clock();
        let at = SendAt::Instant(clock.now() + wait);
        let mut tx = self.db.db().cell(self.tenant_id).begin().await.unwrap();
        schedule_campaign(&mut tx, self.tenant_id, id, at, &clock)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// How a worker is started that lets messages out and sends none.
    pub fn without_sends(&self) -> WorkerOptions {
        WorkerOptions {
            queues: vec![CAMPAIGNS.into(), HOUSE.into()],
            ..self.worker_options()
        }
    }

    /// A worker with few calls at once, so that a campaign takes its time and many transactions.
    pub async fn slow_worker(&self) -> Worker {
        let options = WorkerOptions {
            concurrency: Some(8),
            ..self.worker_options()
        };
        Worker::start(self.db.db(), options).await
    }

    /// Lets messages of a campaign out until `count` wait for their jobs, and says which.
    pub async fn let_out(&self, campaign_id: CampaignId, count: usize) -> Vec<MessageKey> {
        let worker = Worker::start(self.db.db(), self.without_sends()).await;
        eventually("messages are let out", || async {
            self.list_released(campaign_id).await.len() >= count
        })
        .await;
        worker.drain(Duration::from_secs(5)).await;
        self.list_released(campaign_id).await
    }

    /// The messages of a campaign that are let out and not begun.
    pub async fn list_released(&self, campaign_id: CampaignId) -> Vec<MessageKey> {
        let sql = format!(
            "SELECT id FROM messages WHERE tenant_id = '{}' AND campaign_id = '{campaign_id}' AND phase = 1 ORDER BY id",
            self.tenant_id
        );
        let rows = self.rows(&sql).await;
        rows.iter()
            .map(|row| MessageKey {
                tenant_id: self.tenant_id,
                id: MessageId(row.get(0)),
            })
            .collect()
    }

    /// Begins attempts that nobody finishes.
    pub async fn begin(&self, keys: &[MessageKey]) -> Vec<Judged> {
        let tokens: Vec<AttemptId> = keys.iter().map(|_| AttemptId(Uuid::new_v4())).collect();
        let pool = self.db.db().batch_pool();
        begin_attempts(&pool, NOBODY, keys, &tokens, &self.holds)
            .await
            .unwrap()
    }

    /// How many messages are through: with the provider, or refused by it.
    pub async fn through(&self, campaign_id: CampaignId) -> i64 {
        let counts = self.counts(campaign_id).await;
        counts.get(CountWord::HandedOver) + counts.get(CountWord::DroppedRefused)
    }

    /// A session of a superuser in the cell, for locks and odd statements.
    pub async fn session(&self) -> PgConnection {
        let mut conn = self.db.options().cell.connect().await.unwrap();
        conn.execute("SET search_path = cell, public")
            .await
            .unwrap();
        conn
    }

    /// A session that holds the row of a message, as an operator's at a prompt may, until it is rolled back.
    pub async fn hold(&self, id: impl std::fmt::Display) -> PgConnection {
        let mut holder = self.session().await;
        let hold = format!("BEGIN; UPDATE messages SET phase_at = phase_at WHERE id = '{id}'");
        holder.execute(AssertSqlSafe(hold)).await.unwrap();
        holder
    }

    /// What a superuser's question answers.
    pub async fn rows(&self, sql: &str) -> Vec<sqlx::postgres::PgRow> {
        let mut conn = self.session().await;
        let rows = conn.fetch_all(AssertSqlSafe(sql.to_owned())).await.unwrap();
        conn.close().await.unwrap();
        rows
    }

    /// Deadlocks of this database since it was made. Ends the pools: a session tells what it met when it closes.
    pub async fn deadlocks(&self) -> i64 {
        self.db.db().close().await;
        self.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .await
    }
}
