//! A thousand readers of streams, and ten that take nothing: what they cost, and what becomes of them.

use std::process::Command;
use std::time::{Duration, Instant};

use engageninja::domain::actor::Role;
use engageninja::domain::counts::{CountDelta, CountWord};
use engageninja::domain::ids::CampaignId;
use engageninja::live::topic::TopicKind;
use engageninja::store::campaign_counts::append_deltas;
use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::app::App;
use crate::harness::program::{Started, on};
use crate::harness::world::World;
use crate::harness::{eventually, within};

const READERS: usize = 1_000;
const STALLED: usize = 10;
/// What [`READERS`] and [`STALLED`] may cost a process, debug build: 90 KiB each.
const COST_KIB_MAX: i64 = 90 * 1_010;

/// A connection on which a stream was asked for.
struct Reader {
    stream: BufReader<TcpStream>,
    /// What has come of the body and is not read: the server cuts it wherever it likes.
    body: Vec<u8>,
}

impl Reader {
    /// Asks for a stream; with little room on the way for one who will take nothing.
    async fn open(url: &str, key: &str, topics: &str, is_stalled: bool) -> Self {
        let address = url.trim_start_matches("http://");
        let socket = TcpSocket::new_v4().unwrap();
        if is_stalled {
            socket.set_recv_buffer_size(2048).unwrap();
        }
        let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let request = format!(
            "GET /api/events?topics={topics} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream: BufReader::with_capacity(1024, stream),
            body: Vec::new(),
        }
    }

    /// One line of what frames the body. Empty when the connection has ended.
    async fn frame(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        // A connection that was cut has ended too.
        let _ = within(60, "a line comes", read).await;
        line
    }

    /// The next line of the body. None when it has ended.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.body.iter().position(|byte| *byte == b'\n') {
                let line = self.body.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let frame = self.frame().await;
            if frame.is_empty() {
                return None;
            }
            // Head and ends of chunks are no sizes.
            let Ok(size) = usize::from_str_radix(frame.trim(), 16) else {
                continue;
            };
            let read = self.body.len();
            self.body.resize(read + size, 0);
            self.stream
                .read_exact(&mut self.body[read..])
                .await
                .ok()
                .filter(|_| size > 0)?;
        }
    }

    /// The next event: its name and what it says. None when the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let line = self.line().await?;
            if let Some(event) = line.strip_prefix("event: ") {
                event.trim().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    /// Reads until the home page has this version.
    async fn until_home_is(&mut self, version: i64) {
        loop {
            let (name, data) = self.next().await.unwrap();
            if name == "home" && data["version"] == version {
                return;
            }
        }
    }
}

/// Campaigns, and a stream's topics for all of them.
async fn campaigns(world: &World, count: usize) -> (Vec<CampaignId>, String) {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(world.draft("Hello").await);
    }
    let topics: Vec<_> = ids.iter().map(|id| format!("campaign:{id}")).collect();
    (ids, topics.join(","))
}

/// Moves the numbers of all of them.
async fn move_all(world: &World, ids: &[CampaignId]) {
    let mut delta = CountDelta::default();
    delta.add(CountWord::Audience, 1);
    delta.add(CountWord::Queued, 1);
    let deltas: Vec<_> = ids
        .iter()
        .map(|id| (world.tenant_id, *id, delta.clone()))
        .collect();
    let mut tx = world.db.db().cell(world.tenant_id).begin().await.unwrap();
    append_deltas(tx.conn(), &deltas).await.unwrap();
    tx.commit().await.unwrap();
}

/// The program with the soft limit of open files that most machines have.
fn with_few_files(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -S -n 1024; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(std::process::Stdio::null());
    limited
}

/// A process of `serve`, from outside.
struct Serve {
    process: Started,
    client: reqwest::Client,
    key: String,
}

impl Serve {
    fn rss_kib(&self) -> i64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn get(&self, url: &str) -> String {
        let request = self.client.get(url).bearer_auth(&self.key).send();
        request.await.unwrap().text().await.unwrap()
    }

    /// A number of `/metrics`; 0 when it has not moved yet.
    async fn metric(&self, name: &str) -> i64 {
        let text = self
            .get(&format!("{}/metrics", self.process.url("admin_url")))
            .await;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .next()
            .map_or(0, |value| value.trim().parse::<f64>().unwrap() as i64)
    }

    async fn reads(&self, topic: &str) -> i64 {
        let name = format!("engageninja_live_reads_total{{topic=\"{topic}\"}}");
        self.metric(&name).await
    }

    async fn home_version(&self) -> i64 {
        let url = format!("{}/api/stats", self.process.url("url"));
        let stats: Value = serde_json::from_str(&self.get(&url).await).unwrap();
        stats["version"].as_i64().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_and_ten_stalled_ones_cost_little_memory_and_one_reading() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let serve = Serve {
        process: Started::new(with_few_files(&on(&world.db, &["serve"]))).await,
        client: reqwest::Client::builder().build().unwrap(),
        key: app.key(&tenant, Role::Viewer).await,
    };
    let url = serve.process.url("url");
    let (ids, many) = campaigns(&world, 20).await;
    // What the first of all costs is no reader's.
    let mut first = Reader::open(url, &serve.key, "home,campaigns", false).await;
    first.next().await.unwrap();
    let before = serve.rss_kib();

    let mut readers = Vec::new();
    while readers.len() < READERS {
        let opened = (0..100).map(async |_| {
            let mut reader = Reader::open(url, &serve.key, "home,campaigns", false).await;
            for _ in 0..2 {
                reader.next().await.unwrap();
            }
            reader
        });
        readers.extend(join_all(opened).await);
    }
    let stalled = (0..STALLED).map(|_| Reader::open(url, &serve.key, &many, true));
    let stalled = join_all(stalled).await;
    let watchers = "engageninja_live_watchers_count";
    let all = (1 + READERS + STALLED) as i64;
    eventually("all watch", async || serve.metric(watchers).await == all).await;
    let idle = serve.rss_kib() - before;

    let (begun, reads) = (Instant::now(), serve.reads("home").await);
    for _ in 0..8 {
        move_all(&world, &ids).await;
        let reads = serve.reads("campaign").await;
        eventually("it is read", async || serve.reads("campaign").await > reads).await;
    }
    eventually("three further reads", async || {
        serve.reads("home").await >= reads + 3
    })
    .await;
    // The first of them may have come at once.
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let moved = serve.rss_kib() - before;
    println!(
        "{} readers: {idle} KiB idle, {moved} KiB after changes",
        READERS + STALLED
    );
    assert!(
        idle < COST_KIB_MAX && moved < COST_KIB_MAX,
        "{idle} KiB, then {moved} KiB"
    );

    // Who stayed gets the newest, and who comes back then has it at once.
    let version = serve.home_version().await;
    readers.pop();
    for reader in readers.iter_mut().step_by(100) {
        reader.until_home_is(version).await;
    }
    let mut back = Reader::open(url, &serve.key, "home", false).await;
    let (name, data) = back.next().await.unwrap();
    assert_eq!(
        (name.as_str(), data["version"].as_i64()),
        ("home", Some(version))
    );
    drop((first, back, readers, stalled));
    eventually("nobody watches", async || serve.metric(watchers).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_is_dropped_and_nobody_else() {
    let world = World::start().await;
    let (app, tenant) = App::impatient(&world, Duration::from_millis(500));
    let key = app.key(&tenant, Role::Viewer).await;
    let url = app.origin();
    let (ids, many) = campaigns(&world, 20).await;
    let stalled = (0..STALLED).map(|_| Reader::open(&url, &key, &many, true));
    let mut stalled = join_all(stalled).await;
    let mut reader = Reader::open(&url, &key, &many, false).await;
    let mut idle = Reader::open(&url, &key, "campaigns", false).await;
    let live = &app.state.live;
    eventually("all watch", async || live.watchers() == STALLED + 2).await;

    let reading = tokio::spawn(async move {
        let mut events = 0;
        while let Some((name, _)) = reader.next().await {
            assert_eq!(name, "campaign");
            events += 1;
        }
        events
    });
    let mut rounds = 0;
    while live.watchers() > 2 {
        move_all(&world, &ids).await;
        let reads = live.reads(TopicKind::Campaign);
        eventually("it is read", async || {
            live.reads(TopicKind::Campaign) > reads
        })
        .await;
        rounds += 1;
        assert!(rounds < 200, "{} watch still", live.watchers());
    }
    // Not their streams alone: their connections are cut, and hold nothing that was written for them.
    for reader in &mut stalled {
        within(30, "the connection is cut", async {
            while reader.stream.get_mut().write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    // The others stay: one takes all, the other has had nothing to take.
    move_all(&world, &ids).await;
    assert_eq!(live.watchers(), 2);
    app.state.streams.cancel();
    assert!(reading.await.unwrap() >= 20);
    assert_eq!(idle.next().await.unwrap().0, "campaigns");
    assert!(idle.next().await.is_none());
}
