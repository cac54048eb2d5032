//! The program itself, killed with -9 in the middle of a file.

use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use engageninja::crypto::mac::MacKey;
use engageninja::domain::holds::Holds;
use serde_json::json;
use sqlx::ConnectOptions;

use super::office::{Office, counts, expected_of_long_sample, long_sample};
use crate::harness::eventually;

/// Leases of a dead process end after a tenth of 30 seconds, so that nobody waits for longer.
const HOLDS_SCALE: f64 = 0.1;

/// A process that does not outlive its test.
struct Program(Child);

impl Program {
    /// `engageninja worker` for imports, on the database of the office.
    fn worker(office: &Office, mac_key: &str) -> Self {
        let url = office.app.db().options().cell.to_url_lossy();
        let child = Command::new(env!("CARGO_BIN_EXE_engageninja"))
            .args(["worker", "--jobs", "imports"])
            .env("DATABASE_URL", url.as_str())
            .env("ENGAGENINJA_MAC_KEY", mac_key)
            .env("ENGAGENINJA_ENV", "development")
            .env("ENGAGENINJA_ALLOW_UNSAFE_DURABILITY", "1")
            .env("ENGAGENINJA_ADMIN_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL, as the kernel does when memory runs out.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_import_whose_program_is_killed_ends_on_another_with_the_same_numbers() {
    let key = STANDARD.encode([7; 32]);
    let mut office = Office::open().await;
    office.mac_key = MacKey::from_base64(&key.clone().into()).unwrap();
    office.holds = Holds::REAL.scaled(HOLDS_SCALE);
    let options = office.app.db().options().cell;
    let database = options.get_database().unwrap();
    let scale = format!("ALTER DATABASE {database} SET engageninja.holds_scale = '{HOLDS_SCALE}'");
    office.app.db().execute(&scale).await;
    let id = office.started(long_sample(), &json!({})).await;

    let mut program = Program::worker(&office, &key);
    eventually("the first chunk is read", || async {
        office.look(id).await["read_bytes"].as_u64() > Some(0)
    })
    .await;
    program.kill();
    let half = office.look(id).await;
    assert_eq!(half["status"], "running", "killed too late");

    let worker = office.worker().await;
    let import = office.completed(id).await;

    assert_eq!(counts(&import), expected_of_long_sample());
    let contacts = office.number("SELECT count(*) FROM contacts").await;
    assert_eq!(import["counts"]["created"], contacts);
    worker.drain(std::time::Duration::from_secs(10)).await;
}
