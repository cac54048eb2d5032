//! Who may what: each operation of the document has a row here, or this test fails.

use std::collections::BTreeSet;

use engageninja::domain::actor::{Permission, Role};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{App, answer};

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everybody.
    Public,
    /// Whoever is signed in or has a key.
    Known,
    /// Whoever has a session's cookie, whatever their role.
    Session,
    /// Roles from the permission's lowest on.
    Needs(Permission),
    /// Whoever runs the platform, by a session's cookie.
    Operator,
}

/// What a request has to carry to be understood; without it a missing permission would not be seen.
#[derive(Debug)]
enum Sends {
    Nothing,
    Json(Value),
    Csv(&'static str),
}

fn matrix() -> Vec<(&'static str, Access, Sends)> {
    use Access::{Known, Needs, Operator, Public, Session};
    use Permission::{
        ImportContacts, ManageKeys, ReadCampaigns, ReadContacts, ReadMessages, ReadTemplates,
        SendCampaigns, WriteCampaigns, WriteTemplates,
    };
    use Sends::{Csv, Json, Nothing};
    let id = Uuid::nil();
    vec![
        (
            "create_session",
            Public,
            Json(json!({"email": "a@b.example", "password": "x"})),
        ),
        ("get_current_session", Known, Nothing),
        ("delete_current_session", Session, Nothing),
        (
            "create_key",
            Needs(ManageKeys),
            Json(json!({"name": "x", "role": "viewer"})),
        ),
        ("list_keys", Needs(ManageKeys), Nothing),
        ("revoke_key", Needs(ManageKeys), Nothing),
        ("list_contacts", Needs(ReadContacts), Nothing),
        ("get_contact", Needs(ReadContacts), Nothing),
        ("create_import", Needs(ImportContacts), Csv("phone\n")),
        ("list_imports", Needs(ReadContacts), Nothing),
        ("get_import", Needs(ReadContacts), Nothing),
        ("start_import", Needs(ImportContacts), Json(json!({}))),
        ("cancel_import", Needs(ImportContacts), Nothing),
        ("list_import_errors", Needs(ReadContacts), Nothing),
        ("download_import_errors", Needs(ReadContacts), Nothing),
        (
            "create_template",
            Needs(WriteTemplates),
            Json(json!({"name": "x", "channel": "sms", "body": "x"})),
        ),
        (
            "create_template_version",
            Needs(WriteTemplates),
            Json(json!({"body": "x"})),
        ),
        ("list_templates", Needs(ReadTemplates), Nothing),
        ("get_template", Needs(ReadTemplates), Nothing),
        ("preview_template", Needs(ReadTemplates), Json(json!({}))),
        (
            "create_campaign",
            Needs(WriteCampaigns),
            Json(json!({"name": "x", "template_id": id, "audience": {"kind": "everybody"}})),
        ),
        ("list_campaigns", Needs(ReadCampaigns), Nothing),
        ("get_campaign", Needs(ReadCampaigns), Nothing),
        ("send_campaign", Needs(SendCampaigns), Nothing),
        ("pause_campaign", Needs(SendCampaigns), Nothing),
        ("get_campaign_status", Needs(ReadCampaigns), Nothing),
        ("stream_campaign", Needs(ReadCampaigns), Nothing),
        ("list_messages", Needs(ReadMessages), Nothing),
        ("get_message", Needs(ReadMessages), Nothing),
        ("list_queues", Operator, Nothing),
    ]
}

/// Every operation of the document: its name, method and path with all variables filled.
fn operations() -> Vec<(String, Method, String)> {
    let document: Value = serde_json::from_str(&engageninja::api::openapi_document()).unwrap();
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            let method = method.to_uppercase().parse().unwrap();
            let path: Vec<_> = path
                .split('/')
                .map(|part| {
                    if part.starts_with('{') {
                        Uuid::nil().to_string()
                    } else {
                        part.to_owned()
                    }
                })
                .collect();
            all.push((name, method, format!("/api{}", path.join("/"))));
        }
    }
    all
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows = matrix();
    let named: BTreeSet<_> = rows.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let live: BTreeSet<_> = operations().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(named, live);
    assert_eq!(named.len(), rows.len());
}

#[tokio::test]
async fn each_role_may_exactly_what_the_matrix_says() {
    let app = App::start().await;
    let tenant = app.tenant("dojo").await;
    let operations = operations();
    let mut people = Vec::new();
    for role in Role::ALL.iter().copied() {
        let person = app.person(&tenant, role).await;
        people.push((role, app.sign_in(&person).await));
    }
    let other = app.tenant("cafe").await;
    let operator = app.operator(&other).await;
    for (name, access, sends) in matrix() {
        let (_, method, path) = operations.iter().find(|(known, ..)| known == name).unwrap();
        let request = || with_body(app.request(method.clone(), path), &sends);
        let stranger = answer(request()).await;
        let is_refused = stranger.text.contains("problem:unauthenticated");
        assert_eq!(
            is_refused,
            access != Access::Public,
            "{name} without anything"
        );
        if matches!(access, Access::Session | Access::Public) {
            continue;
        }
        for (role, cookie) in &people {
            let request = app.with_cookie(cookie, method.clone(), path);
            let answer = answer(with_body(request, &sends)).await;
            let is_forbidden = answer.text.contains("problem:forbidden");
            let is_allowed = match access {
                Access::Needs(permission) => *role >= permission.lowest_role(),
                Access::Operator => false,
                _ => true,
            };
            assert_eq!(
                !is_forbidden, is_allowed,
                "{name} as {role}: {}",
                answer.text
            );
            // What is allowed gets as far as looking for a thing that is not there.
            assert_ne!(answer.status, 401, "{name} as {role}");
            assert_ne!(answer.status, 500, "{name} as {role}");
        }
        if access == Access::Operator {
            let request = app.with_cookie(&operator, method.clone(), path);
            let answer = answer(with_body(request, &sends)).await;
            assert!(
                !matches!(answer.status.as_u16(), 401 | 403 | 500),
                "{name}: {}",
                answer.text
            );
        }
    }
}

fn with_body(request: RequestBuilder, sends: &Sends) -> RequestBuilder {
    match sends {
        Sends::Nothing => request,
        Sends::Json(body) => request.json(body),
        Sends::Csv(body) => request.header("content-type", "text/csv").body(*body),
    }
}
