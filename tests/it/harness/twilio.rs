//! A tenant whose text messages go through Twilio, which is the fake one.

use engageninja::crypto::key_ring::KeyRing;
use engageninja::crypto::sealed::seal;
use engageninja::dev::fake_twilio::{
    ACCOUNT_SID, AUTH_TOKEN, CallbackWeather, FakeOptions, FakeTwilio, Weather,
};
use engageninja::domain::channel::{Channel, Provider};
use engageninja::domain::ids::TenantId;
use engageninja::providers::ProviderSettings;
use engageninja::providers::twilio::place_of_token;
use engageninja::store::credentials::{TwilioCredentials, save_twilio};
use engageninja::store::senders::insert_account;
use uuid::Uuid;

use super::program::KEYS;
use super::world::World;

/// The number that messages come from.
pub const NUMBER: &str = "+15005550006";

/// A world and the Twilio it sends through.
#[derive(Debug)]
pub struct TwilioWorld {
    /// The world; its tenant's text messages go through the fake.
    pub world: World,
    /// The fake.
    pub fake: FakeTwilio,
}

impl TwilioWorld {
    /// With callbacks that nobody takes: their address has no listener.
    pub async fn start() -> Self {
        Self::on(World::start().await).await
    }

    /// In a world of the caller's.
    pub async fn on(world: World) -> Self {
        Self::seeded(world, 0).await
    }

    /// The same, with what its chances are drawn from.
    pub async fn seeded(mut world: World, seed: u64) -> Self {
        let options = FakeOptions {
            clock: world.db.clock(),
            seed,
            ..FakeOptions::default()
        };
        let fake = FakeTwilio::start_with(options).await.unwrap();
        fake.set_weather(silent());
        world.providers = ProviderSettings {
            keys: KeyRing::parse(&KEYS.to_owned().into()).unwrap(),
            public_url: Some("http://127.0.0.1:9".into()),
            twilio_api_url: fake.url().parse().unwrap(),
        };
        let world_and_fake = Self { world, fake };
        world_and_fake
            .save_account(world_and_fake.world.tenant_id, AUTH_TOKEN)
            .await;
        world_and_fake
            .save_sender(&world_and_fake.world, NUMBER)
            .await;
        world_and_fake
    }

    /// Another tenant on the same account, with a number of its own.
    pub async fn another(&self, slug: &str, number: &str) -> World {
        let world = self.world.another(slug, slug).await;
        self.save_account(world.tenant_id, AUTH_TOKEN).await;
        self.save_sender(&world, number).await;
        world
    }

    async fn save_sender(&self, world: &World, number: &str) {
        let sender = format!(
            "UPDATE cell.senders SET provider = 'twilio', account_ref = '{ACCOUNT_SID}', address = '{number}',
                segments_per_sec_override = 100000
             WHERE channel = 'sms' AND tenant_id = '{}'",
            world.tenant_id
        );
        world.db.execute(&sender).await;
    }

    /// From now on a messaging service chooses whom the tenant's text messages come from.
    pub async fn send_by_service(&self, sid: &str) {
        let sender = format!(
            "UPDATE cell.senders SET messaging_service_sid = '{sid}' WHERE channel = 'sms' AND tenant_id = '{}'",
            self.world.tenant_id
        );
        self.world.db.execute(&sender).await;
    }

    /// Gives a tenant the fake's account, with a token that may be wrong.
    pub async fn save_account(&self, tenant_id: TenantId, auth_token: &str) {
        self.save_account_of(tenant_id, ACCOUNT_SID, auth_token)
            .await;
    }

    /// The same of another account.
    pub async fn save_account_of(&self, tenant_id: TenantId, sid: &str, auth_token: &str) {
        let id = Uuid::now_v7();
        let place = place_of_token(tenant_id, id);
        let sealed = seal(
            &self.world.providers.keys,
            place,
            &auth_token.to_owned().into(),
        );
        let credentials = TwilioCredentials {
            tenant_id,
            id,
            channel: Channel::Sms,
            account_ref: sid.into(),
            account_sid: sid.into(),
            auth_token: sealed.unwrap(),
        };
        let mut tx = self.world.db.db().system().begin().await.unwrap();
        insert_account(&mut tx, sid, Provider::Twilio)
            .await
            .unwrap();
        save_twilio(&mut tx, &credentials).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// Good weather, and no callbacks.
pub fn silent() -> Weather {
    Weather {
        callbacks: CallbackWeather {
            copies: 0,
            ..CallbackWeather::default()
        },
        ..Weather::default()
    }
}
