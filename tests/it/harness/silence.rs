//! A way to the database that may fall silent: what was open then stays open and says nothing any more, as when a host loses
//! power. New connections are as good as ever.

use std::path::{Path, PathBuf};

use engageninja::store::{Db, DbOptions};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::TempDir;
use super::db::TestDb;

/// The way.
#[derive(Debug)]
pub struct Way {
    dir: TempDir,
    silences: watch::Sender<u64>,
}

impl Way {
    /// Opens one to a server's socket.
    pub fn to(options: &PgConnectOptions) -> Self {
        let way = Self {
            dir: TempDir::new(),
            silences: watch::Sender::new(0),
        };
        let server = socket_of(options.get_socket().unwrap(), options.get_port());
        let own = socket_of(way.dir.path(), options.get_port());
        let listener = UnixListener::bind(own).unwrap();
        let silences = way.silences.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = UnixStream::connect(&server).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(carry(near_in, far_out, silences.subscribe()));
                tokio::spawn(carry(far_in, near_out, silences.subscribe()));
            }
        });
        way
    }

    /// The database by this way.
    pub fn db(&self, test: &TestDb) -> Db {
        let options = test.options();
        let by = |options: &PgConnectOptions| options.clone().socket(self.dir.path());
        let options = DbOptions {
            cell: by(&options.cell),
            cell_direct: by(&options.cell_direct),
            control: by(&options.control),
            ..options
        };
        Db::new(&options, test.clock())
    }

    /// Nothing goes to or fro any more on what is open now.
    pub fn fall_silent(&self) {
        self.silences.send_modify(|silences| *silences += 1);
    }
}

fn socket_of(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silences: watch::Receiver<u64>,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = tokio::select! {
            biased;
            _ = silences.changed() => {
                // Held, so that neither end is told.
                let _held = (from, to);
                return std::future::pending().await;
            }
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(length) if length > 0 => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
