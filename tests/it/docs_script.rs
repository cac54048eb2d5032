//! The script of docs/api.md does what it says: a file becomes a campaign, by curl alone.

use std::process::Stdio;

use engageninja::domain::actor::Role;
use serde_json::Value;

use crate::harness::app::App;
use crate::harness::world::World;
use crate::harness::{TempDir, within};

#[tokio::test]
async fn the_script_of_the_docs_sends_a_campaign_to_a_file() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Sender).await;
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let dir = TempDir::new();
    let file = dir.path().join("people.csv");
    let rows =
        "first_name,phone\nAnna,+12055550001\nBob,+12055550002\nTwin,+12055550002\nEve,nonsense\n";
    std::fs::write(&file, rows).unwrap();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/campaign.sh");
    let run = tokio::process::Command::new("sh")
        .arg(script)
        .arg(&file)
        .arg("Hello \"{{ first_name | default('you') }}\"")
        .env("URL", app.origin())
        .env("KEY", &key)
        .stdin(Stdio::null())
        .output();
    let output = within(60, "the script ends", run).await.unwrap();
    worker.drain(std::time::Duration::from_secs(5)).await;

    let said = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}");
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["status"], "completed");
    // The third row has the second one's number: one contact, one message. The fourth is none.
    assert_eq!(last["audience"], 2);
    let ledger = world.number("SELECT count(*) FROM demo_ledger").await;
    let refused = world
        .number("SELECT count(*) FROM messages WHERE phase = 6")
        .await;
    assert_eq!(ledger + refused, 2);
}

/// The blocks of one part of the page about the API, as one script.
fn blocks(heading: &str) -> String {
    let page = include_str!("../../docs/api.md");
    let part = page.split(&format!("## {heading}\n")).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let blocks: Vec<_> = part
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() > 5, "{} blocks", blocks.len());
    blocks.join("\n")
}

#[tokio::test]
async fn the_steps_of_the_page_about_the_api_work_one_after_another() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let owner = app.person(&tenant, Role::Owner).await;
    let worker = world.worker().await;
    let _scheduler = world.scheduler();
    let dir = TempDir::new();

    let run = tokio::process::Command::new("sh")
        .args(["-euc", &blocks("From signing in to the last message")])
        .current_dir(dir.path())
        .env("URL", app.origin())
        .env("EMAIL", &owner.email)
        .env("PASSWORD", &owner.password)
        .stdin(Stdio::null())
        .output();
    let output = within(60, "the steps end", run).await.unwrap();
    worker.drain(std::time::Duration::from_secs(5)).await;

    let said = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}");
    assert!(said.contains("\"status\":\"completed\""), "{said}");
    assert!(
        said.contains("228 points wait for you") || said.contains("17 points wait for you"),
        "{said}"
    );
    assert_eq!(world.number("SELECT count(*) FROM messages").await, 2);
}
