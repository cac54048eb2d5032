//! Members and invitations: who may come in, who may do what, and who cannot go.

use std::time::Duration;

use engageninja::api::front::Front;
use engageninja::domain::actor::Role;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::app::{Answer, App, Person, Tenant, answer};

/// A tenant with an owner who is signed in.
struct Club {
    app: App,
    tenant: Tenant,
    owner: String,
}

impl Club {
    async fn found() -> Self {
        Self::of(App::start().await).await
    }

    async fn of(app: App) -> Self {
        let tenant = app.tenant("dojo").await;
        let person = app.person(&tenant, Role::Owner).await;
        let owner = app.sign_in(&person).await;
        Self { app, tenant, owner }
    }

    async fn ask(&self, cookie: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.app.with_cookie(cookie, method, path);
        answer(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    async fn invite(&self, cookie: &str, email: &str, role: &str) -> Answer {
        let body = json!({"email": email, "role": role});
        self.ask(cookie, Method::POST, "/api/invitations", Some(body))
            .await
    }

    /// Without anything but the token.
    async fn accept(&self, token: &str, password: &str) -> Answer {
        let body = json!({"token": token, "password": password, "name": "Ann"});
        let path = "/api/invitations/accept";
        answer(self.app.request(Method::POST, path).json(&body)).await
    }

    async fn open(&self, token: &str) -> Answer {
        let path = "/api/invitations/open";
        answer(
            self.app
                .request(Method::POST, path)
                .json(&json!({"token": token})),
        )
        .await
    }

    async fn members(&self) -> Vec<Value> {
        let page = self
            .ask(&self.owner, Method::GET, "/api/members", None)
            .await;
        page.ok(200)["items"].as_array().unwrap().clone()
    }

    async fn member(&self, email: &str) -> String {
        let members = self.members().await;
        let found = members.iter().find(|member| member["email"] == email);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn change(&self, cookie: &str, email: &str, role: &str) -> Answer {
        let path = format!("/api/members/{}", self.member(email).await);
        let body = json!({"role": role});
        self.ask(cookie, Method::PATCH, &path, Some(body)).await
    }

    async fn remove(&self, cookie: &str, email: &str) -> Answer {
        let path = format!("/api/members/{}", self.member(email).await);
        self.ask(cookie, Method::DELETE, &path, None).await
    }
}

fn token(made: &Value) -> String {
    made["token"].as_str().unwrap().to_owned()
}

const PASSWORD: &str = "a password of hers";

#[tokio::test]
async fn somebody_new_comes_in_by_an_invitation_once() {
    let club = Club::of(
        App::behind(Front {
            public_url: Some("https://app.example.test".parse().unwrap()),
            trusted_proxies: Vec::new(),
        })
        .await,
    )
    .await;
    let page = "https://app.example.test";
    let request = club
        .app
        .request(Method::POST, "/api/invitations")
        .header(reqwest::header::COOKIE, &club.owner)
        .header(reqwest::header::ORIGIN, page)
        .json(&json!({"email": "Ann@Example.com", "role": "sender"}));
    let made = answer(request).await.ok(201);
    let token = token(&made);
    assert_eq!(made["link"], format!("{page}/invitation/{token}"));
    let listed = club
        .ask(&club.owner, Method::GET, "/api/invitations", None)
        .await;
    assert!(!listed.text.contains(&token), "the token is shown once");
    assert_eq!(listed.ok(200)["items"][0]["state"], "open");

    let shown = club.open(&token).await.ok(200);
    assert_eq!(shown["email"], "ann@example.com");
    assert_eq!(shown["has_account"], false);
    let short = club.accept(&token, "short").await;
    short.problem(422, "invalid-body");
    let accepted = club.accept(&token, PASSWORD).await.ok(200);
    assert_eq!(
        (&accepted["role"], &accepted["tenant_slug"]),
        (&json!("sender"), &json!("dojo"))
    );
    club.accept(&token, PASSWORD)
        .await
        .problem(409, "invitation-ended");
    club.open(&token).await.problem(409, "invitation-ended");

    let ann = Person {
        email: "ann@example.com".to_owned(),
        password: PASSWORD.to_owned(),
    };
    club.app.sign_in(&ann).await;
    let kept = "SELECT coalesce(string_agg(detail::text, ' '), '') FROM control.platform_audit";
    let kept = club.app.db().text(kept).await;
    assert!(!kept.contains("ann") && !kept.contains(&token), "{kept}");
    assert_eq!(
        club.app
            .db()
            .number("SELECT count(*) FROM control.platform_audit WHERE action IN ('create_invitation', 'accept_invitation')")
            .await,
        2
    );
}

#[tokio::test]
async fn an_invitation_ends_by_time_and_by_hand_and_a_wrong_one_is_not_found() {
    let club = Club::found().await;
    let late = club
        .invite(&club.owner, "late@example.com", "viewer")
        .await
        .ok(201);
    let gone = club
        .invite(&club.owner, "gone@example.com", "viewer")
        .await
        .ok(201);
    let path = format!(
        "/api/invitations/{}",
        gone["invitation"]["id"].as_str().unwrap()
    );
    for _ in 0..2 {
        let revoked = club.ask(&club.owner, Method::DELETE, &path, None).await;
        assert_eq!(revoked.status, 204);
    }
    club.accept(&token(&gone), PASSWORD)
        .await
        .problem(409, "invitation-ended");
    club.app
        .db()
        .advance(Duration::from_hours(24 * 7 + 1))
        .await;
    let told = club.accept(&token(&late), PASSWORD).await;
    let told = told.problem(409, "invitation-ended")["detail"].clone();
    assert!(told.as_str().unwrap().contains("run out"), "{told}");
    club.accept("rubbish", PASSWORD)
        .await
        .problem(404, "not-found");
    let people = "SELECT count(*) FROM control.users WHERE email LIKE '%example.com'";
    assert_eq!(
        club.app.db().number(people).await,
        0,
        "nothing half-written"
    );
}

#[tokio::test]
async fn one_that_ran_out_makes_room_for_another_and_an_open_one_does_not() {
    let club = Club::found().await;
    club.invite(&club.owner, "ann@example.com", "viewer")
        .await
        .ok(201);
    club.invite(&club.owner, "ANN@example.com", "admin")
        .await
        .problem(409, "already-invited");
    club.app.db().advance(Duration::from_hours(24 * 8)).await;
    let person = club.app.person(&club.tenant, Role::Admin).await;
    let admin = club.app.sign_in(&person).await;
    club.invite(&admin, "ann@example.com", "viewer")
        .await
        .ok(201);
    club.invite(&admin, &person.email, "viewer")
        .await
        .problem(409, "already-member");
    club.invite(&admin, "no address", "viewer")
        .await
        .problem(422, "invalid-body");
}

#[tokio::test]
async fn whoever_has_an_account_gives_its_password() {
    let club = Club::found().await;
    let cafe = club.app.tenant("cafe").await;
    let ann = club.app.person(&cafe, Role::Owner).await;
    let made = club.invite(&club.owner, &ann.email, "viewer").await.ok(201);
    let token = token(&made);
    assert_eq!(club.open(&token).await.ok(200)["has_account"], true);
    club.accept(&token, "another password")
        .await
        .problem(401, "wrong-credentials");
    club.accept(&token, &ann.password).await.ok(200);

    // The password is as it was, and both tenants are hers.
    let cookie = club.app.sign_in(&ann).await;
    let mine = club
        .ask(&cookie, Method::GET, "/api/me/tenants", None)
        .await;
    assert_eq!(mine.ok(200)["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn of_many_who_accept_at_once_one_comes_in() {
    let club = Club::found().await;
    let made = club
        .invite(&club.owner, "ann@example.com", "viewer")
        .await
        .ok(201);
    let token = token(&made);
    let tries = (0..8).map(|_| club.accept(&token, PASSWORD));
    let answers = join_all(tries).await;
    let accepted = answers.iter().filter(|one| one.status == 200).count();
    assert_eq!(accepted, 1);
    for refused in answers.iter().filter(|one| one.status != 200) {
        refused.problem(409, "invitation-ended");
    }
    let people = "SELECT count(*) FROM control.users WHERE email_normalized = 'ann@example.com'";
    assert_eq!(club.app.db().number(people).await, 1);
}

#[tokio::test]
async fn nobody_gives_a_role_above_their_own_or_touches_who_stands_above() {
    let club = Club::found().await;
    let person = club.app.person(&club.tenant, Role::Admin).await;
    let admin = club.app.sign_in(&person).await;
    let viewer = club.app.person(&club.tenant, Role::Viewer).await;
    let owner = "owner@dojo.example.test";

    club.invite(&admin, "ann@example.com", "owner")
        .await
        .problem(403, "role-above-own");
    club.change(&admin, &viewer.email, "owner")
        .await
        .problem(403, "role-above-own");
    club.change(&admin, owner, "viewer")
        .await
        .problem(403, "role-above-own");
    club.remove(&admin, owner)
        .await
        .problem(403, "role-above-own");
    let changed = club.change(&admin, &viewer.email, "admin").await.ok(200);
    assert_eq!(changed["role"], "admin");
    let invitations = "SELECT count(*) FROM control.invitations";
    assert_eq!(club.app.db().number(invitations).await, 0);
}

#[tokio::test]
async fn the_last_owner_neither_goes_nor_becomes_less() {
    let club = Club::found().await;
    let owner = "owner@dojo.example.test";
    club.change(&club.owner, owner, "admin")
        .await
        .problem(409, "last-owner");
    club.remove(&club.owner, owner)
        .await
        .problem(409, "last-owner");
    let path = format!("/api/me/tenants/{}", club.tenant.id);
    club.ask(&club.owner, Method::DELETE, &path, None)
        .await
        .problem(409, "last-owner");
    assert_eq!(club.members().await.len(), 1);
}

#[tokio::test]
async fn two_owners_who_remove_each_other_at_once_leave_one() {
    let club = Club::found().await;
    let person = club.app.person(&club.tenant, Role::Viewer).await;
    let other = club.app.sign_in(&person).await;
    for _ in 0..5 {
        club.change(&club.owner, &person.email, "owner")
            .await
            .ok(200);
        let (first, second) = (
            club.member("owner@dojo.example.test").await,
            club.member(&person.email).await,
        );
        let demote = async |cookie: &str, id: &str| {
            let path = format!("/api/members/{id}");
            club.ask(cookie, Method::PATCH, &path, Some(json!({"role": "admin"})))
                .await
        };
        let (one, two) = tokio::join!(demote(&club.owner, &second), demote(&other, &first));
        let owners = "SELECT count(*) FROM control.memberships WHERE role = 'owner'";
        assert_eq!(club.app.db().number(owners).await, 1, "{one:?} {two:?}");
        club.app
            .db()
            .execute(&format!(
                "UPDATE control.memberships SET role = CASE user_id WHEN '{first}' THEN 'owner' ELSE 'viewer' END"
            ))
            .await;
    }
}

#[tokio::test]
async fn leaving_ends_the_sessions_of_that_tenant_alone() {
    let club = Club::found().await;
    let cafe = club.app.tenant("cafe").await;
    let person = club.app.person(&club.tenant, Role::Sender).await;
    club.app.join(&person, &cafe, Role::Sender).await;
    let here = club.app.sign_in(&person).await;
    let there = club.app.sign_in(&person).await;
    let body = json!({"tenant_id": cafe.id});
    let path = "/api/sessions/current/tenant";
    club.ask(&there, Method::PUT, path, Some(body))
        .await
        .ok(200);

    let removed = club.remove(&club.owner, &person.email).await;
    assert_eq!(removed.status, 204);
    let current = "/api/sessions/current";
    club.ask(&here, Method::GET, current, None)
        .await
        .problem(401, "unauthenticated");
    club.ask(&there, Method::GET, current, None).await.ok(200);

    let path = format!("/api/me/tenants/{}", cafe.id);
    let left = club.ask(&there, Method::DELETE, &path, None).await;
    assert_eq!(left.status, 204);
    club.ask(&there, Method::GET, current, None)
        .await
        .problem(401, "unauthenticated");
    let actions = "SELECT string_agg(action, ' ' ORDER BY id) FROM control.platform_audit";
    assert_eq!(
        club.app.db().text(actions).await,
        "remove_member leave_tenant"
    );
}

#[tokio::test]
async fn another_tenants_member_and_invitation_are_not_found() {
    let club = Club::found().await;
    let cafe = club.app.tenant("cafe").await;
    let boss = club.app.person(&cafe, Role::Owner).await;
    let boss = club.app.sign_in(&boss).await;
    let member = format!(
        "/api/members/{}",
        club.member("owner@dojo.example.test").await
    );
    let made = club
        .invite(&club.owner, "ann@example.com", "viewer")
        .await
        .ok(201);
    let invitation = format!(
        "/api/invitations/{}",
        made["invitation"]["id"].as_str().unwrap()
    );
    for path in [&member, &invitation] {
        club.ask(&boss, Method::DELETE, path, None)
            .await
            .problem(404, "not-found");
    }
    club.ask(
        &boss,
        Method::PATCH,
        &member,
        Some(json!({"role": "viewer"})),
    )
    .await
    .problem(404, "not-found");
}
