//! A Twilio of our own: a real HTTP server with a ledger of every message it took, and every way to answer badly.
//!
//! Tests, benches and `engageninja fake twilio` use it. It names no provider: the wire format is declared here once more,
//! from the provider's documents, so that a wrong client and a wrong fake cannot agree. What it took stands in the
//! [`Ledger`], which judges whether a message was sent twice.

mod callbacks;
mod ledger;
mod routes;
mod socket;
mod weather;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use poem::Server;
use poem::listener::TcpAcceptor;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::callbacks::Callback;
pub use self::ledger::{Accepted, Ledger, Requested};
pub use self::weather::{Act, CallbackWeather, Reply, Weather};

use self::callbacks::Postman;
use self::socket::{Connections, CuttableAcceptor};
use self::weather::between;
use crate::clock::Clock;

/// The account that a fake has from the start.
pub const ACCOUNT_SID: &str = "AC00000000000000000000000000000001";
/// Its token.
pub const AUTH_TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The one number in the pool of every messaging service: whom their messages come from.
pub const SERVICE_NUMBER: &str = "+15005550010";
/// The accounts of a fake that has several, from 1; the first is [`ACCOUNT_SID`].
pub fn account_sid(number: u8) -> String {
    format!("AC{number:032}")
}

/// Between two looks whether callbacks are under way.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// How a fake is started.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whose time it tells: that of the database it is used with.
    pub clock: Clock,
    /// A file that every taken message is appended to.
    pub ledger_file: Option<PathBuf>,
    /// What chance is drawn from.
    pub seed: u64,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clock: Clock::default(),
            ledger_file: None,
            seed: 0,
        }
    }
}

/// A running fake. It ends when it is dropped.
#[derive(Debug)]
pub struct FakeTwilio {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    ledger: Ledger,
    postman: Postman,
    connections: Connections,
    stop: CancellationToken,
    state: Mutex<State>,
    random: Mutex<StdRng>,
}

#[derive(Debug, Default)]
struct State {
    /// Token, and whether it is suspended.
    accounts: HashMap<String, (String, bool)>,
    weather: Weather,
    weather_of: HashMap<String, Weather>,
    acts: VecDeque<Act>,
    refused_lists: VecDeque<u16>,
}

impl FakeTwilio {
    /// Starts on a free port of this machine, with a clock.
    pub async fn start(clock: Clock) -> io::Result<Self> {
        let options = FakeOptions {
            clock,
            ..FakeOptions::default()
        };
        Self::start_with(options).await
    }

    /// Starts as told.
    pub async fn start_with(options: FakeOptions) -> io::Result<Self> {
        let file = match &options.ledger_file {
            Some(path) => Some(
                std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(path)?,
            ),
            None => None,
        };
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let mut state = State::default();
        state
            .accounts
            .insert(ACCOUNT_SID.into(), (AUTH_TOKEN.into(), false));
        let shared = Arc::new(Shared {
            clock: options.clock,
            ledger: Ledger::new(file),
            postman: Postman::new().map_err(io::Error::other)?,
            connections: Connections::default(),
            stop: CancellationToken::new(),
            state: Mutex::new(state),
            random: Mutex::new(StdRng::seed_from_u64(options.seed)),
        });
        let server = Server::new_with_acceptor(CuttableAcceptor {
            inner: TcpAcceptor::from_tokio(listener)?,
            connections: shared.connections.clone(),
        });
        let routes = routes::routes(&shared);
        let stop = shared.stop.clone().cancelled_owned();
        tokio::spawn(async move {
            // Requests that stall by order shall not hold it up.
            let grace = Some(Duration::from_millis(100));
            if let Err(error) = server.run_with_graceful_shutdown(routes, stop, grace).await {
                tracing::error!(%error, "the fake ended");
            }
        });
        Ok(Self { address, shared })
    }

    /// Its base address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it took and what it was asked.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Adds an account, or lets it send again, with this token.
    pub fn add_account(&self, sid: &str, auth_token: &str) {
        let account = (auth_token.to_owned(), false);
        self.shared.state().accounts.insert(sid.into(), account);
    }

    /// From now on the account may not send.
    pub fn suspend(&self, sid: &str) {
        if let Some(account) = self.shared.state().accounts.get_mut(sid) {
            account.1 = true;
        }
    }

    /// How it behaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.shared.set_weather(weather);
    }

    /// How it behaves to one account from now on.
    pub fn set_weather_of(&self, sid: &str, weather: Weather) {
        self.shared.state().weather_of.insert(sid.into(), weather);
    }

    /// What the next requests meet, before the weather has its say again.
    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.shared.state().acts.extend(acts);
    }

    /// The next requests for a list are answered with these statuses.
    pub fn refuse_lists(&self, statuses: impl IntoIterator<Item = u16>) {
        self.shared.state().refused_lists.extend(statuses);
    }

    /// Waits until no callback is under way any more.
    pub async fn callbacks_done(&self) {
        while !self.shared.postman.is_idle() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Takes the callbacks that were held back.
    pub fn take_held(&self) -> Vec<Callback> {
        self.shared.postman.take_held()
    }

    /// Posts callbacks, many at once, in an order drawn from `seed`. Answers the last status of each.
    pub async fn post(&self, callbacks: Vec<Callback>, seed: u64) -> Vec<Option<u16>> {
        self.shared.postman.post_shuffled(callbacks, seed).await
    }

    /// Somebody writes to one of the account's numbers: a signed post to `address`.
    pub async fn write_in(&self, address: &str, from: &str, to: &str, body: &str) -> Option<u16> {
        let sid = format!("SM{}", uuid::Uuid::new_v4().simple());
        let form = [
            ("MessageSid", sid.as_str()),
            ("SmsMessageSid", &sid),
            ("AccountSid", ACCOUNT_SID),
            ("From", from),
            ("To", to),
            ("Body", body),
            ("NumMedia", "0"),
            ("NumSegments", "1"),
            ("FromCity", ""),
            ("ApiVersion", "2010-04-01"),
        ];
        let form = form.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let callback = Callback::new(address, form.to_vec(), AUTH_TOKEN);
        self.shared.postman.post(&callback).await
    }
}

impl Drop for FakeTwilio {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// A number below 1000 that hangs on the recipient alone: whatever else happens, a message ends the same way.
fn fate_of(recipient: &str) -> u32 {
    let mut hasher = std::hash::DefaultHasher::new();
    recipient.hash(&mut hasher);
    (hasher.finish() % 1000) as u32
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random(&self) -> MutexGuard<'_, StdRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, sid: &str) -> Option<(String, bool)> {
        self.state().accounts.get(sid).cloned()
    }

    fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    fn weather(&self, account: &str) -> Weather {
        let state = self.state();
        state
            .weather_of
            .get(account)
            .unwrap_or(&state.weather)
            .clone()
    }

    fn refused_list(&self) -> Option<u16> {
        self.state().refused_lists.pop_front()
    }

    fn next_act(&self, account: &str) -> (Act, Weather) {
        let weather = self.weather(account);
        let scripted = self.state().acts.pop_front();
        let act = scripted.unwrap_or_else(|| weather.draw(&mut *self.random()));
        (act, weather)
    }

    /// What becomes of a message that was taken, and what is said of it on the way.
    fn follow(self: &Arc<Self>, message: Accepted, weather: CallbackWeather) {
        let Some((token, _)) = self.account(&message.account_sid) else {
            return;
        };
        let under_way = self.postman.begin();
        let shared = self.clone();
        tokio::spawn(async move {
            let is_undelivered = fate_of(&message.to) < weather.undelivered;
            let end = if is_undelivered {
                ("undelivered", Some(30003))
            } else {
                ("delivered", None)
            };
            // The answer has said the first word: `queued`, but `accepted` where a service chooses who sends.
            let queued = message
                .messaging_service_sid
                .is_some()
                .then_some(("queued", None));
            for (word, error_code) in queued.into_iter().chain([("sent", None), end]) {
                let step = between(weather.step_ms, &mut *shared.random());
                tokio::time::sleep(step).await;
                let Some(message) = shared.ledger.set_status(&message.sid, word, error_code) else {
                    return;
                };
                if let Some(callback) = Callback::of(&message, word, error_code, &token) {
                    shared.send(&callback, &weather);
                }
            }
            drop(under_way);
        });
    }

    fn send(self: &Arc<Self>, callback: &Callback, weather: &CallbackWeather) {
        for _ in 0..weather.copies {
            if weather.is_held {
                self.postman.hold(callback.clone());
                continue;
            }
            if self.random().random_range(0..1000) < weather.lost {
                continue;
            }
            let delay = between(weather.delay_ms, &mut *self.random());
            let (shared, callback) = (self.clone(), callback.clone());
            let under_way = self.postman.begin();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                shared.postman.post(&callback).await;
                drop(under_way);
            });
        }
    }
}
