//! Which files are taken, and what the others leave.

use std::time::Duration;

use engageninja::delivery::imports::{Upload, UploadError};
use engageninja::domain::orders::PruneHistory;
use engageninja::jobs::queue::enqueue;
use serde_json::json;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::office::{Office, id_of};
use crate::harness::{eventually, within};

#[tokio::test]
async fn a_file_that_is_no_table_is_refused_with_what_was_seen_and_leaves_nothing() {
    let office = Office::open().await;
    // The fault lies in the third chunk: two are stored by then.
    let late = "a,b\n".to_owned() + &"1,2\n".repeat(600_000) + "\0";
    let cases: [(&[u8], &str, &str); 9] = [
        (b"", "empty_file", "empty"),
        (
            b"Ann,+12025550147\nBob,+12025550148\n",
            "no_header",
            "+12025550147",
        ),
        (
            b"phone,name,Phone\n1,2,3\n",
            "duplicate_column",
            "at 1 and at 3",
        ),
        (b"PK\x03\x04................", "not_text", "Excel"),
        (b"a,b\n1,\x002\n", "not_text", "zero byte at offset 6"),
        (late.as_bytes(), "not_text", "zero byte at offset 2400004"),
        (b"\xff\xfe\0\0a\0\0\0,\0\0\0", "unknown_encoding", "UTF-32"),
        (b"a,b\n\x81\x8d,1\n", "unknown_encoding", "0x81"),
        (
            b"\xef\xbb\xbfa,b\nZo\xeb,1\n",
            "unknown_encoding",
            "offset 9",
        ),
    ];
    for (bytes, code, seen) in cases {
        let problem = office.send(bytes).await.problem(422, "unreadable-file");
        assert_eq!(problem["errors"][0]["field"], code, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(seen),
            "{problem}"
        );
        assert!(office.is_empty().await, "{code}");
    }
}

#[tokio::test]
async fn every_encoding_and_delimiter_is_read_rightly() {
    let office = Office::open().await;
    let text =
        "first_name;phone;note\r\nZoë;+1 205 748 1542;\"two\r\nlines; \"\"and\"\" a quote\"\r\n";
    let utf16 = |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("\u{feff}{text}")
            .encode_utf16()
            .flat_map(to_bytes)
            .collect()
    };
    let tabs = text
        .replace("lines; ", "lines\u{1}")
        .replace(';', "\t")
        .replace('\u{1}', "; ");
    let files: [(&str, &str, Vec<u8>); 6] = [
        ("utf8", "semicolon", text.into()),
        (
            "utf8",
            "semicolon",
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        ),
        ("utf16_le", "semicolon", utf16(u16::to_le_bytes)),
        ("utf16_be", "semicolon", utf16(u16::to_be_bytes)),
        (
            "windows1252",
            "semicolon",
            text.chars().map(|char| char as u8).collect(),
        ),
        ("utf8", "tab", tabs.into()),
    ];
    for (encoding, delimiter, bytes) in files {
        let import = office.import(bytes, &json!({"on_match": "update"})).await;
        assert_eq!(
            (&import["encoding"], &import["delimiter"]),
            (&json!(encoding), &json!(delimiter))
        );
        assert_eq!(import["counts"]["refused"], 0, "{import}");
        let read =
            "SELECT count(*) FROM contacts WHERE first_name = 'Zoë' AND phone_e164 = '+12057481542'
            AND attributes->>'note' = E'two\\r\\nlines; \"and\" a quote'";
        assert_eq!(office.number(read).await, 1, "{encoding} {delimiter}");
        office.app.db().execute("DELETE FROM cell.contacts").await;
    }
}

/// A request whose body never comes whole.
async fn half_an_upload(
    office: &Office,
    content_length: u64,
    sent: &[u8],
) -> tokio::net::TcpStream {
    let origin = office.app.origin();
    let address = origin.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/contacts/imports HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: text/csv\r\nContent-Length: {content_length}\r\nConnection: close\r\n\r\n",
        office.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

#[tokio::test]
async fn a_file_over_512_mib_is_refused_with_the_limit() {
    let office = Office::open().await;
    let mut stream = half_an_upload(&office, 512 * 1024 * 1024 + 1, b"phone\n").await;
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    within(30, "the answer", stream.read_to_string(&mut text))
        .await
        .unwrap();
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(
        text.contains("urn:engageninja:problem:body-too-large"),
        "{text}"
    );
    assert!(text.contains("536870912 bytes (512 MiB)"), "{text}");
    assert!(office.is_empty().await);
}

#[tokio::test]
async fn a_file_that_grows_over_the_limit_leaves_nothing() {
    let office = Office::open().await;
    let upload = Upload::begin(office.db(), office.tenant.id, "long.csv", None)
        .await
        .unwrap();
    let mut upload = upload.limited_to(3 * 1024 * 1024);
    let piece = "phone\n".repeat(10_000);
    let refusal = loop {
        if let Err(error) = upload.write(piece.as_bytes()).await {
            break error;
        }
    };
    assert!(matches!(refusal, UploadError::TooLarge));
    assert_eq!(office.number("SELECT count(*) FROM import_chunks").await, 2);
    upload.abort().await;
    assert!(office.is_empty().await);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let office = Office::open().await;
    let bytes = "phone\n".repeat(200_000);
    let stream = half_an_upload(&office, 100_000_000, bytes.as_bytes()).await;
    eventually("the first chunk is stored", || async {
        office.number("SELECT count(*) FROM import_chunks").await == 1
    })
    .await;
    drop(stream);
    eventually("the upload is removed", || office.is_empty()).await;
}

/// What a process that was killed in the middle of a body leaves.
async fn killed_upload(office: &Office) -> Upload {
    let mut upload = Upload::begin(office.db(), office.tenant.id, "people.csv", None)
        .await
        .unwrap();
    upload
        .write("phone\n".repeat(200_000).as_bytes())
        .await
        .unwrap();
    upload
}

#[tokio::test]
async fn what_a_killed_upload_left_is_forgotten_after_a_day() {
    let office = Office::open().await;
    let db = office.app.db();
    drop(killed_upload(&office).await);
    let waiting = office.upload("phone\n2057481542\n").await;
    let left = "SELECT (SELECT count(*) FROM imports) * 100 + (SELECT count(*) FROM import_chunks)";

    db.advance(Duration::from_hours(23)).await;
    prune(&office).await;
    assert_eq!(office.number(left).await, 202);
    db.advance(Duration::from_hours(2)).await;
    let mut slow = killed_upload(&office).await;
    prune(&office).await;

    // The one that comes in now, and the one that waits to be started, however long.
    assert_eq!(office.number(left).await, 202);
    assert_eq!(office.look(waiting).await["status"], "uploaded");

    db.advance(Duration::from_hours(25)).await;
    prune(&office).await;
    let more = "phone\n".repeat(200_000);
    let refusal = slow.write(more.as_bytes()).await;
    assert!(matches!(refusal, Err(UploadError::TookTooLong)));
    slow.abort().await;
    assert_eq!(office.number(left).await, 101);
}

async fn prune(office: &Office) {
    let worker = office.worker_for("house").await;
    let mut tx = office.db().system().begin().await.unwrap();
    enqueue(&mut tx, PruneHistory {}).await.unwrap();
    tx.commit().await.unwrap();
    eventually("history is pruned", || async {
        let live = format!(
            "SELECT count(*) FROM jobs WHERE kind = '{}'",
            PruneHistory::NAME
        );
        office.number(&live).await == 0
    })
    .await;
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_file_that_is_sent_again_under_its_key_is_the_same_import() {
    let office = Office::open().await;
    let bytes = "phone\n2057481542\n";
    let first = office.send_once("one", bytes).await;
    let again = office.send_once("one", bytes).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));

    office
        .send_once("one", "phone\n2057481543\n")
        .await
        .problem(422, "idempotency-key-reused");
    // Longer than a piece, so that some of it is stored before its end is seen.
    office
        .send_once("one", bytes.repeat(100_000))
        .await
        .problem(422, "idempotency-key-reused");
    let other = office.send_once("two", bytes).await;
    assert_ne!(other.ok(201)["id"], first.ok(201)["id"]);
    let left = "SELECT (SELECT count(*) FROM imports) * 100 + (SELECT count(*) FROM import_chunks)";
    assert_eq!(office.number(left).await, 202);

    // The key is kept for what was done alone, and started it may be gone on with.
    let id = id_of(&first.json());
    office.start(id, &json!({})).await.ok(202);
    assert_eq!(office.send_once("one", bytes).await.text, first.text);
    let refused = office.send_once("three", "").await;
    refused.problem(422, "unreadable-file");
    office.send_once("three", bytes).await.ok(201);
}

#[tokio::test]
async fn a_file_that_ends_while_its_key_is_taken_waits_for_the_first_ones_answer() {
    let office = Office::open().await;
    let mut session = office.app.db().options().cell.connect().await.unwrap();
    let mut first = session.begin().await.unwrap();
    let take = format!(
        "SELECT pg_advisory_xact_lock(public.idempotency_lock_key('{}', 'one'))",
        office.tenant.id
    );
    first.execute(AssertSqlSafe(take)).await.unwrap();

    let busy = office.send_once("one", "phone\n2057481542\n").await;
    busy.problem(409, "idempotency-key-busy");
    assert_eq!(busy.header("retry-after"), "1");
    assert!(office.is_empty().await);

    first.rollback().await.unwrap();
    office.send_once("one", "phone\n2057481542\n").await.ok(201);
}

#[tokio::test]
async fn an_import_is_on_record_from_its_upload_to_its_end() {
    let office = Office::open().await;
    let id = office.started("phone\n2057481542\n", &json!({})).await;
    let cancel = format!("/api/contacts/imports/{id}/cancel");
    office
        .app
        .post(&office.key, &cancel, &json!({}))
        .await
        .ok(200);
    let record = "SELECT string_agg(concat_ws(' ', action, detail #>> '{before,status}', detail #>> '{after,status}'), ', '
        ORDER BY id) FROM cell.audit_log WHERE target_kind = 'import'";
    assert_eq!(
        office.app.db().text(record).await,
        "create_import uploaded, start_import uploaded queued, cancel_import queued cancelled"
    );
}

#[tokio::test]
async fn what_became_an_import_stays_when_its_commit_was_not_answered() {
    let office = Office::open().await;
    let (db, tenant_id) = (office.db(), office.tenant.id);
    let mut upload = Upload::begin(db.clone(), tenant_id, "people.csv", None)
        .await
        .unwrap();
    upload.write(b"phone\n2057481542\n").await.unwrap();
    let received = upload.close().await.unwrap();
    let mut tx = db.cell(tenant_id).begin().await.unwrap();
    let import = received.keep(&mut tx).await.unwrap();
    tx.commit().await.unwrap();

    received.abort().await;

    assert_eq!(office.look(import.id).await["status"], "uploaded");
}
