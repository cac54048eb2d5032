//! A demo tenant with contacts and a worker: what a story about messages needs.

use engageninja::crypto::key_ring::KeyRing;
use engageninja::crypto::mac::MacKey;
use engageninja::delivery::campaigns::start_campaign;
use engageninja::dev::demo::ensure_demo_tenant;
use engageninja::domain::campaign::{Audience, Campaign, CampaignStatus};
use engageninja::domain::channel::Channel;
use engageninja::domain::counts::Counts;
use engageninja::domain::holds::Holds;
use engageninja::domain::ids::{CampaignId, ContactId, TemplateId, TemplateVersionId, TenantId};
use engageninja::jobs::worker::{Worker, WorkerOptions};
use engageninja::providers::ProviderSettings;
use engageninja::schedules;
use engageninja::store::campaign_counts::list_snapshots;
use engageninja::store::templates::{NewVersion, insert_template, insert_version};
use engageninja::store::{Db, campaigns};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::db::TestDb;
use super::eventually;

/// One demo tenant on a database of its own.
#[derive(Debug)]
pub struct World {
    /// The database.
    pub db: TestDb,
    /// Its one tenant.
    pub tenant_id: TenantId,
    /// The key of addresses and contents.
    pub mac_key: MacKey,
    /// How long things take.
    pub holds: Holds,
    /// What providers need to know.
    pub providers: ProviderSettings,
}

impl World {
    /// A tenant without contacts.
    pub async fn start() -> Self {
        Self::on(TestDb::new().await).await
    }

    /// The same on a database of the caller's.
    pub async fn on(db: TestDb) -> Self {
        let tenant_id = ensure_demo_tenant(&db.db(), "Dojo Coffee", "dojo")
            .await
            .unwrap();
        let mac_key = MacKey::from_base64(&MacKey::generate()).unwrap();
        Self {
            db,
            tenant_id,
            mac_key,
            holds: Holds::REAL,
            providers: offline(),
        }
    }

    /// Another demo tenant on the same database, with the same keys and people of its own to come.
    pub async fn another(&self, name: &str, slug: &str) -> Self {
        let tenant_id = ensure_demo_tenant(&self.db(), name, slug).await.unwrap();
        Self {
            db: self.db.share(),
            tenant_id,
            mac_key: self.mac_key.clone(),
            holds: self.holds,
            providers: self.providers.clone(),
        }
    }

    /// Makes every hold of this world so much shorter, also for processes that start from now on.
    pub async fn scale_holds(&mut self, scale: f64) {
        self.holds = Holds::REAL.scaled(scale);
        let sql = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET engageninja.holds_scale = {scale}', current_database()); END $$"
        );
        self.db.execute(&sql).await;
    }

    /// Adds `count` contacts with a number each and consent to SMS.
    pub async fn add_contacts(&self, count: u32) {
        let people = (0..count).map(|n| (format!("Person{n}"), format!("+1205555{n:04}")));
        self.insert_contacts(people).await;
    }

    /// Adds one contact with consent to SMS.
    pub async fn add_contact(&self, first_name: &str, phone: &str) -> ContactId {
        let one = [(first_name.to_owned(), phone.to_owned())];
        self.insert_contacts(one).await[0]
    }

    async fn insert_contacts(
        &self,
        people: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<ContactId> {
        let tenant_id = self.tenant_id;
        let (mut ids, mut contacts, mut consents) = (Vec::new(), Vec::new(), Vec::new());
        for (first_name, phone) in people {
            let id = ContactId(Uuid::now_v7());
            let mac = hex(&self.mac_key.address(&phone));
            // Two contacts may share a number when their email differs.
            contacts.push(format!(
                "('{tenant_id}', '{id}', '{first_name}', '{phone}', '\\x{mac}', '{id}@x.example', '{id}@x.example', '\\x{mac}')"
            ));
            consents.push(format!(
                "('{tenant_id}', '{id}', 'sms', 'attested', '{id}', public.app_now())"
            ));
            ids.push(id);
        }
        let (contacts, consents) = (contacts.join(", "), consents.join(", "));
        self.db
            .execute(&format!(
                "INSERT INTO cell.contacts (tenant_id, id, first_name, phone_e164, phone_mac, email, email_normalized, email_mac)
                 VALUES {contacts};
                 INSERT INTO cell.contact_consents (tenant_id, contact_id, channel, state, consent_id, at)
                 VALUES {consents}"
            ))
            .await;
        ids
    }

    /// A draft of a campaign to everybody, by SMS.
    pub async fn draft(&self, body: &str) -> CampaignId {
        let tenant_id = self.tenant_id;
        let version_id = TemplateVersionId(Uuid::now_v7());
        let template_id = TemplateId(Uuid::now_v7());
        let template = engageninja::domain::template::Template::parse(
            body,
            engageninja::domain::template::Markup::Text,
        )
        .unwrap();
        let mut tx = self.db().cell(tenant_id).begin().await.unwrap();
        let name = format!("Template {template_id}");
        insert_template(&mut tx, tenant_id, template_id, &name, Channel::Sms)
            .await
            .unwrap();
        let version = NewVersion {
            id: version_id,
            subject: None,
            body: body.into(),
            html: None,
            variables: template.variables().to_vec(),
            created_by: None,
        };
        insert_version(&mut tx, tenant_id, template_id, &version)
            .await
            .unwrap();
        let ids = (tenant_id, CampaignId(Uuid::now_v7()));
        let now = self.db.clock().now();
        let campaign = Campaign::draft(
            ids,
            "Spring sale",
            Channel::Sms,
            Some(version_id),
            Audience::Everybody,
            now,
        );
        campaigns::insert_campaign(&mut tx, &campaign, None)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        campaign.id
    }

    /// A started campaign to everybody, by SMS.
    pub async fn campaign(&self, body: &str) -> CampaignId {
        let id = self.draft(body).await;
        let mut tx = self.db().cell(self.tenant_id).begin().await.unwrap();
        start_campaign(&mut tx, self.tenant_id, id, &self.db.clock())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// A worker in this process.
    pub async fn worker(&self) -> Worker {
        Worker::start(self.db(), self.worker_options()).await
    }

    /// How a worker of this world is started.
    pub fn worker_options(&self) -> WorkerOptions {
        WorkerOptions {
            mac_key: self.mac_key.clone(),
            holds: self.holds,
            providers: self.providers.clone(),
            concurrency: None,
            queues: Vec::new(),
            roles: Vec::new(),
        }
    }

    /// A scheduler in this process, until the guard is dropped.
    pub fn scheduler(&self) -> tokio_util::sync::DropGuard {
        let stop = CancellationToken::new();
        tokio::spawn(schedules::run(self.db(), stop.clone()));
        stop.drop_guard()
    }

    /// Waits until a campaign has completed.
    pub async fn completed(&self, id: CampaignId) {
        eventually("the campaign completes", || async {
            self.load(id).await.status == CampaignStatus::Completed
        })
        .await;
    }

    /// The campaign as it is.
    pub async fn load(&self, id: CampaignId) -> Campaign {
        let mut tx = self.db().cell(self.tenant_id).begin().await.unwrap();
        campaigns::load_campaign(tx.conn(), self.tenant_id, id)
            .await
            .unwrap()
    }

    /// Its counts in one snapshot.
    pub async fn counts(&self, id: CampaignId) -> Counts {
        let mut tx = self.db().system().begin().await.unwrap();
        let mut snapshots = list_snapshots(tx.conn(), &[(self.tenant_id, id)])
            .await
            .unwrap();
        snapshots.pop().unwrap().counts
    }

    /// From now on whoever adds a row to this table of the cell stands still there while the gate is shut, inside its
    /// transaction and with all its locks.
    pub async fn build_gate(&self, table: &str) {
        let gate = format!(
            "CREATE TABLE public.gate (is_shut boolean);
             CREATE FUNCTION public.stand_at_gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                 $$ BEGIN
                     WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
                     RETURN new;
                 END $$;
             CREATE TRIGGER gate BEFORE INSERT ON cell.{table}
                 FOR EACH ROW EXECUTE FUNCTION public.stand_at_gate()"
        );
        self.db.execute(&gate).await;
    }

    /// Shuts the gate.
    pub async fn shut_gate(&self) {
        let shut = "INSERT INTO public.gate VALUES (true)";
        self.db.execute(shut).await;
    }

    /// Whoever stands at the gate goes on.
    pub async fn open_gate(&self) {
        self.db.execute("DELETE FROM public.gate").await;
    }

    /// Waits until somebody stands at the gate.
    pub async fn somebody_is_at_gate(&self) {
        let there = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event = 'PgSleep'";
        eventually("somebody is at the gate", || async {
            self.number(there).await > 0
        })
        .await;
    }

    /// One number, asked by a superuser.
    pub async fn number(&self, sql: &str) -> i64 {
        self.db.number(sql).await
    }

    /// Addresses that were sent to more than once, as the demo provider's ledger knows.
    pub async fn doubled(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM (SELECT m.dest_mac FROM demo_ledger d JOIN messages m
             ON m.tenant_id = d.tenant_id AND m.id = d.message_id GROUP BY m.dest_mac, m.campaign_id HAVING count(*) > 1) x",
        )
        .await
    }

    fn db(&self) -> Db {
        self.db.db()
    }
}

/// No keys and no address: real providers send nothing.
pub fn offline() -> ProviderSettings {
    ProviderSettings {
        keys: KeyRing::default(),
        public_url: None,
        twilio_api_url: "http://127.0.0.1:9".parse().unwrap(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
