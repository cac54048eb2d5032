//! Who may what: each operation of the document has a row here, or this test fails.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use engageninja::clock::Clock;
use engageninja::domain::actor::{Permission, Role};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{App, Person};
use crate::harness::twins::Twin;
use crate::harness::within;

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

type Row = (&'static str, Access, Sends);

/// Who gets in, and as what.
fn people() -> Vec<Row> {
    use Access::{Known, Needs, Operator, Public, Session};
    use Permission::{ManageKeys, ManageMembers, ManageTenant, ReadAudit, ReadMembers, ReadTenant};
    use Sends::{Json, Nothing};
    let id = Uuid::nil();
    vec![
        (
            "create_session",
            Public,
            Json(json!({"email": "a@b.example", "password": "x"})),
        ),
        ("receive_twilio_status", Public, Nothing),
        ("get_current_session", Known, Nothing),
        ("delete_current_session", Session, Nothing),
        ("list_sessions", Session, Nothing),
        ("delete_session", Session, Nothing),
        ("switch_tenant", Session, Json(json!({"tenant_id": id}))),
        (
            "change_password",
            Session,
            Json(json!({"current_password": "x", "new_password": "y"})),
        ),
        ("list_own_tenants", Session, Nothing),
        ("leave_tenant", Session, Nothing),
        ("list_members", Needs(ReadMembers), Nothing),
        (
            "update_member",
            Needs(ManageMembers),
            Json(json!({"role": "viewer"})),
        ),
        ("remove_member", Needs(ManageMembers), Nothing),
        (
            "create_invitation",
            Needs(ManageMembers),
            Json(json!({"email": "a@b.example", "role": "viewer"})),
        ),
        ("list_invitations", Needs(ManageMembers), Nothing),
        ("revoke_invitation", Needs(ManageMembers), Nothing),
        ("open_invitation", Public, Json(json!({"token": "x"}))),
        (
            "accept_invitation",
            Public,
            Json(json!({"token": "x", "password": "x"})),
        ),
        (
            "create_key",
            Needs(ManageKeys),
            Json(json!({"name": "x", "role": "viewer"})),
        ),
        ("list_keys", Needs(ManageKeys), Nothing),
        ("get_tenant", Needs(ReadTenant), Nothing),
        (
            "update_tenant",
            Needs(ManageTenant),
            Json(json!({"timezone": "Europe/Paris"})),
        ),
        ("list_audit", Needs(ReadAudit), Nothing),
        (
            "create_tenant",
            Operator,
            Json(json!({"name": "x", "slug": "made"})),
        ),
        ("list_tenants", Operator, Nothing),
        ("get_tenant_as_operator", Operator, Nothing),
        ("suspend_tenant", Operator, Nothing),
        ("resume_tenant", Operator, Nothing),
        ("get_tenant_plan", Operator, Nothing),
        ("set_tenant_plan", Operator, Json(json!({}))),
        (
            "create_demo_tenant",
            Operator,
            Json(json!({"name": "x", "slug": "made-too"})),
        ),
        ("reset_demo_tenant", Operator, Nothing),
        ("remove_demo_tenant", Operator, Nothing),
        ("list_platform_audit", Operator, Nothing),
        ("revoke_key", Needs(ManageKeys), Nothing),
    ]
}

/// Whom messages go to, and single ones.
fn contacts() -> Vec<Row> {
    use Access::Needs;
    use Permission::{LiftSuppressions, ReadContacts, ReadMessages, SendMessages, WriteContacts};
    use Sends::{Json, Nothing};
    let id = Uuid::nil();
    vec![
        ("list_contacts", Needs(ReadContacts), Nothing),
        ("get_contact", Needs(ReadContacts), Nothing),
        (
            "create_contact",
            Needs(WriteContacts),
            Json(json!({"phone": "+13054048480"})),
        ),
        (
            "update_contact",
            Needs(WriteContacts),
            Json(json!({"first_name": "x"})),
        ),
        ("delete_contact", Needs(WriteContacts), Nothing),
        (
            "create_list",
            Needs(WriteContacts),
            Json(json!({"name": "x"})),
        ),
        ("list_lists", Needs(ReadContacts), Nothing),
        ("get_list", Needs(ReadContacts), Nothing),
        (
            "update_list",
            Needs(WriteContacts),
            Json(json!({"name": "x"})),
        ),
        ("delete_list", Needs(WriteContacts), Nothing),
        ("list_list_members", Needs(ReadContacts), Nothing),
        (
            "add_list_members",
            Needs(WriteContacts),
            Json(json!({"contact_ids": [id]})),
        ),
        (
            "remove_list_members",
            Needs(WriteContacts),
            Json(json!({"contact_ids": [id]})),
        ),
        ("list_messages", Needs(ReadMessages), Nothing),
        ("get_message", Needs(ReadMessages), Nothing),
        ("get_message_timeline", Needs(ReadMessages), Nothing),
        (
            "send_message",
            Needs(SendMessages),
            Json(json!({"channel": "sms", "to": "+13054048480", "body": "Hello"})),
        ),
        (
            "create_suppression",
            Needs(WriteContacts),
            Json(json!({"channel": "sms", "address": "+13054048481"})),
        ),
        ("get_stats", Needs(ReadMessages), Nothing),
        ("search_everything", Needs(ReadMessages), Nothing),
        ("stream_events", Needs(ReadMessages), Nothing),
        ("list_suppressions", Needs(ReadContacts), Nothing),
        ("delete_suppression", Needs(LiftSuppressions), Nothing),
    ]
}

fn matrix() -> Vec<Row> {
    use Access::Needs;
    use Permission::{
        DecideMessages, ImportContacts, ManageSenders, ReadCampaigns, ReadContacts, ReadSenders,
        ReadTemplates, SendCampaigns, WriteCampaigns, WriteTemplates,
    };
    use Sends::{Csv, Json, Nothing};
    let id = Uuid::nil();
    let mut rows = people();
    rows.extend(contacts());
    rows.extend([
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
        ("list_template_versions", Needs(ReadTemplates), Nothing),
        ("get_template_version", Needs(ReadTemplates), Nothing),
        (
            "update_template",
            Needs(WriteTemplates),
            Json(json!({"name": "y"})),
        ),
        ("archive_template", Needs(WriteTemplates), Nothing),
        ("unarchive_template", Needs(WriteTemplates), Nothing),
        (
            "create_campaign",
            Needs(WriteCampaigns),
            Json(json!({"name": "x", "template_id": id, "audience": {"kind": "everybody"}})),
        ),
        ("list_campaigns", Needs(ReadCampaigns), Nothing),
        ("get_campaign", Needs(ReadCampaigns), Nothing),
        ("send_campaign", Needs(SendCampaigns), Nothing),
        ("get_campaign_pace", Needs(ReadCampaigns), Nothing),
        ("set_campaign_pace", Needs(SendCampaigns), Json(json!({}))),
        ("retry_failed_messages", Needs(SendCampaigns), Nothing),
        ("update_campaign", Needs(WriteCampaigns), Json(json!({}))),
        (
            "schedule_campaign",
            Needs(SendCampaigns),
            Json(json!({"send_at": Clock::default().now() + TimeDelta::days(1)})),
        ),
        ("unschedule_campaign", Needs(SendCampaigns), Nothing),
        ("pause_campaign", Needs(SendCampaigns), Nothing),
        ("resume_campaign", Needs(SendCampaigns), Nothing),
        ("cancel_campaign", Needs(SendCampaigns), Nothing),
        ("get_campaign_status", Needs(ReadCampaigns), Nothing),
        ("stream_campaign", Needs(ReadCampaigns), Nothing),
        (
            "create_sender",
            Needs(ManageSenders),
            Json(json!({"channel": "sms", "address": "+12025550123"})),
        ),
        ("list_senders", Needs(ReadSenders), Nothing),
        ("get_sender", Needs(ReadSenders), Nothing),
        (
            "update_sender",
            Needs(ManageSenders),
            Json(json!({"segments_per_sec": 2})),
        ),
        ("retire_sender", Needs(ManageSenders), Nothing),
        ("lift_sender_halt", Needs(ManageSenders), Nothing),
        (
            "decide_message",
            Needs(DecideMessages),
            Json(json!({"decision": "give_up", "reason": "test"})),
        ),
        (
            "decide_parked_messages",
            Needs(DecideMessages),
            Json(json!({"decision": "give_up", "reason": "test"})),
        ),
        (
            "release_timeline",
            Access::Operator,
            Json(json!({"reason": "test"})),
        ),
    ]);
    rows.extend(operators_rows());
    rows
}

/// What those who run the platform may, and nobody else.
fn operators_rows() -> Vec<Row> {
    let names = [
        "list_queues",
        "list_lanes",
        "list_dead_jobs",
        "get_dead_job",
        "replay_dead_job",
        "discard_dead_job",
        "list_schedules",
        "run_schedule",
        "pause_schedule",
        "unpause_schedule",
        "list_workers",
        "list_parked_messages",
        "list_timelines",
        "stream_operations",
    ];
    let rows = names
        .into_iter()
        .map(|name| (name, Access::Operator, Sends::Nothing));
    rows.collect()
}

/// An operation of the document.
#[derive(Debug)]
struct Operation {
    name: String,
    method: Method,
    /// With variables as `{campaign_id}`.
    path: String,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(engageninja::api::openapi_document()).unwrap();
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            all.push(Operation {
                name: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
            });
        }
    }
    all
}

/// How a request says who asks.
#[derive(Debug)]
enum By {
    Cookie(String),
    Key(String),
}

/// Somebody who asks.
#[derive(Debug)]
struct Caller {
    /// What they are in the tenant; an operator is nothing in it.
    role: Option<Role>,
    by: By,
}

/// What the matrix says of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// 401: not somebody this operation knows.
    Unknown,
    /// 403: the role does not allow it.
    Forbidden,
    /// As far as the thing itself.
    Passes,
}

impl Access {
    fn verdict(self, caller: &Caller) -> Verdict {
        let is_key = matches!(caller.by, By::Key(_));
        match self {
            Self::Session | Self::Operator if is_key => Verdict::Unknown,
            Self::Operator if caller.role.is_some() => Verdict::Forbidden,
            Self::Needs(permission) if caller.role < Some(permission.lowest_role()) => {
                Verdict::Forbidden
            }
            _ => Verdict::Passes,
        }
    }
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows = matrix();
    let named: BTreeSet<_> = rows.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let live: BTreeSet<_> = operations()
        .into_iter()
        .map(|operation| operation.name)
        .collect();
    assert_eq!(named, live);
    assert_eq!(named.len(), rows.len());
}

/// The tenants, and everybody who asks.
struct Company {
    app: App,
    ours: Twin,
    theirs: Twin,
    callers: Vec<Caller>,
    operator: Caller,
    /// Somebody whose sessions are used up one by one.
    guest: Person,
}

impl Company {
    async fn gather() -> Self {
        let app = App::start().await;
        let (ours, theirs) = (
            Twin::make(&app, "dojo").await,
            Twin::make(&app, "cafe").await,
        );
        let mut callers = Vec::new();
        for role in Role::ALL.iter().copied() {
            let person = app.person(&ours.tenant, role).await;
            let by = By::Cookie(app.sign_in(&person).await);
            callers.push(Caller {
                role: Some(role),
                by,
            });
            if role != Role::Owner {
                let by = By::Key(app.key(&ours.tenant, role).await);
                callers.push(Caller {
                    role: Some(role),
                    by,
                });
            }
        }
        let elsewhere = app.tenant("office").await;
        let operator = Caller {
            role: None,
            by: By::Cookie(app.operator(&elsewhere).await),
        };
        let guest = app.person(&app.tenant("hotel").await, Role::Viewer).await;
        Self {
            app,
            ours,
            theirs,
            callers,
            operator,
            guest,
        }
    }

    fn request(&self, caller: &Caller, operation: &Operation, path: &str) -> RequestBuilder {
        let method = operation.method.clone();
        match &caller.by {
            By::Cookie(cookie) => self.app.with_cookie(cookie, method, path),
            By::Key(key) => self.app.with_key(key, method, path),
        }
    }

    /// Without cookie and key nothing but what is public answers.
    async fn check_stranger(&self, operation: &Operation, (access, sends): (Access, &Sends)) {
        let path = self.own_path(operation);
        let request = self.app.request(operation.method.clone(), &path);
        let got = look(with_body(request, sends)).await;
        let is_refused = got.1.contains("problem:unauthenticated");
        assert_eq!(
            is_refused,
            access != Access::Public,
            "{}: {}",
            operation.name,
            got.1
        );
    }

    async fn check_caller(
        &self,
        operation: &Operation,
        (access, sends): (Access, &Sends),
        caller: &Caller,
    ) {
        let name = &operation.name;
        let wanted = access.verdict(caller);
        let request = self.request(caller, operation, &self.own_path(operation));
        let (status, text) = look(with_body(request, sends)).await;
        let got = match status {
            401 => Verdict::Unknown,
            403 => Verdict::Forbidden,
            _ => Verdict::Passes,
        };
        assert_eq!(got, wanted, "{name} by {caller:?}: {text}");
        assert_ne!(status, 500, "{name} by {caller:?}: {text}");
        let is_ours = self.ours.path(&operation.path).is_some();
        assert!(status != 404 || !is_ours, "{name} by {caller:?}: {text}");

        // The same of somebody else's thing.
        let theirs = self
            .theirs
            .path(&operation.path)
            .filter(|_| operation.path.contains('{'));
        if let (Access::Needs(_), Some(path)) = (access, theirs) {
            let request = self.request(caller, operation, &path);
            let (status, text) = look(with_body(request, sends)).await;
            let wanted = if wanted == Verdict::Forbidden {
                403
            } else {
                404
            };
            assert_eq!(
                status, wanted,
                "{name} of another tenant by {caller:?}: {text}"
            );
        }
    }

    /// The tenant's own thing, or one that is not there where tenants have none.
    fn own_path(&self, operation: &Operation) -> String {
        self.ours.path(&operation.path).unwrap_or_else(|| {
            let nil = Uuid::nil().to_string();
            let parts = operation.path.split('/');
            let parts = parts.map(|part| {
                if part.starts_with('{') {
                    nil.as_str()
                } else {
                    part
                }
            });
            format!("/api{}", parts.collect::<Vec<_>>().join("/"))
        })
    }
}

/// Status and text; of a stream nothing but its beginning.
async fn look(request: RequestBuilder) -> (u16, String) {
    let response = within(30, "the API answers", request.send()).await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type");
    if kind.is_some_and(|kind| kind == "text/event-stream") {
        return (status, String::new());
    }
    (status, response.text().await.unwrap())
}

#[tokio::test]
async fn each_role_may_exactly_what_the_matrix_says() {
    let mut company = Company::gather().await;
    let operations = operations();
    for (name, access, sends) in matrix() {
        let operation = operations.iter().find(|known| known.name == name).unwrap();
        company.check_stranger(operation, (access, &sends)).await;
        match access {
            Access::Public => continue,
            Access::Session => {
                let by = By::Cookie(company.app.sign_in(&company.guest).await);
                let guest = Caller {
                    role: Some(Role::Viewer),
                    by,
                };
                company
                    .check_caller(operation, (access, &sends), &guest)
                    .await;
            }
            Access::Operator => {
                company
                    .check_caller(operation, (access, &sends), &company.operator)
                    .await;
            }
            Access::Known | Access::Needs(_) => {}
        }
        for caller in &company.callers {
            if access == Access::Session && matches!(caller.by, By::Cookie(_)) {
                continue;
            }
            company
                .check_caller(operation, (access, &sends), caller)
                .await;
            if operation.method == Method::DELETE {
                company.ours.refill(&company.app).await;
            }
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
