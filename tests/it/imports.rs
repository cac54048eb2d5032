//! Files of contacts: what is taken, what is refused, and what a killed worker leaves.

mod killed;
pub mod office;
mod uploads;

use std::time::Duration;

use engageninja::domain::actor::Role;
use engageninja::jobs::import_contacts::{Progress, import_chunk};
use engageninja::store::Db;
use reqwest::Method;
use serde_json::{Value, json};

use self::office::{Office, SAMPLE, counts, expected, expected_of_long_sample, id_of, long_sample};
use crate::harness::app::answer;

#[tokio::test]
async fn the_sample_gives_the_expected_numbers_and_again_adds_nothing() {
    let office = Office::open().await;
    let worker = office.worker().await;

    let id = office.started(SAMPLE, &json!({})).await;
    let import = office.completed(id).await;

    assert_eq!(counts(&import), expected());
    assert_eq!(import["read_bytes"], import["total_bytes"]);
    let imported = import["counts"]["created"].as_i64().unwrap();
    assert_eq!(
        office.number("SELECT count(*) FROM contacts").await,
        imported
    );
    let members = "SELECT count(*) FROM contact_list_members";
    assert_eq!(office.number(members).await, imported);
    assert_eq!(office.number("SELECT count(*) FROM import_chunks").await, 0);

    let id = office.started(SAMPLE, &json!({})).await;
    let again = office.completed(id).await;

    assert_eq!(again["counts"]["created"], 0);
    assert_eq!(again["counts"]["skipped"], imported + 201);
    assert_eq!(
        again["counts"]["refused_by_code"],
        import["counts"]["refused_by_code"]
    );
    assert_eq!(
        office.number("SELECT count(*) FROM contacts").await,
        imported
    );
    // Its list holds the same people: a campaign may go to whoever stands in either file.
    assert_eq!(office.number(members).await, 2 * imported);
    worker.drain(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn an_import_goes_on_where_another_worker_stopped() {
    let office = Office::open().await;
    let id = office.started(long_sample(), &json!({})).await;
    let order = office.order(id);

    let first = import_chunk(&order, &office.db(), &office.mac_key)
        .await
        .unwrap();
    assert_eq!(first, Progress::MoreToDo);
    let half = office.look(id).await;
    assert_eq!(
        (&half["status"], &half["read_bytes"]),
        (&json!("running"), &json!(1_048_576))
    );

    let elsewhere = Db::new(&office.app.db().options(), office.app.db().clock());
    while import_chunk(&order, &elsewhere, &office.mac_key)
        .await
        .unwrap()
        == Progress::MoreToDo
    {}

    let import = office.completed(id).await;
    assert_eq!(counts(&import), expected_of_long_sample());
    elsewhere.close().await;
}

/// Killed at any moment, a chunk is read wholly or not at all.
#[tokio::test]
async fn an_import_killed_at_any_moment_ends_with_the_same_numbers() {
    let office = Office::open().await;
    let id = office.started(long_sample(), &json!({})).await;
    let (order, db) = (office.order(id), office.db());

    for millis in [0, 1, 3, 10, 30, 60, 100, 200, 400, 800] {
        let run = import_chunk(&order, &db, &office.mac_key);
        let _ = tokio::time::timeout(Duration::from_millis(millis), run).await;
        let import = office.look(id).await;
        let counts = &import["counts"];
        let sum =
            ["created", "updated", "skipped", "refused"].map(|it| counts[it].as_u64().unwrap());
        assert_eq!(counts["read"], sum.iter().sum::<u64>());
        let contacts = office.number("SELECT count(*) FROM contacts").await;
        assert_eq!(counts["created"], contacts);
    }
    office.read_all(id).await;

    assert_eq!(counts(&office.look(id).await), expected_of_long_sample());
}

#[tokio::test]
async fn an_order_that_runs_twice_at_once_and_again_counts_once() {
    let office = Office::open().await;
    let id = office.started(long_sample(), &json!({})).await;

    tokio::join!(office.read_all(id), office.read_all(id));
    office.read_all(id).await;

    assert_eq!(counts(&office.look(id).await), expected_of_long_sample());
}

#[tokio::test]
async fn two_imports_of_one_file_at_once_make_each_contact_once() {
    let office = Office::open().await;
    let first = office.started(SAMPLE, &json!({})).await;
    let second = office.started(SAMPLE, &json!({"on_match": "update"})).await;

    tokio::join!(office.read_all(first), office.read_all(second));

    let (first, second) = (office.look(first).await, office.look(second).await);
    let created = [&first, &second].map(|import| import["counts"]["created"].as_u64().unwrap());
    assert_eq!(created.iter().sum::<u64>(), expected()["imported"]);
    assert_eq!(office.number("SELECT count(*) FROM contacts").await, 9539);
}

#[tokio::test]
async fn a_match_is_updated_when_asked_and_empty_fields_replace_nothing() {
    let office = Office::open().await;
    let before = "phone,email,first_name,tier,points\n\
        (205) 748-1542,Ann@example.com,Ann,gold,7\n2057481543,,Bob,,\n";
    office.import(before, &json!({})).await;
    let after = "Email,Phone,First Name,Last name,Points,Tier\n\
        ann@EXAMPLE.com,+1 205 748 1542,,Li,9,\n,2057481544,Cy,,,\n";

    let import = office.import(after, &json!({"on_match": "update"})).await;

    let counts = &import["counts"];
    assert_eq!(
        (&counts["created"], &counts["updated"]),
        (&json!(1), &json!(1))
    );
    let found = office
        .number(
            "SELECT count(*) FROM contacts
             WHERE first_name = 'Ann' AND last_name = 'Li' AND name_normalized = 'ann li'
               AND email = 'Ann@example.com' AND attributes = '{\"tier\": \"gold\", \"points\": \"9\"}'",
        )
        .await;
    assert_eq!(found, 1);
    // The list of an import holds whoever stands in its file, and nobody else.
    let list = import["list_id"].as_str().unwrap();
    let members = format!("SELECT count(*) FROM contact_list_members WHERE list_id = '{list}'");
    assert_eq!(office.number(&members).await, 2);

    let skipped = office.import(before, &json!({})).await;
    assert_eq!(skipped["counts"]["skipped"], 2);
    let still = "SELECT count(*) FROM contacts WHERE attributes->>'points' = '9'";
    assert_eq!(office.number(still).await, 1);
}

#[tokio::test]
async fn rows_that_are_no_contact_are_counted_and_listed_and_never_half_written() {
    let office = Office::open().await;
    let file = "name,phone,email\n\
        ext,205-748-1542 ext. 9,ann@example.com\n\
        vanity,1-800-FLOWERS,ann@example.com\n\
        lost plus,4915123456789,ann@example.com\n\
        spreadsheet,1.2E+10,ann@example.com\n\
        short,12345,ann@example.com\n\
        mail,2057481542,nobody@\n\
        nobody,,\n\
        more,2057481542,ann@example.com,x\n\
        national,(205) 748-1542,Ann@example.com\n\
        own code,12057481542,ann@EXAMPLE.com\n";

    let import = office.import(file, &json!({})).await;

    let counts = &import["counts"];
    let by_code =
        json!({"invalid_phone": 5, "invalid_email": 1, "missing_address": 1, "malformed_row": 1});
    assert_eq!(counts["refused_by_code"], by_code);
    assert_eq!(
        (&counts["created"], &counts["skipped"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(office.number("SELECT count(*) FROM contacts").await, 1);

    let path = format!(
        "/api/contacts/imports/{}/errors",
        import["id"].as_str().unwrap()
    );
    let first = office
        .app
        .get(&office.key, &format!("{path}?limit=5"))
        .await
        .ok(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = office
        .app
        .get(&office.key, &format!("{path}?limit=5&cursor={cursor}"))
        .await
        .ok(200);
    let items = |page: &Value| page["items"].as_array().unwrap().clone();
    let rows = [items(&first), items(&second)].concat();
    let expected = [
        (2, "phone", "extension"),
        (3, "phone", "letters"),
        (4, "phone", "+4915123456789"),
        (5, "phone", "spreadsheet"),
        (6, "phone", "too short"),
        (7, "email", "after the @"),
    ];
    for (row, (line, column, reason)) in rows.iter().zip(expected) {
        assert_eq!(
            (&row["line"], &row["column"]),
            (&json!(line), &json!(column))
        );
        assert!(row["detail"].as_str().unwrap().contains(reason), "{row}");
    }
    assert_eq!(rows[6]["code"], "missing_address");
    assert_eq!(rows[7]["code"], "malformed_row");
    assert!(second["next_cursor"].is_null());

    let file = office.app.get(&office.key, &format!("{path}.csv")).await;
    assert_eq!(file.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(file.text.lines().count(), 9);
    assert!(
        file.text
            .starts_with("line,column,code,detail\n2,phone,invalid_phone,")
    );
}

#[tokio::test]
async fn a_mapping_is_guessed_and_may_be_chosen_otherwise() {
    let office = Office::open().await;
    let file = "Name,Handy,Büro,Loyalty Tier\nAnn,2057481542,2057481543,gold\n";
    let import = office.send(file).await.ok(201);
    let guess = json!([
        {"name": "Name", "target": "attribute", "attribute": "name"},
        {"name": "Handy", "target": "phone"},
        {"name": "Büro", "target": "attribute", "attribute": "b_ro"},
        {"name": "Loyalty Tier", "target": "attribute", "attribute": "loyalty_tier"},
    ]);
    assert_eq!(
        (&import["columns"], &import["status"]),
        (&guess, &json!("uploaded"))
    );
    let id = id_of(&import);

    let nobody = json!({"columns": [{"name": "Handy", "target": "ignore"}]});
    let problem = office
        .start(id, &nobody)
        .await
        .problem(422, "unprocessable");
    assert_eq!(problem["errors"][0]["field"], "columns");
    let unknown = json!({"columns": [{"name": "Mobile", "target": "phone"}]});
    let problem = office
        .start(id, &unknown)
        .await
        .problem(422, "unprocessable");
    assert_eq!(problem["errors"][0]["field"], "columns[0].name");
    assert_eq!(office.look(id).await["status"], "uploaded");

    let chosen = json!({"columns": [
        {"name": "Handy", "target": "ignore"},
        {"name": "Büro", "target": "phone"},
        {"name": "Name", "target": "first_name"},
        {"name": "Loyalty Tier", "target": "attribute", "attribute": "tier"},
    ]});
    office.start(id, &chosen).await.ok(202);
    office.read_all(id).await;
    let read =
        "SELECT count(*) FROM contacts WHERE phone_e164 = '+12057481543' AND first_name = 'Ann'
        AND attributes = '{\"tier\": \"gold\"}'";
    assert_eq!(office.number(read).await, 1);

    let problem = office
        .start(id, &chosen)
        .await
        .problem(409, "import-already-started");
    assert!(
        problem["detail"].as_str().unwrap().contains("completed"),
        "{problem}"
    );
}

/// Attested consent stands in the ledger with its wording, once, and never overrules what somebody said.
#[tokio::test]
async fn attested_consent_is_kept_with_wording_source_and_date() {
    let office = Office::open().await;
    let consent = json!({"consent": {
        "wording": "I want offers by text", "source": "shop till", "date": "2026-03-01T00:00:00Z"}});
    let file = "phone,email\n2057481542,ann@example.com\n2057481543,\n,cy@example.com\n";

    office.import(file, &consent).await;

    // Number: SMS and WhatsApp; address: email.
    let ledger = "SELECT count(*) FROM consents c JOIN contacts p ON p.id = c.contact_id
        WHERE c.action = 'attested' AND c.wording = 'I want offers by text' AND c.source = 'shop till'
          AND c.occurred_at = '2026-03-01Z' AND c.actor LIKE 'api_key:%'
          AND c.dest_mac = CASE c.channel WHEN 'email' THEN p.email_mac ELSE p.phone_mac END";
    assert_eq!(office.number(ledger).await, 6);
    assert_eq!(
        office
            .number("SELECT count(*) FROM contact_consents WHERE state = 'attested'")
            .await,
        6
    );

    office
        .app
        .db()
        .execute("UPDATE cell.contact_consents SET state = 'revoked' WHERE channel = 'email'")
        .await;
    office.import(file, &consent).await;

    assert_eq!(office.number("SELECT count(*) FROM consents").await, 6);
    assert_eq!(
        office
            .number("SELECT count(*) FROM contact_consents WHERE state = 'revoked'")
            .await,
        2
    );
}

#[tokio::test]
async fn a_consent_without_its_circumstances_starts_nothing() {
    let office = Office::open().await;
    let id = office.upload("phone\n2057481542\n").await;
    let future = office.app.db().clock().now() + chrono::TimeDelta::days(1);
    let cases = [
        (
            json!({"source": "shop", "date": "2026-03-01T00:00:00Z"}),
            "invalid-body",
        ),
        (
            json!({"wording": " ", "source": "shop", "date": "2026-03-01T00:00:00Z"}),
            "unprocessable",
        ),
        (
            json!({"wording": "yes", "source": "shop", "date": future}),
            "unprocessable",
        ),
    ];
    for (consent, slug) in cases {
        office
            .start(id, &json!({ "consent": consent }))
            .await
            .problem(422, slug);
    }
    assert_eq!(office.look(id).await["status"], "uploaded");
}

#[tokio::test]
async fn a_cancelled_import_reads_no_further() {
    let office = Office::open().await;
    let id = office.started(long_sample(), &json!({})).await;
    let order = office.order(id);
    import_chunk(&order, &office.db(), &office.mac_key)
        .await
        .unwrap();
    let half = office.look(id).await;

    let path = format!("/api/contacts/imports/{id}/cancel");
    let cancelled = office
        .app
        .post(&office.key, &path, &json!({}))
        .await
        .ok(200);
    office.read_all(id).await;

    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(office.look(id).await["counts"], half["counts"]);
    assert_eq!(office.number("SELECT count(*) FROM import_chunks").await, 0);
    office
        .app
        .post(&office.key, &path, &json!({}))
        .await
        .problem(409, "import-ended");
}

#[tokio::test]
async fn imports_of_others_and_without_permission_are_out_of_reach() {
    let office = Office::open().await;
    let id = office.upload("phone\n2057481542\n").await;
    let other = office.app.tenant("other").await;
    let foreign = office.app.key(&other, Role::Admin).await;
    let viewer = office.app.key(&office.tenant, Role::Viewer).await;
    let path = format!("/api/contacts/imports/{id}");

    for suffix in ["", "/errors", "/errors.csv"] {
        let path = format!("{path}{suffix}");
        office
            .app
            .get(&foreign, &path)
            .await
            .problem(404, "not-found");
        assert_eq!(office.app.get(&viewer, &path).await.status, 200);
    }
    for suffix in ["/start", "/cancel"] {
        let path = format!("{path}{suffix}");
        office
            .app
            .post(&foreign, &path, &json!({}))
            .await
            .problem(404, "not-found");
        office
            .app
            .post(&viewer, &path, &json!({}))
            .await
            .problem(403, "forbidden");
    }
    let list = office
        .app
        .get(&foreign, "/api/contacts/imports")
        .await
        .ok(200);
    assert_eq!(list["items"], json!([]));
    let list = office
        .app
        .get(&viewer, "/api/contacts/imports")
        .await
        .ok(200);
    assert_eq!(list["items"][0]["id"], json!(id));

    let upload = |key: &str, media_type: &str| {
        let request = office
            .app
            .with_key(key, Method::POST, "/api/contacts/imports");
        answer(request.header("content-type", media_type).body("phone\n"))
    };
    upload(&viewer, "text/csv").await.problem(403, "forbidden");
    upload(&office.key, "application/json")
        .await
        .problem(415, "unsupported-media-type");
    upload(&office.key, "Text/CSV; charset=utf-8").await.ok(201);
}
