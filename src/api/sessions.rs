//! Signing in and out, and who one is.

use chrono::{DateTime, TimeDelta, Utc};
use poem::Request;
use poem::http::header;
use poem::web::cookie::{Cookie, SameSite};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::auth::{COOKIE, Caller, Person};
use super::body::Body;
use super::change::Facts;
use super::credentials::prove;
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Done;
use super::state::ApiState;
use crate::crypto::password::{random_bytes, random_token, token_hash};
use crate::domain::actor::{Actor, Role, Who};
use crate::domain::ids::{ApiKeyId, SessionId, TenantId, UserId};
use crate::domain::tenant::TenantStatus;
use crate::store::ControlTx;
use crate::store::control::sessions::{
    ListedSession, NewSession, delete_own_session, delete_session, find_session, insert_session,
    list_sessions, save_tenant,
};
use crate::store::control::{directory, memberships, users};

/// How long a session lasts.
const SESSION_DAYS: i64 = 14;
/// Tenants of one person among which the one to open is looked for.
const TENANTS_MAX: i64 = 10_000;

/// The operations on sessions.
#[derive(Debug)]
pub struct Sessions {
    state: ApiState,
}

/// Email and password.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct SignIn {
    /// The email of your account.
    #[oai(validator(min_length = 1, max_length = 320))]
    email: String,
    /// Its password.
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
    /// Which of your tenants to open, by its word in addresses; the one joined first when absent.
    #[oai(validator(max_length = 63))]
    tenant: Option<String>,
}

/// Who makes requests, in which tenant, as what.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct SessionView {
    /// The person; absent for an API key.
    user: Option<UserView>,
    /// The key; absent for a person.
    api_key_id: Option<ApiKeyId>,
    /// The tenant that is open; absent when one belongs to none.
    tenant: Option<TenantView>,
    /// What one is there.
    role: Option<Role>,
    /// Whether one runs the platform.
    is_platform_admin: bool,
}

/// A person.
#[derive(Debug, Object)]
struct UserView {
    /// Their id.
    id: UserId,
    /// Their email.
    email: String,
    /// Their name.
    name: String,
}

/// A tenant.
#[derive(Debug, Object)]
struct TenantView {
    /// Its id.
    id: TenantId,
    /// What people call it.
    name: String,
    /// Its word in addresses.
    slug: String,
    /// Whether it is active; nothing can be done in one that is not.
    status: TenantStatus,
    /// Whether its messages are simulated.
    is_demo: bool,
}

/// The tenant to open.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct TenantChoice {
    /// One of those that GET /me/tenants lists.
    tenant_id: TenantId,
}

/// One of one's sessions.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct ListedSessionView {
    /// Its id, which opens nothing.
    id: SessionId,
    /// Where it came from.
    ip: Option<String>,
    /// The browser, as it calls itself.
    user_agent: Option<String>,
    /// When somebody signed in.
    created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    last_seen_at: DateTime<Utc>,
    /// When it ends by itself.
    expires_at: DateTime<Utc>,
}

#[derive(ApiResponse)]
enum SignedIn {
    /// Signed in; the cookie comes with the answer.
    #[oai(status = 201)]
    Created(Json<SessionView>, #[oai(header = "Set-Cookie")] String),
}

#[derive(ApiResponse)]
enum SignedOut {
    /// Signed out; the cookie is taken back.
    #[oai(status = 204)]
    Done(#[oai(header = "Set-Cookie")] String),
}

#[OpenApi(tag = "Tag::Sessions")]
impl Sessions {
    /// Sign in.
    ///
    /// Sets a cookie that browsers send along. Programs use an API key instead. Five tries a minute per account and
    /// address.
    #[oai(path = "/sessions", method = "post", operation_id = "create_session")]
    async fn create_session(
        &self,
        request: &Request,
        facts: Facts,
        body: Body<SignIn>,
    ) -> ApiResult<SignedIn> {
        let front = &self.state.front;
        if request.headers().contains_key(header::ORIGIN) {
            front.require_own_page(request)?;
        }
        let asked = &body.0;
        let proven = prove(&self.state, facts.ip, &asked.email, &asked.password).await?;
        let token = random_token();

        let mut tx = self.state.db.control_system().begin().await?;
        let tenant_id = choose_tenant(&mut tx, proven.user_id, asked.tenant.as_deref()).await?;
        proven.forget_tries(&mut tx).await?;
        let session = NewSession {
            id: SessionId(Uuid::now_v7()),
            token_hash: &token_hash(&token),
            user_id: proven.user_id,
            tenant_id,
            csrf_secret: &random_bytes(),
            ip: facts.ip,
            user_agent: user_agent(request),
            expires_at: self.state.clock().now() + TimeDelta::days(SESSION_DAYS),
        };
        insert_session(&mut tx, &session).await?;
        users::mark_login(&mut tx, proven.user_id).await?;
        let view = view_of_session(&mut tx, session.token_hash).await?;

        tx.commit().await?;
        let cookie = cookie(&token, front.is_secure(request));
        Ok(SignedIn::Created(Json(view), cookie))
    }

    /// List one's sessions.
    ///
    /// Those that last, the newest first.
    #[oai(path = "/sessions", method = "get", operation_id = "list_sessions")]
    async fn list_sessions(
        &self,
        person: Person,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<ListedSessionView>>> {
        let page = PageRequest::<SessionId>::new("sessions", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control_system().begin().await?;
        let rows =
            list_sessions(&mut tx, person.user_id(), page.after, page.rows_to_load()).await?;
        Ok(Json(page.page(rows, |session| session.id)))
    }

    /// Show the current session.
    ///
    /// Answers who one is, in which tenant and as what; for an API key too.
    #[oai(
        path = "/sessions/current",
        method = "get",
        operation_id = "get_current_session"
    )]
    async fn get_current_session(&self, caller: Caller) -> ApiResult<Json<SessionView>> {
        let mut tx = self.state.db.control_system().begin().await?;
        let view = match caller {
            Caller::Person(person) => view_of_session(&mut tx, &person.token_hash).await?,
            Caller::Program(actor) => view_of_program(&mut tx, &actor).await?,
        };
        Ok(Json(view))
    }

    /// Open another tenant.
    ///
    /// From the answer on, this session's requests are about that tenant. Other sessions keep theirs.
    #[oai(
        path = "/sessions/current/tenant",
        method = "put",
        operation_id = "switch_tenant"
    )]
    async fn switch_tenant(
        &self,
        person: Person,
        body: Body<TenantChoice>,
    ) -> ApiResult<Json<SessionView>> {
        let mut tx = self.state.db.control_system().begin().await?;
        save_tenant(&mut tx, &person.token_hash, body.0.tenant_id)
            .await
            .map_err(|error| match error.constraint() {
                Some("sessions_tenant_id_user_id_fkey") => no_such_tenant(),
                _ => error.into(),
            })?;
        let view = view_of_session(&mut tx, &person.token_hash).await?;
        tx.commit().await?;
        Ok(Json(view))
    }

    /// Sign out.
    ///
    /// Ends the session at once; its cookie counts no more, wherever it was copied to.
    #[oai(
        path = "/sessions/current",
        method = "delete",
        operation_id = "delete_current_session"
    )]
    async fn delete_current_session(&self, person: Person) -> ApiResult<SignedOut> {
        let mut tx = self.state.db.control_system().begin().await?;
        delete_session(&mut tx, &person.token_hash).await?;
        tx.commit().await?;
        Ok(SignedOut::Done(format!(
            "{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        )))
    }

    /// End one of one's sessions.
    ///
    /// Its cookie counts no more, wherever the browser is.
    #[oai(
        path = "/sessions/:session_id",
        method = "delete",
        operation_id = "delete_session"
    )]
    async fn delete_session(
        &self,
        person: Person,
        /// The session.
        session_id: Path<SessionId>,
    ) -> ApiResult<Done> {
        let mut tx = self.state.db.control_system().begin().await?;
        delete_own_session(&mut tx, person.user_id(), session_id.0).await?;
        tx.commit().await?;
        Ok(Done)
    }
}

impl Sessions {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }
}

/// The tenant to open; one that does not exist and one that is somebody else's get the same answer. Whoever runs the
/// platform needs none.
async fn choose_tenant(
    tx: &mut ControlTx,
    user_id: UserId,
    asked: Option<&str>,
) -> ApiResult<Option<TenantId>> {
    let members = memberships::list_of_user(tx, user_id, None, TENANTS_MAX).await?;
    let chosen = members
        .iter()
        .find(|member| asked.is_none_or(|slug| slug == member.slug));
    if let Some(member) = chosen {
        return Ok(Some(member.tenant_id));
    }
    if asked.is_none() && users::load_user(tx, user_id).await?.is_platform_admin {
        return Ok(None);
    }
    Err(ApiError::new(
        ProblemType::NotAMember,
        "Leave 'tenant' out to open the tenant you joined first, or ask an admin to make you a member.",
    ))
}

fn no_such_tenant() -> ApiError {
    ApiError::new(
        ProblemType::Unprocessable,
        "You are a member of no tenant with this id. GET /api/me/tenants lists yours.",
    )
    .with_field("tenant_id", "is not one of your tenants")
}

async fn view_of_session(tx: &mut ControlTx, token_hash: &[u8]) -> ApiResult<SessionView> {
    let session = find_session(tx, token_hash)
        .await?
        .ok_or_else(ApiError::unauthenticated)?;
    let user = users::load_user(tx, session.user_id).await?;
    let (tenant, role) = match session.tenant {
        Some(tenant) => (
            Some(view_of_tenant(tx, tenant.id).await?),
            Some(tenant.role),
        ),
        None => (None, None),
    };
    Ok(SessionView {
        user: Some(UserView {
            id: session.user_id,
            email: user.email,
            name: user.name,
        }),
        api_key_id: None,
        tenant,
        role,
        is_platform_admin: session.is_platform_admin,
    })
}

async fn view_of_program(tx: &mut ControlTx, actor: &Actor) -> ApiResult<SessionView> {
    let api_key_id = match actor.who {
        Who::ApiKey(id) => Some(id),
        Who::User(_) => None,
    };
    Ok(SessionView {
        user: None,
        api_key_id,
        tenant: Some(view_of_tenant(tx, actor.tenant_id).await?),
        role: Some(actor.role),
        is_platform_admin: false,
    })
}

async fn view_of_tenant(tx: &mut ControlTx, id: TenantId) -> ApiResult<TenantView> {
    let tenant = directory::load_tenant(tx, id).await?;
    Ok(TenantView {
        id,
        name: tenant.name,
        slug: tenant.slug,
        status: tenant.status,
        is_demo: tenant.is_demo,
    })
}

fn cookie(token: &str, is_secure: bool) -> String {
    let mut cookie = Cookie::new_with_str(COOKIE, token);
    cookie.set_path("/");
    cookie.set_http_only(true);
    cookie.set_same_site(SameSite::Lax);
    cookie.set_secure(is_secure);
    cookie.set_max_age(std::time::Duration::from_secs(SESSION_DAYS as u64 * 86_400));
    cookie.to_string()
}

fn user_agent(request: &Request) -> Option<&str> {
    let text = request.headers().get(header::USER_AGENT)?.to_str().ok()?;
    Some(&text[..text.len().min(512)])
}

impl From<ListedSession> for ListedSessionView {
    fn from(session: ListedSession) -> Self {
        Self {
            id: session.id,
            ip: session.ip,
            user_agent: session.user_agent,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
        }
    }
}
