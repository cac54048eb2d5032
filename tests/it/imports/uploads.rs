//! Which files are taken, and what the others leave.

use std::time::Duration;

use engageninja::delivery::imports::{Upload, UploadError};
use engageninja::domain::ids::TenantId;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::office::Office;
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

#[tokio::test]
async fn what_a_killed_upload_left_goes_with_the_next_one() {
    let office = Office::open().await;
    let begin = |tenant: TenantId| Upload::begin(office.db(), tenant, "people.csv", None);
    let mut killed = begin(office.tenant.id).await.unwrap();
    killed
        .write("phone\n".repeat(200_000).as_bytes())
        .await
        .unwrap();
    drop(killed);
    let waiting = office.upload("phone\n2057481542\n").await;

    office.app.db().advance(Duration::from_hours(7)).await;
    drop(begin(office.tenant.id).await.unwrap());

    // The new one, and the one that waits to be started.
    assert_eq!(office.number("SELECT count(*) FROM imports").await, 2);
    assert_eq!(office.number("SELECT count(*) FROM import_chunks").await, 1);
    assert_eq!(office.look(waiting).await["status"], "uploaded");
}
